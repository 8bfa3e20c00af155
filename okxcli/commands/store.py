"""`okx store`: lines into Postgres."""

from typing import Annotated

import typer

from okxcli import options


def register(app: typer.Typer) -> None:
    """Add the command to the app."""
    app.command("store")(store)


def store(
    files: options.Files = None,
    tee: Annotated[
        bool, typer.Option("--tee/--no-tee", help="Pass each line on to standard output once it is durable.")
    ] = False,
    dsn: options.Dsn = None,
    config: options.Config = None,
    ws_url: options.WsUrl = None,
    strict: options.Strict = False,
    rejects: options.Rejects = None,
    stats: options.Stats = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Store lines in Postgres, each once, durably.

    In: trade, candle, book, ticker, instrument and absent lines of okx normalize and okx candles; other types are
    dropped. Out: rows, committed at the latest 250 ms after their line came; with --tee the lines too. What is stored
    already is counted as a duplicate and changes nothing, so any input may be stored again. A fill whose id is known
    with another price, size, side or time goes to the table quarantine, as does a line that Postgres refuses; the
    others around it are stored (exit 65). The tables and the embedded database are made when they are missing. A
    database takes data of one exchange only, which --ws-url names: okx.com, or local for this machine.
    """
    from okxcli.core.codec import UnknownType, decode
    from okxcli.errors import ExitCode, InputError, InvalidLine
    from okxcli.exchange.sites import origin_of
    from okxcli.runtime import log
    from okxcli.runtime.clock import now_ms
    from okxcli.runtime.config import load
    from okxcli.runtime.filters import LineFilter
    from okxcli.runtime.signals import Lifecycle
    from okxcli.storage.database import open_database
    from okxcli.storage.writer import Writer

    log.setup("store", verbose=verbose)
    settings = load(config)
    run = LineFilter("store", files, None, strict, rejects, stats, quiet)
    origin = origin_of(ws_url or settings.ws_url or options.DEFAULT_WS_URL)
    # A Ctrl-C while the database starts must not end us before what the pipe holds is stored.
    with Lifecycle("filter"):
        database = open_database(dsn, config_dsn=settings.dsn, create=True, origin=origin, application="okx store")

    def pass_on(lines: list[bytes]) -> None:
        for line in lines:
            run.out.line(line)
        run.out.flush()

    writer = Writer(database.connect, where=database.where, on_durable=pass_on if tee else None)

    def handle(line: bytes) -> None:
        try:
            found = decode(line)
        except UnknownType:
            return
        except InvalidLine:
            if strict:  # the end: what came before must be stored, and counted
                writer.flush()
            raise
        writer.add(found, line)

    def tick() -> float | None:
        due = writer.due_in(now_ms())
        if due == 0:
            writer.flush()
            return None
        return due

    def finish() -> None:
        writer.flush()
        # Here and not after the run: a signal ends the process inside of it.
        writer.close()
        database.close()

    try:
        code = run.run(handle, tick, finish, writer.counts)
    except InputError:
        writer.flush()
        raise
    finally:
        writer.close()
        database.close()
    raise typer.Exit(code or (ExitCode.DATA if writer.counts()["quarantined"] else ExitCode.OK))
