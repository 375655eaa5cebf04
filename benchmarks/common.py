"""What every benchmark shares: one thread, processes to time, paired ratios, machine, tables."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).parent
ONE_THREAD = {
    name: "1"
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
} | {
    "JAX_PLATFORMS": "cpu",
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1",
}


class Timing(NamedTuple):
    """Seconds of one call: on the clock, and of processor time (user and system, all threads)."""

    wall: float
    cpu: float


class Remote:
    """A worker process, see `worker.py`; requests are answered one at a time.

    Args:
        python: Interpreter of the environment. script: Worker to run in it.
        environment: Variables beside those that ask for one thread.
    """

    def __init__(self, python: Path, script: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            [str(python), str(HERE / script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("BENCH_VERBOSE") else None,
            text=True,
            env=os.environ | ONE_THREAD | environment,
        )
        self.contestants: dict[str, dict[str, str]] = self._answer()

    def ask(self, do: str, **request: object) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do} | request) + "\n")
        self.process.stdin.flush()
        return self._answer()

    def measure(self) -> Timing:
        """Time the job that was prepared last."""
        answer = self.ask("measure")
        if "unable" in answer:
            raise RuntimeError(answer["unable"])
        return Timing(**answer)

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()

    def _answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if line:
            return json.loads(line)
        errors = self.process.stderr.read() if self.process.stderr else ""
        raise RuntimeError(
            f"The worker died (code {self.process.wait()}). {errors[-400:].strip()}"
        )


class Paired(NamedTuple):
    """Two things timed by turns; medians, and medians of the ratios within each turn."""

    ours: Timing
    theirs: Timing
    wall_ratio: float
    cpu_ratio: float
    spread: tuple[float, float]
    turns: int


def alternate(ours: Callable[[], Timing], theirs: Callable[[], Timing], turns: int) -> Paired:
    """Time A and B by turns, so that a noisy neighbour slows both.

    Args:
        ours: Times A once.
        theirs: Times B once.
        turns: How often.

    Returns:
        Ratios are `theirs / ours`; `spread` holds the quartiles of the processor-time ratio.
    """
    pairs = [(ours(), theirs()) for _ in range(turns)]
    cpu = [b.cpu / a.cpu for a, b in pairs]
    low, _, high = statistics.quantiles(cpu, n=4) if turns > 1 else cpu * 3
    return Paired(
        ours=median(a for a, _ in pairs),
        theirs=median(b for _, b in pairs),
        wall_ratio=statistics.median(b.wall / a.wall for a, b in pairs),
        cpu_ratio=statistics.median(cpu),
        spread=(low, high),
        turns=turns,
    )


def median(timings: Iterable[Timing]) -> Timing:
    """Median of each clock on its own."""
    wall, cpu = zip(*timings, strict=True)
    return Timing(statistics.median(wall), statistics.median(cpu))


def machine() -> dict[str, str]:
    """Describe where and when this runs."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    load = ", ".join(f"{x:.1f}" for x in os.getloadavg())
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "processor": names[0] if names else platform.processor(),
        "cores": str(os.cpu_count()),
        "load": load,
        "system": platform.platform(),
        "python": platform.python_version(),
    }


def markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Render a table, columns aligned for those who read the source."""
    table = [list(header), *(list(row) for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = [
        "| " + " | ".join(x.ljust(w) for x, w in zip(row, widths, strict=True)) + " |"
        for row in table
    ]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])


def _commit() -> str:
    def git(*arguments: str) -> str:
        run = subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True)
        return run.stdout.strip()

    changed = " with changes" if git("status", "--porcelain", "--", "../deepssm") else ""
    return (git("rev-parse", "--short", "HEAD") or "unknown") + changed
