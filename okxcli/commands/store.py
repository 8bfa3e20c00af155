"""`okx store`: lines into Postgres."""

import logging
import time
from typing import TYPE_CHECKING, Annotated

import typer

from okxcli import options
from okxcli.commands.ways import way
from okxcli.core.codec import UnknownType, decode
from okxcli.core.model import BookUpdate
from okxcli.core.origin import site_told
from okxcli.errors import BUGS, ConfigError, InvalidLine, TryLater
from okxcli.runtime.clock import now_ms

if TYPE_CHECKING:
    from okxcli.runtime.filters import LineFilter
    from okxcli.storage.database import Database


_log = logging.getLogger(__name__)

#: Bad lines of a run that go to quarantine: something that is no JSON at all must not fill the disk.
_KEPT = 1_000


def store(
    *,
    files: options.Files = None,
    tee: Annotated[bool, options.switch("tee", "Pass each line on to standard output once it is durable.")] = False,
    drain: Annotated[
        bool, options.switch("drain", "Read no input: store what an earlier run left in the spool.")
    ] = False,
    dsn: options.Dsn = None,
    config: options.Config = None,
    ws_url: options.WsUrl = None,
    filtering: options.Filtering,
    verbose: options.Verbose = False,
) -> None:
    """Store lines in Postgres, each once, durably.

    In: trade, candle, book, ticker, instrument and absent lines of okx normalize, okx candles and okx books; other
    types are dropped. Out: rows, committed at the latest 250 ms after their line came; with --tee the lines too. What
    is stored already is counted as a duplicate and changes nothing, so any input may be stored again. A fill whose id
    is known with another price, size, side or time goes to the table quarantine, as does a line that Postgres refuses;
    the others around it are stored (exit 65). The tables and the embedded database are made when they are missing. A
    database takes data of one site only, which --ws-url names: the exchange's own, or this machine's; lines that say
    that they are from elsewhere end the run (exit 78). Lines that are bad by themselves are told, and the first
    thousand of them kept in quarantine as well.

    While Postgres is away lines go to a spool folder, as plain files, and from there into the database as soon as it
    is back. If it is still away at the end of input, exit 75 tells how many lines wait where. A database that was in
    use here before may be away at the start as well; another one must be there (exit 69).
    """
    from okxcli.errors import ExitCode, InputError, OutputError, UsageError
    from okxcli.runtime import log
    from okxcli.runtime.configuration.config_file import load
    from okxcli.runtime.filters import LineFilter
    from okxcli.runtime.signals import Lifecycle
    from okxcli.storage.database import open_database

    log.setup("store", verbose=verbose)
    if drain and files:
        raise UsageError("--drain reads no input: leave the files out, or give them to an okx store of their own")
    settings = load(config)
    run = LineFilter("store", files, None, *filtering)
    origin = way(settings, ws_url).origin
    # A Ctrl-C while the database starts must not end us before what the pipe holds is stored.
    with Lifecycle("filter"):
        database = open_database(
            dsn, config_dsn=settings.dsn, create=True, origin=origin, application="okx store", later=not drain
        )
    keeping = _Keeping(run, database, origin, filtering.strict, tee)
    try:
        if drain:
            keeping.finish()
            raise typer.Exit
        code = run.run(keeping.handle, keeping.tick, keeping.finish, keeping.keeper.counts, keeping.take)
    except (InputError, OutputError):  # the first bad line, with --strict, or nowhere to pass on: what came is stored
        keeping.deaf = True
        keeping.finish()
        raise
    finally:
        keeping.close()
    raise typer.Exit(code or (ExitCode.DATA if keeping.keeper.counts()["quarantined"] else ExitCode.OK))


class _Keeping:
    """What the filter calls: lines to the keeper, the keeper's time, the end."""

    def __init__(self, run: "LineFilter", database: "Database", origin: str, strict: bool, tee: bool) -> None:
        from okxcli.storage.rows.fill_block import FillScanner
        from okxcli.storage.write.durable_writer import DurableWriter
        from okxcli.storage.write.spool import Spool, default_folder

        self._run = run
        self._database = database
        self._origin = origin
        self._tee = tee
        self._strict = strict
        self._kept = 0
        self._scanner = FillScanner()
        self.deaf = False  # nobody is there to pass lines on to
        spool = Spool(default_folder(database.where))
        self.keeper = DurableWriter(
            database, spool, self._pass_on if tee else None, hurried=lambda: run.stopping, ahead=True
        )

    def _pass_on(self, lines: list[bytes]) -> None:
        if not self.deaf:
            for line in lines:
                self._run.out.line(line)
            self._run.out.flush()

    def handle(self, line: bytes) -> None:
        try:
            found = decode(line, now_ms())
        except UnknownType:
            self._believe(line)
            return
        except InvalidLine as reason:
            self._quarantine(line, str(reason), bool(reason.early))
            raise
        except BUGS as error:
            _log.exception("a bug of okx, on the line %s", line[:500].decode(errors="replace"))
            self._quarantine(line, f"a bug of okx: {type(error).__name__}: {error}")
            raise
        if isinstance(found, BookUpdate):  # a step on the way to a book, which okx books makes of it
            return
        self.keeper.add(found, line)
        self._wait()

    def take(self, block: bytes, at: int) -> tuple[int, int]:
        """Take the everyday lines of fills from an offset on."""
        taken = 0
        try:
            while (found := self._scanner.fills(block, at, now_ms(), self.keeper.room)).size:
                taken += found.size
                self.keeper.add_fills(found)
                at += len(found.lines)
                self._wait()
        except BaseException:
            self._run.lines_in += taken  # they were taken in all the same
            raise
        return at, taken

    def _wait(self) -> None:
        """Wait while there is no room anywhere, unless the end has come."""
        while self.keeper.full and not self._run.stopping:  # no room anywhere: whoever writes to us has to wait
            time.sleep(0.2)
            self.keeper.tick()

    def _believe(self, line: bytes) -> None:
        """Take note of a line that says where those after it are from; what is from elsewhere is not stored.

        Raises:
            ConfigError: the database takes other data.
        """
        site = site_told(line)
        if site is None:
            return
        if site != self._origin:
            self.keeper.finish()
            raise ConfigError(
                f"these lines are from {site}, and {self._database.where} is to take those of {self._origin}: "
                "the two must not mix. Name the exchange with --ws-url or OKX_WS_URL, and a database of its own"
            )
        if self._tee:
            self._pass_on([line])

    def _quarantine(self, line: bytes, reason: str, whole: bool = False) -> None:
        """Keep a bad line, within a bound unless it is `whole`: a trade, which may be taken back."""
        if whole or self._kept < _KEPT:
            self._kept += not whole
            self.keeper.refuse(line, reason)
        if self._strict:  # the end: what came before is stored first, and counted
            self.keeper.finish()

    def tick(self) -> float | None:
        self.keeper.tick()
        return self.keeper.due_in(now_ms())

    def finish(self) -> None:
        """Commit, and let go of the database: here and not after the run, because a signal ends the process inside."""
        left = self.keeper.finish()
        self.close()
        if left:
            raise TryLater(self.keeper.explain_left(left))

    def close(self) -> None:
        self.keeper.close()
        self._database.close()
