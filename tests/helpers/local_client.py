"""A client of the local exchange for tests: nothing of ours, only the websockets library and urllib."""

import json
import time
import urllib.error
import urllib.request
from contextlib import ExitStack

from websockets.sync.client import connect


class Client:
    """A connection to one path; messages are decoded, text that is no JSON comes as it is."""

    def __init__(self, exchange, path="public", **more):
        self._stack = ExitStack()
        self.socket = self._stack.enter_context(connect(f"{exchange.ws_url}/ws/v5/{path}", close_timeout=0.5, **more))

    def close(self):
        """Close the connection."""
        self._stack.close()

    def ask(self, op, *args, **more):
        """Send a request; an argument is an object or `channel:symbol`."""
        named = ("channel", "instId")
        whole = [dict(zip(named, a.split(":"), strict=True)) if isinstance(a, str) else a for a in args]
        self.socket.send(json.dumps({**more, "op": op, "args": whole}))

    def next(self, timeout=30.0):
        """Return the next message; raise TimeoutError when none comes."""
        text = self.socket.recv(timeout=timeout)
        return json.loads(text) if text.startswith("{") else text

    def until(self, good, timeout=30.0):
        """Return every message up to and with the first that is `good`."""
        end, seen = time.monotonic() + timeout, []
        while time.monotonic() < end:
            seen.append(self.next(max(0.01, end - time.monotonic())))
            if good(seen[-1]):
                return seen
        raise TimeoutError(seen[-3:])

    def during(self, seconds):
        """Return every message of the next `seconds`."""
        end, seen = time.monotonic() + seconds, []
        while (left := end - time.monotonic()) > 0:
            try:
                seen.append(self.next(left))
            except TimeoutError:
                break
        return seen

    def heard(self):
        """Return every message that the exchange has sent by now: it answers a request that it refuses after those."""
        self.ask("no such thing")
        return self.until(lambda message: isinstance(message, dict) and message.get("event") == "error")[:-1]

    def pushes(self, channel, count, timeout=60.0):
        """Return the data of the next `count` pushes of `channel`."""
        found = []

        def good(message):
            if isinstance(message, dict) and "data" in message and message["arg"]["channel"] == channel:
                found.append(message["data"][0])
            return len(found) >= count

        self.until(good, timeout)
        return found


def rest(exchange, path):
    """Return HTTP status and body (decoded if it is JSON) of a GET."""
    try:
        with urllib.request.urlopen(f"{exchange.rest_url}/api/v5/{path}", timeout=30) as answer:
            status, body = answer.status, answer.read()
    except urllib.error.HTTPError as error:
        status, body = error.code, error.read()
    return status, json.loads(body) if body.startswith(b"{") else body
