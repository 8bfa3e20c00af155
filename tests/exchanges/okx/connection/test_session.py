"""The life of a connection, told by hand: time is an argument, nothing sleeps."""

import json
import logging

import pytest

from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.connection.actions import Log, Ready, Reconnect, Refuse, Replace, Send
from okxcli.exchanges.okx.connection.session import (
    ACK_TIMEOUT_MS,
    PING_AFTER_MS,
    PONG_TIMEOUT_MS,
    REQUESTS_PER_HOUR,
    Seen,
    Session,
)

BTC = Subscription("trades-all", "BTC-USDT")
ETH = Subscription("trades-all", "ETH-USDT")
PUSH = b'{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"tradeId":"1"}]}'


def frame(session, data, now):
    """Return what a frame is taken for: itself if it is data, and what is to be done."""
    pushes = []
    actions = session.frames([data], now, pushes)
    return [*pushes, *actions]


def ack(subscription, event="subscribe"):
    return json.dumps({"event": event, "arg": subscription.argument, "connId": "a4d3ae55"}).encode()


def error(code, message="", request=None):
    body = {"event": "error", "msg": message, "code": code, "connId": "a4d3ae55"}
    return json.dumps({"id": request, **body} if request else body).encode()


def doesnt_exist(subscription):
    return error("60018", f"Wrong URL or channel:{subscription.channel},instId:{subscription.value} doesn't exist.")


def asked(actions):
    """The (op, instruments) of each request among `actions`."""
    frames = [json.loads(a.text) for a in actions if isinstance(a, Send) and a.text != "ping"]
    return [(frame["op"], [argument["instId"] for argument in frame["args"]]) for frame in frames]


def standing(*subscriptions, now=0):
    """A session whose subscriptions are all acked."""
    session = Session(subscriptions)
    session.opened(now)
    for subscription in subscriptions:
        frame(session, ack(subscription), now)
    assert session.ready
    return session


def test_subscribes_on_opening_and_is_ready_when_all_are_acked():
    """Nothing is ready until each argument is answered; then that is told once."""
    session = Session([BTC, ETH])
    assert asked(session.opened(0)) == [("subscribe", ["BTC-USDT", "ETH-USDT"])]
    assert list(frame(session, ack(BTC), 5)) == []
    assert not session.ready
    assert list(frame(session, ack(ETH), 6)) == [Ready()]
    assert list(frame(session, ack(ETH), 7)) == []
    assert session.acked == [BTC, ETH]


def test_many_subscriptions_go_in_batches_with_ids_of_letters_and_digits():
    """A request holds 50 arguments; its id is one that OKX takes."""
    session = Session([Subscription("tickers", f"C{n}-USDT") for n in range(101)])
    actions = session.opened(0)
    assert [len(names) for _, names in asked(actions)] == [50, 50, 1]
    ids = [json.loads(a.text)["id"] for a in actions]
    assert len(set(ids)) == 3
    assert all(i.isalnum() and len(i) <= 32 for i in ids)


def test_pushes_are_delivered_and_counted():
    """Data goes on as it is; each subscription knows how much came and when."""
    session = standing(BTC, ETH)
    assert list(frame(session, PUSH, 5)) == [PUSH]
    assert list(frame(session, PUSH, 9)) == [PUSH]
    seen = {one: (brought.pushes, brought.frame) for one, brought in session.seen().items()}
    assert seen == {BTC: (2, PUSH), ETH: (0, b"")}
    assert session.seen()[BTC].since_ms == 9


def test_missing_ack_ends_the_connection():
    """No answer for ten seconds is a dead connection, named by what was not answered."""
    session = Session([BTC, ETH])
    session.opened(0)
    frame(session, ack(BTC), 1)
    assert session.due() == ACK_TIMEOUT_MS
    assert session.tick(ACK_TIMEOUT_MS - 1) == []
    assert session.tick(ACK_TIMEOUT_MS) == [Reconnect("no answer to the subscription of trades-all ETH-USDT for 10 s")]
    assert session.tick(ACK_TIMEOUT_MS + 1) == []


def test_pings_after_silence_of_ours_even_while_data_flows():
    """Twenty seconds after our last frame comes a text ping, whatever arrives."""
    session = standing(BTC)
    frame(session, PUSH, PING_AFTER_MS - 1)
    assert session.due() == PING_AFTER_MS
    assert session.tick(PING_AFTER_MS) == [Send("ping")]
    assert frame(session, b"pong", PING_AFTER_MS + 50) == []
    assert session.tick(2 * PING_AFTER_MS - 1) == []
    assert session.tick(2 * PING_AFTER_MS) == [Send("ping")]


def test_missing_pong_is_found_within_forty_seconds():
    """A half-open connection is dead when the pong does not come."""
    session = standing(BTC)
    session.tick(PING_AFTER_MS)
    assert session.tick(PING_AFTER_MS + PONG_TIMEOUT_MS - 1) == []
    assert session.tick(PING_AFTER_MS + PONG_TIMEOUT_MS) == [Reconnect("no pong for 15 s")]
    assert PING_AFTER_MS + PONG_TIMEOUT_MS < 40_000


def test_silence_of_a_quiet_market_is_no_fault():
    """With pongs alone, a connection lives for ever."""
    session = standing(BTC)
    for now in range(0, 3_600_000, 1000):
        if session.tick(now):
            frame(session, b"pong", now + 10)
    assert session.tick(3_600_000) in ([], [Send("ping")])


def test_nothing_is_missing_while_nobody_reads():
    """With reading paused, neither ack nor pong is overdue; afterwards they have their full time again."""
    session = Session([BTC])
    session.opened(0)
    assert session.tick(60_000, reading=False) == [Send("ping")]
    assert session.tick(100_000, reading=False) == []
    assert session.tick(100_000 + ACK_TIMEOUT_MS - 1) == []
    assert isinstance(session.tick(100_000 + ACK_TIMEOUT_MS)[0], Reconnect)


def test_one_refused_symbol_spares_the_others():
    """60018 is told for the one subscription; the rest becomes ready."""
    session = Session([BTC, Subscription("trades-all", "BTC-USTD")])
    session.opened(0)
    frame(session, ack(BTC), 1)
    refuse, ready = frame(session, doesnt_exist(Subscription("trades-all", "BTC-USTD")), 2)
    assert isinstance(refuse, Refuse)
    assert (refuse.subscription.value, refuse.code) == ("BTC-USTD", "60018")
    assert ready == Ready()
    assert session.tick(ACK_TIMEOUT_MS + 1) == []


def test_all_refused_is_never_ready():
    """A session with nothing left says so by its refusals alone."""
    session = Session([BTC])
    session.opened(0)
    assert [type(a) for a in frame(session, doesnt_exist(BTC), 1)] == [Refuse]
    assert not session.ready


def test_error_without_a_name_is_matched_by_request():
    """A malformed request (60012) refuses what was in it, found by the id that came back."""
    session = Session([BTC, ETH])
    request = json.loads(session.opened(0)[0].text)["id"]
    refusals = frame(session, error("60012", "Invalid request", request), 1)
    assert [a.subscription for a in refusals] == [BTC, ETH]


def test_error_about_nothing_of_ours_is_only_logged():
    """An error that names another channel, or nobody, changes nothing."""
    session = Session([BTC, ETH])
    session.opened(0)
    for data in (doesnt_exist(Subscription("tickers", "X-Y")), error("60018", "no name at all")):
        (action,) = frame(session, data, 1)
        assert isinstance(action, Log)
    frame(session, ack(BTC), 2)
    assert list(frame(session, ack(ETH), 2)) == [Ready()]


def test_too_many_requests_waits_ever_longer():
    """60014 pauses all requests for 15 s, then 30 s; what was unanswered is asked again."""
    session = Session([BTC])
    session.opened(0)
    (told,) = frame(session, error("60014", "Requests too frequent"), 100)
    assert isinstance(told, Log)
    assert session.tick(15_099) == []
    assert session.due() == 15_100
    assert asked(session.tick(15_100)) == [("subscribe", ["BTC-USDT"])]
    frame(session, error("60014", "Requests too frequent"), 15_200)
    assert asked(session.tick(45_199)) == []
    frame(session, b"pong", 45_199)
    assert asked(session.tick(45_200)) == [("subscribe", ["BTC-USDT"])]


def test_passing_refusal_is_asked_again():
    """An internal error of OKX (64007) for one subscription is tried again after five seconds."""
    session = Session([BTC])
    session.opened(0)
    frame(session, error("64007", "channel:trades-all,instId:BTC-USDT failed due to internal error"), 10)
    assert asked(session.tick(5009)) == []
    assert asked(session.tick(5010)) == [("subscribe", ["BTC-USDT"])]


def test_requests_stay_below_the_hourly_budget():
    """No more than 240 requests in any hour; what is over waits for its turn."""
    session = standing(BTC)
    done = []
    for n in range(REQUESTS_PER_HOUR + 5):
        done += asked(session.add([Subscription("tickers", f"C{n}-USDT")], 1000 + n))
    assert len(done) == REQUESTS_PER_HOUR - 1  # one was spent on opening
    for n in range(REQUESTS_PER_HOUR - 1):
        frame(session, ack(Subscription("tickers", f"C{n}-USDT")), 2000)
    assert asked(session.tick(3_599_999)) == []
    frame(session, b"pong", 3_599_999)
    ((op, names),) = asked(session.tick(3_600_001))
    assert (op, len(names)) == ("subscribe", 6)


def test_upgrade_notice_asks_for_a_replacement():
    """64008 does not close: another connection comes first. Other notices are only told."""
    session = standing(BTC)
    notice = b'{"event":"notice","msg":"Please reconnect.","code":"64008","connId":"8517149b"}'
    assert frame(session, notice, 1) == [Replace("Please reconnect.")]
    assert list(frame(session, PUSH, 2)) == [PUSH]
    (action,) = frame(session, b'{"event":"notice","msg":"hello","code":"1"}', 3)
    assert isinstance(action, Log)


@pytest.mark.parametrize(
    ("code", "reason", "slow", "text"),
    [
        (4004, "No data received in 30s", False, "closed by OKX (4004: No data received in 30s)"),
        (4009, "", True, "closed by OKX (4009)"),
        (1009, "too long", True, "closed by OKX (1009: too long)"),
        (None, "end of stream", False, "connection lost (end of stream)"),
    ],
)
def test_closing_reconnects_and_slowly_when_we_were_wrong(code, reason, slow, text):
    """Any end is followed by a reconnect; a close that blames our request, not at once."""
    session = standing(BTC)
    assert session.closed(code, reason, 5) == [Reconnect(text, slow)]
    assert session.closed(code, reason, 6) == []
    assert session.due() is None


def test_adding_and_removing_need_no_new_connection():
    """More and less are asked for on the same connection; a refused one may be tried again."""
    session = standing(BTC)
    assert asked(session.add([ETH, BTC], 1)) == [("subscribe", ["ETH-USDT"])]
    frame(session, doesnt_exist(ETH), 2)
    assert asked(session.add([ETH], 3)) == [("subscribe", ["ETH-USDT"])]
    assert asked(session.remove([BTC], 4)) == [("unsubscribe", ["BTC-USDT"])]
    assert frame(session, ack(BTC, "unsubscribe"), 5)[0].level == logging.DEBUG
    assert session.remove([BTC], 6) == []


def test_unknown_messages_and_garbage_harm_nothing():
    """Whatever else arrives is passed over; garbage is told three times, not for ever."""
    session = standing(BTC)
    logs = [a for n in range(10) for a in frame(session, b"\x00\xff" * n + b"{", n)]
    assert len(logs) == 3
    assert [a.level for a in frame(session, b'{"event":"brand-new"}', 1)] == [logging.DEBUG]
    assert [a.level for a in frame(session, b'{"event":"channel-conn-count","channel":"x","connCount":"1"}', 1)] == [10]
    assert list(frame(session, PUSH, 2)) == [PUSH]


def test_a_subscription_is_made_anew_after_it_has_ended():
    """The new one is asked for when the old one's end is confirmed, or OKX knows of none; pushes go on counting."""
    session = standing(BTC, ETH)
    frame(session, PUSH, 5)
    assert asked(session.renew([BTC], 10)) == [("unsubscribe", ["BTC-USDT"])]
    assert session.acked == [ETH]
    assert asked(frame(session, ack(BTC, "unsubscribe"), 20)) == [("subscribe", ["BTC-USDT"])]
    assert list(frame(session, ack(BTC), 30)) == []
    assert session.seen()[BTC] == Seen(1, PUSH, 30, 30)
    session.renew([BTC], 40)
    assert asked(frame(session, doesnt_exist(BTC), 50)) == [("subscribe", ["BTC-USDT"])]


def test_an_end_that_is_not_confirmed_ends_the_connection():
    """Ten seconds without an answer to the end of a subscription are as bad as without one to its beginning."""
    session = standing(BTC, ETH)
    session.renew([BTC], 0)
    assert session.due() == ACK_TIMEOUT_MS
    (action,) = session.tick(ACK_TIMEOUT_MS)
    assert isinstance(action, Reconnect)


def test_every_kind_of_request_counts_and_is_held_back():
    """Renewals beyond the hourly budget do not happen, ends wait for it; an hour later there is room again."""
    session = standing(BTC, ETH)
    for number in range(REQUESTS_PER_HOUR):
        actions = session.renew([BTC], 1_000 + number)
        if not actions:
            break
        for action in frame(session, ack(BTC, "unsubscribe"), 1_000 + number):
            actions.append(action)
        frame(session, ack(BTC), 1_000 + number)
    assert number == (REQUESTS_PER_HOUR - 1) // 2
    assert session.renew([BTC], 60_000) == []
    assert len(asked(session.remove([ETH], 60_000))) == 1  # the last one of this hour
    assert session.remove([BTC], 60_000) == []
    assert session.due() <= 3_600_000
    assert asked(session.tick(3_600_000 + 2_000)) == [("unsubscribe", ["BTC-USDT"])]


def test_what_is_wanted_again_before_its_end_was_asked_for_stays():
    """An end that was held back is not asked for when the subscription is wanted again."""
    session = standing(BTC, ETH)
    frame(session, error("60014"), 10)
    assert session.remove([ETH], 20) == []
    session.add([ETH], 30)
    ops = [op for op, _ in asked(session.tick(20_000))]
    assert ops == ["subscribe"]
