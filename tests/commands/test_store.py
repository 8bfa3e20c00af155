"""`okx store` as a process: exit codes, counts, --tee, signals, the origin guard."""

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import psycopg
import pytest

OKX = [sys.executable, "-m", "okxcli"]
T0 = 1747087163557


def fill(trade_id, price="102537.9", symbol="BTC-USDT"):
    return json.dumps(
        {
            "type": "trade", "exchange": "okx", "symbol": symbol, "trade_id": trade_id, "count": 1, "side": "sell",
            "price": price, "size": "0.00013669", "timestamp": T0 + trade_id, "received": T0 + trade_id + 44,
            "source": 0, "origin": "trades-all",
        },
        separators=(",", ":"),
    ).encode()  # fmt: skip


def lines(*found):
    return b"".join(line + b"\n" for line in found)


@pytest.fixture
def environment(tmp_path):
    """The environment of a user with an empty home and no database named."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PG", "OKX_", "XDG_", "PYTHON"))}
    return clean | {"HOME": str(tmp_path)}


@pytest.fixture
def run(database, environment):
    """Run `okx` on the test's own database."""

    def run(*arguments, data=b"", **more):
        return subprocess.run(
            [*OKX, *map(str, arguments)],
            input=data,
            capture_output=True,
            check=False,
            timeout=60,
            env=environment | {"OKX_DSN": database} | more,
        )

    return run


def stored(dsn):
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute("SELECT trade_id FROM raw_trades ORDER BY 1")]


def counts_of(done):
    return json.loads(done.stderr.decode().splitlines()[-1].removeprefix("okx store: "))


def test_lines_are_stored_and_counted(run, database, tmp_path):
    """Rows by table, duplicates; which database and why is told once; --stats keeps the counts."""
    data = lines(fill(1), fill(2), fill(1))
    done = run("store", "--stats", tmp_path / "stats", data=data)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b""
    assert done.stderr.decode().count("(OKX_DSN)") == 1
    counts = counts_of(done)
    assert counts == json.loads((tmp_path / "stats").read_text())
    assert (counts["lines_in"], counts["raw_trades"], counts["duplicates"]) == (3, 2, 1)
    assert stored(database) == [1, 2]
    assert counts_of(run("store", data=data))["duplicates"] == 3


def test_bad_lines_are_passed_over(run, database, tmp_path):
    """Each is reported with its number and reason, its neighbours are stored, the exit code remembers."""
    bad = [
        b"{not json",
        b"[1]",
        fill(2)[:40],
        b"\xff\xfe",
        b"{\x00}",
        fill(3, "NaN"),
        b'{"type":"trade"}',
        b"9" * (1 << 21),
    ]
    mixed = [item for line in bad for item in (line, fill(100 + len(line) % 97))]
    done = run("store", "--rejects", tmp_path / "bad", data=lines(fill(1), *mixed, fill(9)))
    assert done.returncode == 65
    reports = re.findall(r"^okx store: line (\d+): (.+)$", done.stderr.decode(), re.MULTILINE)
    assert [int(number) for number, _ in reports] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert len((tmp_path / "bad").read_text().splitlines()) == 8
    assert stored(database) == sorted({1, 9, *(100 + len(line) % 97 for line in bad)})
    assert b"Traceback" not in done.stderr


def test_two_impossible_lines_among_ten_thousand(run, database):
    """One NUL byte and one impossible number: 9,998 are stored, two are in quarantine with their reasons."""
    rows = [fill(number) for number in range(1, 10_001)]
    rows[1233] = rows[1233].replace(b"trades-all", b"trades\x00all")
    rows[7654] = fill(7655, "1e400")
    done = run("store", data=lines(*rows))
    assert done.returncode == 65
    assert re.findall(r"line (\d+): (.*)", done.stderr.decode()) == [
        ("1234", "NUL bytes"), ("7655", "number out of range: 1e400"),
    ]  # fmt: skip
    assert stored(database) == [number for number in range(1, 10_001) if number not in (1234, 7655)]
    with psycopg.connect(database) as connection:
        kept = connection.execute("SELECT reason, line FROM quarantine ORDER BY id").fetchall()
    assert [reason for reason, _ in kept] == ["NUL bytes", "number out of range: 1e400"]
    assert kept[0][1] == rows[1233].decode().replace("\0", "\\u0000")
    assert kept[1][1] == rows[7654].decode()


def test_times_that_cannot_be_are_all_kept_in_quarantine(run, database):
    """However many they are: it may be the clock that is wrong, and they may be taken back."""
    early = [
        fill(n).replace(b'"received":%d' % (T0 + n + 44), b'"received":%d' % (T0 - 4_000_000)) for n in range(1100)
    ]
    done = run("store", "-q", data=lines(*early[1:], fill(5_000)))
    assert done.returncode == 65
    assert stored(database) == [5_000]
    with psycopg.connect(database) as connection:
        found = connection.execute("SELECT count(*), min(symbol), min(reason) FROM quarantine").fetchone()
    assert found[:2] == (1099, "BTC-USDT")
    assert "h ahead of received" in found[2]
    assert done.stderr.count(b"in a row come from the future") == 1


def test_strict_stops_at_the_first_bad_line_and_keeps_what_was_before(run, database):
    """Exit 65, and what came before the bad line is not lost."""
    done = run("store", "--strict", data=lines(fill(1), b"nonsense", fill(2)))
    assert done.returncode == 65
    assert stored(database) == [1]


def test_reused_id_ends_with_65_and_is_in_quarantine(run, database):
    """The tape keeps the first; the other is told with what it contradicts."""
    done = run("store", data=lines(fill(1), fill(1, "5"), fill(2)))
    assert done.returncode == 65
    assert b"id reused" in done.stderr and b'"price":"102537.9"' in done.stderr
    assert counts_of(done)["quarantined"] == 1
    assert stored(database) == [1, 2]


def test_tee_passes_lines_on_once_they_are_durable(database, environment):
    """A line on standard output is in the database already; unknown types and refused lines do not pass."""
    command = [*OKX, "store", "--tee", "-q"]
    env = environment | {"OKX_DSN": database}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
    ) as process:
        for number in (1, 2):
            process.stdin.write(lines(fill(number)))
            process.stdin.flush()
            assert process.stdout.readline() == lines(fill(number))
            assert stored(database)[-1] == number
        process.stdin.write(lines(b'{"type":"note"}', fill(1, "7"), fill(2), fill(3)))
        process.stdin.close()
        assert process.stdout.read() == lines(fill(2), fill(3))
        assert process.wait(60) == 65


def test_tee_holds_back_what_is_not_durable(database, embedded_dsn, environment):
    """A line that came when Postgres was gone is passed on when it is back and has it, and not before."""
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    command = [*OKX, "store", "--tee", "-q"]
    env = environment | {"OKX_DSN": database}
    with (
        psycopg.connect(embedded_dsn, autocommit=True) as admin,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
        ) as process,
    ):
        process.stdin.write(lines(fill(1)))
        process.stdin.flush()
        assert process.stdout.readline() == lines(fill(1))
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            process.stdin.write(lines(fill(2)))
            process.stdin.flush()
            assert select.select([process.stdout], [], [], 2)[0] == []
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
        assert process.stdout.readline() == lines(fill(2))
        assert stored(database) == [1, 2]
        process.stdin.close()
        assert process.stdout.read() == b""


def test_trickle_is_committed_within_a_second(database, environment):
    """A line that comes alone does not wait for a full batch."""
    env = environment | {"OKX_DSN": database}
    with subprocess.Popen([*OKX, "store", "-q"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env) as process:
        process.stdin.write(lines(fill(1)))
        process.stdin.flush()
        with psycopg.connect(database, autocommit=True) as connection:
            until = time.monotonic() + 60
            while connection.execute("SELECT to_regclass('raw_trades')").fetchone() == (None,):
                assert time.monotonic() < until
                time.sleep(0.05)
        began = time.monotonic()
        while not stored(database):
            assert time.monotonic() < began + 10
            time.sleep(0.02)
        process.stdin.close()
        assert process.wait(60) == 0


def test_interrupt_in_a_pipe_drains_it(database, environment):
    """On Ctrl-C the filter reads on to end of input and commits; it ends by its own result."""
    env = environment | {"OKX_DSN": database}
    with subprocess.Popen([*OKX, "store"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        process.stdin.write(lines(*map(fill, range(1, 6000))))
        process.stdin.flush()
        while not stored_or_none(database):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
        process.stdin.write(lines(*map(fill, range(6000, 6500))))
        process.stdin.close()
        assert process.wait(60) == 0
    assert stored(database) == list(range(1, 6500))


def test_termination_commits_what_was_read(database, environment):
    """On TERM it stops reading, commits, and dies by the signal."""
    env = environment | {"OKX_DSN": database}
    with subprocess.Popen([*OKX, "store", "-q"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=env) as process:
        process.stdin.write(lines(fill(1)))
        process.stdin.flush()
        while not stored_or_none(database):
            time.sleep(0.02)
        process.stdin.write(lines(fill(2)))
        process.stdin.flush()
        while unread(process.stdin):
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == -signal.SIGTERM
    assert stored(database) == [1, 2]


def unread(pipe):
    """Return how many bytes of a pipe nobody has read yet."""
    return struct.unpack("i", fcntl.ioctl(pipe.fileno(), termios.FIONREAD, bytes(4)))[0]


def stored_or_none(dsn):
    try:
        return stored(dsn)
    except psycopg.errors.UndefinedTable:
        return []


def test_reader_of_tee_that_leaves_ends_it_quietly(database, environment):
    """`store --tee | head -1` ends as killed by SIGPIPE, without a word, and what was passed on is stored."""
    Path(environment["HOME"], "input").write_bytes(lines(*map(fill, range(1, 60_000))))
    script = (
        f"'{sys.executable}' -m okxcli store -q --tee {environment['HOME']}/input | head -1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, check=False, timeout=60, env=environment | {"OKX_DSN": database}
    )
    assert done.stdout == lines(fill(1), b"141")
    assert b"Traceback" not in done.stderr and b"Broken" not in done.stderr


def test_data_of_another_exchange_is_refused(run, database):
    """A simulation never lands in a database of real data; exit 78."""
    assert run("store", data=lines(fill(1))).returncode == 0
    done = run("store", data=lines(fill(2)), OKX_WS_URL="ws://127.0.0.1:9")
    assert done.returncode == 78
    assert b"holds data from okx.com, and this is from local" in done.stderr
    assert stored(database) == [1]


def test_unreachable_database_is_one_line_and_69(run):
    """No traceback, no password."""
    done = run("store", "--dsn", "host=127.0.0.1 port=1", data=lines(fill(1)))
    assert done.returncode == 69
    assert done.stderr == b"okx store: cannot reach Postgres at 127.0.0.1:1: connection refused\n"
    refused = run("store", "--dsn", "postgresql://me:hush@127.0.0.1:1/x")
    assert refused.returncode == 2 and b"hush" not in refused.stderr and refused.stderr.count(b"\n") == 1


def test_embedded_database_is_made_and_stopped(environment):
    """With nothing named it stores below the home, and leaves no server running, whichever way it ends."""
    home = Path(environment["HOME"])
    done = subprocess.run(
        [*OKX, "store"], input=lines(fill(1)), capture_output=True, check=False, timeout=60, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert b"database ~/.local/share/okx (embedded: no --dsn, OKX_DSN, config or PGHOST)" in done.stderr
    again = subprocess.run(
        [*OKX, "read", "trades", "BTC-USDT"], capture_output=True, check=False, timeout=60, env=environment
    )
    assert again.stdout == lines(fill(1)), again.stderr
    assert not (home / ".local/share/okx/data/postmaster.pid").exists()
    with subprocess.Popen([*OKX, "store", "-q"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as one:
        assert b"database" in one.stderr.readline()
        one.kill()
    until = time.monotonic() + 60
    while (home / ".local/share/okx/data/postmaster.pid").exists():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_database_that_is_away_at_the_end(run, database, embedded_dsn, environment, tmp_path):
    """What cannot be stored waits in the spool: exit 75, how much and where; --drain stores it."""
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    process = subprocess.Popen(
        [*OKX, "store", "-q"], stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment | {"OKX_DSN": database}
    )
    process.stdin.write(lines(fill(1)))
    process.stdin.flush()
    end = time.monotonic() + 60
    while time.monotonic() < end:
        try:
            if stored(database) == [1]:
                break
        except psycopg.errors.UndefinedTable:
            pass
        time.sleep(0.1)
    with psycopg.connect(embedded_dsn, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [name])
            _, err = process.communicate(lines(*map(fill, range(2, 50))), timeout=60)
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert process.returncode == 75
    last = err.decode().splitlines()[-1]
    assert "48 lines wait in " in last
    assert "okx store --drain" in last
    (file,) = tmp_path.glob(".local/state/okx/spool/*/*.jsonl")
    assert file.read_bytes() == lines(*map(fill, range(2, 50)))
    assert stored(database) == [1]
    done = run("store", "--drain")
    assert done.returncode == 0
    assert stored(database) == list(range(1, 50))
    assert not file.exists()


def test_a_database_that_is_away_at_the_start(run, database, embedded_dsn, environment, tmp_path):
    """One that was in use before is not asked for again: its lines wait in the spool, exit 75."""
    assert run("store", data=lines(fill(1))).returncode == 0
    name = psycopg.conninfo.conninfo_to_dict(database)["dbname"]
    with psycopg.connect(embedded_dsn, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        try:
            done = run("store", data=lines(fill(2), fill(3)))
        finally:
            admin.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
    assert done.returncode == 75, done.stderr
    assert b"2 lines wait in " in done.stderr
    assert run("store", "--drain").returncode == 0
    assert stored(database) == [1, 2, 3]


def test_a_home_that_cannot_be_written(run, database, tmp_path):
    """With Postgres there it does no harm; that there is no spool is said."""
    (tmp_path / "file").touch()
    done = run("store", data=lines(fill(1)), HOME=str(tmp_path / "file"))
    assert done.returncode == 0, done.stderr
    assert b"so there is no spool: nothing is taken in while" in done.stderr
    assert stored(database) == [1]
