"""Pushes of whole books as lines: what is taken, and that each bad row is refused by itself."""

import json

import pytest

from okxcli.core.codec import encode
from okxcli.errors import InvalidLine
from okxcli.exchanges.interface import PartlyInvalid
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

SNAPSHOT = {
    "asks": [["1.783", "411.15719291", "0", "3"], ["1.784", "5842.06737585", "0", "13"]],
    "bids": [["1.782", "2173.46443964", "0", "8"], ["1.781", "14620.34390321", "0", "30"]],
    "ts": "1765201257005", "checksum": -1197821412, "seqId": 9690930615, "prevSeqId": -1,
}  # fmt: skip
UPDATE = {
    "asks": [], "bids": [["1.781", "14694.07509503", "0", "31"], ["1.780", "0", "0", "0"]],
    "ts": "1765201257205", "checksum": 0, "seqId": 9690930617, "prevSeqId": 9690930615,
}  # fmt: skip


def push(*rows, action="update", channel="books", **more):
    return json.dumps(
        {"arg": {"channel": channel, "instId": "NEAR-USDT"}, "action": action, "data": rows, **more},
        separators=(",", ":"),
    ).encode()


@pytest.mark.parametrize("channel", ["books", "books50-l2-tbt", "books-l2-tbt"])
def test_a_snapshot_and_an_update(channel):
    """As recorded in December 2025, on each channel of whole books; the checksum is not looked at."""
    reader = Normalizer()
    (first,) = reader.feed(push(SNAPSHOT, action="snapshot", channel=channel))
    (second,) = reader.feed(push(UPDATE, channel=channel, received=1765201257300))
    assert encode(first).decode() == (
        '{"type":"book_update","exchange":"okx","symbol":"NEAR-USDT","timestamp":1765201257005,"received":null,'
        '"action":"snapshot","seq_id":9690930615,"prev_seq_id":-1,"bids":[["1.782","2173.46443964"],'
        '["1.781","14620.34390321"]],"asks":[["1.783","411.15719291"],["1.784","5842.06737585"]],'
        f'"origin":"{channel}"}}'
    )
    assert encode(second).decode() == (
        '{"type":"book_update","exchange":"okx","symbol":"NEAR-USDT","timestamp":1765201257205,'
        '"received":1765201257300,"action":"update","seq_id":9690930617,"prev_seq_id":9690930615,'
        f'"bids":[["1.781","14694.07509503"],["1.78","0"]],"asks":[],"origin":"{channel}"}}'
    )
    assert reader.others == {}


def test_a_snapshot_that_was_fetched_begins_no_chain():
    """REST has no number before."""
    row = {key: value for key, value in SNAPSHOT.items() if key != "prevSeqId"}
    (found,) = Normalizer().feed(push(row, action="snapshot", origin="rest"))
    assert (found.seq_id, found.prev_seq_id, found.origin) == (9690930615, None, "books")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"seqId": None}, "an update without seq_id"),
        ({"prevSeqId": None}, "an update without prev_seq_id"),
        ({"seqId": -5}, "seq_id out of range: -5"),
        ({"seqId": 2**63}, "out of range"),
        ({"seqId": "7"}, "Expected int | null, got str"),
        ({"ts": ""}, "ts is not a whole number"),
        ({"ts": "-1"}, "timestamp out of range"),
        ({"ts": "9765201257205"}, "timestamp out of range"),
        ({"ts": "1865201257205"}, "h ahead of"),
        ({"bids": None}, "Expected array, got null"),
        ({"bids": [["1.781", "", "0", "0"]]}, "Invalid decimal string"),
        ({"bids": [["1.781", "-4", "0", "0"]]}, "book level out of range"),
        ({"bids": [["-1.781", "4", "0", "0"]]}, "book level out of range"),
        ({"bids": [["1.781", "4e99", "0", "0"]]}, "number out of range"),
        ({"bids": [["1.781", "+4", "0", "0"]]}, "not a number"),
        ({"bids": [["1.781"]]}, "length"),
        ({"instId": "BTC-USDT"}, "a row of BTC-USDT in a push of NEAR-USDT"),
    ],
)
def test_a_bad_row_is_refused_and_its_neighbour_is_not(change, reason):
    """Missing, null, negative, huge, from the future."""
    bad = UPDATE | change
    with pytest.raises(InvalidLine) as error:
        Normalizer().feed(push(bad))
    assert reason in str(error.value)
    with pytest.raises(PartlyInvalid) as partly:
        Normalizer().feed(push(bad, UPDATE))
    assert [line.seq_id for line in partly.value.lines] == [UPDATE["seqId"]]


@pytest.mark.parametrize(
    ("action", "row", "reason"),
    [
        ("partial", SNAPSHOT, "action is neither snapshot nor update: 'partial'"),
        ("snapshot", UPDATE | {"prevSeqId": -1}, None),
        ("snapshot", UPDATE, "a snapshot that follows on another message"),
        ("snapshot", SNAPSHOT | {"asks": SNAPSHOT["asks"][::-1]}, "asks do not ascend"),
        ("snapshot", SNAPSHOT | {"bids": SNAPSHOT["bids"][:1] * 2}, "bids do not descend"),
    ],
)
def test_a_snapshot_is_sorted_and_an_action_known(action, row, reason):
    """The levels of an update are in no order."""
    if reason is None:
        assert Normalizer().feed(push(row, action=action))
        return
    with pytest.raises(InvalidLine, match=reason):
        Normalizer().feed(push(row, action=action))


def test_a_push_without_an_action_is_none():
    """Of these channels each has one."""
    raw = json.dumps({"arg": {"channel": "books", "instId": "NEAR-USDT"}, "data": [UPDATE]}).encode()
    with pytest.raises(InvalidLine, match="action is neither"):
        Normalizer().feed(raw)
