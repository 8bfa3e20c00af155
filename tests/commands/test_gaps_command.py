"""`okx gaps` as a process: from the database and from lines, its exit status, and what it asks OKX."""

import json
import os
import subprocess
import sys
from itertools import pairwise

import psycopg
import pytest
from recordings import SHARED, collected, needs_shared

from okxcli.local.exchange import LocalExchange
from okxcli.runtime.clock import iso, now_ms

OKX = [sys.executable, "-m", "okxcli"]
CAPTURES = SHARED / "ws"


@pytest.fixture
def run(tmp_path, database):
    """Run `okx ...` on the fresh database, with a configuration of two symbols; return status, rows, stderr."""
    (tmp_path / "okx.json").write_text(json.dumps({"symbols": ["BTC-USDT", "ETH-USDT"]}))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    env = clean | {"OKX_DSN": database, "HOME": str(tmp_path), "OKX_CONFIG": str(tmp_path / "okx.json")}

    def run(*arguments, data=b"", **more):
        done = subprocess.run(
            [*OKX, *map(str, arguments)], input=data, capture_output=True, check=False, timeout=60, env=env | more
        )
        assert b"Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout, done.stderr.decode()

    return run


def parsed(out):
    return [json.loads(line) for line in out.splitlines()]


def kinds(out):
    return [(row["symbol"], row["kind"], row["first"], row["last"]) for row in parsed(out)]


def fill(trade_id, at, symbol="BTC-USDT"):
    return json.dumps(
        {
            "type": "trade", "exchange": "okx", "symbol": symbol, "trade_id": trade_id, "side": "buy",
            "price": "5", "size": "1", "timestamp": at,
        }
    ).encode()  # fmt: skip


def lines(*found):
    return b"".join(line + b"\n" for line in found)


def test_nothing_is_stored(run):
    """Exit 69: there is no database to ask."""
    status, out, err = run("gaps")
    assert (status, out) == (69, b"")
    assert "no data" in err


def test_a_whole_tape_and_one_with_a_hole(run):
    """Exit 0 and one range; exit 1 and three, with the times of the fills beside the hole."""
    now = now_ms()
    at = [now - 100_000 + 1000 * i for i in range(10)]
    assert run("store", data=lines(*(fill(i, at[i]) for i in range(1, 6))))[0] == 0
    until = iso(at[5] + 1)
    status, out, _ = run("gaps", "BTC-USDT", "--until", until)
    assert (status, kinds(out)) == (0, [("BTC-USDT", "covered", 1, 5)])
    assert run("store", data=lines(fill(9, at[9])))[0] == 0
    status, out, err = run("gaps", "BTC-USDT", "--until", at[9] + 1)
    assert (status, err) == (1, "okx gaps: BTC-USDT: 3 missing. Try: okx backfill BTC-USDT\n")
    assert [list(row.values())[2:] for row in parsed(out)] == [
        ["BTC-USDT", "covered", 1, 5, 5, at[1], at[5]],
        ["BTC-USDT", "missing", 6, 8, 3, at[5], at[9]],
        ["BTC-USDT", "covered", 9, 9, 1, at[9], at[9]],
    ]
    assert run("gaps", "BTC-USDT", "--until", at[5])[0] == 0


def test_a_configured_symbol_that_was_never_stored(run):
    """Is told as unknown, and the exit status is 1."""
    assert run("store", data=lines(fill(1, now_ms() - 1000)))[0] == 0
    status, out, _ = run("gaps")
    assert status == 1
    assert kinds(out)[-1] == ("ETH-USDT", "unknown", None, None)


def test_a_collector_that_is_dead_for_three_hours(run):
    """The time since its last fill is unknown, until a minute ago."""
    now = now_ms()
    stopped = now - 3 * 3_600_000
    assert run("store", data=lines(fill(1, stopped - 1000), fill(2, stopped)))[0] == 0
    status, out, _ = run("gaps", "BTC-USDT")
    assert status == 1
    tail = parsed(out)[-1]
    assert (tail["kind"], tail["first"], tail["first_time"]) == ("unknown", 3, stopped)
    assert now - 61_000 < tail["last_time"] <= now_ms() - 60_000
    status, out, _ = run("gaps", "BTC-USDT", "--table")
    assert status == 1
    assert iso(stopped) in out.decode() and "exchange" not in out.decode()


def test_a_tape_that_is_younger_than_what_is_asked_for_proves_nothing(run):
    """All fills of the last minute, or a time before the first one: unknown (1), and not nothing, which is well."""
    now = now_ms()
    assert run("store", data=lines(*(fill(number, now - 20_000 + number) for number in range(5, 9))))[0] == 0
    for more in ((), ("--until", "1h")):
        status, out, err = run("gaps", "BTC-USDT", *more)
        assert (status, kinds(out)) == (1, [("BTC-USDT", "unknown", None, 4)])
        assert ("every stored fill is younger than a minute" in err) == (not more)


def test_online_tells_quiet_from_missing(run):
    """OKX's newest fill decides what the unknown tail is: nothing, or so many missing fills."""
    with LocalExchange(["BTC-USDT"], rate=0, history_s=0) as exchange:
        now = now_ms()
        ids = [exchange.trade("BTC-USDT", "5", "1", ts=now - 200_000 + 1000 * i) for i in range(10)]
        local = {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
        assert (
            run("store", data=lines(*(fill(n, now - 200_000 + 1000 * i) for i, n in enumerate(ids))), **local)[0] == 0
        )
        assert run("gaps", "BTC-USDT")[0] == 1
        status, out, _ = run("gaps", "BTC-USDT", "--online", **local)
        assert (status, kinds(out)) == (0, [("BTC-USDT", "covered", ids[0], ids[-1])])
        more = [exchange.trade("BTC-USDT", "5", "1", ts=now - 100_000 + i) for i in range(3)]
        exchange.trade("BTC-USDT", "5", "1", ts=now)
        status, out, _ = run("gaps", "BTC-USDT", "--online", **local)
        assert status == 1
        assert kinds(out)[-1] == ("BTC-USDT", "missing", more[0], more[-1])


def test_online_a_delisted_symbol_concerns_itself_alone(run):
    """What OKX does not have any more stays unknown, and is told; of the others it is known how they are."""
    with LocalExchange(["AAA-USDT", "BTC-USDT", "ETH-USDT"], rate=0, history_s=0) as exchange:
        at = now_ms() - 200_000
        ids = {name: exchange.trade(name, "5", "1", ts=at) for name in ("AAA-USDT", "BTC-USDT")}
        exchange.set_state("AAA-USDT", "expired")
        local = {"OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}
        assert (
            run("store", data=lines(*(fill(n, at, name) for name, n in ids.items()), fill(7, at, "ETH-USDT")))[0] == 0
        )
        status, out, err = run("gaps", "AAA-USDT", "BTC-USDT", "ETH-USDT", "--online", **local)
    assert status == 1
    assert [row[:2] for row in kinds(out)] == [
        ("AAA-USDT", "covered"), ("AAA-USDT", "unknown"), ("BTC-USDT", "covered"),
        ("ETH-USDT", "covered"), ("ETH-USDT", "unknown"),
    ]  # fmt: skip
    assert "AAA-USDT: what is after its newest stored fill stays unknown: OKX has no instrument AAA-USDT" in err
    assert "OKX shows no trade of ETH-USDT" in err


def test_recount_tells_and_mends(run, database):
    """Rows that somebody deleted are told with exit 1; repair mends the ledger, which then tells that they miss."""
    now = now_ms()
    until = ("--until", now)
    assert run("store", data=lines(*(fill(i, now - 1000 + i) for i in range(1, 10)), fill(10, now - 1)))[0] == 0
    assert run("gaps", "BTC-USDT", "--recount", *until)[0] == 0
    with psycopg.connect(database) as connection:
        connection.execute("DELETE FROM raw_trades WHERE trade_id BETWEEN 4 AND 6")
    assert run("gaps", "BTC-USDT", *until)[0] == 0
    status, out, _ = run("gaps", "BTC-USDT", "--recount", *until)
    assert (status, kinds(out)[0]) == (1, ("BTC-USDT", "lost", 4, 6))
    status, out, _ = run("gaps", "BTC-USDT", "--recount", "--repair", *until)
    assert status == 1
    assert [kind for _, kind, _, _ in kinds(out)] == ["lost", "covered", "missing", "covered"]
    assert run("gaps", "BTC-USDT", "--recount", *until)[1] == b"".join(
        line + b"\n" for line in out.splitlines() if b"lost" not in line
    )


def test_lines_instead_of_the_database(run):
    """Any order, several symbols, merged trades and absent ids; bad lines are told with their number."""
    merged = fill(9, 1747087163557)[:-1] + b', "count": 4, "origin": "trades"}'
    gone = b'{"type":"absent","exchange":"okx","symbol":"BTC-USDT","first":4,"last":4}'
    data = lines(merged, fill(1, 1747087163000), fill(2, 1747087163001), gone, fill(7, 1747087163557, "ETH-USDT"))
    status, out, _ = run("gaps", "-", data=data)
    assert status == 1
    assert kinds(out) == [
        ("BTC-USDT", "covered", 1, 2),
        ("BTC-USDT", "missing", 3, 3),
        ("BTC-USDT", "absent", 4, 4),
        ("BTC-USDT", "missing", 5, 5),
        ("BTC-USDT", "covered", 6, 9),
        ("ETH-USDT", "covered", 7, 7),
    ]
    assert run("gaps", "-", data=lines(fill(1, 1747087163000), fill(2, 1747087163001)))[0] == 0
    status, _, err = run("gaps", "-", data=lines(fill(1, 1747087163000), b"nonsense"))
    assert status == 65
    assert "line 2" in err


@needs_shared
@pytest.mark.parametrize(("name", "missing"), [("btc-usdt-swap", 380), ("btc-usd-swap", 66), ("btc-usdt", 120)])
def test_real_captures_with_holes(run, name, missing):
    """A collector that lost every other message: exactly the missing fills are listed."""
    raw = lines(*collected(CAPTURES / f"moon-2024-01-25.{name}.trades.json.gz"))
    normalized = run("normalize", data=raw)[1]
    status, out, _ = run("gaps", "-", data=normalized)
    assert status == 1
    rows = parsed(out)
    assert sum(row["count"] for row in rows if row["kind"] == "missing") == missing
    assert {row["kind"] for row in rows} == {"covered", "missing"}
    assert all(a["last"] + 1 == b["first"] for a, b in pairwise(rows))


@pytest.mark.parametrize(
    "arguments", [["-", "BTC-USDT"], ["-", "--online"], ["--repair"], ["--since", "1m", "--until", "2m"]]
)
def test_what_does_not_go_together(run, arguments):
    """Is refused with exit 2 and one line."""
    status, _, err = run("gaps", *arguments)
    assert status == 2
    assert err.count("\n") == 1
