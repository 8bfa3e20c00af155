"""One subscription of a connection: how far it is, and what it has brought."""

from dataclasses import dataclass
from typing import Literal

from okxcli.exchanges.okx.channels import Subscription


@dataclass(slots=True)
class Wanted:
    """One subscription, how far it is, and what came of it."""

    subscription: Subscription
    state: Literal["new", "sent", "acked", "leaving", "refused"] = "new"
    due_ms: int = 0  # new: not before; sent and leaving: answer at the latest
    request: str = ""
    acked_ms: int = 0
    pushes: int = 0
    last_push_ms: int | None = None
    frame: bytes = b""  # the last push


@dataclass(frozen=True, slots=True)
class Seen:
    """What a standing subscription has brought: how many pushes, the last one (b"": none), and since when nothing.

    `acked_ms`: since when it stands.
    """

    pushes: int
    frame: bytes
    since_ms: int
    acked_ms: int = 0
