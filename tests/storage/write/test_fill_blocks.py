"""Blocks of fills on their way into the tape: no fill is looked at where all are new, nor the first of a symbol."""

import threading
from contextlib import closing

import psycopg
import pytest
from storage_samples import DAY, T0, candle, covered, rows, store, stored_ids, trade

from okxcli.core.codec import encode
from okxcli.core.tape import FAR
from okxcli.errors import DatabaseUnavailable
from okxcli.storage.database import open_database
from okxcli.storage.ledger.checksum import SUM
from okxcli.storage.rows.fill_block import FillBlock
from okxcli.storage.write import trade_tables
from okxcli.storage.write.aside import Aside
from okxcli.storage.write.durable_writer import DurableWriter
from okxcli.storage.write.spool import Spool
from okxcli.storage.write.writer import Writer


@pytest.fixture(params=[False, True], ids=["kernel", "python"])
def looked_at(request, monkeypatch):
    """The fills that were looked at one by one, on each of the roads."""
    if request.param:
        monkeypatch.setenv("OKX_PURE", "1")
    found = []
    plain = trade_tables.store_trades

    def look(connection, trades, *more):
        found.extend(fill.trade_id for group in trades.values() for fill in group)
        plain(connection, trades, *more)

    monkeypatch.setattr(trade_tables, "store_trades", look)
    return found


def block(*fills):
    return FillBlock(b"".join(encode(fill) + b"\n" for fill in fills), len(fills))


def wild(number):
    """Return a fill of one time, whatever its id."""
    return trade(number, timestamp=T0)


def put(dsn, *blocks, **options):
    """Store blocks, each as a batch, and return the counts that are not zero."""
    with open_database(dsn, create=True) as database, closing(Writer(database.connect, **options)) as writer:
        for one in blocks:
            writer.add_fills(one)
            writer.flush()
        return {name: number for name, number in writer.counts().items() if number}


def ledger(dsn):
    """Return the ledger, with what it should have said of the rows beside its checksums."""
    query = SUM.as_string()
    return rows(
        dsn,
        "SELECT l.symbol, l.day::text, covered::text, first_id, last_id, first_time, last_time, fills,"
        f" trim_scale(checksum) = trim_scale((SELECT {query} FROM raw_trades r WHERE r.symbol = l.symbol"
        " AND r.timestamp >= l.day AND r.timestamp < l.day + 1)) FROM trade_ledger l ORDER BY 1, 2",
    )


def test_the_first_fills_of_symbols_go_by_the_block(database, looked_at):
    """Over days, with a time that steps back and a hole: the ledger says what it says of fills one by one."""
    fills = [
        trade(n, symbol=symbol, timestamp=T0 + DAY // 40 * n - (n == 7) * 99_000_000, side="buy" if n % 3 else "sell",
              price=f"{n}.00{n}", size=("0.00000001", "10000", "123456.7")[n % 3], received=None, source=None)
        for n in (*range(1, 30), *range(33, 50))
        for symbol in ("BTC-USDT", "ETH-USDT")
    ]  # fmt: skip
    assert put(database, block(*fills[:50]), block(*fills[50:])) == {"raw_trades": 92}
    found = ledger(database), rows(database, "SELECT symbol, step FROM symbols ORDER BY 1"), looked_at[:]
    shown = rows(database, "SELECT *, price::text, size::text FROM raw_trades ORDER BY trade_id, symbol")
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("TRUNCATE raw_trades, trade_ledger, symbols")
    store(database, fills)
    assert found == (ledger(database), rows(database, "SELECT symbol, step FROM symbols ORDER BY 1"), [])
    assert shown == rows(database, "SELECT *, price::text, size::text FROM raw_trades ORDER BY trade_id, symbol")
    assert all(row[-1] for row in found[0]) and len(found[0]) == 8 and {step for _, step in found[1]} == {96_840_000}


def test_bars_without_the_first_fills_are_not_complete(database, looked_at):
    """Where bars of a symbol are stored before any fill, each fill is looked at."""
    store(database, [candle(count=5)])
    at = candle().start
    assert put(database, block(*(trade(n, timestamp=at + n) for n in range(6, 9)))) == {"raw_trades": 3}
    assert rows(database, "SELECT complete FROM market_data") == [(False,)]
    assert looked_at == [6, 7, 8]


def test_wild_ids_in_blocks(database, looked_at):
    """A lone one is refused, at the start, in a block and alone; two that follow on each other are believed."""
    high = 10 * FAR
    one, two, far = (block(*map(wild, ids)) for ids in ([5, 6], [7], [8, 9, 5 * high]))
    assert put(database, one, two, far) == {"raw_trades": 5, "quarantined": 1}
    assert looked_at == [8, 9, 5 * high]
    looked_at.clear()
    assert put(database, block(wild(10), wild(10 + FAR))) == {"raw_trades": 2}
    assert put(database, block(wild(3 * high), wild(3 * high + 1))) == {"raw_trades": 2}
    assert looked_at == []
    assert put(database, block(wild(7 * high))) == {"quarantined": 1}
    assert covered(database) == [*range(5, 11), 10 + FAR, 3 * high, 3 * high + 1]


def test_a_lone_first_fill_goes_by_the_block(database, looked_at):
    """There is nothing to compare it with."""
    assert put(database, block(wild(10**15))) == {"raw_trades": 1}
    assert looked_at == [] and covered(database) == [10**15]


def test_what_is_known_is_looked_at(database, looked_at):
    """A block again, in a new session: duplicates, and a fill that contradicts."""
    put(database, block(*map(trade, range(1, 9))))
    again = block(*map(trade, range(1, 8)), trade(8, price="1"), trade(9))
    assert put(database, again) == {"raw_trades": 1, "duplicates": 7, "quarantined": 1}
    assert looked_at == list(range(1, 10))


def test_the_next_batch_is_taken_in_meanwhile(database):
    """A full batch is committed aside; what is durable is told in order, by whoever calls."""
    told, held = [], threading.Event()
    fills = [block(*(trade(n + at, received=None) for n in range(4))) for at in range(1, 41, 4)]
    with open_database(database, create=True) as opened:

        def connect():
            assert held.wait(20)
            return opened.connect()

        with closing(
            Writer(
                connect, batch_rows=2, ahead=True, on_durable=lambda lines: told.append((threading.get_ident(), lines))
            )
        ) as writer:
            for number, one in enumerate(fills[:3], 1):  # two make a batch
                writer.add_fills(one)
                assert writer.pending == 4 * number
            assert 0 < writer.due_in(0) < 0.1 and told == []
            held.set()
            for one in fills[3:]:
                writer.add_fills(one)
            writer.flush()
            assert (writer.pending, writer.due_in(0)) == (0, None)
            assert writer.counts()["raw_trades"] == 40
    assert {thread for thread, _ in told} == {threading.get_ident()}
    assert b"\n".join(line for _, lines in told for line in lines) + b"\n" == b"".join(one.lines for one in fills)
    assert stored_ids(database) == list(range(1, 41))


def test_a_batch_that_fails_aside_is_pending_again(database):
    """With what came after it, in its order; the error is raised at the next call, and later all is stored."""
    away = True
    with open_database(database, create=True) as opened:

        def connect():
            if away:
                raise DatabaseUnavailable("it is away")
            return opened.connect()

        with closing(Writer(connect, batch_rows=1, ahead=True, patience_s=0)) as writer:
            writer.add_fills(block(*map(trade, range(1, 5))))
            with pytest.raises(DatabaseUnavailable, match="away"):
                writer.add_fills(block(*map(trade, range(5, 9))))
            assert writer.pending == 8
            with pytest.raises(DatabaseUnavailable, match="away"):
                writer.flush()
            away = False
            writer.flush()
            assert writer.pending == 0
            away = True
            writer.close()
            writer.add_fills(block(*map(trade, range(9, 13))))
            writer.close()  # waits, and says nothing
            assert writer.take_pending() == [encode(trade(number)) for number in range(9, 13)]
    assert stored_ids(database) == list(range(1, 9))


def test_ticks_commit_what_is_due(database):
    """A batch that is not full is committed by its time, and one that was committed aside is told of."""
    now, told = T0, []
    with (
        open_database(database, create=True) as opened,
        closing(Writer(opened.connect, batch_rows=2, ahead=True, clock=lambda: now, on_durable=told.extend)) as writer,
    ):
        writer.add_fills(block(*map(trade, range(1, 9))))
        writer.add_fills(block(trade(9)))
        writer._aside._thread.join(20)
        assert writer.due_in(now) == 0 and told == []
        writer.tick(now)
        assert (len(told), writer.pending) == (8, 1)
        writer.tick(now)
        assert writer.pending == 1
        now += 250
        writer.tick(now)
        assert (len(told), writer.pending) == (9, 0)


def test_an_outage_aside_goes_to_the_spool(database, tmp_path):
    """The batch that failed and the one after it, in their order."""
    spool = Spool(tmp_path / "spool")
    with open_database(database, create=True) as opened, closing(DurableWriter(opened, spool, ahead=True)) as keeper:
        keeper._writer.batch_rows = 1

        def connect():
            raise DatabaseUnavailable("it is away")

        keeper._writer.connect = connect
        for number in range(1, 20, 4):
            keeper.add_fills(block(*(trade(number + at) for at in range(4))))
        assert not keeper.up
        assert keeper.finish() == 20
    with open_database(database, create=True) as opened, closing(DurableWriter(opened, spool)) as keeper:
        assert keeper.finish() == 0
    assert stored_ids(database) == list(range(1, 21))


def test_work_aside_gives_what_it_made_or_raised():
    """Whatever it was."""
    assert Aside(lambda: 7).result() == 7
    failing = Aside(lambda: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        failing.result()
    assert failing.done


@pytest.mark.parametrize("fails_at", [None, 1, 3])
def test_a_batch_is_looked_at_in_pieces(database, monkeypatch, fails_at):
    """Lines take ten times the memory of their block. Where it fails between them all is pending, nothing is lost."""
    put(database, block(*map(wild, range(1, 11))))
    pieces = []
    plain = Writer._store

    def store_piece(self, batch, thorough=False):
        pieces.append(len(batch))
        if len(pieces) - 1 == fails_at:
            raise DatabaseUnavailable("away")
        return plain(self, batch, thorough)

    monkeypatch.setattr(Writer, "_store", store_piece)
    durable = []
    with (
        open_database(database, create=True) as opened,
        closing(Writer(opened.connect, batch_rows=20, on_durable=durable.extend)) as writer,
    ):
        writer.refuse(b"not a line", "not JSON")
        writer.add(trade(1, symbol="ETH-USDT"), b"the line of another")
        writer.add_fills(block(*map(wild, range(5, 48))))
        if fails_at is not None:
            with pytest.raises(DatabaseUnavailable):
                writer.flush()
            assert writer.pending == 45 and durable == []
            pieces.clear()
            fails_at = None
        writer.flush()
        assert writer.pending == 0
        counts = writer.counts()
    assert pieces == [11, 10, 10, 10, 3]
    assert stored_ids(database) == list(range(1, 48))
    assert [line[:4] for line in durable] == [b"the ", *[b'{"ty'] * 43]
    assert counts["raw_trades"] + counts["duplicates"] >= 44 and counts["quarantined"] == 1
    assert rows(database, "SELECT count(*) FROM quarantine") == [(1,)]


def test_a_refused_line_of_a_piece_is_not_durable(database, monkeypatch):
    """It goes to quarantine as it came, and is not passed on."""
    put(database, block(wild(1)))
    durable = []
    bad = trade(7, symbol="BTC-USDT", timestamp=T0)
    plain = trade_tables.store_trades

    def refusing(connection, trades, *more):
        if any(fill.trade_id == 7 for group in trades.values() for fill in group):
            raise psycopg.errors.CheckViolation("no")
        plain(connection, trades, *more)

    monkeypatch.setattr(trade_tables, "store_trades", refusing)
    with (
        open_database(database, create=True) as opened,
        closing(Writer(opened.connect, batch_rows=8, on_durable=durable.extend)) as writer,
    ):
        writer.add_fills(block(*map(wild, range(1, 7)), bad, *map(wild, range(8, 14))))
        writer.flush()
    assert stored_ids(database) == [*range(1, 7), *range(8, 14)]
    assert encode(bad) not in durable and len(durable) == 12
    assert rows(database, "SELECT line FROM quarantine") == [(encode(bad).decode(),)]
