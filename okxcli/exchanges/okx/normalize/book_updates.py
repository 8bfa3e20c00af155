"""Pushes of the channels of whole books (`books` and its like) to `BookUpdate`.

The numbers make the chain: `prevSeqId` names the message before, -1 a snapshot. The checksum is dead since 2026: always
0, and never looked at.
"""

from okxcli.core import checks
from okxcli.core.model import BookUpdate
from okxcli.exchanges.okx.normalize.converters import EXCHANGE, levels, same_symbol, whole
from okxcli.exchanges.okx.normalize.row_forms import BookRow, Head


def book_update(row: BookRow, head: Head) -> BookUpdate:
    """Return a snapshot, whose sides must be sorted, best first, or an update."""
    if row.instId:
        same_symbol(row.instId, head)
    bids, asks = levels(row, ordered=head.action == "snapshot")
    found = BookUpdate(
        EXCHANGE,
        head.symbol,
        whole("ts", row.ts),
        head.action,
        bids,
        asks,
        row.seqId,
        row.prevSeqId,
        head.received,
        head.channel,
    )
    checks.check(found, head.now_ms)
    return found
