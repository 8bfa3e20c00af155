"""What a session asks its driver to do."""

from dataclasses import dataclass, field

from okxcli.exchanges.okx.channels import Subscription


@dataclass(frozen=True, slots=True)
class Send:
    """Send this text frame, which may hold a secret."""

    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ready:
    """Every subscription is answered, and at least one stands."""


@dataclass(frozen=True, slots=True)
class Refuse:
    """OKX refuses this subscription for good; the others are unharmed."""

    subscription: Subscription
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Replace:
    """Open another connection, and close this one when that is ready: it will end soon by itself."""

    reason: str


@dataclass(frozen=True, slots=True)
class Reconnect:
    """This connection is dead: close what is left of it and open another; `slow`: not at once."""

    reason: str
    slow: bool = False


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """OKX refuses the login, and with it all that was to be subscribed."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Log:
    """Tell people; `level` is one of `logging`."""

    level: int
    text: str


Action = Send | Ready | Refuse | Replace | Reconnect | LoginFailed | Log
