"""Output that cannot be written: every command and every file says so in one line and exits with 74."""

import gzip
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options

T0 = 1_747_087_200_000
FULL = "No space left on device"
TO_STDOUT = f"cannot write to standard output: {FULL}"
#: At most so many bytes of a file: the stand-in for a disk that fills up, without the rights that making one takes.
LIMIT = 100 * 1024


def tape(count=20_000):
    return b"".join(
        b'{"type":"trade","exchange":"okx","symbol":"A-USDT","trade_id":%d,"count":1,"side":"buy","price":"1",'
        b'"size":"1","timestamp":%d,"received":null,"source":0,"origin":"trades-all"}\n' % (i, T0 + i * 500)
        for i in range(1, count)
    )


@pytest.fixture
def env(tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OKX_", "XDG_", "PYTHON"))}
    return clean | {"HOME": str(tmp_path)}


@pytest.fixture(scope="module")
def exchange():
    with LocalExchange(["BTC-USDT"], rate=20, seed=5, history_s=300, options=Options(limits=0)) as exchange:
        yield exchange


@pytest.fixture
def trades(tmp_path):
    path = tmp_path / "trades"
    path.write_bytes(tape())
    return path


def okx(*arguments):
    return [sys.executable, "-m", "okxcli", *map(str, arguments)]


def shell(env, script, *arguments, **options):
    """Run `script` in bash, with `okx ARGUMENT...` as "$@"."""
    command = ["bash", "-c", script, "bash", *okx(*arguments)]
    return subprocess.run(command, env=env, capture_output=True, check=False, timeout=90, **options)


def limited():
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, LIMIT))


def fails(done, told, status=74):
    """Check that a command ended with its error as the last line of standard error, without a traceback."""
    err = done.stderr.decode()
    assert (done.returncode, err.splitlines()[-1].split(": ", 1)[1]) == (status, told)
    assert "bug" not in err
    assert "Traceback" not in err
    assert "Exception" not in err


LOCAL = [
    ["--help"],
    ["--version"],
    ["candles", "--help"],
    ["candles", "--tf", "1s", "{trades}"],
    ["candles", "--tf", "1s", "--pass", "{trades}"],
    ["candles", "--tf", "1d", "--partial", "{trades}"],
    ["gaps", "-"],
    ["config", "show"],
    ["config", "schema"],
    ["config", "check", "{config}"],
    ["man", "stream"],
    ["db", "path"],
]


@pytest.mark.parametrize("arguments", LOCAL, ids=" ".join)
@pytest.mark.parametrize(("to", "why"), [("/dev/full", FULL), ("&-", "Bad file descriptor")])
def test_standard_output_is_full_or_closed(env, trades, arguments, to, why):
    """One line with the reason, exit 74: also for help, tables and single lines; a closed one is no other file."""
    config = Path(__file__).parents[2] / "config" / "okx.json"
    words = [word.format(trades=trades, config=config) for word in arguments]
    done = shell(env, f'"$@" < {trades} >{to}', *words)
    fails(done, f"cannot write to standard output: {why}")
    assert not done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["stream", "BTC-USDT", "-n", "50"],
        ["history", "BTC-USDT", "--since", "60s"],
        ["instruments"],
        ["instruments", "--symbols"],
        ["simulate", "BTC-USDT", "--no-database"],
    ],
    ids=" ".join,
)
def test_standard_output_of_what_reads_the_network(env, exchange, arguments):
    """The same where the lines come from the exchange."""
    fails(shell(env | urls(exchange), '"$@" > /dev/full', *arguments), TO_STDOUT)


def urls(exchange):
    return {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}


@pytest.mark.parametrize(
    "arguments",
    [
        ["read", "trades", "BTC-USDT"],
        ["read", "candles", "BTC-USDT", "--tf", "1s"],
        ["gaps"],
        ["status"],
        ["verify", "BTC-USDT", "--tf", "1m"],
        ["db", "run", "SELECT 1"],
        ["db", "status"],
        ["db", "url"],
        ["backfill", "BTC-USDT", "--dry-run"],
    ],
    ids=" ".join,
)
def test_standard_output_of_what_reads_the_database(env, stored, arguments):
    """The same where the rows come from Postgres."""
    fails(shell(env | stored, '"$@" > /dev/full', *arguments), TO_STDOUT)


@pytest.fixture(scope="module")
def stored(embedded_dsn, exchange, tmp_path_factory):
    """The environment of a database that holds some fills, and bars that differ from OKX's own."""
    import psycopg
    from psycopg.conninfo import make_conninfo

    name = f"okx_test_{os.getpid()}_output"
    with psycopg.connect(embedded_dsn, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    home = tmp_path_factory.mktemp("home")
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OKX_", "XDG_", "PYTHON"))}
    there = {**urls(exchange), "OKX_DSN": make_conninfo(embedded_dsn, dbname=name)}
    script = f'{sys.executable} -m okxcli "$@" | {sys.executable} -m okxcli normalize -q'
    script += f" | {sys.executable} -m okxcli candles -q --tf 1s,1m --pass | {sys.executable} -m okxcli store -q"
    command = ["bash", "-c", script, "bash", "history", "BTC-USDT", "--since", "290s"]
    subprocess.run(command, env=clean | there | {"HOME": str(home)}, check=True, timeout=90)
    with psycopg.connect(there["OKX_DSN"], autocommit=True) as connection:
        connection.execute("UPDATE market_data SET high = high + 1, volume = volume + 1")
    yield there
    with psycopg.connect(embedded_dsn, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def test_what_is_passed_on_is_stored_first(env, database, trades):
    """`store --tee` into a full disk exits with 74, and what it had read is in the database."""
    done = shell(
        env | {"OKX_DSN": database}, f'"$@" < {trades} > /dev/full', "store", "--tee", "--ws-url", "ws://[::1]"
    )
    fails(done, TO_STDOUT)
    counts = json.loads(done.stderr.splitlines()[-2].removeprefix(b"okx store: "))
    import psycopg

    with psycopg.connect(database) as connection:
        rows = connection.execute("SELECT count(*) FROM raw_trades").fetchone()[0]
    assert rows == counts["lines_in"] > 0
    assert counts["lines_out"] == 0


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/dev/full", FULL),
        ("{tmp}/nowhere/x", "No such file or directory"),
        ("{tmp}", "Is a directory"),
        ("{tmp}/trades/x", "Not a directory"),
        ("/proc/x", "No such file or directory"),
        ("{tmp}/" + "x" * 300, "File name too long"),
    ],
)
@pytest.mark.parametrize("option", ["--output", "--rejects", "--stats"])
def test_a_file_that_cannot_be_written(env, tmp_path, trades, option, path, why):
    """It is named with the reason, for each file that a filter writes."""
    path = path.format(tmp=tmp_path)
    trades.write_bytes(b"nonsense\n" + trades.read_bytes())
    done = shell(env, '"$@" > /dev/null', "candles", "-q", "--tf", "1s", option, path, trades)
    fails(done, f"cannot write {path}: {why}")


@pytest.mark.skipif(os.getuid() == 0, reason="the superuser may write anywhere")
def test_a_folder_without_permission(env, tmp_path, trades):
    """Said as such; a file in it that may be written is."""
    shut = tmp_path / "shut"
    shut.mkdir()
    (shut / "mine").write_text("x" * 100_000)
    shut.chmod(0o500)
    command = ("candles", "-q", "--tf", "1h", trades, "-o")
    fails(shell(env, '"$@"', *command, shut / "x"), f"cannot write {shut / 'x'}: Permission denied")
    assert shell(env, '"$@"', *command, shut / "mine").returncode == 0
    assert (shut / "mine").read_bytes() == shell(env, '"$@"', *command[:-1]).stdout


@pytest.mark.parametrize("name", ["out", "out.gz", "out.zst"])
def test_a_disk_that_fills_up(env, tmp_path, trades, name):
    """What is half-written has another name, with whole lines, and what has the name already stays."""
    path, part = tmp_path / name, tmp_path / f"{name}.part"
    path.write_bytes(b"what was there")
    command = okx("candles", "-q", "--tf", "1s", "--pass", "-o", path, trades)
    done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=90, preexec_fn=limited)
    fails(done, f"cannot write {path}: File too large. What came before is in {part}")
    assert path.read_bytes() == b"what was there"
    assert 0 < part.stat().st_size <= LIMIT
    if name == "out":
        assert [json.loads(line)["type"] for line in part.read_bytes().splitlines()][-1] in ("trade", "candle")
        assert part.read_bytes().endswith(b"}\n")


def test_a_file_is_there_when_it_is_whole(env, tmp_path, trades):
    """Written onto the input, through a link, over a file with a mode of its own: the right bytes, one file."""
    link = tmp_path / "link"
    link.symlink_to(trades)
    trades.chmod(0o640)
    whole = shell(env, '"$@"', "candles", "-q", "--tf", "1s", "--pass", trades).stdout
    done = shell(env, '"$@"', "candles", "-q", "--tf", "1s", "--pass", "-o", link, trades)
    assert (done.returncode, done.stderr) == (0, b"")
    assert trades.read_bytes() == whole
    assert (link.is_symlink(), stat.S_IMODE(trades.stat().st_mode)) == (True, 0o640)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "trades"]


def test_an_error_leaves_what_came_beside(env, exchange, tmp_path):
    """A source that ends by another error keeps what it had under the other name, packed to its end, and says so."""
    path = tmp_path / "out.gz"
    command = okx("history", "BTC-USDT", "--since", "60s", "-o", path)
    bad = {"OKX_REST_URL": "http://127.0.0.1:9"}
    done = subprocess.run(command, env=env | bad, capture_output=True, check=False, timeout=90)
    assert done.returncode == 69
    assert list(tmp_path.glob("out*")) == []
    done = shell(env, '"$@"', "candles", "--strict", "-q", "--tf", "1s", "-o", path, "-", input=tape(9) + b"bad\n")
    assert done.returncode == 65
    assert len(gzip.decompress(path.read_bytes()).splitlines()) == 4  # bad input is no bad output


def test_a_fifo_and_dev_stdout_are_written_as_they_are(env, tmp_path, trades):
    """What is no file gets the lines at once, and a reader that leaves ends the command as ever."""
    os.mkfifo(tmp_path / "fifo")
    script = f'"$@" -o {tmp_path}/fifo & cat {tmp_path}/fifo | wc -l; wait $!; "$@" -o /dev/stdout | wc -l'
    done = shell(env, script, "candles", "-q", "--tf", "1s", trades)
    assert done.stdout.split() == [b"9999", b"9999"]
    done = shell(
        env, f'"$@" -o {tmp_path}/fifo & head -1 {tmp_path}/fifo >&2; wait $!', "candles", "-q", "--tf", "1s", trades
    )
    assert done.returncode == 128 + signal.SIGPIPE
    assert len(done.stderr.splitlines()) == 1


def test_a_pipe_that_somebody_made_non_blocking(env, trades):
    """It is waited for: no line is lost, and it is no error."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    process = subprocess.Popen(
        okx("candles", "-q", "--tf", "1s", trades), env=env, stdout=writer, stderr=subprocess.PIPE
    )
    os.close(writer)
    with open(reader, "rb") as pipe:
        assert len(pipe.read().splitlines()) == 9999
    assert (process.wait(60), process.stderr.read()) == (0, b"")


@pytest.mark.parametrize("to", ["/dev/full", "&-"])
def test_nobody_hears_what_is_told(env, trades, to):
    """Standard error that is full or closed changes neither the lines nor the exit status, and no line goes there."""
    trades.write_bytes(b"bad\n" * 50 + trades.read_bytes())
    done = shell(env, f'"$@" 2>{to}', "candles", "--tf", "1s", trades)
    assert (done.returncode, len(done.stdout.splitlines())) == (65, 9999)
    done = shell(env, f'"$@" 2>{to}', "candles", "--tf", "soon", trades)
    assert (done.returncode, done.stdout) == (2, b"")


def test_input_that_cannot_be_read(env, stored):
    """A closed standard input is told, and no other file is taken for it."""
    fails(shell(env, '"$@" <&-', "normalize", "-q"), "cannot read on in standard input: Bad file descriptor", 65)
    fails(shell(env | stored, '"$@" <&-', "db", "run", "-"), "cannot read -: Bad file descriptor", 2)


def test_the_log_cannot_be_written(env, exchange, database, tmp_path):
    """It is told once, the work goes on, and the end says so; a log that cannot even be opened is an error at once."""
    config = tmp_path / "okx.json"
    config.write_text(json.dumps({"symbols": ["BTC-USDT"], "timeframes": ["1s"]}))
    there = env | urls(exchange) | {"OKX_DSN": database}
    done = shell(there, '"$@"', "collect", "-v", "--config", config, "--duration", "3s", "--log-file", "/dev/full")
    lines = done.stderr.decode().splitlines()
    assert [line for line in lines if "/dev/full" in line][:-1] == [
        f"okx collect: error: cannot write the log file /dev/full: {FULL}. Going on without it"
    ]
    assert done.returncode == 74
    assert lines[-1].startswith("okx collect: ")
    assert lines[-1].endswith(" lines of the log could not be written to /dev/full")
    assert json.loads(lines[-2].removeprefix("okx collect: "))["messages"] > 0
    done = shell(there, '"$@"', "collect", "--config", config, "--log-file", "/nowhere/log")
    fails(done, "cannot write the log file /nowhere/log: No such file or directory")
    done = shell(there, '"$@"', "collect", "-q", "--config", config, "--duration", "1s", "--stats", "/dev/full")
    fails(done, f"cannot write /dev/full: {FULL}")


def test_the_fills_of_a_simulation(env, tmp_path):
    """A file of fills that cannot be written ends it, with one line; what is there are whole lines."""
    arguments = ["simulate", "BTC-USDT", "--rate", "500", "--history", "1s", "--no-database", "--fills"]
    fails(shell(env, '"$@"', *arguments, "/nowhere/x"), "cannot write /nowhere/x: No such file or directory")
    fails(shell(env, '"$@"', *arguments, "/dev/full"), f"cannot write /dev/full: {FULL}")
    path, command = tmp_path / "fills", okx(*arguments, tmp_path / "fills")
    done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=90, preexec_fn=limited)
    fails(done, f"cannot write {path}: File too large")
    assert 0 < path.stat().st_size < LIMIT and path.read_bytes().endswith(b"}\n")


def test_a_configuration_is_written_whole_or_not_at_all(env, tmp_path):
    """`config init --force` on a full disk leaves the old one; a folder that cannot be made is told."""
    path = tmp_path / "okx.json"
    path.write_text("{}")
    path.chmod(0o644)
    command = okx("config", "init", "--force", path)

    def nothing():
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))

    done = subprocess.run(command, env=env, capture_output=True, check=False, timeout=60, preexec_fn=nothing)
    fails(done, f"cannot write {path}: File too large")
    assert path.read_text() == "{}"
    assert list(tmp_path.iterdir()) == [path]
    fails(shell(env, '"$@"', "config", "init", path / "x"), f"cannot write {path / 'x'}: Not a directory")
    assert shell(env, '"$@"', "config", "init", "--force", path).returncode == 0
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
