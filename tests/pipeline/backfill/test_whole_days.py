"""Whole days from bulk files, chosen by backfill itself: the same tape as from REST, which is asked for the rest."""

import io
import json
import os
import subprocess
import sys
import threading
import zipfile
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import past_market
import psycopg
import pytest
from bulk_files import modern, name, write

from okxcli.exchanges.okx.bulk_files.download import default_folder
from okxcli.exchanges.okx.okx_exchange import EXCHANGE as OKX
from okxcli.exchanges.okx.rest.history import TradeHistory
from okxcli.exchanges.okx.sites import FILES_URL
from okxcli.local.exchange import LocalExchange
from okxcli.local.network.engine import Options
from okxcli.pipeline.backfill import Backfill, BulkFiles, Tools
from okxcli.pipeline.backfill.fetch_plan import Days
from okxcli.pipeline.backfill.whole_days import WORTH_PAGES
from okxcli.runtime.clock import iso, now_ms
from okxcli.storage.database import open_database
from okxcli.storage.ledger import recount
from okxcli.storage.read import gaps

NOWHERE = "http://127.0.0.1:9"
PUBLISHED_MS, HORIZON_MS = OKX.files.published_ms, OKX.horizon_ms
SYMBOL = "BTC-USDT"
KEY = ("okx", SYMBOL)
DAY = 86_400_000
#: Midnight of 2026-05-18 in UTC+8; the past ends fourteen hours later, and five days are over then.
MIDNIGHT = 1_779_033_600_000
END_MS = MIDNIGHT + 14 * 3_600_000
FRAMES = ("1m", "1h", "1d", "1d+8")


class Server(ThreadingHTTPServer):
    """A place of bulk files on loopback: `files` by name, and the names that were `asked` for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = {}
        self.asked = []
        self.base = f"http://127.0.0.1:{self.server_port}/records"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        folder, name = self.path.rsplit("/", 1)
        day = name.removesuffix(".zip").partition("-trades-")[2]
        kind = "daily" if day.count("-") == 2 else "monthly"
        self.server.asked.append(name)
        body = self.server.files.get(name)
        if body is None or folder != f"/records/trades/{kind}/{day.replace('-', '')}":
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    found = Server()
    thread = threading.Thread(target=found.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield found
    found.shutdown()
    found.server_close()
    thread.join()


@pytest.fixture(scope="module")
def exchange():
    """Four days of trading, some 4,000 fills a day, over by now."""
    with LocalExchange(
        [SYMBOL], rate=0.05, history_s=4 * 86_400, start_ms=END_MS, seed=7, options=Options(limits=0)
    ) as found:
        found.stop_market()
        yield found


def packed(exchange, since=0, until=1 << 62):
    """Return the bulk files of the exchange's fills, by name."""
    days = {}
    for fill in exchange.fills(SYMBOL):
        if since <= fill.ts < until:
            days.setdefault(name(SYMBOL, fill.ts), []).append(fill)
    return {f"{stem}.zip": zipped(stem, modern(SYMBOL, fills)) for stem, fills in days.items()}


def zipped(stem, data):
    found = io.BytesIO()
    with zipfile.ZipFile(found, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{stem}.csv", data)
    return found.getvalue()


class Place(past_market.Place):
    """The exchange, a database, and a backfill whose clock is some days later."""

    def __init__(self, exchange, dsn, folder):
        super().__init__(exchange, dsn)
        self.folder = folder

    def backfill(self, base=None, later=4 * DAY, frames=FRAMES):
        begun = now_ms()
        clock = lambda: END_MS + later + now_ms() - begun  # noqa: E731
        tools = Tools(self.database.connect, TradeHistory(self.rest), OKX, clock=clock, spread_ms=200)
        files = None
        if base is not None:
            files = BulkFiles(self.database, base, self.folder, frames, clock=clock, sleep=lambda _: None, source=OKX)
        return Backfill(tools, frames, files=files)

    def run(self, base=None, since=None, until=None, **options):
        self.turns.asked.clear()
        return super().run(since, until, base=base, **options)

    @property
    def asked(self):
        return sum(path.endswith("history-trades") for path in self.turns.asked)

    def stored(self):
        """Return the rows but for where they came from, the ledger, and the candles but for their revisions."""
        queries = (
            "SELECT trade_id, side, price, size, timestamp FROM raw_trades ORDER BY 1",
            "SELECT day, covered, absent, first_time, last_time FROM trade_ledger ORDER BY 1",
            "SELECT timeframe, start, timestamp, open, high, low, close, volume, base_volume, quote_volume, buy_volume,"
            " trade_count, first_trade_id, last_trade_id, complete FROM market_data ORDER BY 1, 2",
        )
        return [self.connection.execute(query).fetchall() for query in queries]

    def forget(self, since, until):
        """Delete the fills of a span from rows and ledger, and the bars that hold them."""
        moments = [since / 1000, until / 1000]
        within = "timestamp >= to_timestamp(%s) AND {} < to_timestamp(%s)"
        self.connection.execute(f"DELETE FROM raw_trades WHERE {within.format('timestamp')}", moments)
        self.connection.execute(f"DELETE FROM market_data WHERE {within.format('start')}", moments)
        recount.repair(self.connection, *KEY)


@pytest.fixture
def place(exchange, database, tmp_path):
    with closing(Place(exchange, database, tmp_path / "files")) as found:
        yield found


@pytest.fixture(scope="module")
def whole(exchange, embedded_dsn, tmp_path_factory):
    """What is stored of the whole past when all of it comes from REST, and how many requests that takes."""
    with psycopg.connect(embedded_dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS okx_test_backfill_files")
        connection.execute("CREATE DATABASE okx_test_backfill_files")
    dsn = psycopg.conninfo.make_conninfo(embedded_dsn, dbname="okx_test_backfill_files")
    with closing(Place(exchange, dsn, tmp_path_factory.mktemp("none"))) as found:
        (row,) = found.run(since=found.fills[0].ts)
        assert (row["left"], row["files"]) == (0, 0)
        result = found.stored(), found.asked
    with psycopg.connect(embedded_dsn, autocommit=True) as connection:
        connection.execute("DROP DATABASE okx_test_backfill_files WITH (FORCE)")
    return result


def test_whole_days_come_from_files(place, server, whole):
    """A tape from its beginning: the three whole days from files, the hours before and after from REST; the same rows,
    ledger and candles as from REST alone, with few requests; then there is nothing to do."""
    server.files = packed(place.exchange)
    first = place.fills[0].ts
    with closing(place.backfill(server.base)) as work:
        plan = work.plan(SYMBOL, first)
    (days,) = plan.days
    assert days.number == 3 and days.until_ms == MIDNIGHT
    inside = [fill for fill in place.fills if days.since_ms <= fill.ts < days.until_ms]
    assert abs(days.fills - len(inside)) < 600
    (row,) = place.run(server.base, first)
    assert row["files"] == len(inside)
    assert row["fetched"] == row["missing"] - row["files"] == len(place.fills) - len(inside)
    assert (row["left"], row["damaged"]) == (0, 0)
    assert sorted(server.asked) == sorted(f"{name(SYMBOL, MIDNIGHT - n * DAY)}.zip" for n in (1, 2, 3))
    stored, requests = whole
    assert place.stored() == stored
    assert place.asked <= -(-row["fetched"] // 100) + 12 < requests / 2
    server.asked.clear()
    assert place.run(server.base, first) == []
    assert server.asked == []


def test_a_hole_in_the_tape(place, server, whole):
    """Of a hole of two and a half days the whole ones come from files; the rest of the tape is left as it is."""
    server.files = packed(place.exchange)
    place.run(since=place.fills[0].ts)
    place.forget(MIDNIGHT - 3 * DAY + 3_600_000, MIDNIGHT - DAY // 2)
    assert gaps.ranges(place.connection, *KEY)[1].kind == "missing"
    (row,) = place.run(server.base)
    assert server.asked == [f"{name(SYMBOL, MIDNIGHT - 2 * DAY)}.zip"]
    assert row["files"] > 3_000 and row["fetched"] == row["missing"] - row["files"]
    assert place.stored() == whole[0]


@pytest.mark.parametrize("fault", ["missing", "damaged", "page", "empty", "away"])
def test_rest_is_asked_where_there_is_no_file(place, server, whole, fault, caplog):
    """A file that OKX has not, that is cut, that is a page of HTML or without rows, or no server: told in one line at
    most, and the day comes from REST."""
    server.files = packed(place.exchange)
    name_of = f"{name(SYMBOL, MIDNIGHT - 2 * DAY)}.zip"
    stem = name_of.removesuffix(".zip")
    if fault == "missing":
        del server.files[name_of]
    elif fault == "damaged":
        server.files[name_of] = server.files[name_of][:-2000]
    elif fault == "page":
        server.files[name_of] = b"<html>sorry</html>"
    elif fault == "empty":
        server.files[name_of] = zipped(stem, modern(SYMBOL, []))
    base = server.base if fault != "away" else "http://127.0.0.1:9/records"
    (row,) = place.run(base, place.fills[0].ts)
    assert place.stored() == whole[0]
    assert row["left"] == 0
    days = {"away": 0, "empty": 2}.get(fault, 2)
    assert abs(row["files"] - days * 4_320) < 900
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    if fault == "empty":
        assert told == []
    else:
        (line,) = told
        assert "asking REST instead" in line and SYMBOL in line
        assert fault == "away" or name_of in line


def test_what_is_published_and_worth_it(place):
    """Days are chosen that lie whole in the span, are two days over, and lack as many fills as a file is worth."""
    least = WORTH_PAGES * 100
    files = BulkFiles(
        place.database,
        NOWHERE,
        place.folder,
        FRAMES,
        clock=lambda: MIDNIGHT + PUBLISHED_MS,
        source=OKX,
    )
    two = (MIDNIGHT - 2 * DAY, MIDNIGHT)
    assert files.choose([(2 * least, *two)]) == [Days(*two, 2 * least)]
    assert files.choose([(2 * least - 1, *two)]) == []
    assert files.choose([(9 * least, MIDNIGHT - 2 * DAY, MIDNIGHT + DAY // 2)]) == [
        Days(*two, round(9 * least * 2 / 2.5))
    ]
    assert files.choose([(9 * least, MIDNIGHT - 2 * DAY + 1, MIDNIGHT - 1)]) == []
    assert files.choose([(9 * least, MIDNIGHT, MIDNIGHT + 9 * DAY)]) == []
    late = BulkFiles(
        place.database,
        NOWHERE,
        place.folder,
        FRAMES,
        clock=lambda: two[1] + PUBLISHED_MS - 1,
        source=OKX,
    )
    assert [days.number for days in late.choose([(9 * least, *two)])] == [1]


def test_what_rest_has_no_more(place):
    """Days beyond REST's three months come from files however little was traded; the younger ones by their worth."""
    now = MIDNIGHT + PUBLISHED_MS
    files = BulkFiles(place.database, NOWHERE, place.folder, FRAMES, clock=lambda: now, source=OKX)
    year = (now - 365 * DAY, now)
    (old,) = files.choose([(85 * 10, *year)])
    assert old.since_ms == now - 365 * DAY and old.until_ms == now - HORIZON_MS
    (every,) = files.choose([(85 * 2_000, *year)])
    assert (every.since_ms, every.until_ms) == (old.since_ms, MIDNIGHT)
    assert files.choose([(10, now - 90 * DAY, now - 88 * DAY)]) == [Days(now - 90 * DAY, now - 88 * DAY, 10)]
    assert files.choose([(10, now - 80 * DAY, now - 78 * DAY)]) == []


def test_a_tape_is_begun_before_what_rest_shows(place, server):
    """Days before the first fill that are older than REST goes come from files, though it knows of no id there."""
    server.files = packed(place.exchange)
    begin = MIDNIGHT - 2 * DAY
    place.run(since=place.fills[0].ts)
    place.forget(0, begin)
    place.connection.execute("TRUNCATE doubts")
    with closing(place.backfill(server.base, later=90 * DAY)) as work:
        lowest = min(fill.trade_id for fill in place.fills if fill.ts >= begin)
        work.tools.history.first_id_at = lambda symbol, since: lowest
        (row,) = work.run([SYMBOL], place.fills[0].ts)
    day = [fill for fill in place.fills if begin - DAY <= fill.ts < begin]
    assert (row["missing"], row["files"], row["left"]) == (0, len(day), 0)
    assert server.asked == [f"{name(SYMBOL, MIDNIGHT - 3 * DAY)}.zip"]


def test_files_of_another_place_have_a_folder_of_their_own(monkeypatch):
    """The same names with other contents must not meet in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert default_folder() == default_folder(FILES_URL + "/") == Path("/c/okx/files")
    assert default_folder("http://u:p@127.0.0.1:8000/a/b") == Path("/c/okx/files/127.0.0.1_8000_a_b")


def test_candles_alone_come_from_files_too(place, server, whole):
    """Where no fill is stored the candles of whole days are made of files, of the hours beside them by REST."""
    place.run(since=place.fills[0].ts, frames=("1m", "1h"))
    wanted = place.stored()[2]
    place.connection.execute("TRUNCATE raw_trades, trade_ledger")
    hole = MIDNIGHT - 2 * DAY - 5_000_000, MIDNIGHT + 7_000_000
    place.connection.execute(
        "DELETE FROM market_data WHERE start >= to_timestamp(%s) AND start < to_timestamp(%s)",
        [moment / 1000 for moment in hole],
    )
    server.files = packed(place.exchange)
    (row,) = place.run(server.base)
    assert sorted(server.asked) == [f"{name(SYMBOL, MIDNIGHT - n * DAY)}.zip" for n in (2, 1)]
    assert row["files"] > 7_000 and row["missing"] == row["files"] + row["fetched"] and row["left"] == 0
    assert place.stored() == [[], [], wanted]
    assert place.run(server.base) == []


# ---- as a process


@pytest.fixture
def recent(server):
    """Two days of trading that ended a little over two days ago, by the wall clock, and their files."""
    midnight = (now_ms() + DAY // 3) // DAY * DAY - DAY // 3
    end = midnight - 2 * DAY + 600_000
    with LocalExchange(
        [SYMBOL], rate=0.03, history_s=86_400 + 1_200, start_ms=end, seed=7, options=Options(limits=0)
    ) as found:
        found.stop_market()
        server.files = packed(found)
        yield found


@pytest.fixture
def run(tmp_path, database, recent, server):
    """Run `okx ...` on the exchange and the files; return status, rows, stderr."""
    (tmp_path / "okx.json").write_text(json.dumps({"symbols": [SYMBOL], "timeframes": ["1m"]}))
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_"))}
    env = clean | {
        "OKX_DSN": database, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"), "OKX_CONFIG": str(tmp_path / "okx.json"),
        "OKX_WS_URL": recent.ws_url, "OKX_REST_URL": recent.rest_url,
    }  # fmt: skip
    with open_database(database, create=True, origin="local"):
        pass

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "okxcli", *map(str, arguments)],
            env=env, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, [json.loads(line) for line in done.stdout.splitlines()], done.stderr

    return run


def test_of_a_simulated_exchange_only_where_it_is_said(run, recent, server, database, tmp_path):
    """A dry run tells what files would bring; --no-download, and a local exchange without a place, ask for none; a run
    stores the day and keeps the file."""
    since = ("--since", iso(recent.fills(SYMBOL)[0].ts), "--dry-run")
    (plain,) = run("backfill", *since)[1]
    assert (plain["files"], plain["days"]) == (0, 0)
    place = ("--files-url", server.base)
    (off,) = run("backfill", *since, *place, "--no-download")[1]
    assert off == plain
    (row,) = run("backfill", *since, *place)[1]
    assert row["days"] == 1 and 2_000 < row["files"] < row["missing"] == plain["missing"]
    assert row["requests"] < plain["requests"] / 5 and row["seconds"] < plain["seconds"]
    assert server.asked == []
    status, (done,), err = run("backfill", *since[:-1], *place)
    assert (status, err, done["left"]) == (0, "", 0)
    assert done["files"] + done["fetched"] == done["missing"]
    assert len(server.asked) == 1
    assert [path.name for path in (tmp_path / "cache").rglob("*.zip")] == server.asked
    with psycopg.connect(database) as connection:
        ids = [row[0] for row in connection.execute("SELECT trade_id FROM raw_trades ORDER BY 1")]
    assert ids == [fill.trade_id for fill in recent.fills(SYMBOL)]


def test_a_cache_that_cannot_be_written(run, recent, server, database, tmp_path):
    """REST is asked for all of it then, and a warning says why."""
    (tmp_path / "cache").write_text("no folder")
    since = ("--since", iso(recent.fills(SYMBOL)[0].ts))
    status, (done,), err = run("backfill", *since, "--files-url", server.base)
    assert (status, done["left"], done["files"], server.asked) == (0, 0, 0, [])
    assert f"asking REST instead of bulk files: cannot make the folder {tmp_path}/cache/okx/files" in err
    assert "Not a directory" in err


def test_damaged_rows_of_files(run, recent, tmp_path):
    """Told by file and row, counted in the line of the symbol, and the exit status is 65; REST has what they lack."""
    fills = recent.fills(SYMBOL)
    days = {}
    for fill in fills:
        days.setdefault(name(SYMBOL, fill.ts), []).append(fill)
    stem, most = max(days.items(), key=lambda day: len(day[1]))
    data = modern(SYMBOL, most)
    for at in (10, 20):
        data = data.replace(f",{most[at].trade_id},".encode(), b",x,", 1)
    path = write(tmp_path / "bulk", stem, data)
    status, (row,), err = run("backfill", "--files", path.parent)
    assert status == 65
    assert err.count(f"{path.name}: row ") == 2 and "row 12" in err and "row 22" in err
    assert (row["damaged"], row["left"], row["files"]) == (2, 0, len(most) - 2)
    assert row["fetched"] >= 2 and row["missing"] == row["fetched"]
    status, rows, err = run("backfill")
    assert (status, rows, err) == (0, [], "")


def test_a_file_that_cannot_be_read(run, recent, tmp_path):
    """Is told and left out, and the exit status is 65; the others are stored."""
    fills = recent.fills(SYMBOL)
    stem = name(SYMBOL, fills[5_00].ts)
    folder = tmp_path / "bulk"
    write(folder, stem, modern(SYMBOL, [fill for fill in fills if name(SYMBOL, fill.ts) == stem]))
    (folder / f"{name(SYMBOL, fills[500].ts - DAY)}.zip").write_bytes(b"PK no zip")
    status, (row,), err = run("backfill", "--files", folder)
    assert status == 65
    assert "left out: " in err and "PK" not in err
    assert row["files"] > 1_000 and row["left"] == 0
