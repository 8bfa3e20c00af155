"""Fetching bulk files: which ones a span needs, resuming, what comes instead of a zip; from a server on loopback."""

import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from okxcli.errors import ExchangeUnavailable, TryLater, UsageError
from okxcli.exchanges.okx.bulk_files import download
from okxcli.exchanges.okx.bulk_files.download import Downloader, periods

HOUR = 3_600_000
DAY = 24 * HOUR
#: Midnight of 2026-05-18 in UTC+8.
MIDNIGHT = 1_779_033_600_000
LATER = MIDNIGHT + 60 * DAY
PLACE = "/records/trades/daily/20260518/BTC-USDT-trades-2026-05-18.zip"


def zipped(rows=200):
    """Return a zip that does not shrink much, so that it can be cut."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("BTC-USDT-trades-2026-05-18.csv", "".join(f"BTC-USDT,{n},buy,1,1,1\n" for n in range(rows)))
    return data.getvalue()


@pytest.fixture
def server():
    """A web server with `files` (path to body), that notes `asked`, and breaks off where `cut` says so."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            own = self.server
            own.asked.append((self.path, self.headers.get("Range")))
            status = own.statuses.pop(0) if own.statuses else 200
            body = own.files.get(self.path)
            if status != 200 or body is None:
                page = b"<html>no</html>"
                self.send_response(status if status != 200 else 404)
                self.send_header("Content-Length", str(len(page)))
                self.end_headers()
                self.wfile.write(page)
                return
            begin = int(self.headers["Range"][6:-1]) if self.headers.get("Range") and own.ranges else 0
            if begin and begin >= len(body):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(body)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if begin else 200)
            if begin:
                self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
            self.send_header("Content-Length", str(len(body) - begin))
            self.end_headers()
            cut = own.cuts.pop(0) if own.cuts else None
            self.wfile.write(body[begin:cut])
            if cut is not None:
                self.close_connection = True

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.files, httpd.asked, httpd.cuts, httpd.statuses, httpd.ranges = {}, [], [], [], True
    httpd.base = f"http://127.0.0.1:{httpd.server_port}/records"
    thread = threading.Thread(target=httpd.serve_forever, args=[0.02], daemon=True)
    thread.start()
    yield httpd
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def fetch(server, folder, since=MIDNIGHT, until=MIDNIGHT + DAY, **more):
    loader = Downloader(server.base, folder, sleep=lambda _: None)
    return loader.fetch("BTC-USDT", since, until, LATER, **more), loader


def texts(since, until, now=LATER):
    return [[period.text for period in choice] for choice in periods(since, until, now)]


def test_days_are_those_of_utc_8():
    """A UTC day lies in two files; a moment before 16:00 UTC still in the first; today's file is not there yet."""
    utc = MIDNIGHT + 16 * HOUR - DAY  # 2026-05-17 in UTC
    assert texts(utc, utc + DAY) == [["2026-05-17"], ["2026-05-18"]]
    assert texts(MIDNIGHT, MIDNIGHT + 1) == [["2026-05-18"]]
    assert texts(MIDNIGHT - 1, MIDNIGHT) == [["2026-05-17"]]
    assert texts(MIDNIGHT, LATER, now=MIDNIGHT + 2 * DAY + HOUR) == [["2026-05-18"], ["2026-05-19"]]


def test_whole_months_come_as_one_file():
    """A month inside of the span is asked for first, its days are the second choice; parts of months come by day."""
    april = MIDNIGHT - 47 * DAY  # 2026-04-01
    found = texts(april - DAY, MIDNIGHT - 16 * DAY)
    assert [choice[0] for choice in found] == ["2026-03-31", "2026-04", "2026-05-01"]
    assert found[1][1:] == [f"2026-04-{day:02d}" for day in range(1, 31)]
    assert texts(april, MIDNIGHT - 18 * DAY)[0] == ["2026-04-01"]


@pytest.mark.parametrize(("since", "until"), [(5, 5), (6, 5), (0, 4_200 * DAY)])
def test_odd_spans_are_refused(since, until):
    """A span that is empty, or longer than OKX exists, is a mistake."""
    with pytest.raises(UsageError):
        periods(since, until, LATER)


def test_a_file_is_fetched_once(server, tmp_path):
    """The zip is stored under its name, and not asked for again."""
    server.files[PLACE] = zipped()
    (path,), loader = fetch(server, tmp_path / "new")
    assert path.read_bytes() == server.files[PLACE] and loader.missing == []
    assert fetch(server, tmp_path / "new")[0] == [path]
    assert server.asked == [(PLACE, None)] and [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_transfer_goes_on(server, tmp_path, ranges):
    """Cut off twice, it asks for the rest; a server that knows no ranges starts anew. The file is whole in the end."""
    server.files[PLACE], server.cuts, server.ranges = zipped(), [1_000, 2_500], ranges
    (path,), _ = fetch(server, tmp_path)
    assert path.read_bytes() == server.files[PLACE]
    assert [asked for _, asked in server.asked] == [None, "bytes=1000-", "bytes=2500-"]


def test_what_came_is_kept_for_the_next_time(server, tmp_path):
    """When every attempt fails it says so, and the next run goes on where this one stopped."""
    server.files[PLACE], server.cuts = zipped(), [1_000] + [1_000] * 5
    with pytest.raises(ExchangeUnavailable, match="What came is kept"):
        fetch(server, tmp_path)
    assert (tmp_path / "BTC-USDT-trades-2026-05-18.zip.part").stat().st_size == 1_000
    server.cuts = []
    (path,), _ = fetch(server, tmp_path)
    assert path.read_bytes() == server.files[PLACE] and server.asked[-1][1] == "bytes=1000-"


def test_a_file_that_changed_meanwhile_is_fetched_anew(server, tmp_path):
    """Parts of two versions make no zip: its checksum tells, and it starts from the beginning."""
    part = tmp_path / "BTC-USDT-trades-2026-05-18.zip.part"
    server.files[PLACE] = zipped()
    part.write_bytes(zipped()[:500].replace(b"buy", b"bad"))
    (path,), _ = fetch(server, tmp_path)
    assert path.read_bytes() == server.files[PLACE]
    path.unlink()
    part.write_bytes(b"PK" + b"x" * 100_000)  # longer than the file is now
    (path,), _ = fetch(server, tmp_path)
    assert path.read_bytes() == server.files[PLACE] and not part.exists()


def test_a_server_that_is_not_well_is_asked_again(server, tmp_path):
    """503 and 429 pass; redirects are not followed."""
    server.files[PLACE], server.statuses = zipped(), [503, 429]
    assert len(fetch(server, tmp_path)[0]) == 1
    server.statuses = [302] * 6
    with pytest.raises(ExchangeUnavailable, match="302"):
        fetch(server, tmp_path / "other")


def test_html_instead_of_a_zip_is_told(server, tmp_path, caplog):
    """A page of HTML, with status 200 or 404, is no file: it is named as missing, nothing is left behind."""
    server.files[PLACE] = b"<!DOCTYPE html><html>gone</html>"
    found, loader = fetch(server, tmp_path, until=MIDNIGHT + 2 * DAY)
    assert found == [] and loader.missing == [f"BTC-USDT-trades-2026-05-{day}.zip" for day in (18, 19)]
    assert "a page of HTML came instead of a zip" in caplog.text and list(tmp_path.iterdir()) == []


def test_days_stand_in_for_a_month_that_is_not_there(server, tmp_path):
    """Where OKX has no file of the month, its days are fetched; only they are told when missing."""
    april = MIDNIGHT - 47 * DAY
    for day in range(1, 30):
        server.files[f"/records/trades/daily/202604{day:02d}/BTC-USDT-trades-2026-04-{day:02d}.zip"] = zipped(2)
    found, loader = fetch(server, tmp_path, april, april + 30 * DAY)
    assert len(found) == 29 and loader.missing == ["BTC-USDT-trades-2026-04-30.zip"]
    assert server.asked[0][0] == "/records/trades/monthly/202604/BTC-USDT-trades-2026-04.zip"


def test_candles_have_a_folder_of_their_own(server, tmp_path):
    """The channel decides the path; one that no file stands in for is refused."""
    place = "/records/candlesticks/daily/20260518/BTC-USDT-candlesticks-2026-05-18.zip"
    server.files[place] = zipped()
    assert fetch(server, tmp_path, channel="candle1m")[0][0].name == "BTC-USDT-candlesticks-2026-05-18.zip"
    with pytest.raises(UsageError, match="books5"):
        fetch(server, tmp_path, channel="books5")
    with pytest.raises(UsageError, match="base of files"):
        Downloader("static.okx.com", tmp_path)


def test_two_processes_do_not_write_one_file(server, tmp_path):
    """The second one is told to come again later."""
    server.files[PLACE] = zipped()
    with (
        download._held(tmp_path / "BTC-USDT-trades-2026-05-18.zip.part"),
        pytest.raises(TryLater, match="another okx"),
    ):
        fetch(server, tmp_path)


def test_it_stops_when_it_is_asked_to(server, tmp_path):
    """A signal ends a long transfer between two pieces."""
    server.files[PLACE] = zipped()
    loader = Downloader(server.base, tmp_path, sleep=lambda _: None, stop=lambda: True)
    with pytest.raises(TryLater, match="stopped"):
        loader.fetch("BTC-USDT", MIDNIGHT, MIDNIGHT + DAY, LATER)
