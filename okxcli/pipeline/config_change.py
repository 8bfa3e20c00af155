"""What a configuration that is read again changes for `okx collect`."""

import logging
from dataclasses import replace

from okxcli.core.model import TAPE
from okxcli.runtime.configuration.config import Config

_log = logging.getLogger(__name__)


def other_candles(before: Config, after: Config) -> bool:
    """Whether candles are made by other rules after a change."""
    return _of_candles(before) != _of_candles(after)


def _of_candles(config: Config) -> tuple[object, ...]:
    """Return all that a candle maker is made of."""
    return config.timeframes, config.lateness_ms, config.grace_ms, config.fill, TAPE in config.channels


def tell_change(before: Config, after: Config, new: list[str], gone: list[str]) -> None:
    """Say in a line what a new configuration changes, and in another what it cannot change now.

    Nothing where the same one means other symbols now, which whoever noticed it has told.
    """
    if after.wanted and replace(after, symbols=before.symbols) == before:
        return
    parts = [f"+{symbol}" for symbol in new] + [f"-{symbol}" for symbol in gone]
    for name in ("channels", "timeframes"):
        was, has = getattr(before, name), getattr(after, name)
        parts += [f"+{one}" for one in has if one not in was] + [f"-{one}" for one in was if one not in has]
    _log.info("the configuration is read again: %s", " ".join(parts) or "the same symbols, channels and timeframes")
    fixed = ("dsn", "ws_url", "rest_url", "connect_timeout_s", "log_file", "log_level", "archive")
    later = [name.removesuffix("_s") for name in fixed if getattr(before, name) != getattr(after, name)]
    if later:
        _log.warning("this takes effect at the next start: %s", ", ".join(later))
