"""The simulated market: reproducible, and shaped like the real one."""

from collections import Counter
from decimal import Decimal
from itertools import pairwise

import pytest

from okxcli.errors import UsageError
from okxcli.local.venue.fills import Fill, Tape, merged
from okxcli.local.venue.instruments import contract_of, known_rows, row_of
from okxcli.local.venue.market import Timeline, fills_of, profiles

START = 1_747_087_140_000
NINE = "BTC-USDT ETH-USDT SOL-USDT DOGE-USDT TON-USDT ETH-USDC BTC-USDC UNI-USDT PEPE-USDT".split()


def timeline(symbols, rate, seed=1, origin=START, quiet=0.05):
    """Return a timeline of `symbols`."""
    return Timeline(profiles([row_of(symbol) for symbol in symbols], rate, origin), seed, origin, quiet)


def test_same_seed_gives_the_same_fills_however_they_are_taken():
    """A seed and a start fix every fill; when somebody looks changes nothing; another seed gives another market."""
    whole = list(timeline(NINE, 50).take(START + 600_000))
    cut = timeline(NINE, 50)
    pieces = [pair for step in range(0, 600_001, 7_919) for pair in cut.take(START + step)]
    pieces += cut.take(START + 600_000)
    assert pieces == whole
    assert list(timeline(NINE, 50, seed=2).take(START + 600_000)) != whole


def test_ids_are_consecutive_and_times_rise_in_every_instrument():
    """Each instrument numbers its fills by one; its times never step back; the merged timeline is in time order."""
    taken = list(timeline([*NINE, "BTC-USDT-SWAP"], 100).take(START + 300_000))
    assert [fill.ts for _, fill in taken] == sorted(fill.ts for _, fill in taken)
    for symbol in NINE:
        fills = [fill for name, fill in taken if name == symbol]
        assert all(b.trade_id == a.trade_id + 1 for a, b in pairwise(fills))
    assert any(fill.trade_id > 2**31 for _, fill in taken)


def test_market_has_bursts_shared_milliseconds_and_quiet_minutes():
    """Fills share milliseconds, some minutes are busy, and some have no trade at all."""
    fills = [fill for _, fill in timeline(["BTC-USDT"], 20, quiet=0.2).take(START + 2 * 3_600_000)]
    minutes = Counter(fill.ts // 60_000 for fill in fills)
    empty = 120 - len(minutes)
    assert 10 <= empty <= 40
    assert max(minutes.values()) > 2 * len(fills) / 120
    shared = sum(a.ts == b.ts for a, b in pairwise(fills))
    assert 0.3 < shared / len(fills) < 0.8


@pytest.mark.parametrize("rate", [0.5, 10, 300])
def test_rate_is_kept_on_average(rate):
    """`rate` fills per second come over all symbols, within a quarter."""
    seconds = max(100, int(10_000 / rate))
    count = sum(1 for _ in timeline(NINE, rate).take(START + seconds * 1000))
    assert 0.75 < count / seconds / rate < 1.25


@pytest.mark.parametrize("symbol", [*NINE, "BTC-USDT-SWAP", "BTC-USD-SWAP", "NEW-COIN", "NEW-USDT-SWAP"])
def test_prices_and_sizes_fit_the_instrument(symbol):
    """Prices are whole ticks, sizes whole lots not below the smallest, both in canonical plain notation."""
    row = row_of(symbol)
    for _, fill in timeline([symbol], 20).take(START + 120_000):
        assert Decimal(fill.price) % Decimal(row["tickSz"]) == 0
        assert Decimal(fill.size) % Decimal(row["lotSz"]) == 0
        assert Decimal(fill.size) >= Decimal(row["minSz"])
        assert not {"e", "E", "+"} & set(fill.price + fill.size)
        assert fill.price == format(Decimal(fill.price).normalize(), "f")


def test_prices_look_real():
    """BTC trades around 102537.9 and PEPE around 0.00000853."""
    fills = dict(timeline(NINE, 50).take(START + 60_000))
    assert 90_000 < Decimal(fills["BTC-USDT"].price) < 115_000
    assert Decimal("0.000007") < Decimal(fills["PEPE-USDT"].price) < Decimal("0.00001")


def test_a_later_simulation_gives_out_later_ids():
    """A simulation that begins where another ended does not reuse its ids."""
    row = row_of("BTC-USDT")
    (first,), (later,) = (profiles([row], 50, START + shift) for shift in (0, 900_000))
    taken = 0
    for fill in fills_of(first, 1, START, 0.05):
        if fill.ts >= START + 900_000:
            break
        taken = fill.trade_id
    assert taken < later.first_id


def test_merging_follows_taker_order_price_and_source():
    """`trades` merges consecutive fills of one order, price and source; the sizes add up to the last digit."""
    fills = [
        Fill(1, "10", "0.1", "buy", 5, 0, 1),
        Fill(2, "10", "0.20", "buy", 5, 0, 1),
        Fill(3, "10.1", "1", "buy", 5, 0, 1),
        Fill(4, "10.1", "1", "buy", 5, 1, 1),
        Fill(5, "10.1", "1", "buy", 5, 1, 2),
    ]
    shown = [(trade.trade_id, trade.size, trade.matches) for trade in merged(fills)]
    assert shown == [(2, "0.3", 2), (3, "1", 1), (4, "1", 1), (5, "1", 1)]
    for symbol in ("BTC-USDT", "PEPE-USDT"):
        many = [fill for name, fill in timeline(NINE, 50).take(START + 120_000) if name == symbol]
        groups = list(merged(many))
        assert sum(group.matches for group in groups) == len(many) > len(groups)
        assert sum(Decimal(group.size) for group in groups) == sum(Decimal(fill.size) for fill in many)


def test_tape_keeps_a_bounded_number_of_fills():
    """Beyond its cap a tape forgets the oldest fills."""
    tape = Tape("BTC-USDT", keep=100)
    for number in range(1, 1001):
        tape.append(Fill(number, "1", "1", "buy", number, 0, number))
    assert 100 <= len(tape.fills) <= 126
    assert tape.last.trade_id == 1000
    assert [fill.trade_id for fill in tape.page(1000, None, 3)] == [999, 998, 997]
    with pytest.raises(ValueError):
        tape.append(tape.last)


def test_contract_values():
    """Spot turnover is size times price; contracts follow their value, inverse ones by division."""
    volumes = [
        contract_of(row_of(symbol)).volumes(Decimal(price), Decimal(size))
        for symbol, price, size in (
            ("BTC-USDT", "102537.9", "0.00013669"),
            ("BTC-USDT-SWAP", "100000.1", "0.5"),
            ("BTC-USD-SWAP", "40000", "3"),
        )
    ]
    assert volumes[0] == (Decimal("14.015905551"), Decimal("14.015905551"))
    assert volumes[1] == (Decimal("0.005"), Decimal("500.0005"))
    assert volumes[2] == (Decimal("0.0075"), Decimal("300"))


def test_rows_are_full_and_unknown_names_are_made_up():
    """Every row has the 49 fields of the real ones; a name that cannot be one is refused."""
    fields = set(known_rows()["BTC-USDT"])
    assert len(fields) == 49
    for symbol in ("BTC-USDT-SWAP", "NEW-COIN", "NEW-USDT-SWAP", "NEW-USD-SWAP"):
        row = row_of(symbol)
        assert set(row) == fields
        assert row["instId"] == symbol
    assert row_of("NEW-USD-SWAP")["ctType"] == "inverse"
    for wrong in ("btc-usdt", "BTCUSDT", "BTC-USDT-250328", "A B-C", ""):
        with pytest.raises(UsageError):
            row_of(wrong)
