"""`okx verify`: does the exchange agree with our candles."""

import logging
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options
from okxcli.commands.ways import way

if TYPE_CHECKING:
    from okxcli.pipeline.verify import Cure, Verifier
    from okxcli.runtime.lines import Output
    from okxcli.runtime.signals import Lifecycle
    from okxcli.storage.candles.bar_evidence import Evidence

_log = logging.getLogger(__name__)

#: Without --since, and no more than what is stored.
_DEFAULT_SPAN_MS = 86_400_000
#: Without --until: a bar is final when its symbol trades after it, and the exchange's is, some seconds after its end.
_SETTLED_MS = 60_000


def verify(
    *,
    symbols: Annotated[
        list[str] | None, options.some_symbols("Only these. Default: the configured, else the stored.")
    ] = None,
    tf: Annotated[
        str, typer.Option("--tf", metavar="LIST", help="Timeframes that the exchange has too: 1m,1h,1d.")
    ] = "1m",
    since: Annotated[
        str | None,
        options.time_option(
            "--since",
            "From here on: ISO 8601, epoch ms, 2h (ago), today. Default: a day before the end, or the first whole bar.",
        ),
    ] = None,
    until: Annotated[
        str | None, options.time_option("--until", "Up to here. Default: a minute ago by the exchange's clock.")
    ] = None,
    allow_revised: Annotated[
        bool, options.switch("allow-revised", "Bars that the exchange revised are shown, but the exit status stays 0.")
    ] = False,
    output: options.Output = None,
    stored: options.Stored,
    rest: options.Rest,
    quiet: options.Quiet = False,
) -> int:
    """Compare stored candles with the exchange's own; exit 1 if one differs.

    In: the candles in Postgres, and the exchange's REST. Out: one line for each bar that differs in open, high, low,
    close, volume, base or quote volume, with both values and the likely cause: absent, incomplete, missing fills, day
    boundary, bar boundary, open and close swapped, not what its fills say, revised by the exchange, not at the
    exchange, quiet not proven, unknown. A bar in which the exchange has no trade may be absent here, if the ids prove
    the quiet. A summary for each symbol and timeframe goes to stderr, with the command that mends what differs.
    """  # fmt: skip
    from shlex import quote

    from okxcli.core.timeframes import parse_list
    from okxcli.errors import InvalidLine, Refused, UsageError
    from okxcli.pipeline.verify import Cure, Verifier
    from okxcli.runtime import log
    from okxcli.runtime.clock import parse_time
    from okxcli.runtime.configuration.config_file import load
    from okxcli.runtime.lines import Output
    from okxcli.runtime.signals import Lifecycle
    from okxcli.storage.candles.bar_evidence import Evidence
    from okxcli.storage.database import open_database
    from okxcli.storage.rows import reader

    log.setup("verify", quiet=True)
    try:
        frames = parse_list(tf)
    except InvalidLine as reason:
        raise UsageError(str(reason)) from None
    settings = load(stored.config)
    here = way(settings, None, *rest)
    for frame in frames:
        here.exchange.bar_of(frame.name)
    same = True
    with (
        Lifecycle("source") as life,
        open_database(stored.dsn, config_dsn=settings.dsn, create=False, application="okx verify") as database,
        database.session() as connection,
        Output(output) as out,
    ):
        bars = here.market().bars()
        end = bars.now_ms - _SETTLED_MS if until is None else min(parse_time(until, bars.now_ms), bars.now_ms)
        begin = None if since is None else parse_time(since, bars.now_ms)
        if begin is not None and begin >= end:
            raise UsageError("--since must be before --until (default: a minute ago)")
        named = symbols or settings.symbols or settings.types
        wanted = reader.meant(connection, symbols or settings.symbols, settings.types)
        for symbol in wanted if named else reader.symbols(connection):
            for frame in frames:
                evidence = Evidence(connection, here.exchange.name, symbol, frame)
                first = _first(evidence, end) if begin is None else begin
                verifier = Verifier(evidence, bars)
                more = f" --config {quote(str(stored.config))}" if stored.config else ""
                cure = Cure(symbol, frame.name in settings.timeframes, more)
                try:
                    same &= _compare(verifier, first, end, out, life, allow_revised, cure)
                except (Refused, InvalidLine) as error:  # that concerns no other symbol
                    _log.warning("%s %s: not compared: %s", symbol, frame.name, error)
                    same = False
                    continue
                if not quiet:
                    print(f"okx verify: {symbol} {frame.name}: {_summary(verifier)}", file=sys.stderr)
                if not quiet and (command := cure.command()) is not None:
                    print(f"okx verify: {symbol} {frame.name}: to mend it: {command}", file=sys.stderr)
    return 0 if same else 1


def _first(evidence: "Evidence", end: int) -> int:
    """Return where the last day begins, or what is stored of it; the bar in which the tape begins is never whole."""
    bar = evidence.after(end - _DEFAULT_SPAN_MS)
    if bar is None:
        return end
    return min(bar.start if bar.complete or evidence.before(bar.start) is not None else bar.timestamp, end)


def _compare(
    verifier: "Verifier",
    begin: int,
    end: int,
    out: "Output",
    life: "Lifecycle",
    allow_revised: bool,
    cure: "Cure",
) -> bool:
    """Write what differs, tell `cure` of it, and return whether nothing does."""
    from okxcli.pipeline.verify import REVISED

    for difference in verifier.differences(begin, end):
        out.line(difference.line())
        cure.note(difference)
        if life.stop:
            break
    out.flush()
    wrong = verifier.causes.total() - (verifier.causes[REVISED] if allow_revised else 0)
    return verifier.compared > 0 and not wrong


def _summary(verifier: "Verifier") -> str:
    if not verifier.compared:
        return "no bar to compare: none is stored in that time"
    parts = [f"{verifier.compared} bars compared", f"{verifier.equal} equal"]
    if verifier.quiet:
        parts.append(f"{verifier.quiet} quiet")
    if verifier.unproven:
        parts.append(f"{verifier.unproven} quiet at the exchange outside of what is stored")
    causes = ", ".join(f"{count} {cause}" for cause, count in sorted(verifier.causes.items()))
    return ", ".join([*parts, f"{verifier.causes.total()} differ{f' ({causes})' if causes else ''}"])
