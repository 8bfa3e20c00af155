"""Any sequence of wishes against a model of OKX: in the end exactly what is wanted is subscribed, within the limits."""

import json
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from okxcli.exchanges.okx.channels import Subscription
from okxcli.exchanges.okx.connection.actions import Reconnect, Refuse, Send
from okxcli.exchanges.okx.connection.session import REQUESTS_PER_HOUR, Session

ALL = [Subscription("trades-all", f"C{n}-USDT") for n in range(4)]
UNKNOWN = ALL[3]
HOUR_MS = 3_600_000

WISHES = st.lists(
    st.tuples(st.sampled_from(["add", "remove", "renew", "busy", "wait", "hour"]), st.sampled_from(ALL)), max_size=40
)


class Okx:
    """Answers each argument in its order, half a second later; while `busy`, with 60014."""

    def __init__(self):
        self.subscribed, self.answers, self.times, self.busy = set(), deque(), [], 0

    def request(self, text, now):
        if text == "ping":
            self.answers.append((now + 500, b"pong"))
            return
        frame = json.loads(text)
        self.times.append(now)
        if self.busy:
            self.busy -= 1
            self.answer(now, {"id": frame["id"], "event": "error", "code": "60014", "msg": "Requests too frequent"})
            return
        for argument in frame["args"]:
            name = argument["instId"]
            if name == UNKNOWN.value:
                text = f"channel:trades-all,instId:{name} doesn't exist"
                self.answer(now, {"event": "error", "code": "60018", "msg": text})
                continue
            (self.subscribed.add if frame["op"] == "subscribe" else self.subscribed.discard)(name)
            self.answer(now, {"id": frame["id"], "event": frame["op"], "arg": argument})

    def answer(self, now, body):
        self.answers.append((now + 500, json.dumps(body | {"connId": "a4d3ae55"}).encode()))


class Play:
    """A session and the model, with a clock of their own."""

    def __init__(self):
        self.now, self.okx, self.refused = 0, Okx(), set()
        self.session = Session(ALL[:2])
        self.obey(self.session.opened(0))

    def obey(self, actions):
        for action in actions:
            assert not isinstance(action, Reconnect), action
            if isinstance(action, Send):
                self.okx.request(action.text, self.now)
            elif isinstance(action, Refuse):
                self.refused.add(action.subscription)

    def wait(self, until):
        """Let time pass as the driver does: from answer to answer and from due to due."""
        while True:
            due = self.session.due()
            moments = [at for at, _ in list(self.okx.answers)[:1]] + ([due] if due is not None else [])
            if not moments or min(moments) > until:
                self.now = until
                return
            self.now = max(self.now, min(moments))
            while self.okx.answers and self.okx.answers[0][0] <= self.now:
                self.obey(self.session.frames([self.okx.answers.popleft()[1]], self.now, []))
            self.obey(self.session.tick(self.now))


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(WISHES)
def test_what_is_wanted_is_subscribed_in_the_end(wishes):
    """Whatever is asked for, taken back, renewed or refused for a while, in whatever order."""
    play, wanted = Play(), set(ALL[:2])
    for wish, subscription in wishes:
        if wish == "add":
            wanted.add(subscription)
            play.obey(play.session.add([subscription], play.now))
        elif wish == "remove":
            wanted.discard(subscription)
            play.obey(play.session.remove([subscription], play.now))
        elif wish == "renew":
            play.obey(play.session.renew([subscription], play.now))
        elif wish == "busy":
            play.okx.busy += 1
        else:
            play.wait(play.now + (1_000 if wish == "wait" else HOUR_MS))
    play.wait(play.now + 2 * HOUR_MS)
    assert play.okx.subscribed == {s.value for s in wanted - {UNKNOWN}}
    assert set(play.session.acked) == wanted - {UNKNOWN}
    assert (UNKNOWN in play.refused) >= (UNKNOWN in wanted)
    for at, moment in enumerate(play.okx.times):
        assert sum(moment <= other < moment + HOUR_MS for other in play.okx.times[at:]) <= REQUESTS_PER_HOUR
