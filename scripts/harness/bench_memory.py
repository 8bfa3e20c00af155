"""How much memory the filters take at their peak: `scripts/memory`, as a row."""

import importlib.util
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from typing import TYPE_CHECKING, Any

from harness.bench_inputs import OKX
from harness.bench_live import SCRIPTS
from harness.bench_table import Gauge, Report

if TYPE_CHECKING:
    from harness.bench import Bench


def script() -> Any:
    """Return `scripts/memory` as a module."""
    loader = SourceFileLoader("memory", str(SCRIPTS / "memory"))
    spec = importlib.util.spec_from_loader("memory", loader)
    if spec is None:
        raise RuntimeError("scripts/memory is not there")
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def memory(bench: "Bench") -> Report:
    """Each filter, on lines that are made as it reads them."""
    limits = script()

    def measure(_rounds: int) -> list[Gauge]:
        return [Gauge(name, [mib], "MiB", limits.LIMIT_MIB) for name, mib, _ in limits.measured(bench.rows, OKX)]

    says = "Resident memory at its peak, by /proc. Postgres is not counted."
    return Report(f"memory ({bench.rows:,} lines)", measure, says)


ROWS: dict[str, Callable[["Bench"], Report]] = {"memory": memory}
