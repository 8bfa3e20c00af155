"""The keeper: whatever happens to Postgres, every line that was taken is stored once."""

import shutil
import threading
import time
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict

from okxcli.core.codec import encode
from okxcli.core.model import StandardizedTrade
from okxcli.errors import ConfigError, DatabaseUnavailable, LoginRefused
from okxcli.storage import database as opening
from okxcli.storage.database import Database, open_database
from okxcli.storage.server.embedded import EmbeddedServer, throwaway_base
from okxcli.storage.server.statement_watch import Watchdog
from okxcli.storage.write import durable_writer as module
from okxcli.storage.write.durable_writer import DurableWriter
from okxcli.storage.write.spool import Spool

T0 = 1_747_087_200_000


def trade(i):
    return StandardizedTrade("okx", "BTC-USDT", i, "buy", Decimal("1.5"), Decimal("0.25"), T0 + i)


class Outage:
    """Takes a database away from everybody but the administrator, and gives it back."""

    def __init__(self, admin_dsn, dsn):
        self.name = conninfo_to_dict(dsn)["dbname"]
        self.admin = psycopg.connect(admin_dsn, autocommit=True)

    def begin(self):
        self.admin.execute(f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS false')
        self.admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", [self.name])

    def end(self):
        self.admin.execute(f'ALTER DATABASE "{self.name}" ALLOW_CONNECTIONS true')


@pytest.fixture
def outage(embedded_dsn, database):
    away = Outage(embedded_dsn, database)
    yield away
    away.end()
    away.admin.close()


@pytest.fixture
def make(database, tmp_path):
    """Return a function that makes a keeper on the fresh database and a spool of its own."""
    made = []

    def keeper(**options):
        opened = open_database(database, create=True, origin="local", env={})
        keeper = DurableWriter(opened, Spool(tmp_path / "spool", **options.pop("spool", {})), **options)
        made.append((keeper, opened))
        return keeper

    yield keeper
    for keeper, opened in made:
        keeper.close()
        opened.close()


def stored(database):
    with psycopg.connect(database) as connection:
        return [row[0] for row in connection.execute("SELECT trade_id FROM raw_trades ORDER BY 1")]


def run_until(keeper, condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        keeper.tick()
        time.sleep(0.02)


def test_without_trouble_nothing_is_spooled(make, database, tmp_path):
    """Lines go straight into the database."""
    keeper = make()
    for i in range(1, 20):
        keeper.add(trade(i))
    assert keeper.finish() == 0
    assert stored(database) == list(range(1, 20))
    assert keeper.counts()["spooled"] == 0
    assert not (tmp_path / "spool").exists()


def test_an_outage(make, database, outage):
    """What comes meanwhile is spooled, drained when the database is back, and the spool is empty then."""
    keeper = make()
    for i in range(1, 11):
        keeper.add(trade(i))
    time.sleep(0.3)
    keeper.tick()
    outage.begin()
    for i in range(11, 200):
        keeper.add(trade(i))
        keeper.tick()
        time.sleep(0.005)
    assert keeper.counts()["spooled"] > 50
    outage.end()
    for i in range(200, 210):
        keeper.add(trade(i))
    run_until(keeper, lambda: keeper.due_in(0) is None)
    assert stored(database) == list(range(1, 210))
    keeper.add(trade(210))
    assert keeper.finish() == 0
    assert stored(database)[-1] == 210
    assert keeper.counts()["raw_trades"] == 210
    assert keeper.counts()["duplicates"] == 0


def test_still_away_at_the_end(make, database, outage, tmp_path):
    """What could not be committed waits in files that `okx store` reads; the next run stores them first."""
    keeper = make()
    keeper.add(trade(1))
    assert keeper.finish() == 0
    outage.begin()
    for i in range(2, 30):
        keeper.add(trade(i))
    assert keeper.finish() == 28
    assert "28 lines wait" in keeper.explain_left(28)
    keeper.close()
    (file,) = (tmp_path / "spool").iterdir()
    assert file.read_bytes() == b"".join(encode(trade(i)) + b"\n" for i in range(2, 30))
    outage.end()
    later = make()
    later.add(trade(30))
    assert later.finish() == 0
    assert stored(database) == list(range(1, 31))
    assert list((tmp_path / "spool").iterdir()) == []


def test_lines_are_passed_on_only_when_durable(make, outage):
    """While the database is away none is; afterwards all are, in their order."""
    passed = []
    keeper = make(on_durable=passed.extend)
    keeper.add(trade(1), b"1")
    time.sleep(0.3)
    keeper.tick()
    assert passed == [b"1"]
    outage.begin()
    for i in range(2, 8):
        keeper.add(trade(i), encode(trade(i)))
    time.sleep(0.3)
    keeper.tick()
    assert passed == [b"1"]
    outage.end()
    run_until(keeper, lambda: keeper.due_in(0) is None)
    assert passed == [b"1", *(encode(trade(i)) for i in range(2, 8))]


@pytest.mark.slow
def test_a_table_that_somebody_holds_locked(make, database):
    """A lock that lasts does not hold the intake up for longer than its time-out: the batch is spooled."""
    keeper = make()
    keeper.add(trade(1))
    assert keeper.finish() == 0
    locked, release = threading.Event(), threading.Event()

    def hold():
        with psycopg.connect(database) as connection:
            connection.execute("LOCK TABLE raw_trades IN ACCESS EXCLUSIVE MODE")
            locked.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert locked.wait(10)
        began = time.monotonic()
        keeper.add(trade(2))
        time.sleep(0.3)
        keeper.tick()
        assert 4 < time.monotonic() - began < 15
        assert keeper.counts()["spooled"] == 1
    finally:
        release.set()
        thread.join()
    run_until(keeper, lambda: keeper.due_in(0) is None)
    assert stored(database) == [1, 2]


def test_a_read_only_database(make, database):
    """One that takes connections and no writes is away as well."""
    keeper = make()
    keeper.add(trade(1))
    assert keeper.finish() == 0
    name = conninfo_to_dict(database)["dbname"]
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s AND pid <> pg_backend_pid()",
            [name],
        )
    keeper.add(trade(2))
    assert keeper.finish() == 1
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("SET default_transaction_read_only = off")
        admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
    run_until(keeper, lambda: keeper.due_in(0) is None)
    assert stored(database) == [1, 2]


def test_a_session_that_does_not_answer(database):
    """Neither its time-outs nor anybody else ends the wait: the watchdog does, and the wait is a lost connection."""
    watchdog = Watchdog(limit_s=0.5, hurry_s=0.5, hurried=lambda: False)
    with psycopg.connect(database) as connection:
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError), watchdog.over(connection):
            connection.execute("SELECT pg_sleep(60)")
        assert 0.4 < time.monotonic() - began < 20
    watchdog.stop()


def test_a_login_that_is_refused_later(make, database, outage, monkeypatch):
    """A password that was changed under a collector is an outage like any other: it once was right."""
    keeper = make()
    keeper.add(trade(1))
    assert keeper.finish() == 0
    connect = Database.connect

    def refuse(self, *_, **__):
        raise LoginRefused("password authentication failed")

    monkeypatch.setattr(Database, "connect", refuse)
    outage.begin()
    keeper.add(trade(2))
    time.sleep(0.3)
    keeper.tick()
    assert keeper.counts()["spooled"] == 1
    outage.end()
    monkeypatch.setattr(Database, "connect", connect)
    run_until(keeper, lambda: keeper.up)
    assert stored(database) == [1, 2]


@pytest.mark.slow
def test_little_room_is_told_once(make, outage, caplog):
    """Before there is none."""
    keeper = make(spool={"max_bytes": 130 * len(encode(trade(119)))})
    outage.begin()
    for i in range(1, 120):
        keeper.add(trade(i))
        if not i % 10:
            time.sleep(0.26)
            keeper.tick()
    assert caplog.text.count("is nearly full: room for") == 1
    assert not keeper.full


@pytest.mark.slow
def test_an_end_in_a_hurry(make, database):
    """Once the process is to end, a lock is not waited for: the batch is spooled, and told."""
    keeper = make(hurried=lambda: True)
    keeper.add(trade(1))
    assert keeper.finish() == 0
    with psycopg.connect(database) as connection:
        connection.execute("LOCK TABLE raw_trades IN ACCESS EXCLUSIVE MODE")
        keeper.add(trade(2))
        began = time.monotonic()
        assert keeper.finish() == 1
        assert time.monotonic() - began < 8
    keeper.close()
    later = make()
    assert later.finish() == 0
    assert stored(database) == [1, 2]


def test_a_long_spool_does_not_hold_up_the_end(make, database, tmp_path, monkeypatch):
    """In a hurry it is drained for some seconds and then left, and nothing of it is lost."""
    monkeypatch.setattr(module, "_HURRY_S", 0.0)
    spool = Spool(tmp_path / "spool")
    spool.write([encode(trade(i)) for i in range(1, 20)])
    spool.rotate()
    keeper = make(hurried=lambda: True)
    keeper.add(trade(20))
    left = keeper.finish()
    assert left == 20
    assert "stopped before everything was in " in keeper.explain_left(left)
    keeper.close()
    later = make()
    assert later.finish() == 0
    assert stored(database) == list(range(1, 21))


def test_what_a_killed_process_leaves_is_found(make, database, tmp_path, monkeypatch):
    """A collector that has been up all the time drains it too."""
    monkeypatch.setattr(module, "_LOOK_S", 0.2)
    keeper = make()
    keeper.add(trade(1))
    dead = Spool(tmp_path / "spool")
    dead.write([encode(trade(2))])
    dead.rotate()
    run_until(keeper, lambda: stored(database) == [1, 2] and keeper.up)
    assert list((tmp_path / "spool").iterdir()) == []


def test_a_drain_that_is_cut_short_passes_nothing_on_twice(make, database, tmp_path, outage, monkeypatch):
    """It goes on with the batch that could not be committed."""
    monkeypatch.setattr(module, "BATCH_ROWS", 10)
    spool = Spool(tmp_path / "spool")
    spool.write([encode(trade(i)) for i in range(1, 41)])
    spool.rotate()
    passed = []
    keeper = make(on_durable=passed.extend)
    while len(passed) < 20:
        keeper.tick()
    outage.begin()
    keeper.tick()
    assert not keeper.up
    outage.end()
    run_until(keeper, lambda: keeper.up)
    assert passed == [encode(trade(i)) for i in range(1, 41)]


def test_a_bad_line_in_the_spool(make, database, tmp_path):
    """It goes to quarantine, its neighbours are stored."""
    spool = Spool(tmp_path / "spool")
    spool.write([encode(trade(1)), b"nonsense", encode(trade(2))])
    spool.rotate()
    keeper = make()
    assert keeper.finish() == 0
    assert stored(database) == [1, 2]
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT line FROM quarantine").fetchall() == [("nonsense",)]


def test_a_drain_goes_by_the_block(make, database, tmp_path, monkeypatch):
    """Of a long spool only what is no everyday fill is looked at by the line; nothing is lost or changes its place."""
    spool = Spool(tmp_path / "spool")
    odd = {700: b"nonsense", 1_500: encode(trade(1_500)).replace(b'"count":1', b'"count":2'), 9_000: b'{"type":"x"}'}
    spool.write([odd.get(i, encode(trade(i))) for i in range(1, 12_001)])
    spool.rotate()
    looked_at = []
    passed = []
    by_line = DurableWriter._store_line
    monkeypatch.setattr(DurableWriter, "_store_line", lambda self, line: [looked_at.append(line), by_line(self, line)])
    keeper = make(on_durable=passed.extend)
    assert keeper.finish() == 0
    assert looked_at == list(odd.values())
    assert stored(database) == [i for i in range(1, 12_001) if i not in odd]
    assert passed == [encode(trade(i)) if i not in odd else odd[i] for i in range(1, 12_001) if i not in (700, 9_000)]


def test_away_again_while_what_came_meanwhile_is_stored(make, database, outage, monkeypatch):
    """What the writer has not taken stays held, and is stored once, in its place."""
    passed = []
    keeper = make(on_durable=passed.extend)
    outage.begin()
    for i in range(1, 30):
        keeper.add(trade(i))
    run_until(keeper, lambda: not keeper.up and keeper.counts()["spooled"] == 29)
    store, failed = DurableWriter._store, []

    def fails_in_the_middle(self, lines):
        if len(lines) >= 300 and not failed:
            failed.append(len(lines))
            self._writer.batch_rows = 10
            outage.begin()
        store(self, lines)

    monkeypatch.setattr(DurableWriter, "_store", fails_in_the_middle)
    monkeypatch.setattr(module, "BATCH_MS", 10**9)
    keeper._state = "draining"
    for i in range(30, 400):
        keeper.add(trade(i))
    outage.end()
    run_until(keeper, lambda: failed)
    assert not keeper.up
    outage.end()
    run_until(keeper, lambda: keeper.up)
    assert passed == [encode(trade(i)) for i in range(1, 400)]


def test_away_at_the_start(make, database, outage, tmp_path, monkeypatch):
    """A database that was in use before may come later: lines are spooled until then."""
    monkeypatch.setattr(opening, "_PATIENCE_S", 0.1)
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    open_database(database, create=True, origin="local", env=env).close()
    outage.begin()
    with pytest.raises(DatabaseUnavailable):
        open_database(database, create=True, origin="another", env=env, later=True)
    with open_database(database, create=True, origin="local", env=env, later=True) as opened:
        assert not opened.ready
        keeper = DurableWriter(opened, Spool(tmp_path / "spool"))
        try:
            for i in range(1, 10):
                keeper.add(trade(i))
            time.sleep(0.3)
            keeper.tick()
            assert keeper.counts()["spooled"] == 9
            outage.end()
            run_until(keeper, lambda: keeper.up)
            assert opened.ready
        finally:
            keeper.close()
    assert stored(database) == list(range(1, 10))


@pytest.mark.slow
def test_an_embedded_server_that_is_slow_to_start(tmp_path, monkeypatch):
    """One that has to recover is not waited for: lines are spooled until it is up, and it is used once only."""
    monkeypatch.setattr(opening, "_PATIENCE_S", 0.1)
    monkeypatch.setattr(opening, "_START_S", 0.1)
    env = {"XDG_STATE_HOME": str(tmp_path / "state"), "XDG_DATA_HOME": str(throwaway_base())}
    open_database(create=True, origin="local", env=env).close()
    start, recovered, starts = EmbeddedServer.start, threading.Event(), []

    def slowly(self):
        starts.append(self)
        assert recovered.wait(30)
        start(self)

    monkeypatch.setattr(EmbeddedServer, "start", slowly)
    with open_database(create=True, origin="local", env=env, later=True) as opened:
        assert not opened.ready
        keeper = DurableWriter(opened, Spool(tmp_path / "spool"))
        try:
            keeper.add(trade(1))
            time.sleep(1.5)  # the thread that probes has met the one that starts it
            keeper.tick()
            assert keeper.counts()["spooled"] == 1
            recovered.set()
            run_until(keeper, lambda: keeper.up)
            assert stored(opened.dsn) == [1]
            assert len(starts) == 1
        finally:
            recovered.set()
            keeper.close()
    assert not EmbeddedServer(Path(env["XDG_DATA_HOME"]) / "okx").running()
    shutil.rmtree(env["XDG_DATA_HOME"])


def test_an_empty_database_in_the_place_of_the_old_one(make, database, embedded_dsn, outage):
    """After a failed disk, say: its tables are made, and what waited is stored."""
    keeper = make()
    keeper.add(trade(1))
    assert keeper.finish() == 0
    outage.begin()
    keeper.add(trade(2))
    time.sleep(0.3)
    keeper.tick()
    assert not keeper.up
    with psycopg.connect(embedded_dsn, autocommit=True) as admin:
        admin.execute(f'DROP DATABASE "{outage.name}" WITH (FORCE)')
        admin.execute(f'CREATE DATABASE "{outage.name}"')
    run_until(keeper, lambda: keeper.up)
    assert stored(database) == [2]


def test_away_at_the_start_and_another_ones(make, database, outage, tmp_path, monkeypatch):
    """If it turns out to hold data from elsewhere by then, that is an error, and what came stays in the spool."""
    monkeypatch.setattr(opening, "_PATIENCE_S", 0.1)
    env = {"XDG_STATE_HOME": str(tmp_path / "state")}
    open_database(database, create=True, origin="local", env=env).close()
    outage.begin()
    with open_database(database, create=True, origin="local", env=env, later=True) as opened:
        keeper = DurableWriter(opened, Spool(tmp_path / "spool"))
        try:
            keeper.add(trade(1))
            outage.end()
            with psycopg.connect(database, autocommit=True) as connection:
                connection.execute("UPDATE meta SET value = 'okx.com' WHERE key = 'origin'")
                connection.execute("INSERT INTO symbols (exchange, symbol) VALUES ('okx', 'BTC-USDT')")
            with pytest.raises(ConfigError, match=r"holds data from okx\.com"):
                run_until(keeper, lambda: keeper.up)
        finally:
            keeper.close()
    assert stored(database) == []
    assert Spool(tmp_path / "spool").lines() == 1


def test_no_room_anywhere(make, database, outage):
    """With the spool full too, `full` tells the feeder to wait; what was taken is kept, and stored in the end."""
    keeper = make(spool={"max_bytes": 2000})
    outage.begin()
    taken = 0
    while not keeper.full:
        taken += 1
        keeper.add(trade(taken))
        keeper.tick()
        time.sleep(0.01)
        assert taken < 1000
    outage.end()
    run_until(keeper, lambda: not keeper.full)
    assert keeper.finish() == 0
    assert stored(database) == list(range(1, taken + 1))


def test_much_that_comes_when_there_is_no_room(make, outage):
    """What was on its way is held, in no time; the spool is not asked again for each line."""
    keeper = make(spool={"max_bytes": 2000})
    outage.begin()
    lines = [trade(i) for i in range(1, 60_001)]
    for line in lines[:100]:
        keeper.add(line)
    time.sleep(0.3)
    keeper.tick()
    assert keeper.full
    asked = []
    write = keeper.spool.write
    keeper.spool.write = lambda held: (asked.append(len(held)), write(held))
    for line in lines[100:]:
        keeper.add(line)
    assert len(asked) <= 12
    keeper._held.clear()  # or the end would wait for room


def test_a_crash_between_commit_and_delete(make, database, outage, tmp_path):
    """A spool file whose lines are stored already adds nothing."""
    keeper = make()
    for i in range(1, 6):
        keeper.add(trade(i))
    assert keeper.finish() == 0
    keeper.close()
    spool = Spool(tmp_path / "spool")
    spool.write([encode(trade(i)) for i in range(1, 9)])
    spool.rotate()
    later = make()
    assert later.finish() == 0
    assert stored(database) == list(range(1, 9))
    assert later.counts()["duplicates"] == 5
