"""Mute channels, told by hand and by chance: time is an argument, nothing sleeps, nobody is asked."""

import json
from bisect import bisect_left, bisect_right
from itertools import pairwise

from hypothesis import example, given, settings
from hypothesis import strategies as st

from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.connection.subscribed import Seen
from okxcli.exchanges.okx.feed.mute_channels import Position, Verdict, Watchdog, by_ticker, delivered, position_of

BTC = Subscription("trades-all", "BTC-USDT")
BOOK = Subscription("books5", "BTC-USDT")


def push(number):
    return json.dumps({"arg": BTC.argument, "data": [{"tradeId": str(number)}]}, separators=(",", ":")).encode()


class Market:
    """Fills at given seconds; the channel brings each `delay` later, nothing of what happens from `mute_s` on.

    REST shows what happened `stale(second)` seconds ago.
    """

    def __init__(self, fills, mute_s=10**9, delay=0, stale=lambda second: 0):
        self.fills, self.mute_s, self.delay, self.stale = sorted(fills), mute_s, delay, stale
        self.verdicts, self.asked = [], 0

    def seen(self, second):
        count = min(bisect_right(self.fills, second - self.delay), bisect_left(self.fills, self.mute_s))
        since = self.fills[count - 1] + self.delay if count else 0
        return Seen(count, push(count) if count else b"", max(since, 0) * 1000)

    def run(self, dog, seconds, begin=0):
        """Let `seconds` pass as the watch does; write down the verdicts with their second."""
        for second in range(begin, begin + seconds):
            for subscription in dog.due({BTC: self.seen(second)}, second * 1000):
                self.asked += 1
                newest = bisect_right(self.fills, second - self.stale(second))
                verdict = dog.found(subscription, "id", Position(newest), self.seen(second), second * 1000)
                if verdict is not None:
                    self.verdicts.append((second, verdict))
        return self.verdicts


def test_a_quiet_market_is_no_fault():
    """Two hours without a fill: it is looked at every twenty seconds, and nothing is done."""
    market = Market([3])
    assert market.run(Watchdog(), 7200) == []
    assert 300 < market.asked <= 360


def test_a_busy_channel_is_never_looked_at():
    """What brings something all the time costs no request."""
    market = Market(range(1, 600))
    assert market.run(Watchdog(), 600) == []
    assert market.asked == 0


def test_mute_is_subscribed_anew_then_replaced_within_a_minute():
    """Fills go on and the channel does not: a new subscription 25 s after the first unseen one, then a connection."""
    market = Market(range(1, 600), mute_s=100)
    (renewed, first), (replaced, second) = market.run(Watchdog(), 180)
    assert (first, second) == (Verdict.RENEW, Verdict.REPLACE)
    assert renewed - 100 <= 30
    assert replaced - 100 <= 60


def test_it_is_not_replaced_all_the_time():
    """A fault that is not the connection's leads to ever rarer replacements, not to a storm."""
    verdicts = Market(range(1, 8000), mute_s=100).run(Watchdog(), 7200)
    gaps = [b - a for (a, _), (b, _) in pairwise(verdicts[1:])]
    assert all(b >= a - 20 for a, b in pairwise(gaps))
    assert gaps[-1] >= 600
    assert len(verdicts) < 20


def test_one_unseen_fill_is_one_new_subscription():
    """After that nothing newer shows: the market may be quiet, so the connection stays."""
    verdicts = Market([1, 50], mute_s=40).run(Watchdog(), 3600)
    assert [verdict for _, verdict in verdicts] == [Verdict.RENEW]


def test_what_is_under_way_is_no_evidence():
    """A push that comes some seconds after REST shows it clears the channel."""
    fills = range(1, 3600, 40)
    assert Market(fills, delay=4).run(Watchdog(), 3600) == []


def test_a_channel_that_never_brought_anything():
    """The first look is where it stands: only what happens after that is unseen."""
    assert Market([], mute_s=0).run(Watchdog(), 600) == []
    market = Market([-100, 100], mute_s=-1000)
    assert market.run(Watchdog(), 60) == []
    verdicts = market.run(Watchdog(), 400)
    assert len(verdicts) == 1
    assert verdicts[0][0] - 100 <= 60


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(0, 900), max_size=300),
    st.integers(1, 900),
    st.integers(0, 4),
)
@example([0, 1, 26], 1, 1)
@example([0, 1], 1, 1)
@example([1, 3], 2, 4)
def test_mute_is_found_in_time_and_nothing_else_is(fills, mute_s, delay):
    """Whatever the market does: no verdict without an unseen fill, and one within a minute of the first."""
    market = Market(fills, mute_s, delay)
    verdicts = market.run(Watchdog(), 1000)
    # Where nothing was ever brought, what happens before the first look, five seconds in, is unknown.
    began = any(at < mute_s and at + delay <= 5 for at in market.fills)
    unseen = [at for at in market.fills if at >= mute_s and (began or at > 5)]
    if not unseen:
        assert verdicts == []
    else:
        assert verdicts[0][1] is Verdict.RENEW
        assert unseen[0] < verdicts[0][0] <= unseen[0] + 60
    assert all(verdict is Verdict.REPLACE for _, verdict in verdicts[1:])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 900), max_size=100), st.lists(st.integers(0, 60), min_size=7, max_size=7))
def test_old_caches_are_no_evidence(fills, ages):
    """REST answers that are up to a minute old, in any order, never make a sound channel mute."""
    market = Market(fills, stale=lambda second: ages[second % 7])
    assert market.run(Watchdog(), 1000) == []


class Books:
    """A channel of states: pushed whenever they change, until it is mute."""

    def __init__(self, changes, mute_s=10**9):
        self.changes, self.mute_s, self.verdicts = changes, mute_s, []

    def run(self, seconds):
        dog = Watchdog()
        for second in range(seconds):
            came = [at for at in self.changes if at <= second and at < self.mute_s]
            seen = Seen(len(came), b"x" if came else b"", max(came, default=0) * 1000)
            for subscription in dog.due({BOOK: seen}, second * 1000):
                state = sum(at <= second for at in self.changes)
                row = {"ts": str(second * 1000), "bids": [["1", str(state)]], "asks": []}
                verdict = dog.found(subscription, "state", position_of("books5", row), seen, second * 1000)
                if verdict is not None:
                    self.verdicts.append((second, verdict))
        return self.verdicts


def test_a_book_that_stands_still_is_no_fault():
    """REST's book is younger at each look and the same: nothing is done."""
    assert Books([1, 2, 3]).run(3600) == []
    assert Books(range(0, 3600, 30)).run(3600) == []


def test_a_mute_book_is_found():
    """REST's book changes between looks and the channel is silent: found within a minute, then replaced."""
    verdicts = Books(range(1, 300), mute_s=100).run(170)
    assert [verdict for _, verdict in verdicts] == [Verdict.RENEW, Verdict.REPLACE]
    assert verdicts[0][0] - 100 <= 35
    assert verdicts[1][0] - 100 <= 60


def test_channels_without_evidence_are_left_alone():
    """Liquidations, status and the like: nothing says that there should have been more."""
    dog = Watchdog()
    others = [Subscription("liquidation-orders", "SWAP", "instType"), Subscription("status", "", "")]
    assert dog.due({s: Seen(0, b"", 0) for s in others}, 10**9) == []


def test_positions():
    """How far a channel or REST is: ids, states with their time, bars with what was traded in them."""
    assert delivered("trades-all", push(7)) == Position(7)
    assert delivered("trades", b'{"data":[{"tradeId":"7"},{"tradeId":"9"}]}') == Position(9)
    assert delivered("trades-all", b"not json") is None
    assert delivered("books5", b'{"data":[{"tradeId":"7"}]}') is None
    ticker = {"ts": "5", "last": "1", "lastSz": "2", "bidPx": "0.9", "askPx": "1.1"}
    later = ticker | {"ts": "9"}
    assert not position_of("tickers", later).newer_than(position_of("tickers", ticker))
    assert position_of("tickers", later | {"askPx": "1.2"}).newer_than(position_of("tickers", ticker))
    assert not by_ticker(later | {"askPx": "1.2"}).newer_than(by_ticker(ticker))
    assert by_ticker(later | {"last": "1.1"}).newer_than(by_ticker(ticker))

    def bar(start, volume):
        return position_of("candle1m", [str(start), "1", "1", "1", "1", volume, "0", "0", "0"])

    assert bar(60_000, "0.50000001").newer_than(bar(60_000, "0.5"))
    assert bar(120_000, "0.1").newer_than(bar(60_000, "987654321987654321.5"))
    assert not bar(120_000, "0").newer_than(bar(60_000, "5"))
    assert not bar(60_000, "5").newer_than(bar(120_000, "1"))


def test_slow_channels_are_looked_at_rarely():
    """Hundreds of funding rates, each pushed once a minute, cost no request while they come."""
    dog, mark = Watchdog(), Subscription("mark-price", "A-B-SWAP")
    funding = Subscription("funding-rate", "A-B-SWAP")
    seen = {one: Seen(5, b"{}", 0) for one in (funding, mark)}
    assert dog.due(seen, 59_000) == []
    assert dog.due(seen, 60_000) == [mark]
    assert dog.due(seen, 300_000) == [mark, funding]
    assert dog.found(funding, "state", Position(1, ("0.1",)), seen[funding], 300_000) is None
    assert dog.due({funding: seen[funding]}, 305_000) == [funding]  # it takes two to compare
    assert dog.found(funding, "state", Position(2, ("0.2",)), seen[funding], 305_000) is None
    assert dog.found(funding, "state", Position(3, ("0.2",)), seen[funding], 310_000) is Verdict.RENEW
    assert not position_of("price-limit", {"ts": "9", "buyLmt": "1", "sellLmt": "0.9"}).newer_than(
        position_of("price-limit", {"ts": "5", "buyLmt": "1", "sellLmt": "0.9"})
    )


def test_recovery_is_told_once():
    """A channel that was mute and brings something again is told, once."""
    dog = Watchdog()
    market = Market(range(1, 600), mute_s=100)
    market.run(dog, 131)
    assert dog.recovered({BTC: market.seen(131)}) == []
    again = {BTC: Seen(500, push(500), 132_000)}
    assert dog.recovered(again) == [BTC]
    assert dog.recovered(again) == []
