"""What is needed to log in, where it is found, and what to do when OKX refuses it. Nothing here is ever shown."""

import json
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from okxcli.errors import LoginRefused
from okxcli.exchanges.okx.connection import protocol

#: The variables, and the keys of a file, that hold the parts of a key.
VARIABLES = {"api_key": "OKX_API_KEY", "secret_key": "OKX_SECRET_KEY", "passphrase": "OKX_PASSPHRASE"}
#: systemd's name for the credential (`LoadCredential=okx:FILE`).
CREDENTIAL = "okx"
#: Refusals that end by themselves: too many logins at a time, an error within OKX.
PASSING = ("60023", "63999")

#: What to look at, by the code of the refusal. Source: OKX's list of WebSocket error codes.
_HINTS = {
    "60004": "This is a bug of okx: the time was not understood",
    "60005": "OKX does not know the key: it may be of another site (--site), of demo trading (--demo), or deleted",
    "60006": "OKX takes a login for 30 s: set this machine's clock, by NTP",
    "60007": f"{VARIABLES['secret_key']} is not the secret of this key",
    "60009": "Look whether the key still exists and may be used from this address",
    "60024": f"{VARIABLES['passphrase']} is the one given when the key was made, not the account's password",
    "60031": "Something has logged in on this connection before",
    "60032": "The key is of another site (--site), of demo trading (--demo), or deleted",
}


class Credentials(NamedTuple):
    """A key of OKX's API."""

    api_key: str
    secret_key: str
    passphrase: str

    def __repr__(self) -> str:
        return "Credentials(...)"


@dataclass(frozen=True, slots=True)
class Login:
    """Makes the frame that logs in, by `clock`: OKX's time in ms."""

    credentials: Credentials = field(repr=False)
    clock: Callable[[], int]

    def __call__(self) -> str:
        """Return the frame; OKX takes it for 30 s."""
        key, secret, passphrase = self.credentials
        return protocol.login(key, passphrase, secret, self.clock() // 1000)


def refused(code: str, message: str) -> LoginRefused:
    """Return the error for a refusal of OKX's, with what to look at."""
    hint = _HINTS.get(code)
    return LoginRefused(f"OKX refuses the login ({code}): {message.rstrip('.')}.{f' {hint}.' if hint else ''}")


def credentials(file: Path | None, env: Mapping[str, str] = os.environ) -> Credentials:
    """Return the key that a file holds, else the variables, else systemd's credential.

    Raises:
        LoginRefused: there is none, a part of it is missing, or the file can be read by others.
    """
    if file is not None:
        return _of_file(file)
    found = {part: env[variable] for part, variable in VARIABLES.items() if env.get(variable)}
    if found:
        return _checked(found, VARIABLES)
    folder = env.get("CREDENTIALS_DIRECTORY")
    if folder and (Path(folder) / CREDENTIAL).exists():
        return _of_file(Path(folder) / CREDENTIAL)
    raise LoginRefused(
        f"no key of OKX's API: set {', '.join(VARIABLES.values())}, or name a file of mode 600 with --credentials"
    )


def _of_file(path: Path) -> Credentials:
    """Return what a JSON object in a file says, which nobody else may read."""
    try:
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if stat.S_ISREG(found.st_mode) and found.st_mode & 0o077:
                raise LoginRefused(f"{path} can be read by others: chmod 600 {path}")
            data = file.read(1 << 16)
    except OSError as error:
        raise LoginRefused(f"cannot read the credentials {path}: {error.strerror}") from None
    names = {part: part for part in VARIABLES}
    example = ", ".join(f'"{name}": "..."' for name in names)
    try:
        parts = json.loads(data)
    except ValueError:
        parts = None
    if not isinstance(parts, dict):
        raise LoginRefused(f"{path} is no JSON object: {{{example}}}")
    if unknown := [name for name in parts if name not in names]:
        raise LoginRefused(f"{path}: unknown {str(unknown[0])[:40]!r}; it holds {{{example}}}")
    return _checked(parts, {part: f"{path}: {part}" for part in names})


def _checked(parts: Mapping[str, object], names: Mapping[str, str]) -> Credentials:
    """Return the parts as a key; `names` says how each is called where it came from."""
    texts = []
    for part, name in names.items():
        text = parts.get(part)
        if not isinstance(text, str) or not text.strip():
            raise LoginRefused(f"{name} is missing")
        if not text.isascii() or not text.strip().isprintable():
            raise LoginRefused(f"{name} has a character that none of OKX's has")
        texts.append(text.strip())
    return Credentials(*texts)
