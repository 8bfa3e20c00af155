"""The same damaged input through the commands as processes: same lines out, honest exit codes, no traceback."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from harness import common
from harness.tally import Tally
from okxcli.core.codec import decode, encode
from okxcli.errors import InvalidLine
from okxcli.exchanges.interface import PartlyInvalid
from okxcli.exchanges.okx.normalize.normalizer import Normalizer

#: Seconds that a run may take.
_PATIENCE_S = 120


class Processes:
    """The target `processes`: each batch goes through five commands."""

    def __init__(self, home: Path, dsn: str) -> None:
        self.tally = Tally("processes")
        self._home = home
        self._env = common.environment(home, OKX_DSN=dsn)

    def batch(self, raw: Sequence[bytes], ours: Sequence[bytes]) -> None:
        """Run `normalize`, `candles`, `store`, `history --files` and `replay` on damaged lines."""
        whole = self._whole
        text = b"\n".join(raw) + b"\n"
        self._run(["normalize"], text, len(raw), lambda out: out == list(_normalized(text.split(b"\n"))))
        text = b"\n".join(ours) + b"\n"
        self._run(
            ["candles", "--tf", "1m,1d", "--no-live", "--pass"], text, len(ours), lambda out: all(map(whole, out))
        )
        self._run(["store", "-q"], text, len(ours), lambda out: not out)
        folder = self._home / "files"
        folder.mkdir(exist_ok=True)
        for number, line in enumerate(raw[:20]):
            (folder / f"BTC-USDT-trades-2026-05-{number + 1:02d}.csv").write_bytes(line)
        self._run(["history", "BTC-USDT", "--files", str(folder)], b"", 20, lambda out: True)
        recording = self._home / "recording.jsonl"
        recording.write_bytes(b"\n".join(raw) + b"\n")
        stream = [sys.executable, "-m", "okxcli", "stream", "BTC-USDT", "-c", "trades", "--duration", "2s"]
        self._run(
            ["replay", str(recording), "--speed", "0", "--no-database", "--", *stream], b"", len(raw), lambda out: True
        )

    @staticmethod
    def _whole(line: bytes) -> bool:
        """Whether a line that `candles --pass` wrote is one of ours, or was let through as another type."""
        try:
            return bool(decode(line))
        except InvalidLine as reason:
            return str(reason).startswith("unknown type")

    def _run(self, arguments: list[str], data: bytes, inputs: int, right: Callable[[list[bytes]], bool]) -> None:
        tally = self.tally
        began = time.monotonic()
        command = [sys.executable, "-m", "okxcli", *arguments]
        try:
            done = subprocess.run(
                command, input=data, capture_output=True, env=self._env, check=False, timeout=_PATIENCE_S
            )
        except subprocess.TimeoutExpired as error:
            tally.inputs += inputs
            tally.crash(error, data)
            return
        tally.inputs += inputs
        out = done.stdout.split(b"\n")[:-1]
        tally.accepted += min(len(out), inputs)
        tally.rejected += inputs - min(len(out), inputs)
        tally.slowest_ms = max(tally.slowest_ms, (time.monotonic() - began) * 1000 / inputs)
        words = done.stderr.decode(errors="replace")
        name = " ".join(arguments[:2])
        if done.returncode not in (0, 65) or "Traceback" in words or "bug of okx" in words:
            tally.crash(RuntimeError(f"{name}: exit {done.returncode}: {words[-2000:]}"), data)
        elif not right(out):
            tally.disagree(f"{name}: other lines than expected", data)


def _normalized(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Yield what `normalize` must write, worked out in this process."""
    normalizer = Normalizer()
    for line in lines:
        if not line or line == b"\r":
            continue
        try:
            found = normalizer.feed(line)
        except PartlyInvalid as partly:
            found = partly.lines
        except InvalidLine:
            continue
        yield from map(encode, found)
