"""The configuration: where it lies, what it says once it is checked, and what is wrong with it.

Owns the search order. `config_keys` knows how the file is spelled; it is loaded only when there is a file to read,
because pydantic is slow to import.
"""

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from okxcli.errors import ConfigError
from okxcli.runtime.configuration.config import Config
from okxcli.runtime.files import user_folder

_log = logging.getLogger(__name__)

#: The last place that is looked at, for services that have no home.
SYSTEM_FILE = Path("/etc/okx/okx.json")

#: A configuration is a page of text; what is longer is some other file named by mistake.
MAX_BYTES = 1_048_576


def candidates(env: Mapping[str, str]) -> list[Path]:
    """Return the places where a configuration is looked for when none is named, in order.

    The working directory is none of them: a file that happens to lie there must not decide what is collected.
    """
    return [user_file(env), SYSTEM_FILE]


def user_file(env: Mapping[str, str]) -> Path:
    """Return the user's own configuration file: `$XDG_CONFIG_HOME/okx/okx.json`, which need not exist."""
    return user_folder("XDG_CONFIG_HOME", ".config", env) / "okx" / "okx.json"


def find(path: Path | None, env: Mapping[str, str]) -> Path | None:
    """Return the file to read: `path`, else `OKX_CONFIG`, else the first candidate that exists, else None."""
    if path is not None:
        return path
    if env.get("OKX_CONFIG"):
        return Path(env["OKX_CONFIG"])
    return next((place for place in candidates(env) if place.is_file()), None)


def load(path: Path | None = None, env: Mapping[str, str] = os.environ, *, required: bool = False) -> Config:
    """Return the configuration that `find` names, or the defaults when there is none.

    Warns on the log when others can read a file that holds a password. With `required` there must be a file, and it
    must name symbols.

    Raises:
        ConfigError: the file is missing or unreadable, or has mistakes: all of them, one a line.
    """
    found = find(path, env)
    if found is None:
        if required:
            places = ", ".join(str(place) for place in candidates(env))
            make = "Make one: okx config init; or name one: --config FILE (okx config check FILE)"
            raise ConfigError(f"no configuration at {places}. {make}")
        return Config()
    text = read(found)
    from okxcli.runtime.configuration import config_keys

    document, mistakes = config_keys.parse(text)
    if document is None or mistakes:
        raise ConfigError(_told(found, mistakes))
    config = config_keys.to_config(document, found)
    if required and not config.symbols and not config.types:
        raise ConfigError(_told(found, ['symbols: none given; name at least one, such as ["BTC-USDT"]']))
    for warning in warnings(found, config):
        _log.warning("%s", warning)
    return config


def warnings(path: Path, config: Config) -> list[str]:
    """Return what is not wrong but unwise: a password in a file that others can read."""
    if config.dsn is None and config.proxy is None:
        return []
    from okxcli.runtime.configuration.config_values import holds_password
    from okxcli.runtime.proxy import parse

    mode = stat.S_IMODE(path.stat().st_mode)
    proxy = parse(config.proxy or "")
    if mode & 0o077 and (holds_password(config.dsn or "") or (proxy is not None and proxy.password is not None)):
        return [f"{path} holds a password and others can read it (mode {mode:04o}). Try: chmod 600 {path}"]
    return []


def read(path: Path) -> str:
    """Return the text of the configuration file at `path`.

    Raises:
        ConfigError: missing, unreadable, over 1 MiB, or not UTF-8.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(f"{path} is no configuration: over 1 MiB")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path} is no configuration: not UTF-8") from None


def _told(path: Path, mistakes: list[str]) -> str:
    if len(mistakes) == 1:
        return f"{path}: {mistakes[0]}"
    return "\n".join([f"{path}: {len(mistakes)} mistakes", *(f"  {mistake}" for mistake in mistakes)])
