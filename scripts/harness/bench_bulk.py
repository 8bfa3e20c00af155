"""The row of the bench for bulk files: a daily file of the exchange to one-minute candles, beside DuckDB."""

import random
import sys
from decimal import Decimal
from pathlib import Path

import orjson

from harness.bench_inputs import FIRST_ID, OKX, START, SYMBOL, run
from harness.bench_table import C, Contest

_DUCKDB = Path(__file__).resolve().parents[1] / "peers" / "duckdb_bars.py"
_KEYS = ("open", "high", "low", "close", "volume", "quote_volume", "buy_volume")
_IDS = ("trade_count", "first_trade_id", "last_trade_id")
_BLOCK = 100_000
#: Python alone takes a quarter of a minute for a million.
_MOST_OF_PYTHON = 1_000_000
#: What the times of a million rows step by (ms): they fill a day.
_STEPS = (0, 0, 0, 0, 0, 86, 86, 86, 172, 259)


def daily_csv(folder: Path, rows: int) -> Path:
    """Write a daily file of so many rows, from a seed; return its path."""
    path = folder / f"{SYMBOL}-trades-2025-05-13.bulk.csv"
    chance = random.Random(1).random
    shrink = max(rows / 1_000_000, 1)
    clock, price = float(START), 1_025_379
    with path.open("w") as file:
        file.write("instrument_name,trade_id,side,price,size,created_time\n")
        for begin in range(0, rows, _BLOCK):
            lines = []
            for number in range(FIRST_ID + begin, FIRST_ID + min(begin + _BLOCK, rows)):
                clock += _STEPS[int(chance() * 10)] / shrink
                price += (-1, 0, 0, 1)[int(chance() * 4)]
                size = f"0.{int(chance() * 10**7) + 1:08d}".rstrip("0")
                shown = f"{price // 10}.{price % 10}".removesuffix(".0")
                side = "buy" if chance() < 0.5 else "sell"
                lines.append(f"{SYMBOL},{number},{side},{shown},{size},{int(clock)}\n")
            file.writelines(lines)
    return path


def bulk(folder: Path, rows: int) -> Contest:
    """`okx candles FILE` of a daily file, and DuckDB."""
    source = daily_csv(folder, rows)
    ours = [*OKX, "candles", "-q", "--tf", "1m", str(source)]
    rival = [sys.executable, str(_DUCKDB), str(source)]
    _compare(ours, rival, folder, ("", "1") if rows <= _MOST_OF_PYTHON else ("",))
    return Contest(
        "bulk: a daily file to one-minute candles", rows, {C: lambda: run(ours)}, "DuckDB",
        lambda: run(rival), {C: 1 / 1.25},
        "on all cores, with the memory that it likes; no checks, no damaged rows, nothing is proved complete.",
    )  # fmt: skip


def _compare(ours: list[str], rival: list[str], folder: Path, roads: tuple[str, ...]) -> None:
    """Exit unless both make the same bars, on all of our roads; the last bar is still open to us."""
    made: list[list[tuple[object, ...]]] = []
    for pure in roads:
        run(ours, None, folder / "made", OKX_PURE=pure)
        bars = map(orjson.loads, (folder / "made").read_bytes().splitlines())
        made.append(
            [(b["symbol"], b["start"], *(Decimal(b[key]) for key in _KEYS), *(b[key] for key in _IDS)) for b in bars]
        )
    run(rival, None, folder / "made")
    rows = [line.split(",") for line in (folder / "made").read_text().splitlines()]
    theirs = [(row[0], int(row[1]), *map(Decimal, row[2:9]), *map(int, row[9:])) for row in rows]
    if not made[0] or any(bars != theirs[:-1] for bars in made):
        sys.exit(f"okx made {', '.join(str(len(bars)) for bars in made)} bars, DuckDB {len(theirs)}: not the same")
