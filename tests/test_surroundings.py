"""Where okx finds itself: a home that is missing, or no folder, and few file descriptors."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from okxcli.errors import DatabaseUnavailable
from okxcli.exchanges.okx.bulk_files.download import default_folder as files_folder
from okxcli.runtime.configuration.config_file import candidates
from okxcli.runtime.files import expanded, home
from okxcli.storage.server.binaries import Account
from okxcli.storage.server.embedded import default_base
from okxcli.storage.server.known_databases import state_folder


def okx(place, *arguments, data=b"", before="", **variables):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OKX_", "XDG_", "PYTHON"))}
    command = ["bash", "-c", f'{before} exec "$@"', "bash", sys.executable, "-m", "okxcli", *map(str, arguments)]
    env = clean | {"HOME": str(place)} | variables
    done = subprocess.run(command, env=env, input=data, capture_output=True, check=False, timeout=60)
    assert b"Traceback" not in done.stderr and b"a bug of okx" not in done.stderr
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_a_user_without_a_home(monkeypatch):
    """A nameless user of a container: paths that can be told, instead of an error of Python."""

    def nowhere():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", nowhere)
    monkeypatch.setattr(Path, "expanduser", lambda path: nowhere())
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert home({}) == Path("/")
    assert candidates({})[0] == Path("/.config/okx/okx.json")
    assert state_folder({}) == Path("/.local/state/okx")
    assert default_base({}) == Path("/.local/share/okx")
    assert files_folder() == Path("/.cache/okx/files")
    assert expanded("~/log") == Path("~/log")


def test_a_home_that_is_no_folder(tmp_path, database):
    """What must write there says so, 69 or 74; what need not does its work; a store without a spool says so."""
    place = tmp_path / "file"
    place.write_text("")
    assert okx(place, "config", "show")[0] == 0
    assert okx(place, "config", "init") == (
        74, "", f"okx config: cannot write {place}/.config/okx/okx.json: Not a directory\n")  # fmt: skip
    code, _, told = okx(place, "db", "start")
    assert (code, told.splitlines()[-1]) == (
        69,
        f"okx db: cannot use {place}/.local/share/okx: Not a directory. Name another place by XDG_DATA_HOME, "
        "or a server by --dsn",
    )
    line = (
        b'{"type":"trade","exchange":"okx","symbol":"A-USDT","trade_id":7,"count":1,"side":"buy","price":"1","size":"1",'
        b'"timestamp":1747087200000,"received":null,"source":0,"origin":"trades-all"}\n'
    )
    code, _, told = okx(place, "store", "-q", data=line, OKX_DSN=database)
    assert code == 0
    assert f"{place} is no folder, so there is no spool" in told
    assert okx(place, "read", "trades", "A-USDT", OKX_DSN=database)[1] == line.decode()
    span = ("--since", "2026-05-01", "--until", "2026-05-02", "--rest-url", "http://127.0.0.1:9")
    code, _, told = okx(place, "history", "A-USDT", "--download", "--files-url", "http://127.0.0.1:9", *span)
    assert code == 74
    assert f"cannot make the folder {place}/.cache/okx/files/127.0.0.1_9: Not a directory" in told


def test_why_a_program_of_postgres_failed():
    """Its complaint, not what it says after that about tidying up."""
    said = "creating ... FATAL:  could not write: No space left on device\ninitdb: removing data directory"
    with pytest.raises(DatabaseUnavailable, match=r"^sh failed: .*No space left on device$"):
        Account().run(["sh", "-c", f"printf '{said}'; exit 1"])
    with pytest.raises(DatabaseUnavailable, match=r"^sh failed: the last$"):
        Account().run(["sh", "-c", "printf 'first\\nthe last'; exit 1"])


def test_few_file_descriptors(tmp_path):
    """64 are enough for a stream with its exchange; with too few a line says what to do (69), and filters go on."""
    inner = (sys.executable, "-m", "okxcli", "stream", "BTC-USDT", "-n", "3", "-q")
    code, out, _ = okx(tmp_path, "simulate", "BTC-USDT", "--no-database", "--", *inner, before="ulimit -n 64;")
    assert (code, out.count('"tradeId"')) == (0, 3)
    code, _, told = okx(tmp_path, "stream", "BTC-USDT", before="ulimit -n 8;")
    assert (code, told) == (69, "okx stream: too many open files. Raise the limit: ulimit -n 1024\n")
    assert okx(tmp_path, "normalize", "-q", before="ulimit -n 8;") == (0, "", "")
