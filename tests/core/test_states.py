"""States of symbols: what each type may hold, by its description, and how it is spelt."""

import json
from decimal import Decimal

import msgspec
import pytest
from storage_samples import every_state, ticker

from okxcli.core import states
from okxcli.core.checks import check
from okxcli.core.codec import decode, encode
from okxcli.core.states import BY_CHANNEL, BY_KIND, HEAD, STATES
from okxcli.errors import InvalidLine

SAMPLES = [ticker(), *every_state()]
BY_TAG = {BY_KIND[type(one)].tag: one for one in SAMPLES}


def changed(one, **fields):
    """Return the line of a state with other values, as somebody else may have spelt them."""
    return json.dumps(
        {key: value for key, value in (json.loads(encode(one)) | fields).items() if value != "gone"}
    ).encode()


def test_every_type_is_described_once():
    """Each has its own channel, table and word, the same head, and a sample here."""
    assert {one.tag for one in STATES} == set(BY_TAG)
    assert len({one.table for one in STATES}) == len({one.channel for one in STATES}) == len(STATES)
    for one in STATES:
        fields = one.kind.__struct_fields__
        assert fields[:4] == HEAD
        named = (
            *HEAD,
            *states.numbers(one.kind),
            *states.times(one.kind),
            *states.texts(one.kind),
            *states.flags(one.kind),
        )
        assert sorted(named) == sorted(fields), one.tag
        assert one.signed | one.above_zero <= set(states.numbers(one.kind))
        assert {*one.key, *one.words, *(name for rising in one.rising for name in rising)} <= set(fields)


@pytest.mark.parametrize("one", SAMPLES, ids=lambda one: type(one).__name__)
def test_lines_go_and_come(one):
    """A line reads back as the same state; keys come in the order of the fields, unknown ones are passed over."""
    line = encode(one)
    assert decode(line) == one
    assert list(json.loads(line)) == ["type", *type(one).__struct_fields__]
    assert decode(changed(one, later="new")) == one
    bare = {name: None for name in type(one).__struct_fields__ if states.may_lack(type(one), name)}
    least = msgspec.structs.replace(one, **bare)
    assert decode(encode(least)) == least


@pytest.mark.parametrize("one", SAMPLES, ids=lambda one: type(one).__name__)
def test_impossible_numbers_are_refused(one):
    """Huge, negative (where that cannot be), no number at all, an odd spelling; each by its name."""
    described = BY_KIND[type(one)]
    for name in states.numbers(type(one)):
        for bad in ("1e99", "", "NaN", "Infinity", " 1", "+1", "1_0", ".5", "٣", True, [], "9" * 70):
            with pytest.raises(InvalidLine):
                decode(changed(one, **{name: bad}))
        negative = changed(one, **{name: "-0.5"})
        if name in described.signed:
            decode(negative if name != "max_rate" else changed(one, min_rate="-0.5", max_rate="-0.4"))
        else:
            with pytest.raises(InvalidLine, match=f"{name} is negative"):
                decode(negative)


@pytest.mark.parametrize("one", SAMPLES, ids=lambda one: type(one).__name__)
def test_impossible_times_and_names_are_refused(one):
    """Of the year 1970 or in microseconds, missing, null, in text; a name with a blank; a state of tomorrow."""
    for name in ("timestamp", *states.times(type(one))):
        for bad in (1, -1, one.timestamp * 1000, str(one.timestamp), 1.5):
            with pytest.raises(InvalidLine):
                decode(changed(one, **{name: bad}))
    for name in ("exchange", "symbol", "timestamp"):
        for bad in (None, "gone", "a b", ""):
            with pytest.raises(InvalidLine):
                decode(changed(one, **{name: bad}))
    with pytest.raises(InvalidLine, match=r"2\.0 h ahead of received"):
        decode(changed(one, received=one.timestamp - 7_200_000))
    with pytest.raises(InvalidLine, match="ahead of this machine's clock"):
        decode(changed(one, received=None), one.timestamp - 2 * 86_400_000)


@pytest.mark.parametrize("one", SAMPLES, ids=lambda one: type(one).__name__)
def test_what_a_state_needs(one):
    """What cannot be null may not be missing either; the reason names it."""
    for name in type(one).__struct_fields__:
        if states.may_lack(type(one), name) or name == "origin":
            continue
        for bad in (None, "gone"):
            with pytest.raises(InvalidLine, match=name):
                decode(changed(one, **{name: bad}))


def test_what_steps_back_is_refused():
    """The settlement after next before the next one, a greatest rate below the least, a high below the low."""
    funding, index = BY_TAG["funding"], BY_TAG["index"]
    for one, fields, reason in (
        (funding, {"next_funding_time": funding.funding_time - 1}, "next_funding_time is below funding_time"),
        (funding, {"max_rate": "-0.5"}, "max_rate is below min_rate"),
        (index, {"high_24h": "0.5"}, "high_24h is below low_24h"),
    ):
        with pytest.raises(InvalidLine, match=reason):
            decode(changed(one, **fields))
    assert decode(changed(funding, next_funding_time=None)).next_funding_time is None


def test_words():
    """A side, a position and whatever is a label; no blank, quote or line may come in by one."""
    liquidation, funding = BY_TAG["liquidation"], BY_TAG["funding"]
    for one, fields in (
        (liquidation, {"side": "up"}), (liquidation, {"position": "both"}), (liquidation, {"currency": 'U"S'}),
        (liquidation, {"size": "0"}), (liquidation, {"bankruptcy_price": "0"}), (funding, {"method": "a\nb"}),
        (funding, {"method": ""}), (funding, {"method": "x" * 40}), (BY_TAG["index"], {"price": "0"}),
        (BY_TAG["price_limit"], {"enabled": "true"}), (BY_TAG["price_limit"], {"enabled": 1}),
    ):  # fmt: skip
        with pytest.raises(InvalidLine):
            decode(changed(one, **fields))
    check(msgspec.structs.replace(liquidation, position=None, loss=Decimal(-5)))


def test_whose_a_state_is():
    """Spot markets have no funding, open interest and liquidations; an index is of the pair."""
    assert BY_CHANNEL["funding-rate"].subject("BTC-USDT") is None
    assert BY_CHANNEL["funding-rate"].subject("BTC-USDT-SWAP") == "BTC-USDT-SWAP"
    assert BY_CHANNEL["index-tickers"].subject("BTC-USD-241220") == "BTC-USD"
    assert BY_CHANNEL["index-tickers"].subject("BTC-USDT") == "BTC-USDT"
    assert BY_CHANNEL["mark-price"].subject("BTC-USDT") == "BTC-USDT"
