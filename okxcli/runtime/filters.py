"""What every filter shares: lines in, bad ones reported and passed over, counts at the end, the right exit code."""

import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

from okxcli.errors import BUGS, ExitCode, InputError, InvalidLine, OutputError
from okxcli.runtime.clock import ClockDoubt
from okxcli.runtime.files import write_file
from okxcli.runtime.lines import Block, LineReader, Output, Overlong
from okxcli.runtime.log import printable
from okxcli.runtime.signals import Lifecycle

_log = logging.getLogger(__name__)

#: Takes what it can of a block (whole lines) from an offset on; returns the offset of the first line that it leaves,
#: and how many it took.
Taking = Callable[[bytes, int], tuple[int, int]]
#: Time between two ticks while input floods.
_TICK_S = 0.02


class LineFilter:
    """One run of a filter over standard input or files.

    A bad line (`InvalidLine` from the handler, or longer than 1 MiB) is reported on standard error with its number,
    counted, kept in `rejects` if that is given, and passed over; with `strict` it ends the run.
    """

    def __init__(
        self,
        name: str,
        files: list[Path] | None = None,
        output: Path | None = None,
        strict: bool = False,
        rejects: Path | None = None,
        stats: Path | None = None,
        quiet: bool = False,
    ) -> None:
        self.name = name
        self.lines_in = 0
        self.rejected = 0
        self._unread = 0
        self._life: Lifecycle | None = None
        self._files = files
        self._strict = strict
        self._rejects = Output(rejects) if rejects is not None else None
        self._stats = stats
        self._quiet = quiet
        self._number = 0
        self._line = b""
        self._source = "line"
        self._doubt = ClockDoubt()
        self.out = Output(output)

    def run(
        self,
        handle: Callable[[bytes], None],
        tick: Callable[[], float | None] | None = None,
        finish: Callable[[], None] | None = None,
        counts: Callable[[], dict[str, int]] | None = None,
        take: Taking | None = None,
        look: Callable[[bytes], None] | None = None,
        reader: Callable[[Lifecycle, list[Path] | None], LineReader] = LineReader,
    ) -> int:
        """Give every line to `handle`, then end; return 0, or 65 when lines were rejected.

        `tick` is called when input runs dry, every 20 ms while it does not, and when its timer is due; it returns the
        seconds until it wants to be called again (None: whenever more comes). `finish` is called at end of input or a
        stop, before the last flush. `counts` adds to the closing counts. With `take` only those lines go to `handle`
        that it has left: all that are not of an everyday form. `look` gets each block before its lines. `reader` makes
        what reads the files.

        Raises:
            InputError: a bad line, with `strict`.
            OutputError: the output, the rejects or the counts cannot be written.
        """
        bad: InputError | None = None
        with Lifecycle("filter") as life:
            self._life = life
            try:
                with self.out, self._rejects or nullcontext():
                    try:
                        self._read(reader(life, self._files), handle, tick, take, look)
                        if finish is not None:
                            finish()
                    except InputError as error:
                        bad = error  # what came before the bad line is good
                if bad is not None:
                    raise bad
            finally:
                if self.lines_in or sys.exc_info()[0] is None:  # an input that cannot even be opened has no counts
                    self._close(counts)
        return ExitCode.DATA if self.rejected else ExitCode.OK

    @property
    def stopping(self) -> bool:
        """Whether a signal wants the run to end now: a handler that waits for something is to give up."""
        return self._life is not None and self._life.stop

    def _read(
        self,
        reader: LineReader,
        handle: Callable[[bytes], None],
        tick: Callable[[], float | None] | None,
        take: Taking | None,
        look: Callable[[bytes], None] | None,
    ) -> None:
        next_tick = 0.0
        for block in reader.blocks():
            self._source = reader.source
            self._note_unread(reader)
            if look is not None:
                look(block.data)
            alone = take is None or isinstance(block.data, Overlong)
            left = block.lines() if take is None or alone else self._left(block, take, reader)
            for self._number, self._line in left:
                self.lines_in += 1
                try:
                    if type(self._line) is Overlong:
                        raise InvalidLine("longer than 1 MiB")
                    handle(self._line)
                except InvalidLine as reason:
                    self.reject(str(reason))
                    self._doubt.note(reason.early)
                except BUGS as error:
                    _log.debug("a bug of okx", exc_info=True)
                    self.reject(f"a bug of okx: {type(error).__name__}: {error}")
            if tick is not None and (not block.data or time.monotonic() >= next_tick):
                reader.due_s = tick()
                next_tick = time.monotonic() + _TICK_S
            if not block.data:
                self.out.flush()
                if self._rejects is not None:
                    self._rejects.flush()

        self._note_unread(reader)

    def _note_unread(self, reader: LineReader) -> None:
        """Count what a reader left out as rejected."""
        self.rejected += reader.unread - self._unread
        self._unread = reader.unread
        if reader.unread and self._strict:
            raise InputError("some of the input cannot be read: see above")

    def _left(self, block: Block, take: Taking, reader: LineReader) -> Iterator[tuple[int, bytes]]:
        """Let `take` have what it takes of a block, and yield the lines between, with their numbers."""
        data, at, number = block.data, 0, block.number
        while True:
            at, taken = take(data, at)
            self.lines_in += taken
            number += taken
            if at >= len(data):
                reader.told(number - block.number)
                return
            end = data.index(b"\n", at)
            line = data[at:end]
            if line and line != b"\r":
                yield number, line
            at, number = end + 1, number + 1

    def reject(self, reason: str) -> None:
        """Report the line at hand as bad; for a handler that rejects a part of a line and keeps the rest.

        Raises:
            InputError: with `strict`.
        """
        self.rejected += 1
        where = f"{self._source} {self._number}"
        if self._rejects is not None:
            row = {"line": self._number, "reason": reason, "raw": self._line.decode(errors="replace")}
            self._rejects.line(json.dumps(row).encode())
        if self._strict:
            raise InputError(f"{where}: {reason}")
        print(printable(f"okx {self.name}: {where}: {reason}"), file=sys.stderr)

    def _close(self, counts: Callable[[], dict[str, int]] | None) -> None:
        """Write the closing counts to standard error and to the stats file."""
        found = {"lines_in": self.lines_in, "lines_out": self.out.lines, "rejected": self.rejected}
        found |= counts() if counts is not None else {}
        tell_counts(self.name, found, self._stats, self._quiet)


def tell_counts(name: str, counts: dict[str, int], stats: Path | None, quiet: bool) -> None:
    """Write the closing counts of a command to standard error, unless `quiet`, and to the file `stats`.

    Raises:
        OutputError: the file cannot be written; unless an error is on its way, of which this may well be a part.
    """
    failing = sys.exc_info()[0] is not None
    text = json.dumps(counts)
    if not quiet:
        print(f"okx {name}: {text}", file=sys.stderr, flush=True)
    if stats is not None:
        try:
            write_file(stats, text + "\n")
        except OutputError:
            if not failing:
                raise
