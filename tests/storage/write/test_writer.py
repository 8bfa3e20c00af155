"""The writer: every fill once, ledger and rows in step, poison apart, whatever the order and however often."""

import random
import threading
from contextlib import closing
from decimal import Decimal

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from storage_samples import (
    DAY,
    MIDNIGHT,
    T0,
    absent,
    book,
    candle,
    covered,
    instrument,
    noted_absent,
    rows,
    store,
    stored_ids,
    ticker,
    trade,
)

from okxcli.core.codec import encode
from okxcli.core.model import BookSnapshot
from okxcli.errors import DatabaseUnavailable
from okxcli.storage.database import open_database
from okxcli.storage.ledger import id_ledger
from okxcli.storage.rows.fill_block import FillBlock
from okxcli.storage.write import trade_tables
from okxcli.storage.write.writer import Writer


def test_fills_are_stored_once_with_every_digit(database):
    """Values come back as they went in; the same input again adds nothing."""
    fills = [trade(1, price="0.00000853"), trade(2, price="102537.9", size="99999999999.123456789012345678"), trade(3)]
    assert store(database, fills) == {"raw_trades": 3}
    assert store(database, fills) == {"duplicates": 3}
    found = rows(
        database, "SELECT trade_id, price::text, size::text, side, count, source, origin FROM trades ORDER BY 1"
    )
    assert found[0] == (1, "0.00000853", "0.00013669", "sell", 1, 0, "trades-all")
    assert found[1][1:3] == ("102537.9", "99999999999.123456789012345678")
    exact = rows(database, "SELECT (extract(epoch FROM timestamp) * 1000)::bigint, received - timestamp FROM trades")
    assert [row[0] for row in exact] == [T0 + 1, T0 + 2, T0 + 3]
    assert {row[1].total_seconds() for row in exact} == {0.044}


def test_ledger_has_the_ids_and_bounds_of_each_day(database):
    """Ids near midnight lie in the day of their own time, though they interleave."""
    fills = [trade(i, timestamp=MIDNIGHT + t) for i, t in ((1, -5), (2, 3), (3, -1), (4, 3), (6, 9))]
    store(database, fills)
    found = rows(
        database,
        "SELECT day::text, covered::text, first_id, last_id, last_time - first_time FROM trade_ledger ORDER BY 1",
    )
    assert found[0][:4] == ("2025-05-12", "{[1,2),[3,4)}", 1, 3)
    assert found[1][:4] == ("2025-05-13", "{[2,3),[4,5),[6,7)}", 2, 6)
    assert [row[4].total_seconds() for row in found] == [0.004, 0.006]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    ids=st.lists(st.integers(1, 60), max_size=40),
    batch=st.integers(1, 15),
    again=st.randoms(use_true_random=False),
)
def test_any_order_batches_and_repeats_give_one_tape(database, ids, batch, again):
    """Rows, ledger and set of ids are equal, whatever comes in which order, cut into which batches, how often."""
    with psycopg.connect(database, autocommit=True) as connection:
        if connection.execute("SELECT to_regclass('raw_trades')").fetchone() != (None,):
            connection.execute("TRUNCATE raw_trades, trade_ledger, quarantine")
    # Ids in both days around midnight, with clocks that step back.
    fills = [trade(i, timestamp=MIDNIGHT + (i * 37 % 11 - 5)) for i in ids]
    counts = store(database, fills, batch_rows=batch)
    assert counts.get("raw_trades", 0) == len(set(ids))
    assert counts.get("duplicates", 0) == len(ids) - len(set(ids))
    again.shuffle(fills)
    assert store(database, fills, batch_rows=batch).get("raw_trades") is None
    assert stored_ids(database) == covered(database) == sorted(set(ids))
    assert rows(database, "SELECT count(*) FROM quarantine") == [(0,)]


def test_two_writers_at_once_give_one_tape(database):
    """Two writers with overlapping input, in different batches and order of symbols, neither lose nor double a fill."""
    fills = [trade(i, symbol=s) for i in range(1, 801) for s in ("BTC-USDT", "ETH-USDT", "SOL-USDT")]
    totals = []

    def work(seed):
        mine = [fill for fill in fills if random.Random(fill.trade_id * seed).random() < 0.8]
        random.Random(seed).shuffle(mine)
        totals.append(store(database, mine, batch_rows=37 * seed))

    with open_database(database, create=True):
        threads = [threading.Thread(target=work, args=(seed,)) for seed in (1, 2, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(totals) == 3
    for symbol in ("BTC-USDT", "ETH-USDT", "SOL-USDT"):
        ids = stored_ids(database, symbol)
        assert ids == sorted(set(ids)) == covered(database, symbol)
    union = {
        (f.symbol, f.trade_id) for f in fills if any(random.Random(f.trade_id * s).random() < 0.8 for s in (1, 2, 3))
    }
    assert sum(counts["raw_trades"] for counts in totals) == len(union)
    assert rows(database, "SELECT count(*) FROM raw_trades") == [(len(union),)]


@pytest.mark.parametrize(
    "other",
    [
        {"price": "102537.8"},
        {"size": "1"},
        {"side": "buy"},
        {"timestamp": T0 + 5},
        {"timestamp": T0 + 40 * DAY},
    ],
)
@pytest.mark.parametrize("batch", [1, 10])
def test_reused_id_goes_to_quarantine(database, other, batch):
    """A known id with another price, size, side or time is kept apart, with the row it contradicts; once."""
    lines = [trade(7), trade(7, **other), trade(8)]
    assert store(database, lines, batch_rows=batch) == {"raw_trades": 2, "quarantined": 1}
    assert store(database, lines)["quarantined"] == 1
    kept = rows(database, "SELECT type, symbol, reason, line, stored FROM quarantine")
    assert kept == [("trade", "BTC-USDT", "id reused", encode(lines[1]).decode(), encode(lines[0]).decode())]
    assert stored_ids(database) == covered(database) == [7, 8]


def test_received_and_origin_do_not_make_a_fill_another(database):
    """The same fill from REST, unstamped, is a duplicate."""
    assert store(database, [trade(1), trade(1, received=None, source=None, origin="rest")]) == {
        "raw_trades": 1,
        "duplicates": 1,
    }


def test_merged_trades_stand_apart(database):
    """Merged trades, by channel or by count, never reach the tape or the ledger; again they are duplicates."""
    lines = [trade(5, origin="trades"), trade(9, count=4, origin="trades"), trade(20, count=2, origin="file"), trade(9)]
    assert store(database, lines) == {"merged_trades": 3, "raw_trades": 1}
    assert store(database, lines) == {"duplicates": 4}
    assert covered(database) == [9]
    assert rows(database, "SELECT trade_id, count FROM merged_trades ORDER BY 1") == [(5, 1), (9, 4), (20, 2)]


def test_absent_ids_are_noted_until_they_turn_up(database):
    """Absent ids stand in the ledger at the fill before them; one that is stored after all is covered instead."""
    fills = [trade(1, timestamp=MIDNIGHT - 1), trade(6, timestamp=MIDNIGHT + 1)]
    assert store(database, [*fills, absent(1, 5)]) == {"raw_trades": 2, "absent": 4}
    assert store(database, [absent(2, 3), absent(4, 5)]) == {"duplicates": 2}
    assert rows(database, "SELECT day::text, absent::text FROM trade_ledger ORDER BY 1") == [
        ("2025-05-12", "{[2,6)}"),
        ("2025-05-13", "{}"),
    ]
    # On the other day than where it was noted.
    assert store(database, [trade(4, timestamp=MIDNIGHT + 2)]) == {"raw_trades": 1}
    assert noted_absent(database) == [2, 3, 5]
    assert covered(database) == [1, 4, 6]


def test_absent_ids_without_any_fill_are_kept(database):
    """They have no day of their own then, but they are known."""
    assert store(database, [absent(10, 12)]) == {"absent": 3}
    assert noted_absent(database) == [10, 11, 12]
    assert store(database, [trade(13)]) == {"raw_trades": 1}


def test_row_that_postgres_refuses_is_quarantined_alone(database, caplog):
    """One poison row among many costs nobody else; it is kept with Postgres' reason, and told."""
    with open_database(database, create=True) as opened, opened.connect() as connection:
        connection.execute("ALTER TABLE raw_trades ADD CONSTRAINT no_devils CHECK (price <> 666)")
    lines = [trade(i, price="666" if i in (17, 300) else "1") for i in range(1, 501)]
    lines[250:250] = [ticker(), candle()]
    assert store(database, lines) == {"raw_trades": 498, "tickers": 1, "market_data": 1, "quarantined": 2}
    assert stored_ids(database) == covered(database) == [i for i in range(1, 501) if i not in (17, 300)]
    kept = rows(database, "SELECT line, reason FROM quarantine ORDER BY id")
    assert [line for line, _ in kept] == [encode(lines[16]).decode(), encode(trade(300, price="666")).decode()]
    assert all("no_devils" in reason for _, reason in kept)
    assert "no_devils" in caplog.text


def test_a_line_that_our_own_code_chokes_on_is_quarantined_alone(database, caplog, monkeypatch):
    """It is treated as one that Postgres refuses, and the bug is told with its traceback."""
    make_rows = trade_tables.trade_rows

    def choke(trades):
        if any(one.trade_id == 17 for one in trades):
            raise TypeError("seventeen")
        return make_rows(trades)

    monkeypatch.setattr(trade_tables, "trade_rows", choke)
    assert store(database, [trade(i) for i in range(1, 101)]) == {"raw_trades": 99, "quarantined": 1}
    assert stored_ids(database) == covered(database) == [i for i in range(1, 101) if i != 17]
    ((line, reason),) = rows(database, "SELECT line, reason FROM quarantine")
    assert line == encode(trade(17)).decode()
    assert reason == "a bug of okx: TypeError: seventeen"
    assert "Traceback" in caplog.text


def test_a_value_that_cannot_even_be_sent_is_quarantined_alone(database):
    """A NUL in a name that no codec checked never leaves psycopg: that is no reason to believe Postgres away."""
    lines = [trade(1), trade(2, symbol="BTC\0USDT"), trade(3)]
    assert store(database, lines) == {"raw_trades": 2, "quarantined": 1}
    assert stored_ids(database) == [1, 3]
    assert rows(database, "SELECT symbol FROM quarantine") == [("BTC\\u0000USDT",)]


def test_a_line_that_cannot_be_decoded_is_kept_in_quarantine(database):
    """With its text, its reason, and the names that can be read; once, however often it comes."""
    with open_database(database, create=True) as opened, closing(Writer(opened.connect)) as writer:
        for _ in range(2):
            writer.refuse(
                b'{"type":"trade","exchange":"okx","symbol":"BTC-USDT","price":"1e400"}', "number out of range"
            )
            writer.refuse(b"{\0\xff", "NUL bytes")
            writer.add(trade(1))
            writer.flush()
        assert writer.counts()["quarantined"] == 4
    found = rows(database, "SELECT type, exchange, symbol, reason, line FROM quarantine ORDER BY id")
    assert found == [
        ("trade", "okx", "BTC-USDT", "number out of range",
         '{"type":"trade","exchange":"okx","symbol":"BTC-USDT","price":"1e400"}'),
        ("", "", "", "NUL bytes", "{\\u0000\N{REPLACEMENT CHARACTER}"),
    ]  # fmt: skip
    assert stored_ids(database) == [1]


def test_id_at_the_end_of_the_range_is_quarantined(database):
    """An id that no range can follow is refused by Postgres, and stays alone."""
    assert store(database, [trade(1), trade(2**63 - 1, timestamp=T0), trade(2)]) == {"raw_trades": 2, "quarantined": 1}


def test_names_with_quotes_and_tabs_do_no_harm(database):
    """A name that no codec checked is data, never SQL and never another column."""
    name = "BTC\t'); DROP TABLE raw_trades; --\\N\n"
    assert store(database, [trade(1, symbol=name), trade(2)]) == {"raw_trades": 2}
    assert stored_ids(database, name) == covered(database, name) == [1]


def test_rows_without_ledger_are_covered_and_not_doubled(database):
    """Where the ledger lost a day, the same input finds its rows and covers them again."""
    fills = [trade(i) for i in range(1, 21)]
    store(database, fills)
    rows_before = stored_ids(database)
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM trade_ledger")
    assert store(database, [*fills, trade(21)]) == {"raw_trades": 1, "duplicates": 20}
    assert stored_ids(database) == [*rows_before, 21] == covered(database)


def test_partition_that_was_dropped_meanwhile_is_made_again(database):
    """What a writer remembers of partitions and symbols may be out of date; the batch is stored all the same."""
    with open_database(database, create=True) as opened, closing(Writer(opened.connect)) as writer:
        writer.add(trade(1))
        writer.flush()
        with opened.connect() as connection:
            connection.execute("DROP TABLE raw_trades_20250512")
            connection.execute("DELETE FROM symbols")
        writer.add(trade(2))
        writer.flush()
        assert writer.counts()["raw_trades"] == 2
    assert stored_ids(database) == [2]
    assert rows(database, "SELECT symbol FROM symbols") == [("BTC-USDT",)]


def test_books_and_tickers_are_stored_once(database):
    """By symbol, origin, time and sequence number; without one by what is in them."""
    old = book(seq_id=None)
    lines = [book(), book(), book(seq_id=2), book(origin="bbo-tbt"), old, old, book(seq_id=None, bid="1")]
    assert store(database, lines) == {"order_books": 5, "duplicates": 2}
    assert store(database, [*lines, ticker(), ticker(T0 + 1)]) == {"duplicates": 7, "tickers": 2}
    found = rows(database, "SELECT bids[1][1]::text, asks[2][2]::text, array_length(asks, 1) FROM order_books LIMIT 1")
    assert found == [("102537.8", "0.00000853", 2)]


def test_empty_book_side_is_stored(database):
    """An illiquid market may have no bids at all."""
    assert store(database, [BookSnapshot("okx", "X-USDT", T0, (), ((Decimal(1), Decimal(2)),), 5)]) == {
        "order_books": 1
    }
    assert rows(database, "SELECT bids, asks FROM order_books") == [([], [[Decimal(1), Decimal(2)]])]


def test_instrument_gets_a_row_only_when_it_changed(database):
    """The row before ends where the new one begins; seeing the same again changes nothing."""
    lines = [
        instrument(),
        instrument(T0 + 5),
        instrument(T0 + 9, state="suspend"),
        instrument(T0 + 20, state="suspend"),
    ]
    assert store(database, lines) == {"instruments": 2, "duplicates": 2}
    assert store(database, lines[:2]) == {"duplicates": 2}
    found = rows(
        database,
        "SELECT state, (extract(epoch FROM valid_from) * 1000)::bigint, (extract(epoch FROM valid_to) * 1000)::bigint,"
        " contract_value::text FROM instruments ORDER BY valid_from",
    )
    assert found == [("live", T0, T0 + 9, "0.01"), ("suspend", T0 + 9, None, "0.01")]


def test_instrument_of_an_old_recording_takes_its_place_in_time(database):
    """What was learned earlier goes before what is known; what is valid now stays."""
    store(database, [instrument(T0)])
    assert store(database, [instrument(T0 - 9, state="preopen"), instrument(T0 - 20, state="preopen")]) == {
        "instruments": 2
    }
    found = rows(
        database, "SELECT state, (extract(epoch FROM valid_from) * 1000)::bigint FROM instruments ORDER BY valid_from"
    )
    assert found == [("preopen", T0 - 20), ("live", T0)]


def test_batch_ends_by_rows_or_by_time():
    """A batch is due 250 ms after its first line, however the clock is set back, and is none when empty."""
    now = 1000
    writer = Writer(lambda: pytest.fail("nothing to connect for"), clock=lambda: now, batch_rows=3)
    assert writer.due_in(now) is None
    writer.add(trade(1))
    assert writer.due_in(1000) == 0.25
    assert writer.due_in(1200) == 0.05
    assert writer.due_in(2000) == 0
    assert writer.due_in(0) == 0.25
    assert writer.pending == 1


def test_full_batch_is_committed_at_once(database):
    """The last line of a batch commits it, and `on_durable` gets what is stored, in order, and nothing refused."""
    durable = []
    with (
        open_database(database, create=True) as opened,
        closing(Writer(opened.connect, batch_rows=4, on_durable=durable.extend)) as writer,
    ):
        for i, line in enumerate([trade(1), trade(1), trade(1, price="5"), trade(2), trade(3)]):
            writer.add(line, b"line %d" % i)
        assert durable == [b"line 0", b"line 1", b"line 3"]
        assert stored_ids(database) == [1, 2]
        assert writer.pending == 1
        writer.flush()
    assert durable[-1] == b"line 4"


def test_deep_books_fill_a_batch_sooner(database):
    """Memory is bounded by levels, not by lines."""
    deep = tuple((Decimal(i), Decimal(1)) for i in range(1, 401))
    with open_database(database, create=True) as opened, closing(Writer(opened.connect, batch_rows=100)) as writer:
        for i in range(3):
            writer.add(BookSnapshot("okx", "BTC-USDT", T0 + i, deep, deep, i))
        assert writer.counts()["order_books"] == 2
        assert writer.pending == 1


def test_lost_connection_is_made_anew(database):
    """A session that the server ended costs nothing: the batch goes out on a new one."""
    with open_database(database, create=True) as opened, closing(Writer(opened.connect)) as writer:
        for i in range(1, 6):
            writer.add(trade(i))
            writer.flush()
            rows(
                database,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
    assert stored_ids(database) == covered(database) == [1, 2, 3, 4, 5]


def test_commit_whose_answer_was_lost_does_no_harm(database, monkeypatch):
    """When the connection breaks after the commit, the batch is sent again and found to be there."""
    real = id_ledger.cover
    broken = []

    def cover_then_break(connection, new, sums):
        real(connection, new, sums)
        if not broken:
            broken.append(True)
            connection.execute("COMMIT")
            connection.close()

    monkeypatch.setattr(id_ledger, "cover", cover_then_break)
    assert store(database, [trade(1), trade(2)]) == {"duplicates": 2}
    assert stored_ids(database) == covered(database) == [1, 2]


def test_database_that_stays_away_is_told_and_nothing_is_forgotten(database):
    """After its patience the writer raises; the lines are still there and go out later."""
    away = True

    def connect():
        if away:
            raise DatabaseUnavailable("cannot reach Postgres at db:5432: connection refused")
        return opened.connect()

    with open_database(database, create=True) as opened, closing(Writer(connect, patience_s=0.1)) as writer:
        writer.add(trade(1))
        with pytest.raises(DatabaseUnavailable, match="db:5432"):
            writer.flush()
        assert writer.pending == 1
        away = False
        writer.flush()
    assert stored_ids(database) == [1]


def test_refusal_as_a_whole_quarantines_nothing(database):
    """A table that we may not write to is the database's fault, not that of any line."""
    with open_database(database, create=True) as opened, closing(Writer(opened.connect)) as writer:
        rows_of = opened.connect()
        rows_of.execute("ALTER TABLE raw_trades RENAME TO hidden")
        rows_of.close()
        writer.add(trade(1))
        with pytest.raises(DatabaseUnavailable, match="raw_trades"):
            writer.flush()
        assert writer.pending == 1
    assert rows(database, "SELECT count(*) FROM quarantine") == [(0,)]


@pytest.mark.parametrize("bug", [TypeError("a bug"), OverflowError("too long"), psycopg.DataError("a value")])
def test_a_block_that_cannot_be_stored_as_such_is_taken_apart(database, monkeypatch, bug):
    """A bug, a sum that is too long, a value that Postgres refuses: the fills are stored one by one all the same."""
    tried = []

    def fail(*arguments):
        tried.append(arguments)
        raise bug

    monkeypatch.setattr(trade_tables, "store_new", fail)
    fills = [trade(number) for number in range(1, 40)]
    block = FillBlock(b"".join(encode(fill) + b"\n" for fill in fills), len(fills))
    with open_database(database, create=True) as opened, closing(Writer(opened.connect)) as writer:
        writer.add_fills(block)
        assert writer.pending == 39
        writer.flush()
        assert (len(tried), writer.pending, writer.counts()["raw_trades"]) == (1, 0, 39)
    assert stored_ids(database) == list(range(1, 40))
