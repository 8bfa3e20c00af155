"""What the rounds of `tape` share: the plan, what comes of a round, and the table of all."""

import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field

from harness.oracle import Verdict

KINDS = ["outage", "cut", "mute", "drop", "lose", "duplicate", "old cache", "429", "kill"]


@dataclass(frozen=True)
class Plan:
    """What all rounds share: the seed, whether `collect` repairs, faults left out, where failed rounds are kept."""

    seed: str
    repair: bool = True
    without: tuple[str, ...] = ()
    keep: str | None = None


@dataclass
class Round:
    """What came of a round."""

    number: int
    symbols: list[str] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    hits: Counter[str] = field(default_factory=Counter)  # of these, what demonstrably met something
    verdict: Verdict = field(default_factory=Verdict)
    before: list[str] = field(default_factory=list)  # what was wrong before backfill
    seconds: float = 0.0
    folder: str = ""
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether anything is wrong at the end."""
        return bool(self.verdict.problems or self.error)

    def say(self, text: str) -> None:
        """Add an error of the round itself, beside what the oracle finds."""
        self.error = "; ".join(filter(None, [self.error, text]))


def rare(done: list[Round], without: Collection[str] = ()) -> list[str]:
    """Return the kinds of fault that met something in fewer than one of ten rounds, where there are 200 or more."""
    enough = len(done) // 10 if len(done) >= 200 else 0
    return [kind for kind in KINDS if kind not in without and sum(one.hits[kind] > 0 for one in done) < enough]


def tell(one: Round) -> None:
    """Say on stderr what is wrong with a round."""
    print(f"round {one.number} fails ({', '.join(one.kinds)}): {one.error}", file=sys.stderr)
    problems = one.verdict.problems or [f"before backfill: {problem}" for problem in one.before]
    for problem in problems[:8]:
        print(f"    {problem if len(problem) < 400 else problem[:397] + '...'}", file=sys.stderr)
    if len(problems) > 8:
        print(f"    and {len(problems) - 8} more", file=sys.stderr, flush=True)


def table(done: list[Round]) -> str:
    """Return what the rounds came to: a row for each kind of fault, and all of them.

    `hit`: the fault met something, a request or a fill; `by itself`: all was right before `okx backfill`.
    """
    sums = ("fills", "stored", "missing", "extra", "bars", "wrong_bars", "wrong_complete")
    heads = ["rounds", "hit", "failed", *(name.replace("_", " ") for name in sums), "by itself"]
    lines = [f"{'fault':<10}" + "".join(f"{head:>{max(11, len(head) + 2)}}" for head in heads)]
    for kind in [*KINDS, "all"]:
        some = done if kind == "all" else [one for one in done if one.kinds[kind]]
        numbers = [len(some), sum(kind == "all" or one.hits[kind] > 0 for one in some), sum(one.failed for one in some)]
        numbers += [sum(getattr(one.verdict, name) for one in some) for name in sums]
        numbers.append(sum(not one.before and not one.error for one in some))
        cells = (f"{number:>{max(11, len(head) + 2)},}" for number, head in zip(numbers, heads, strict=True))
        lines.append(f"{kind:<10}" + "".join(cells))
    absent, doubtful = (sum(getattr(one.verdict, name) for one in done) for name in ("absent", "doubtful"))
    seconds = sorted(one.seconds for one in done)
    lines.append(
        f"ids that the exchange lost: {absent} found absent, {doubtful} still in doubt; "
        f"a round takes {seconds[len(seconds) // 2]:.1f} s"
    )
    return "\n".join(lines)
