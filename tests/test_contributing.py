"""The map for whoever works on okx: every answer of CONTRIBUTING.md is a thing in the code, and every room is there."""

import re
import sys
import threading
import time
from functools import reduce
from importlib import import_module
from itertools import chain
from pathlib import Path

import pytest

from okxcli.exchanges.okx.feed.live_feed import Feed
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.pipeline.collector import Collector
from okxcli.runtime.clock import now_ms
from okxcli.runtime.configuration.config import Config
from okxcli.runtime.signals import Lifecycle
from okxcli.storage.database import open_database
from okxcli.storage.rows.fill_block import FillScanner
from okxcli.storage.write.durable_writer import DurableWriter
from okxcli.storage.write.spool import Spool

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
ANSWERS = re.findall(r"^\| .*\? \| `([\w.]+)` \|$", TEXT, re.M)
WAYS = [
    re.findall(r"^\| .* \| `([\w.]+\.\w+)` \|$", part, re.M) for part in TEXT.split("## Where")[0].split("\nOne ")[1:]
]


def thing(name):
    """Return what is called so in okxcli: in a module a function, a class, or a method."""
    parts = name.split(".")
    at = max(n for n in range(1, len(parts)) if ROOT.joinpath("okxcli", *parts[:n]).with_suffix(".py").is_file())
    return reduce(getattr, parts[at:], import_module(".".join(["okxcli", *parts[:at]])))


@pytest.mark.parametrize("answer", dict.fromkeys([*ANSWERS, *chain(*WAYS)]))
def test_an_answer_is_where_it_says(answer):
    """A module, and in it a function, a class, or a method; with a docstring."""
    assert thing(answer).__doc__


def test_there_are_answers_and_every_path_is_there():
    """No question is passed over by its form, and no file or folder is named that is none."""
    rows = TEXT.split("## Where is the rule?")[1].split("## To add")[0].count("\n| ") - 2
    assert len(ANSWERS) == len(set(ANSWERS)) == rows >= 25
    named = set(re.findall(r"`([\w./-]+/[\w./-]*)`", TEXT))
    places = (ROOT, ROOT / "okxcli", ROOT / "okxcli" / "exchanges" / "okx")
    assert [name for name in named if "NAME" not in name and not any((place / name).exists() for place in places)] == []


def test_every_room_is_on_the_map():
    """The table of rooms has each package that lies in okxcli, and the rooms inside of it."""
    rooms = TEXT.split("## The rooms")[1].split("\n\nOne trade")[0]
    packages = [path.parent.relative_to(ROOT / "okxcli") for path in (ROOT / "okxcli").rglob("*/__init__.py")]
    assert [str(path) for path in packages if f"`{path.name}`" not in rooms and f"`{path}`" not in rooms] == []


def test_the_ways_of_a_trade_and_of_a_hole_are_short():
    """At most eight rooms each."""
    assert [len(way) for way in WAYS] == [8, 8]


@pytest.mark.slow
@pytest.mark.skipif(not FillScanner().built, reason="the kernels are not built")
def test_a_trade_goes_the_way_that_is_told(database, tmp_path):
    """Some trade takes each step, and none before the one that stands above it, before the next one comes."""
    steps = {}
    for number, name in enumerate(WAYS[0]):
        found = thing(name)
        for function in vars(found).values() if isinstance(found, type) else [found]:
            steps |= {code: number for code in [getattr(function, "__code__", None)] if code and code.co_name[1] != "_"}
    taken, whole = [], threading.Event()

    def note(frame, event, _):
        step = steps.get(frame.f_code) if event == "call" else None
        if step == 0:
            taken[:] = [0]
        elif step is not None and step not in taken:
            taken.append(step)
        if taken == list(range(8)):
            whole.set()

    config = Config(symbols=("BTC-USDT",), channels=("trades-all",), timeframes=("1s",))
    threading.setprofile(note)
    sys.setprofile(note)
    try:
        with (
            LocalExchange(["BTC-USDT"], rate=1, options=Options(limits=0)) as market,
            open_database(database, create=True, origin="local", application="test") as opened,
            Lifecycle("source") as life,
            Feed(["BTC-USDT"], ["trades-all"], ws_url=market.ws_url, rest_url=market.rest_url) as feed,
        ):
            keeper = DurableWriter(opened, Spool(tmp_path))
            collector = Collector(config, feed, keeper, opened.session, now_ms)
            end = time.monotonic() + 60
            while not whole.is_set() and time.monotonic() < end:
                collector.run(life, 1.0)
            keeper.close()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    assert whole.is_set(), taken
