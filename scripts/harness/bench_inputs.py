"""What the benchmarks read, made once from a seed: pushes and lines of nine symbols, and a daily file of one."""

import os
import random
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path

SYMBOL = "BTC-USDT"
FIRST_ID, START = 734_864_333, 1_747_065_600_000  # 2025-05-13 in UTC+8
#: Symbol, first price in its smallest steps, places of it, share of the trades.
_MARKETS = (
    ("BTC-USDT", 914_671, 1, 30),
    ("ETH-USDT", 300_000, 2, 20),
    ("SOL-USDT", 15_000, 2, 10),
    ("DOGE-USDT", 123_456, 6, 8),
    ("TON-USDT", 30_000, 4, 4),
    ("ETH-USDC", 300_000, 2, 4),
    ("BTC-USDC", 914_000, 1, 4),
    ("UNI-USDT", 7_000, 3, 2),
    ("PEPE-USDT", 812, 8, 6),
)
#: Starts okx as this checkout has it.
OKX = [sys.executable, "-m", "okxcli"]


def run(
    command: list[str], source: Path | None = None, target: Path | None = None, fails: bool = False, **env: str
) -> None:
    """Run a command to its end; with `fails` it may exit with 65, having met bad lines."""
    out = Path(os.devnull) if target is None else target
    with (source or Path(os.devnull)).open("rb") as stdin, out.open("wb") as stdout:
        done = subprocess.run(
            command, stdin=stdin, stdout=stdout, stderr=subprocess.PIPE, check=False, env={**os.environ, **env}
        )
    if done.returncode and not (fails and done.returncode == 65):
        sys.exit(f"{' '.join(command)[:300]}: exit {done.returncode}\n{done.stderr.decode()[-2000:]}")


@dataclass
class Inputs:
    """`rows` pushes in `raw` (0.1 % of them bad), the same without bad ones in `good`, and as trade lines in `trades`.

    Nine symbols in bursts, several fills in a millisecond. `merged` are those pushes under the name of the channel
    `trades`, for peers that know no other.
    """

    folder: Path
    rows: int

    def __post_init__(self) -> None:
        names = ("raw", "good", "merged", "trades")
        self.raw, self.good, self.merged, self.trades = (self.folder / f"{name}.jsonl" for name in names)
        rng = random.Random(1)
        ids = [rng.randrange(10**6, 10**9) for _ in _MARKETS]
        prices = [price for _, price, _, _ in _MARKETS]
        shares = [share for *_, share in _MARKETS]
        clock = START
        with self.raw.open("w") as raw, self.good.open("w") as good, self.merged.open("w") as merged:
            made = 0
            while made < self.rows:
                which = rng.choices(range(len(_MARKETS)), shares)[0]
                symbol, _, places, _ = _MARKETS[which]
                for _ in range(min(rng.choice([1, 1, 1, 2, 3]), self.rows - made)):
                    ids[which] += 1
                    prices[which] = max(10, prices[which] + rng.choice([-1, 0, 0, 1]))
                    price = f"{prices[which] / 10**places:.{places}f}".rstrip("0").rstrip(".")
                    size = f"{rng.randrange(1, 10**7) / 10**6:.6f}".rstrip("0").rstrip(".")
                    line = (
                        f'{{"arg":{{"channel":"trades-all","instId":"{symbol}"}},"data":[{{"instId":"{symbol}",'
                        f'"tradeId":"{ids[which]}","px":"{price}","sz":"{size}","side":"{rng.choice(["buy", "sell"])}",'
                        f'"ts":"{clock}","source":"0","seqId":{ids[which] * 3}}}],'
                        f'"received":{clock + rng.randrange(5, 80)}}}\n'
                    )
                    good.write(line)
                    merged.write(line.replace("trades-all", "trades", 1))
                    raw.write(line[: rng.randrange(90)] + "\n" if rng.random() < 0.001 else line)
                    made += 1
                clock += rng.choice([0, 1, 3, 9, 30])
        run([*OKX, "normalize", "-q"], self.good, self.trades)


@dataclass
class DailyFile:
    """A daily file of OKX of so many rows, zipped, and as a table for psql's \\copy, and as trade lines."""

    folder: Path
    rows: int

    def __post_init__(self) -> None:
        rng = random.Random(1)
        self.zip = self.folder / f"{SYMBOL}-trades-2025-05-13.zip"
        self.table, self.trades = self.folder / "table.csv", self.folder / "day.jsonl"
        clock, price = START, 1_025_379
        plain = self.folder / f"{self.zip.stem}.csv"
        with plain.open("w") as file, self.table.open("w") as table, self.trades.open("w") as out:
            file.write("instrument_name,trade_id,side,price,size,created_time\n")
            for number in range(FIRST_ID, FIRST_ID + self.rows):
                clock += rng.choice([0, 0, 0, 0, 0, 86, 86, 86, 172, 259]) * 1_000_000 // max(self.rows, 1_000_000)
                price += rng.choice([-1, 0, 0, 1])
                side, size = rng.choice(["buy", "sell"]), f"{rng.randrange(1, 10**7) / 10**8:.8f}".rstrip("0")
                px = f"{price // 10}.{price % 10}".removesuffix(".0")
                when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(clock // 1000)) + f".{clock % 1000:03d}+00"
                file.write(f"{SYMBOL},{number},{side},{px},{size},{clock}\n")
                table.write(f"okx,{SYMBOL},{number},1,{side},{px},{size},{when},,,file\n")
                out.write(
                    f'{{"type":"trade","exchange":"okx","symbol":"{SYMBOL}","trade_id":{number},"count":1,"side":"{side}",'
                    f'"price":"{px}","size":"{size}","timestamp":{clock},"received":null,"source":null,"origin":"file"}}\n'
                )
        with zipfile.ZipFile(self.zip, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(plain, plain.name)
        self.days = sorted({START // 86_400_000, clock // 86_400_000})
