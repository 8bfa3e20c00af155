"""Frames cut out of what was read, and those that are websocket-client's: the same messages however bytes arrive."""

import socket
import struct
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from websocket import ABNF

from okxcli.exchanges.okx.connection.nonblocking_socket import MAX_MESSAGE, Wire, WireError, _Socket


def frame(opcode, data, fin=1, mask=False):
    """Return a frame as a server sends it; masked, as it must not."""
    size = len(data)
    if size < 126:
        length = bytes([size])
    else:
        length = b"\x7e" + struct.pack("!H", size) if size < 65_536 else b"\x7f" + struct.pack("!Q", size)
    if mask:
        return bytes([fin << 7 | opcode, length[0] | 0x80]) + length[1:] + b"\0\0\0\0" + data
    return bytes([fin << 7 | opcode]) + length + data


@pytest.fixture
def pair():
    """A connection past its handshake, and the server's end of it."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection = _Socket(skip_utf8_validation=True, enable_multithread=False)
    connection.raw = connection.sock = ours
    connection.connected = True
    with closing(ours), closing(theirs):
        yield Wire(connection), theirs


sizes = st.sampled_from([0, 1, 5, 125, 126, 127, 4000, 65_535, 65_536, 70_000])
texts = sizes.map(lambda n: (ABNF.OPCODE_TEXT, b"x" * n))
others = st.sampled_from([(ABNF.OPCODE_PING, b"p"), (ABNF.OPCODE_PONG, b""), (ABNF.OPCODE_BINARY, b"\x00\x01")])
pieces = st.lists(sizes, min_size=2, max_size=3).map(lambda some: ("pieces", [b"y" * n for n in some]))


def written(kind, data):
    """Return the bytes of a message, and what of it comes out."""
    if kind == "pieces":
        first = frame(ABNF.OPCODE_TEXT, data[0], 0)
        middle = b"".join(frame(ABNF.OPCODE_CONT, piece, 0) for piece in data[1:-1])
        return first + frame(ABNF.OPCODE_PING, b"") + middle + frame(ABNF.OPCODE_CONT, data[-1]), [b"".join(data)]
    shown = [data] if kind in (ABNF.OPCODE_TEXT, ABNF.OPCODE_BINARY) else []
    return frame(kind, data), shown


@settings(max_examples=150, deadline=None)
@given(st.lists(texts | texts | others | pieces, max_size=12), st.lists(st.integers(1, 90_000), max_size=30), st.data())
def test_any_cut_gives_the_same_messages(messages, cuts, data):
    """Text in one piece or several, of any length, with control frames between, at any limit a call."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(True)
    for end in (ours, theirs):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
    ours.setblocking(False)
    connection = _Socket(skip_utf8_validation=True, enable_multithread=False)
    connection.raw = connection.sock = ours
    connection.connected = True
    wire = Wire(connection)
    stream, expected = b"", []
    for kind, body in messages:
        raw, shown = written(kind, body)
        stream, expected = stream + raw, expected + shown
    found, steps = [], iter(cuts)
    with closing(ours), closing(theirs):
        while stream:
            step = min(next(steps, 60_000), 60_000)
            theirs.sendall(stream[:step])
            stream = stream[step:]
            limit = data.draw(st.integers(1, 9))
            while some := wire.frames(limit):
                assert len(some) <= limit
                found += some
    assert found == expected


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        (frame(ABNF.OPCODE_TEXT, b"z", mask=True), None),
        (b"\xc1\x01z", "rsv"),
        (b"\x81\x7f" + struct.pack("!Q", MAX_MESSAGE + 1), "over 16 MiB"),
        (b"\x83\x00", "opcode"),
    ],
)
def test_what_is_before_a_bad_frame_comes_out(pair, bad, told):
    """Then the connection is over, and says why; websocket-client unmasks what a server may not mask."""
    wire, theirs = pair
    theirs.sendall(frame(ABNF.OPCODE_TEXT, b"good") * 3 + bad)
    found = wire.frames(100)
    if told is None:
        assert found == [b"good"] * 3 + [b"z"]
        return
    assert found == [b"good"] * 3
    with pytest.raises(WireError, match=f"(?i){told}"):
        wire.frames(100)


def test_the_end_of_the_stream(pair):
    """What is whole comes out, half a frame does not, and the end is told."""
    wire, theirs = pair
    theirs.sendall(frame(ABNF.OPCODE_TEXT, b"whole") + frame(ABNF.OPCODE_TEXT, b"half")[:3])
    theirs.shutdown(socket.SHUT_WR)
    assert wire.frames(100) == [b"whole"]
    with pytest.raises(WireError, match="end of stream"):
        wire.frames(100)


def test_a_close_frame_behind_texts(pair):
    """Its code is told with the texts before it."""
    wire, theirs = pair
    theirs.sendall(frame(ABNF.OPCODE_TEXT, b"last") + frame(ABNF.OPCODE_CLOSE, struct.pack("!H", 4004) + b"silent"))
    assert wire.frames(100) == [b"last"]
    assert (wire.close_code, wire.close_reason) == (4004, "silent")
