"""Bulk files through the commands, as processes: the same tape and candles as REST and live, download, backfill."""

import json
import os
import subprocess
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import psycopg
import pytest
from bulk_files import GENERATIONS, daily, modern, name, newest, write

from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options

SYMBOL = "BTC-USDT"
START_MS = 1_767_582_000_000  # 2026-01-05T03:00Z


@pytest.fixture(scope="module")
def exchange():
    """A market of January, so that no edge of a day, a minute or a second depends on when the tests run."""
    free = Options(limits=0)
    with LocalExchange([SYMBOL], rate=80, seed=12, start_ms=START_MS, history_s=180, options=free) as exchange:
        yield exchange


@pytest.fixture
def env(exchange, tmp_path):
    own = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_", "PYTHON"))}
    home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    return {**own, **home, "OKX_WS_URL": exchange.ws_url, "OKX_REST_URL": exchange.rest_url}


def run(env, *arguments, data=None, code=0):
    done = subprocess.run(
        [sys.executable, "-m", "okxcli", *map(str, arguments)],
        env=env, input=data, capture_output=True, check=False, timeout=90,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done


def normalized(env, raw):
    return run(env, "normalize", "-q", data=raw).stdout.splitlines()


def facts(lines, first, last):
    """Return the trades between two ids, without what tells only where they came from."""
    found = [json.loads(line) for line in lines]
    return [
        {key: value for key, value in trade.items() if key not in ("origin", "source", "received")}
        for trade in found
        if trade["type"] == "trade" and first <= trade["trade_id"] <= last
    ]


def candles(env, lines, first, last):
    """Return the candle lines made of the trades between two ids."""
    chosen = [
        line for line in lines
        if first <= (found := json.loads(line)).get("trade_id", first if found["type"] == "instrument" else 0) <= last
    ]  # fmt: skip
    return run(env, "candles", "-q", "--tf", "1s,5s", "--no-live", data=b"\n".join(chosen)).stdout.splitlines()


def test_live_rest_and_every_generation_are_one_tape(exchange, env, tmp_path):
    """The same fills as they came live, by REST, and from each layout of files: the same trades, the same candles."""
    live = normalized(env, run(env, "stream", SYMBOL, "-n", "640", "-q").stdout)
    ids = [trade["trade_id"] for trade in map(json.loads, live) if trade["type"] == "trade"]
    first, last = ids[5], ids[-1]
    fills = exchange.fills(SYMBOL)
    times = [fill.ts for fill in fills if first <= fill.trade_id <= last]
    span = ("--since", min(times), "--until", max(times) + 1)
    sources = {"live": live, "rest": normalized(env, run(env, "history", SYMBOL, *span, "-q").stdout)}
    for generation, make in GENERATIONS.items():
        folder = tmp_path / generation
        daily(folder, SYMBOL, fills, make, packed=generation != "chinese")
        sources[generation] = normalized(env, run(env, "history", SYMBOL, "--files", folder, *span).stdout)
    wanted = facts(live, first, last)
    assert len(wanted) == last - first + 1 > 400
    bars = candles(env, live, first, last)
    assert len(bars) > 4 and any(json.loads(bar)["complete"] for bar in bars)
    for source, lines in sources.items():
        assert facts(lines, first, last) == wanted, source
        assert candles(env, lines, first, last) == bars, source
        early = next(found["trade_id"] for line in lines if (found := json.loads(line))["type"] == "trade")
        assert source == "live" or early == min(f.trade_id for f in fills if f.ts >= min(times)) - 1, source


def test_damaged_files_are_told_and_the_exit_status_remembers(exchange, env, tmp_path):
    """A damaged row is named by file and row and passed over; the status is 65."""
    fills = exchange.fills(SYMBOL)[:100]
    data = modern(SYMBOL, fills).replace(b",sell,", b",s\0ll,", 1)
    path = write(tmp_path, name(SYMBOL, fills[0].ts), data, packed=False)
    done = run(env, "history", SYMBOL, "--files", path, code=65)
    assert len(done.stdout.splitlines()) == 100  # the instrument and 99 fills
    assert done.stderr.startswith(b"okx history: ") and f"{path}: row ".encode() in done.stderr


def test_aggregates_are_stored_beside_the_tape(exchange, env, tmp_path, database):
    """The whole pipe: merged trades of a file reach `merged_trades`, never `raw_trades` nor the ledger."""
    fills = exchange.fills(SYMBOL)[:200]
    path = write(tmp_path, name(SYMBOL, fills[0].ts, "aggtrades"), modern(SYMBOL, fills))
    raw = run(env, "history", SYMBOL, "--files", path, "-q").stdout
    bars = run(env, "candles", "-q", "--tf", "1s", "--pass", data=b"\n".join(normalized(env, raw)))
    run(env | {"OKX_DSN": database}, "store", "-q", data=bars.stdout)
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT count(*) FROM merged_trades").fetchone() == (200,)
        assert connection.execute("SELECT count(*) FROM raw_trades").fetchone() == (0,)
        assert connection.execute("SELECT count(*) FROM trade_ledger WHERE covered <> '{}'").fetchone() == (0,)
        assert connection.execute("SELECT count(*) > 0, bool_or(complete) FROM market_data").fetchone() == (True, False)


@pytest.fixture
def files_url(tmp_path):
    """A web server over a folder; yields its base and the folder."""
    folder = tmp_path / "cdn"
    folder.mkdir()
    handler = partial(type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None}), directory=folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/base", folder / "base"
    server.shutdown()
    server.server_close()
    thread.join()


def test_download_then_read(exchange, env, tmp_path, files_url):
    """--download fetches the files of the span into the folder and reads them; without any it says so (69)."""
    base, root = files_url
    day = 86_400_000
    old = [fill._replace(ts=fill.ts - 3 * day) for fill in exchange.fills(SYMBOL)[:300]]
    stem = name(SYMBOL, old[0].ts)
    date = stem[-10:].replace("-", "")
    write(root / "trades" / "daily" / date, stem, newest(SYMBOL, [f for f in old if name(SYMBOL, f.ts) == stem]))
    span = ("--since", old[0].ts, "--until", old[-1].ts + 1)
    keep = tmp_path / "keep"
    command = ("history", SYMBOL, "--download", "--files", keep, "--files-url", base, *span, "-q")
    found = run(env, *command).stdout
    assert found.count(b'"origin":"file"') == sum(name(SYMBOL, f.ts) == stem for f in old)
    assert [path.name for path in keep.iterdir()] == [f"{stem}.zip"]
    run(env | {"OKX_FILES_URL": base}, "history", SYMBOL, "--download", *span, "-q")
    place = base.removeprefix("http://").replace(":", "_").replace("/", "_")
    assert (tmp_path / ".cache" / "okx" / "files" / place / f"{stem}.zip").exists()
    done = run(env, "history", "ETH-USDT", "--download", "--files", keep, "--files-url", base, *span, code=69)
    assert b"has no files of ETH-USDT" in done.stderr and done.stdout == b""
    assert b"--since" in run(env, "history", SYMBOL, "--download", code=2).stderr
    some = keep / f"{stem}.zip"
    assert b"folder" in run(env, "history", SYMBOL, "--download", "--files", some, *span, code=2).stderr


def test_backfill_takes_files(exchange, env, tmp_path, database):
    """`okx backfill --files` stores what files hold, candles included, and asks REST for what they lack."""
    exchange.stop_market()
    fills = exchange.fills(SYMBOL)
    count = len(fills) // 3
    daily(tmp_path / "files", SYMBOL, fills[:count])
    own = env | {"OKX_DSN": database}
    run(own, "db", "migrate")
    config = tmp_path / "okx.json"
    config.write_text(json.dumps({"symbols": [SYMBOL], "timeframes": ["1s", "5s"]}))
    until = fills[count + 250].ts
    command = ("backfill", "--config", config, "--since", fills[0].ts, "--until", until, "--files", tmp_path / "files")
    run(own, *command)
    inside = [fill for fill in fills if fill.ts < until]
    with psycopg.connect(database) as connection:
        stored = connection.execute("SELECT trade_id, price, size, origin FROM raw_trades ORDER BY 1").fetchall()
        assert len(inside) > count and [row[0] for row in stored][: len(inside)] == [fill.trade_id for fill in inside]
        assert [row[3] for row in stored].count("file") == count
        bars, open_ends = connection.execute(
            "SELECT count(*), count(*) FILTER (WHERE NOT complete) FROM market_data"
        ).fetchone()
        assert bars > 20 and open_ends < 5
