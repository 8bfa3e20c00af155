"""`okx db quarantine`: what could not be stored is shown, and taken back when it can be stored."""

import json
import os
import subprocess
import sys

import pytest
from storage_samples import T0, book, rows, store, stored_ids, trade

from okxcli.core.codec import decode, encode
from okxcli.errors import InvalidLine
from okxcli.storage.database import open_database
from okxcli.storage.upkeep.quarantine import Choice, retry
from okxcli.storage.write.writer import Writer

PUSH = (
    '{"arg":{"channel":"trades-all","instId":"BTC-USDT"},"data":[{"instId":"BTC-USDT","tradeId":"%d","px":"102537.9",'
    '"sz":"0.00013669","side":"sell","source":"0","ts":"%d"}],"received":%d}'
)
BEHIND = 7_200_000


@pytest.fixture
def okx(database, tmp_path):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("OKX_", "PG", "XDG_", "PYTHON"))}

    def run(*arguments, data=None):
        return subprocess.run(
            [sys.executable, "-m", "okxcli", *arguments], env=clean | {"OKX_DSN": database, "HOME": str(tmp_path)},
            input=data, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip

    return run


def refused(database, *pairs):
    with open_database(database, create=True) as opened:
        writer = Writer(opened.connect)
        for raw, reason in pairs:
            writer.refuse(raw, reason)
        writer.flush()
        writer.close()


def left(database):
    return [row[0] for row in rows(database, "SELECT reason FROM quarantine ORDER BY id")]


def test_what_a_clock_behind_has_refused_is_taken_back(okx, database):
    """Lines of ours and raw ones, stamped two hours too early; what cannot be stored stays, with its reason."""
    early = [encode(trade(n, received=T0 + n - BEHIND)).decode() for n in range(1, 1_201)]
    wild = encode(trade(2_000, timestamp=4_000_000_000_000, received=T0)).decode()
    done = okx("store", "-q", data="\n".join([*early, wild, "no json"]))
    assert done.returncode == 65 and stored_ids(database) == []
    refused(
        database,
        *(((PUSH % (n, T0 + n, T0 + n - BEHIND)).encode(), "h ahead of received") for n in range(1_201, 1_301)),
        (encode(book(T0, received=T0 - BEHIND)), "h ahead of received"),
    )
    store(database, [trade(7)])  # it came again, from elsewhere
    done = okx("db", "quarantine", "--retry", "--symbol", "BTC-USDT", "--lines")
    counts = json.loads(done.stdout)
    assert done.returncode == 1
    assert (counts["tried"], counts["kept"], counts["raw_trades"]) == (1_302, 1, 1_299)
    assert (counts["duplicates"], counts["order_books"], counts["quarantined"]) == (1, 1, 0)
    assert stored_ids(database) == list(range(1, 1_301))
    assert rows(database, "SELECT count(*) FROM raw_trades WHERE received IS NOT NULL") == [(1,)]
    assert [reason.split()[-1] for reason in left(database)] == ["received", "4)"]
    done = okx("db", "quarantine", "--lines", "--reason", "ahead of")
    (shown,) = map(json.loads, done.stdout.splitlines())
    assert shown["line"] == wild and shown["symbol"] == "BTC-USDT"
    before = stored_ids(database)
    assert okx("db", "quarantine", "--retry").returncode == 1
    assert stored_ids(database) == before and len(left(database)) == 2


def test_a_retry_that_was_cut_short_is_taken_up(database):
    """Stored, and not yet taken out: the next one finds duplicates, and takes them out. A line in part stays."""
    lines = [encode(trade(n)) for n in range(1, 4)]
    refused(database, *((line, "a bug of okx: it was one") for line in lines), (b"two", "in part"))
    store(database, [trade(1), trade(2)])

    def read(raw):
        if raw == b"two":
            return [trade(8), trade(9, price="0.0000001")]
        return [decode(raw)]

    store(database, [trade(9)])
    with open_database(database, create=True) as opened:
        counts = retry(opened.connect, Choice(), read)
        assert {name: count for name, count in counts.items() if count} == {
            "tried": 4, "kept": 1, "raw_trades": 2, "duplicates": 2, "quarantined": 1,
        }  # fmt: skip
        assert left(database) == ["in part", "id reused"]
        counts = retry(opened.connect, Choice(reason="id reused"), read)
        assert (counts["tried"], counts["kept"]) == (1, 1)

        def fail(raw):
            raise InvalidLine("no")

        assert retry(opened.connect, Choice(symbol="no such"), fail)["tried"] == 0
        assert retry(opened.connect, Choice(), fail)["kept"] == 2
    assert stored_ids(database) == [1, 2, 3, 8, 9]
