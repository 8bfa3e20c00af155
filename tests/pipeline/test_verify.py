"""`okx verify` against the local exchange: a day with planted errors, and what must not count as one."""

import json
import shlex
import subprocess
import sys
from contextlib import closing
from datetime import timedelta
from decimal import Decimal

import psycopg
import pytest

from okxcli.core.candles.processor import RealTimeCandleProcessor
from okxcli.core.model import StandardizedTrade
from okxcli.exchanges.okx.normalize.normalizer import Normalizer
from okxcli.exchanges.okx.rest.instrument_list import instrument_line
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.storage.database import open_database
from okxcli.storage.write.writer import Writer

MINUTE = 60_000
DAY = 86_400_000
TODAY = 1_767_571_200_000  # 2026-01-05T00:00Z
SYMBOL = "BTC-USDT"
NOON = TODAY + DAY // 2


@pytest.fixture(scope="module")
def exchange():
    """A market that stands still five minutes after the end of a day; the past reaches to the noon before it."""
    start = TODAY + DAY + 5 * MINUTE
    options = Options(limits=0)
    with LocalExchange(
        [SYMBOL], rate=0.25, seed=5, start_ms=start, history_s=36 * 3600, quiet=0.1, options=options
    ) as exchange:
        exchange.set_time(start + 1)
        yield exchange


@pytest.fixture(scope="module")
def tape(exchange):
    """Every fill, and the bars that they make."""
    fills = [
        StandardizedTrade("okx", SYMBOL, f.trade_id, f.side, Decimal(f.price), Decimal(f.size), f.ts, 1, None, f.source)
        for f in exchange.fills(SYMBOL)
    ]
    bars = []
    maker = RealTimeCandleProcessor("1m,1d,1d+8", bars.append)
    for fill in fills:
        maker.trade(fill)
    return fills, bars


def store(dsn, lines):
    with open_database(dsn, create=True, origin="local") as database, closing(Writer(database.connect)) as writer:
        for line in lines:
            writer.add(line)
        writer.flush()


@pytest.fixture
def day(database, tape):
    """The database with the fills and bars of the market, and a way to change it."""
    store(database, [*tape[0], *tape[1]])
    with psycopg.connect(database, autocommit=True) as connection:
        yield connection


def verify(exchange, dsn, *arguments, symbol=SYMBOL):
    """Run the command; return (differences, stderr, exit status)."""
    command = [sys.executable, "-m", "okxcli", "verify", symbol, "--dsn", dsn, "--rest-url", exchange.rest_url]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode in (0, 1, 2), done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr, done.returncode


NUMBERS = ("open", "high", "low", "close", "volume", "base_volume", "quote_volume")


def test_a_delisted_symbol_concerns_itself_alone(exchange, day, database):
    """It is told and makes the exit status 1; the others are compared."""
    for arguments in (("NO-USDT", SYMBOL), (SYMBOL, "NO-USDT")):
        found, told, status = verify(exchange, database, *arguments[1:], *SPAN, symbol=arguments[0])
        assert (found, status) == ([], 1)
        assert "NO-USDT 1m: not compared: OKX has no instrument NO-USDT" in told
        assert f"{SYMBOL} 1m: 1440 bars compared" in told
    assert verify(exchange, database, *SPAN)[2] == 0


def test_a_span_that_ends_before_it_begins(exchange, day, database):
    """It is told as a mistake, not as a time of which nothing is stored."""
    found, told, status = verify(exchange, database, "--since", "1w", "--until", "2w")
    assert (found, status) == ([], 2)
    assert told == "okx verify: --since must be before --until (default: a minute ago)\n"


SPAN = ("--tf", "1m,1d", "--since", str(TODAY), "--until", str(TODAY + DAY))
AT = " WHERE symbol = 'BTC-USDT' AND timeframe = %s AND start = to_timestamp(%s / 1000.0)"


def change(connection, timeframe, start, **numbers):
    """Set numbers of a stored bar."""
    names = ", ".join(f"{name} = %s" for name in numbers)
    connection.execute(f"UPDATE market_data SET {names} {AT}", [*numbers.values(), timeframe, start])


def become(connection, timeframe, start, other):
    """Give a stored bar the numbers of another."""
    change(connection, timeframe, start, **{name: getattr(other, name) for name in NUMBERS})


def sums(fills):
    """Return the volumes of fills."""
    size = sum(fill.size for fill in fills)
    return {"volume": size, "base_volume": size, "quote_volume": sum(fill.size * fill.price for fill in fills)}


def busy_bars(tape, count):
    """Return complete 1m bars of the day with several fills, whose open and close differ, far from each other."""
    found = [
        bar
        for bar in tape[1]
        if bar.timeframe == "1m" and TODAY <= bar.start < TODAY + DAY and bar.complete and bar.trade_count > 3
        if bar.open != bar.close
    ]
    step = len(found) // count
    return found[step // 2 :: step][:count]


def test_a_day_that_is_right(exchange, day, database, tape):
    """Every bar agrees; minutes that are flat at OKX and absent here are proven quiet by the ids."""
    differences, err, status = verify(exchange, database, *SPAN)
    assert (differences, status) == ([], 0)
    assert "1m: 1440 bars compared" in err
    minutes = {bar.start for bar in tape[1] if bar.timeframe == "1m" and TODAY <= bar.start < TODAY + DAY}
    quiet = 1440 - len(minutes)
    assert quiet > 50
    assert f"{quiet} quiet" in err
    assert "1d: 1 bars compared, 1 equal" in err


def test_five_planted_errors_are_found_and_nothing_else(exchange, day, database, tape):
    """One volume digit, one missing trade, one shifted day boundary, one swapped open and close, one bar absent."""
    digit, missing, swapped, absent = busy_bars(tape, 4)
    day.execute(f"UPDATE market_data SET volume = volume + 0.00000001 {AT}", ["1m", digit.start])
    lost = missing.first_trade_id + 1
    day.execute("DELETE FROM raw_trades WHERE trade_id = %s", [lost])
    day.execute("UPDATE trade_ledger SET covered = covered - int8multirange(int8range(%s, %s, '[]'))", [lost, lost])
    kept = [t for t in tape[0] if missing.start <= t.timestamp < missing.timestamp and t.trade_id != lost]
    prices = [t.price for t in kept]
    numbers = {**sums(kept), "trade_count": len(kept), "high": max(prices), "low": min(prices)}
    change(day, "1m", missing.start, **numbers)
    other = next(bar for bar in tape[1] if bar.timeframe == "1d+8" and bar.start == TODAY - DAY // 3)
    become(day, "1d", TODAY, other)
    day.execute(f"UPDATE market_data SET open = close, close = open {AT}", ["1m", swapped.start])
    day.execute(f"DELETE FROM market_data {AT}", ["1m", absent.start])

    differences, err, status = verify(exchange, database, *SPAN)
    found = {(d["timeframe"], d["start"]): d for d in differences}
    assert len(differences) == len(found) == 5
    assert status == 1
    assert "4 differ" in err and "1 differ" in err

    one = found["1m", digit.start]
    assert (one["cause"], one["fields"]) == ("not what its fills say", ["volume"])
    assert Decimal(one["ours"]["volume"]) - Decimal(one["exchange"]["volume"]) == Decimal("0.00000001")
    assert Decimal(one["exchange"]["volume"]) == digit.volume
    one = found["1m", missing.start]
    assert (one["cause"], one["note"]) == ("missing fills", f"ids {lost}")
    assert {"volume", "base_volume", "quote_volume"} <= {*one["fields"]}
    one = found["1d", TODAY]
    assert (one["cause"], one["note"]) == ("day boundary", "it is the exchange's bar of 1d+8")
    one = found["1m", swapped.start]
    assert (one["cause"], one["fields"]) == ("open and close swapped", ["open", "close"])
    assert one["ours"] == {"open": one["exchange"]["close"], "close": one["exchange"]["open"]}
    one = found["1m", absent.start]
    assert (one["cause"], one["note"], one["ours"]) == ("absent", "its fills are stored, the bar is not", None)
    assert Decimal(one["exchange"]["volume"]) == absent.volume


CONTRACTS = ("BTC-USDT-SWAP", "BTC-USD-SWAP")


@pytest.fixture(scope="module")
def contracts():
    """Two swaps, one linear and one inverse, with some hours of past; their markets stand still."""
    start = TODAY + 5 * MINUTE
    with LocalExchange(
        CONTRACTS, rate=0.5, seed=11, start_ms=start, history_s=4 * 3600, quiet=0.1, options=Options(limits=0)
    ) as exchange:
        exchange.set_time(start + 1)
        yield exchange


def told(exchange, symbol):
    """Return what the exchange says that a symbol is."""
    (line,) = Normalizer().feed(instrument_line(exchange.row(symbol)))
    return line


@pytest.mark.parametrize("symbol", CONTRACTS)
def test_planted_errors_in_contracts(contracts, database, symbol):
    """Sizes are contracts, and what one is worth depends on its kind: an inverse one on the price of each fill. A day
    that is right agrees in all three volumes; a digit in any of them, a fill that lacks, a bar whose amounts are those
    of the other kind, of the close, or of spot are found, and nothing else."""
    fills = [
        StandardizedTrade("okx", symbol, f.trade_id, f.side, Decimal(f.price), Decimal(f.size), f.ts, 1, None, f.source)
        for f in contracts.fills(symbol)
    ]
    instrument, bars = told(contracts, symbol), []
    assert instrument.contract_type == ("inverse" if symbol == "BTC-USD-SWAP" else "linear")
    maker = RealTimeCandleProcessor("1m", bars.append)
    maker.instrument(instrument)
    for fill in fills:
        maker.trade(fill)
    store(database, [instrument, *fills, *bars])
    since, until = bars[1].start, bars[-1].timestamp
    span = ("--tf", "1m", "--since", str(since), "--until", str(until))
    differences, err, status = verify(contracts, database, *span, symbol=symbol)
    assert (differences, status) == ([], 0), err
    assert all(bar.base_volume > 0 and bar.quote_volume > 0 for bar in bars)
    assert len({bar.volume / bar.base_volume for bar in bars}) > 1 or instrument.contract_type == "linear"

    busy = [bar for bar in bars[1:] if bar.complete and bar.trade_count > 5 and bar.open != bar.close]
    digit, base, quote, missing, kind, other = busy[5 :: len(busy) // 6][:6]
    worth = instrument.contract_value * (instrument.contract_multiplier or 1)
    with psycopg.connect(database, autocommit=True) as connection:

        def change(bar, **numbers):
            names = ", ".join(f"{name} = %s" for name in numbers)
            connection.execute(
                f"UPDATE market_data SET {names} WHERE symbol = %s AND start = to_timestamp(%s / 1000.0)",
                [*numbers.values(), symbol, bar.start],
            )

        change(digit, volume=digit.volume + instrument.lot_size)
        change(base, base_volume=base.base_volume * Decimal("1.0001"))
        change(quote, quote_volume=quote.quote_volume + Decimal("0.01"))
        lost = missing.first_trade_id + 1
        connection.execute("DELETE FROM raw_trades WHERE trade_id = %s", [lost])
        connection.execute(
            "UPDATE trade_ledger SET covered = covered - int8multirange(int8range(%s, %s, '[]'))", [lost] * 2
        )
        size = next(fill.size for fill in fills if fill.trade_id == lost)
        change(missing, volume=missing.volume - size, trade_count=missing.trade_count - 1)
        amount = kind.volume * worth  # of a linear one that is coins, of an inverse one dollars
        if instrument.contract_type == "inverse":
            change(kind, base_volume=amount, quote_volume=amount * kind.close)
            change(other, base_volume=other.volume * worth / other.close)  # by the close, not by each fill
        else:
            change(kind, base_volume=amount / kind.close, quote_volume=amount)
            change(other, base_volume=other.volume, quote_volume=other.volume * other.close)
    differences, _, status = verify(contracts, database, *span, symbol=symbol)
    found = {one["start"]: (one["cause"], one["fields"]) for one in differences}
    altered = "not what its fills say"
    assert status == 1
    assert found == {
        digit.start: (altered, ["volume"]),
        base.start: (altered, ["base_volume"]),
        quote.start: (altered, ["quote_volume"]),
        missing.start: ("missing fills", ["volume"]),
        kind.start: (altered, ["base_volume", "quote_volume"]),
        other.start: (altered, ["base_volume"] if symbol == "BTC-USD-SWAP" else ["base_volume", "quote_volume"]),
    }
    assert next(one["note"] for one in differences if one["start"] == missing.start) == f"ids {lost}"


def test_a_fill_on_the_wrong_side_of_midnight(exchange, day, database, tape):
    """Two bars that together hold what OKX's two hold are told as one day boundary cut wrong."""
    midnight = TODAY + DAY * 2 // 3  # of UTC+8
    fills = [t for t in tape[0] if midnight - MINUTE <= t.timestamp < midnight + MINUTE]
    after = [t for t in fills if t.timestamp >= midnight]
    before = [t for t in fills if t.timestamp < midnight]
    assert before and len(after) > 1
    for start, part in ((midnight - MINUTE, [*before, after[0]]), (midnight, after[1:])):
        change(day, "1m", start, open=part[0].price, close=part[-1].price, **sums(part))
    differences, _, status = verify(exchange, database, "--since", str(TODAY), "--until", str(TODAY + DAY))
    assert status == 1
    assert [(d["start"], d["cause"]) for d in differences] == [
        (midnight - MINUTE, "day boundary"), (midnight, "day boundary")]  # fmt: skip


def test_labelled_by_the_open(exchange, day, database, tape):
    """A bar that stands one place too far is told as a boundary, not as a wrong number."""
    bars = {bar.start: bar for bar in tape[1] if bar.timeframe == "1m"}
    start = next(s for s in sorted(bars) if s > NOON and s - MINUTE in bars and s + MINUTE in bars)
    become(day, "1m", start, bars[start - MINUTE])
    differences, _, _ = verify(exchange, database, "--since", str(TODAY), "--until", str(TODAY + DAY))
    assert [(d["start"], d["cause"], d["note"]) for d in differences] == [
        (start, "bar boundary", "it is the exchange's bar before it")]  # fmt: skip


def test_incomplete_bars_and_unproven_quiet(exchange, database, tape):
    """What a hole in the ids leaves behind is told as such: bars that lack fills, and a silence that proves nothing."""
    hole = [t for t in tape[0] if NOON <= t.timestamp < NOON + 5 * MINUTE]
    quiet = _a_quiet_minute(tape, NOON + 3600_000)
    edge = [t for t in tape[0] if quiet - MINUTE <= t.timestamp < quiet][-1]
    gone = {t.trade_id for t in hole} | {edge.trade_id}
    bars = []
    maker = RealTimeCandleProcessor("1m", bars.append)
    kept = [t for t in tape[0] if t.trade_id not in gone]
    for fill in kept:
        maker.trade(fill)
    store(database, [*kept, *bars])
    differences, _, status = verify(exchange, database, "--since", str(TODAY), "--until", str(TODAY + DAY))
    assert status == 1
    causes = {d["start"]: d["cause"] for d in differences}
    assert {causes[start] for start in causes if NOON <= start < NOON + 5 * MINUTE} >= {"absent"}
    assert causes[quiet] == "quiet not proven"
    assert causes[quiet - MINUTE] == "incomplete"
    assert {*causes.values()} == {"absent", "quiet not proven", "incomplete"}


def _a_quiet_minute(tape, after):
    """Return a minute without a trade between two minutes with several."""
    counts = {bar.start: bar.trade_count for bar in tape[1] if bar.timeframe == "1m"}
    return next(
        start
        for start in range(after, TODAY + DAY, MINUTE)
        if start not in counts and counts.get(start - MINUTE, 0) > 1 and counts.get(start + MINUTE, 0) > 1
    )


def test_revised_by_okx(exchange, day, database, tape):
    """A bar that OKX changed, while its own finer bars and the copy of that time agree with ours, is OKX's doing."""
    bar = busy_bars(tape, 3)[1]
    listed = exchange._engine.venue.listings[SYMBOL].bars
    there = listed.minutes.between(bar.start, bar.timestamp)[0]
    second = listed._seconds.between(bar.start, bar.timestamp)[0]
    numbers = there.vol, second.vol
    there.vol += 1
    try:
        span = ("--since", str(bar.start - 10 * MINUTE), "--until", str(bar.timestamp + 10 * MINUTE))
        differences, _, _ = verify(exchange, database, *span)
        assert [(d["cause"], d["start"]) for d in differences] == [("revised by the exchange", bar.start)]
        second.vol += 1
        differences, _, _ = verify(exchange, database, *span)
        assert [(d["cause"], d["fields"]) for d in differences] == [("unknown", ["volume", "base_volume"])]
        day.execute(
            "INSERT INTO market_data SELECT exchange, symbol, timeframe, start, timestamp, open, high, low, close,"
            " volume, base_volume, quote_volume, NULL, NULL, NULL, NULL, closed, complete, 0, 'exchange'"
            f" FROM market_data {AT}",
            ["1m", bar.start],
        )
        differences, err, status = verify(exchange, database, *span)
        assert [d["cause"] for d in differences] == ["revised by the exchange"]
        assert status == 1
        differences, err, status = verify(exchange, database, *span, "--allow-revised")
        assert [d["cause"] for d in differences] == ["revised by the exchange"]
        assert status == 0
        assert "1 differ (1 revised by the exchange)" in err
    finally:
        there.vol, second.vol = numbers


def test_old_caches_are_no_difference(exchange, day, database):
    """Half of OKX's answers come from a cache half an hour behind: what they lack is asked for again."""
    exchange.fault("stale-rest=30m")
    try:
        span = ("--since", str(TODAY + DAY - 60 * MINUTE), "--until", str(TODAY + DAY))
        for _ in range(4):
            differences, _, status = verify(exchange, database, *span)
            assert (differences, status) == ([], 0)
    finally:
        exchange.fault("stale-rest=0s")


def test_what_cannot_be_compared(exchange, day, database):
    """A timeframe that OKX has not is refused; nothing stored is no agreement; the default is what is stored."""
    _, err, status = verify(exchange, database, "--tf", "7m")
    assert status == 2
    _, err, status = verify(exchange, database, "--tf", "10m")
    assert (status, "OKX has no bars of 10m" in err) == (2, True)
    differences, err, status = verify(exchange, database, "--tf", "1h")
    assert (differences, status) == ([], 1)
    assert "no bar to compare" in err
    differences, err, status = verify(exchange, database)
    assert (differences, status) == ([], 0)
    assert "1440 bars compared" in err


def test_the_bar_in_which_the_tape_begins_is_passed_over(exchange, database, tape):
    """Without --since the comparison begins with the first whole bar: no stream begins on an edge."""
    part = [t for t in tape[0] if t.timestamp >= NOON]
    begin = next(i for i in range(50, len(part)) if part[i].timestamp // MINUTE == part[i - 1].timestamp // MINUTE)
    bars = []
    maker = RealTimeCandleProcessor("1m", bars.append)
    for fill in part[begin:]:
        maker.trade(fill)
    store(database, [*part[begin:], *bars])
    differences, _, status = verify(exchange, database)
    assert (differences, status) == ([], 0)
    differences, _, status = verify(exchange, database, "--since", str(bars[0].start))
    assert ([d["cause"] for d in differences], status) == (["incomplete"], 1)


def backfill(exchange, dsn, *arguments, **options):
    """Run `okx backfill` for the local exchange."""
    urls = ["--ws-url", exchange.ws_url, "--rest-url", exchange.rest_url, "--dsn", dsn, "--lines"]
    command = [sys.executable, "-m", "okxcli", "backfill", *arguments, *urls]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, **options)


def bars_of(connection):
    """Return the stored bars without their revisions."""
    query = "SELECT timeframe, start, timestamp, open, high, low, close, volume, base_volume, quote_volume, buy_volume,"
    query += " trade_count, first_trade_id, last_trade_id, complete FROM market_data ORDER BY timeframe, timestamp"
    return connection.execute(query).fetchall()


@pytest.mark.parametrize(("piped", "alone"), [(False, False), (True, True)])
def test_the_cure_that_is_named_cures(exchange, day, database, tape, piped, alone):
    """Bars that were altered though they are complete, one moved, one that never was, an altered large one: all are as
    they were after what verify names, or with its lines piped to it; with fills stored, and with candles alone."""
    backfill(exchange, database, SYMBOL)  # the bars of its default timeframes too, and all that the ledger proves
    if alone:
        day.execute("TRUNCATE raw_trades, trade_ledger")
    high, count, ids, moved = busy_bars(tape, 4)
    before = bars_of(day)
    change(day, "1m", high.start, high=high.high * 2, volume=high.volume + 1)
    change(day, "1m", count.start, volume=count.volume - Decimal("0.00000001"), trade_count=9_999, complete=False)
    change(day, "1m", ids.start, close=ids.close + 7, first_trade_id=ids.first_trade_id + 1)
    day.execute(
        f"UPDATE market_data SET start = start + '7 s', timestamp = timestamp + '7 s' {AT}", ["1m", moved.start]
    )
    quiet = _a_quiet_minute(tape, NOON + 3_600_000)
    day.execute(f"CREATE TEMP TABLE extra AS SELECT * FROM market_data {AT}", ["1m", high.start])
    day.execute(
        "UPDATE extra SET start = start + %s, timestamp = timestamp + %s",
        [timedelta(milliseconds=quiet - high.start)] * 2,
    )
    day.execute("INSERT INTO market_data TABLE extra")
    change(day, "1d", TODAY, volume=Decimal(5))
    differences, err, status = verify(exchange, database, *SPAN)
    assert status == 1 and len(differences) >= 6
    cures = [line.split("to mend it: okx ")[1].split() for line in err.splitlines() if "to mend it: okx " in line]
    assert len(cures) == 2 and all(cure[:3] == ["backfill", SYMBOL, "--rebuild"] for cure in cures)
    if piped:
        lines = "".join(json.dumps(one) + "\n" for one in differences)
        done = backfill(exchange, database, "-", "--rebuild", input=lines)
        assert done.returncode == 0, done.stderr
    for cure in () if piped else cures:
        done = backfill(exchange, database, *cure[1:])
        assert done.returncode == 0, done.stderr
    assert verify(exchange, database, *SPAN)[::2] == ([], 0)
    assert bars_of(day) == before
    reasons = day.execute("SELECT DISTINCT reason FROM quarantine").fetchall()
    assert reasons == [("taken out: no fill of it is stored",)]


def test_the_cure_of_bars_that_nobody_has_configured(exchange, day, database, tape, tmp_path):
    """A backfill does not make them of its own accord: the command that is named has them made again."""
    config = tmp_path / "o k.json"
    config.write_text(json.dumps({"symbols": [SYMBOL], "timeframes": ["1d"]}))
    gone = busy_bars(tape, 3)[1]
    day.execute(f"DELETE FROM market_data {AT}", ["1m", gone.start])
    span = ("--tf", "1m", "--since", str(TODAY), "--until", str(TODAY + DAY), "--config", str(config))
    differences, err, status = verify(exchange, database, *span)
    assert ([one["cause"] for one in differences], status) == (["absent"], 1)
    (cure,) = [
        shlex.split(line.split("to mend it: okx backfill ")[1]) for line in err.splitlines() if "mend it" in line
    ]
    assert cure[:4] == [SYMBOL, "--config", str(config), "--rebuild"]
    assert backfill(exchange, database, SYMBOL, "--config", str(config)).returncode == 0
    assert verify(exchange, database, *span)[2] == 1
    assert backfill(exchange, database, *cure).returncode == 0
    assert verify(exchange, database, *span)[::2] == ([], 0)


def test_what_rebuild_is_not_told(exchange, day, database):
    """From when on, or by which lines: exit 2; lines that are none of verify's are told, exit 65."""
    assert backfill(exchange, database, SYMBOL, "--rebuild").returncode == 2
    assert backfill(exchange, database, "-", "--rebuild", "--since", "1d").returncode == 2
    done = backfill(exchange, database, "-", "--rebuild", input='{"type": "range"}\n')
    assert done.returncode == 65 and "not a line of okx verify" in done.stderr
