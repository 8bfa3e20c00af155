"""The watch over a feed: mute channels, delistings, and clocks that are off."""

import json
import time

import pytest
from feeding import BTC, ETH, SWAP, beyond, feed_of, ids, present, read

from okxcli.errors import ExchangeUnavailable, UsageError
from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.clock_offset import ClockJudge, Measured, Sample, measure
from okxcli.exchanges.okx.connection.subscribed import Seen
from okxcli.exchanges.okx.feed.instrument_watch import Listings
from okxcli.exchanges.okx.feed.liveness import Hands, Times, Watch
from okxcli.exchanges.okx.feed.mute_channels import Watchdog
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.runtime.clock import SteadyClock, passed_ms

#: Twenty times as impatient as in earnest.
QUICK = Times(tick_ms=50, gone_ms=1_500, listed_ms=1_500, clock_ms=None)


def impatient(exchange, symbols=(BTC, ETH), channels=("trades-all",)):
    return feed_of(exchange, symbols, channels, dog=Watchdog(1_000, 400, 3_000), times=QUICK)


def told(caplog, part):
    return [record.getMessage() for record in caplog.records if part in record.getMessage()]


def whole(found):
    return found == list(range(found[0], found[0] + len(found)))


def test_a_dead_subscription_is_made_anew(exchange, caplog):
    """One channel of many is acked and mute: it alone is subscribed again, on the same connection; nothing is lost."""
    caplog.set_level("INFO", logger="okxcli")
    with impatient(exchange) as feed:
        lines = read(feed, present(exchange, BTC, ETH))
        assert exchange.deafen("trades-all", BTC) == 1
        lines += read(feed, lambda lines: told(caplog, "brings data again"))
        lines += read(feed, present(exchange, BTC, ETH))
        assert [state.connects for state in feed.state()] == [1]
        assert exchange.connections()[0].requests == 3
    assert whole(ids(lines, BTC))
    assert whole(ids(lines, ETH))
    assert len(told(caplog, "acked, but mute: trades-all BTC-USDT,")) == 1
    assert "subscribing again" in told(caplog, "mute")[0]


@pytest.mark.parametrize("what", [("trades-all", BTC), ("*", "*")])
def test_a_connection_that_stays_mute_is_replaced(exchange, caplog, what):
    """A new subscription does not help (one channel, or pongs and no data at all): a new connection does."""
    caplog.set_level("INFO", logger="okxcli")
    with impatient(exchange) as feed:
        lines = read(feed, present(exchange, BTC, ETH))
        assert exchange.deafen(*what, lasting=True) in (1, 2)
        lines += read(feed, lambda lines: feed.state()[0].connects == 2 and told(caplog, "again, 2 subscriptions"))
        lines += read(feed, present(exchange, BTC, ETH))
    assert whole(ids(lines, BTC))
    assert whole(ids(lines, ETH))
    assert "replacing the connection" in caplog.text


def test_no_storm_while_okx_stays_mute(exchange):
    """Where nothing helps, it is not tried all the time; the fills come from REST meanwhile."""
    with impatient(exchange) as feed:
        read(feed, present(exchange, BTC))
        exchange.fault(f"mute=trades-all:{BTC}")
        newest = exchange.fills(BTC)[-1].trade_id
        read(feed, beyond(newest))
        time.sleep(4)
        assert feed.state()[0].connects <= 3
        assert max(one.requests for one in exchange.connections()) <= 6


@pytest.mark.parametrize("channel", ["books5", "bbo-tbt", "tickers", "trades", "books", "candle1s"])
def test_channels_of_states_are_watched(exchange, caplog, channel):
    """Books, tickers, merged trades and bars that stop are subscribed anew too."""
    with impatient(exchange, [BTC], [channel]) as feed:
        read(feed, lambda lines: sum(f'"{channel}"'.encode() in line for line in lines) > 1)
        exchange.deafen(channel, BTC)
        read(feed, lambda lines: told(caplog, "mute"))
        read(feed, lambda lines: any(f'"{channel}"'.encode() in line for line in lines))
        assert feed.state()[0].connects == 1


@pytest.mark.parametrize("channel", ["mark-price", "index-tickers", "open-interest", "price-limit"])
def test_channels_of_contracts_are_watched(exchange, caplog, channel):
    """So are prices, limits and open interest, which a dead subscription once kept still for days."""
    with impatient(exchange, [SWAP], [channel]) as feed:
        read(feed, lambda lines: sum(f'"{channel}"'.encode() in line for line in lines) > 1, 60)
        exchange.deafen(channel, BTC if channel == "index-tickers" else SWAP)
        read(feed, lambda lines: told(caplog, "mute"), 60)
        read(feed, lambda lines: any(f'"{channel}"'.encode() in line for line in lines))
        assert feed.state()[0].connects == 1


def test_an_index_without_a_market_is_no_delisting(caplog):
    """That REST has no instrument of the name of an index says nothing: it is not retired."""
    with (
        LocalExchange(["ETH-USD-SWAP"], rate=20, history_s=5, options=Options(limits=0)) as exchange,
        impatient(exchange, ["ETH-USD-SWAP"], ["index-tickers", "funding-rate"]) as feed,
    ):
        read(feed, lambda lines: any(b'"idxPx"' in line for line in lines))
        exchange.deafen("index-tickers", "ETH-USD")
        time.sleep(4)
        assert not told(caplog, "retired")
        assert {s.channel for client in feed._clients for s in client.seen()} == {"index-tickers", "funding-rate"}


def test_a_quiet_market_is_left_alone(exchange, caplog):
    """Nothing happens for many times the patience: looks, but no frame is sent and no connection made."""
    with impatient(exchange, channels=["trades-all", "books5", "tickers"]) as feed:
        read(feed, present(exchange, BTC, ETH))
        exchange.stop_market()
        time.sleep(0.5)
        before = {one.conn_id: one.requests for one in exchange.connections()}
        looks = exchange.counts().get("GET market/trades", 0)
        time.sleep(4)
        assert {one.conn_id: one.requests for one in exchange.connections()} == before
        assert exchange.counts()["GET market/trades"] > looks
    assert not told(caplog, "mute")


def test_without_rest_the_ticker_is_evidence(exchange, caplog):
    """REST answers with 429 all the time: that tickers show other last trades is enough."""
    with impatient(exchange, [BTC], ["trades-all", "tickers"]) as feed:
        read(feed, present(exchange, BTC))
        exchange.fault("busy=60s")
        exchange.deafen("trades-all", BTC)
        read(feed, lambda lines: told(caplog, "mute: trades-all BTC-USDT,"))
        exchange.fault("busy=0s")
        read(feed, lambda lines: any(b'"trades-all"' in line for line in lines))


def test_many_silent_channels_cost_one_request(exchange, monkeypatch, caplog):
    """More than a few at once are looked at by the tickers of their kind."""
    monkeypatch.setattr("okxcli.exchanges.okx.feed.liveness._MANY", 0)
    monkeypatch.setattr("okxcli.exchanges.okx.feed.liveness._TICKERS_MS", 300)
    with impatient(exchange) as feed:
        read(feed, present(exchange, BTC, ETH))
        before = exchange.counts()
        exchange.deafen()
        read(feed, lambda lines: told(caplog, "mute: trades-all"))
        after = exchange.counts()
    assert after["GET market/tickers"] > before.get("GET market/tickers", 0)


# Delistings


def test_an_expired_symbol_is_retired_alone(exchange, caplog):
    """It is told in one line, the others go on, and it comes back when OKX has it again."""
    caplog.set_level("INFO", logger="okxcli")
    with impatient(exchange, channels=["trades-all", "tickers", "books5"]) as feed:
        lines = read(feed, present(exchange, BTC, ETH))
        exchange.set_state(ETH, "expired")
        exchange.deafen("*", ETH)
        lines += read(feed, lambda lines: told(caplog, "retired"))
        lines += read(feed, present(exchange, BTC))
        assert {symbol for one in exchange.connections() for _, symbol in one.channels} == {BTC}
        exchange.set_state(ETH, "live")
        lines += feed.change([BTC, ETH], ["trades-all", "tickers", "books5"])
        lines += read(feed, lambda lines: told(caplog, "ETH-USDT is back"))
        lines += read(feed, present(exchange, ETH))
        assert [state.connects for state in feed.state()] == [1, 1]
    assert whole(ids(lines, BTC))
    assert told(caplog, "ETH-USDT is retired") == [
        "ETH-USDT is retired: OKX does not list it any more. The others go on; it is tried again, in the end every hour"
    ]


def test_a_symbol_refused_after_a_reconnect_is_retired_alone(exchange, caplog):
    """60018 for what stood before: one line for all its channels, and the rest is subscribed again."""
    with impatient(exchange, channels=["trades-all", "tickers", "books5"]) as feed:
        lines = read(feed, present(exchange, BTC, ETH))
        exchange.set_state(ETH, "expired")
        exchange.cut()
        lines += read(feed, lambda lines: told(caplog, "retired"))
        lines += read(feed, present(exchange, BTC))
    assert whole(ids(lines, BTC))
    assert len(told(caplog, "ETH-USDT is retired: OKX refuses it now (60018)")) == 1


def test_a_suspension_is_told(exchange, caplog):
    """The symbol stays subscribed; its new state is a line like any instrument."""
    with impatient(exchange) as feed:
        read(feed, present(exchange, BTC, ETH))
        exchange.stop_market()
        exchange.set_state(ETH, "suspend")
        lines = read(feed, lambda lines: any(b'"suspend"' in line for line in lines))
        assert len(exchange.connections()[0].channels) == 2
    assert json.loads(lines[-1])["arg"]["channel"] == "instruments"
    assert told(caplog, "ETH-USDT is suspend at OKX now, no longer live")


def test_what_okx_says_of_its_instruments_comes_as_it_happens(exchange, caplog):
    """Of the symbols streamed alone: a state, a delisting and a listing anew, by push, without a look at REST."""
    caplog.set_level("INFO", logger="okxcli")
    times = Times(tick_ms=50, clock_ms=None)  # REST would be asked after a minute of silence
    with feed_of(exchange, [BTC, ETH], ["trades-all", "tickers"], listing=True, times=times) as feed:
        lines = read(feed, present(exchange, BTC, ETH))
        assert exchange.wait_subscribed("instruments", "SPOT")  # another connection than that of the fills
        # Of each kind once for all, and once more when the channel stood.
        lines += read(feed, lambda _: exchange.counts()["GET public/instruments"] >= 2)
        asked = exchange.counts()["GET public/instruments"]
        exchange.set_state(SWAP, "suspend")
        for state in ("suspend", "expired"):
            exchange.set_state(ETH, state)
            lines += read(feed, lambda more, state=state: any(b'"%b"' % state.encode() in line for line in more))
        lines += read(feed, lambda _: told(caplog, "ETH-USDT is retired"))
        exchange.set_state(ETH, "live")
        lines += read(feed, lambda _: told(caplog, "ETH-USDT is back"))
        lines += read(feed, present(exchange, BTC, ETH))
        assert exchange.counts()["GET public/instruments"] == asked
        lines += feed.change([BTC], ["trades-all"])
        exchange.set_state(BTC, "suspend")
        read(feed, lambda more: any(b'"suspend"' in line for line in more))
    rows = [json.loads(line)["data"][0] for line in lines if b'"instruments"' in line[:40]]
    assert [(row["instId"], row["state"]) for row in rows[2:]] == [
        (ETH, "suspend"), (ETH, "expired"), (ETH, "live"),
    ]  # fmt: skip
    assert whole(ids(lines, BTC))


def test_what_okx_says_of_its_instruments_is_done_at_once(exchange, caplog):
    """Not at the next look: until then the instrument may be back."""
    times = Times(tick_ms=60_000, clock_ms=None)
    with feed_of(exchange, [BTC, ETH], listing=True, times=times) as feed:
        read(feed, present(exchange, BTC, ETH))
        assert exchange.wait_subscribed("instruments", "SPOT")  # another connection than that of the fills
        exchange.set_state(ETH, "expired")
        read(feed, lambda _: told(caplog, "ETH-USDT is retired"))


@pytest.mark.parametrize("symbol", [ETH, SWAP])
def test_what_became_of_an_instrument_while_its_channel_was_away(exchange, caplog, symbol):
    """Its connection is gone when it happens: nobody pushes it, and the fills go on. It is told all the same."""
    times = Times(tick_ms=50, clock_ms=None)
    with feed_of(exchange, [BTC, symbol], listing=True, times=times) as feed:
        read(feed, present(exchange, BTC, symbol))
        kind = exchange.row(symbol)["instType"]
        assert exchange.wait_subscribed("instruments", kind)
        exchange.fault("refuse=1s")
        exchange.cut("public")
        exchange.set_state(symbol, "suspend")
        lines = read(feed, lambda more: any(b'"suspend"' in line for line in more))
        assert sum(b'"instruments"' in line[:40] for line in lines) == 1
        exchange.cut("public")
        assert exchange.wait_subscribed("instruments", kind)
        lines += read(feed, present(exchange, BTC, symbol))
    assert sum(b'"suspend"' in line for line in lines) == 1  # what is known is not told again
    assert told(caplog, f"{symbol} is suspend at OKX now, no longer live")


@pytest.mark.parametrize("pushed", ["before", "during", "never"])
def test_a_list_from_a_cache_that_is_behind_takes_back_no_push(pushed):
    """What the channel has pushed since it stands counts, also while the list is on its way; else the list does."""
    live, suspended = ({"instId": ETH, "instType": "SPOT", "state": state} for state in ("live", "suspend"))
    put = []

    class Rest:
        def instruments(self, kind):
            if pushed == "during":
                one.told(suspended)
            return [live]

    one = Listings(Rest(), put.extend, lambda *gone: None, lambda: None, gone_ms=10**9, listed_ms=10**9)
    one.know({ETH: suspended if pushed == "never" else live})
    stands = passed_ms()
    if pushed == "before":
        one.told(suspended)
    channels = (Subscription("instruments", "SPOT", "instType"), Subscription("trades-all", ETH))
    one.take_told()
    one.look({channel: Seen(1, b"{}", stands, stands) for channel in channels}, stands)
    states = [json.loads(line)["data"][0]["state"] for line in put]
    assert states == (["live"] if pushed == "never" else [])


def test_symbols_that_are_none_end_it_although_the_listing_stands(exchange):
    """OKX has nothing of what is asked for: that is told as without it."""
    with (
        feed_of(exchange, ["NO-SUCH"], ["trades-all"], listing=True) as feed,
        pytest.raises(UsageError, match="NO-SUCH"),
    ):
        read(feed, lambda _: False)


# The clock


def test_the_quickest_answer_measures_best():
    """The offset is that of the middle of the way; half the way is how wrong it may be."""
    slow, quick = Sample(1_000, 1_900, 7_000), Sample(2_000, 2_100, 7_350)
    assert measure([slow, quick]) == Measured(5_300, 51)
    assert measure([]) is None


def test_an_offset_is_told_once_and_again_when_it_changes():
    """Below a second there is nothing to say; above it, once; then when it has changed much or is gone."""
    judge = ClockJudge()
    assert judge.say(Measured(900, 10)) is None
    assert judge.say(Measured(1_800, 900)) is None  # the way was longer than the offset is sure
    assert "2.3 s behind OKX's, give or take 40 ms" in judge.say(Measured(2_345, 40))
    assert judge.say(Measured(2_900, 40)) is None
    assert "3600.0 s ahead of" in judge.say(Measured(-3_600_000, 40))
    assert judge.say(Measured(-3_601_500, 40)) is None
    assert "agrees" in judge.say(Measured(10, 40))
    assert judge.say(Measured(10, 40)) is None


class Clocks:
    """A machine whose wall clock is `wall_off_ms` ahead of the truth, and an exchange that knows the truth."""

    def __init__(self, wall_off_ms):
        self.truth, self.wall_off_ms, self.rest_up = 1_790_000_000_000, wall_off_ms, True
        self.clock = SteadyClock(self.wall, lambda: self.truth * 1_000_000)

    def wall(self):
        return self.truth + self.wall_off_ms

    def time_ms(self):
        if not self.rest_up:
            raise ExchangeUnavailable("no answer")
        self.truth += 40
        return self.truth - 20

    def watch(self, seen=dict):
        hands = Hands(seen, *[lambda *_: None] * 4)
        return Watch(self, hands, self.clock, times=Times(clock_ms=600_000), wall=self.wall)


@pytest.mark.parametrize("off", [0, 400, -86_400_000, 3_600_000])
def test_a_clock_that_is_off_is_measured(caplog, off):
    """However wrong the wall clock is: OKX's time is known, and above a second people are told by how much."""
    clocks = Clocks(off)
    watch = clocks.watch()
    assert watch.wall_offset_ms is None
    watch.look(0)
    assert abs(watch.wall_offset_ms + off) <= 1
    assert abs(clocks.clock() - clocks.truth) <= 1
    lines = told(caplog, "this machine's clock is")
    assert [f"{abs(off) // 1000}.0 s" in line for line in lines] == ([True] if abs(off) > 1_000 else [])


def test_a_wall_clock_that_steps_is_measured_again(caplog):
    """A step of an hour, in either direction, moves nothing but the word about it."""
    clocks = Clocks(0)
    watch = clocks.watch()
    watch.look(0)
    for step in (3_600_000, -3_600_000):
        clocks.wall_off_ms = step
        before = clocks.truth
        clocks.truth += 1_000
        watch.look(clocks.truth - before)
        assert abs(clocks.clock() - clocks.truth) <= 1
    assert ["ahead" in line for line in told(caplog, "this machine's clock is")] == [True, False]


def test_pushes_are_a_lower_bound(caplog):
    """Without REST, fills from the future say that the clock is behind by at least so much; one alone may be wild."""
    clocks = Clocks(-5_000)
    clocks.rest_up = False
    newest = [4_000_000_000_000]

    def seen():
        frame = json.dumps({"data": [{"tradeId": "1", "ts": str(newest[0])}]}).encode()
        return {Subscription("trades-all", BTC): Seen(1, frame, time.monotonic_ns() // 1_000_000)}

    watch = clocks.watch(seen)
    for look, made in enumerate((newest[0], newest[0], clocks.truth, clocks.truth + 10)):
        assert clocks.clock() - clocks.truth == -5_000
        newest[0] = made
        watch.look(look * 60_000)
    assert abs(clocks.clock() - clocks.truth) < 200
    assert told(caplog, "s behind OKX's")


@pytest.mark.parametrize(("off", "known"), [(0, True), (300, True), (86_400_000, False)])
def test_young_pushes_say_that_the_clock_is_right(off, known):
    """Without REST: pushes that come as they are made, by our clock; by one that is a day ahead they are old."""
    clocks = Clocks(off)
    clocks.rest_up = False
    made = [0]

    def seen():
        frame = json.dumps({"data": [{"tradeId": "1", "ts": str(made[0])}]}).encode()
        return {Subscription("trades-all", BTC): Seen(1, frame, time.monotonic_ns() // 1_000_000)}

    watch = clocks.watch(seen)
    for look in range(3):
        assert not clocks.clock.known or look > 1
        made[0] = clocks.truth - 40 + look
        watch.look(look * 60_000)
    assert clocks.clock.known is known and not watch.measured
    assert clocks.clock() == clocks.truth + off


def test_a_feed_goes_by_the_clock_of_its_exchange(caplog):
    """Two hours apart: the feed's time is the exchange's within the way of an answer, and the wall clock is told."""
    start_ms = time.time_ns() // 1_000_000 - 7_200_000
    with (
        LocalExchange([BTC], rate=50, start_ms=start_ms, history_s=5, options=Options(limits=0)) as exchange,
        feed_of(exchange, times=Times(tick_ms=50, clock_ms=600_000)) as feed,
    ):
        read(feed, lambda lines: told(caplog, "this machine's clock is"))
        assert abs(feed.clock() - exchange.now_ms()) < 2_000
    (line,) = told(caplog, "this machine's clock is")
    assert "s ahead of OKX's" in line
