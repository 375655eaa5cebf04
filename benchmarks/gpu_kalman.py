"""Exact filters on a GPU, backend by backend, beside the CPU's compiled loop. See README.md.

Run: PYTHONPATH=. python benchmarks/gpu_kalman.py [--quick] [--device cpu]

It needs a CUDA device and, for the kernel of one thread a series, the extra `gpu`. `--device cpu
--quick` rehearses every path on a machine without one, the kernel in numba's simulator.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time as clock
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from cases import TASKS, Case, Task, simulate
from common import HERE, machine, markdown

SIZES = ((256, 1_000, 4, 2), (4_096, 1_000, 4, 2), (65_536, 200, 4, 2), (1, 1_000_000, 2, 1))
REHEARSAL = ((3, 8, 4, 2), (1, 12, 2, 1))
BACKENDS = ("cuda", "stationary", "scan")
HEADER = (
    "data", "task", "backend", "ran as", "first (s)", "median (ms)", "CPU / this", "bound (ms)",
    "of bound", "difference",
)  # fmt: skip


class Row(NamedTuple):
    """One backend on one task; times in seconds, `None` where there is none.

    Attributes:
        data: Size and kind. task: What was asked for. backend: Which was asked.
        ran: What did the work: a backend hands over where it does not apply.
        first: First call, with compilation. median: Of the calls after it. calls: How many.
        ratio: Time of the CPU's compiled loop by this.
        bound: Bytes that must move, by the measured bandwidth.
        difference: Largest, relative to the compiled loop's answers.
        note: Why there is no time.
    """

    data: str
    task: Task
    backend: str
    ran: str = ""
    first: float | None = None
    median: float | None = None
    calls: int = 0
    ratio: float | None = None
    bound: float | None = None
    difference: float | None = None
    note: str = ""

    def line(self) -> tuple[str, ...]:
        """Cells for the table."""
        share = self.bound / self.median if self.bound and self.median else None
        return (
            self.data, self.task, self.backend, self.ran or self.note, _cell(self.first),
            _cell(self.median, 1e3), _cell(self.ratio), _cell(self.bound, 1e3), _cell(share),
            "" if self.difference is None else f"{self.difference:.0e}",
        )  # fmt: skip


class Bench(NamedTuple):
    """What a run needs: the device, its bytes per second, seconds a backend may take, calls."""

    device: Any
    bandwidth: float
    seconds: float
    calls: int


def main(arguments: list[str] | None = None) -> int:
    """Time every case; return the exit code, 2 where there is no CUDA device."""
    options = _options(arguments)
    if options.device == "cpu":
        os.environ["NUMBA_ENABLE_CUDASIM"] = "1"
    import torch

    if options.device != "cpu" and not torch.cuda.is_available():
        print(
            "gpu_kalman.py needs a CUDA device; --device cpu --quick rehearses it.",
            file=sys.stderr,
        )
        return 2
    device = torch.device(options.device)
    seconds, calls = (5.0, 3) if options.quick else (60.0, 11)
    bench = Bench(device, bandwidth(device, options.quick), seconds, calls)
    rows: list[Row] = []
    sizes = REHEARSAL if options.quick else SIZES
    for case in (Case(*size, gaps) for size in sizes for gaps in (False, True)):
        for row in time_case(bench, case):
            rows.append(row)
            print(" | ".join(row.line()), flush=True)
            if options.output:
                store(options.output, bench, rows)
    return 0


def time_case(bench: Bench, case: Case) -> Iterator[Row]:
    """Yield the rows of one data set, the compiled loop's first in each task."""
    import torch

    problem = simulate(case)
    y = torch.from_numpy(problem.y)
    for task in TASKS:
        reference, answer = time_backend(bench, case, task, "sequential", y, problem)
        yield reference
        for backend in BACKENDS:
            row, found = time_backend(bench, case, task, backend, y.to(bench.device), problem)
            if row.median and reference.median:
                row = row._replace(ratio=reference.median / row.median)
            if found and answer:
                row = row._replace(difference=disagreement(found, answer))
            yield row
            found = None
            if bench.device.type == "cuda":
                torch.cuda.empty_cache()


def time_backend(
    bench: Bench,
    case: Case,
    task: Task,
    backend: str,
    y: Any,  # noqa: ANN401
    problem: Any,  # noqa: ANN401
) -> tuple[Row, list[Any]]:
    """Time one backend, and return a part of what it answered, on the CPU."""
    import torch

    least = bound(case, task, bench.bandwidth) if backend != "sequential" else None
    row = Row(f"{case.label} {case.data}", task, backend, bound=least)
    try:
        call, ran = job(task, backend, y, problem)
        start = clock.perf_counter()
        answer = call()
        _wait(y)
        first = clock.perf_counter() - start
        found = [x.detach().reshape(-1)[:4096].cpu() for x in answer]
        del answer
        times = [_seconds(call, y)]
        while len(times) < bench.calls and sum(times) < bench.seconds:
            times.append(_seconds(call, y))
        done = row._replace(ran=ran, first=first, median=statistics.median(times))
        return done._replace(calls=len(times)), found
    except torch.OutOfMemoryError:
        return row._replace(note="out of memory"), []
    except ValueError as refusal:
        return row._replace(note=str(refusal).split(".")[0]), []


def job(
    task: Task,
    backend: Any,  # noqa: ANN401
    y: Any,  # noqa: ANN401
    problem: Any,  # noqa: ANN401
) -> tuple[Callable[[], tuple[Any, ...]], str]:
    """Return what to call, and what will do the work."""
    import torch

    import deepssm as ds
    from deepssm.inference import Kalman
    from deepssm.inference.kalman import backends as kalman_backends

    names = ("A", "Q", "C", "R", "m0", "P0")
    A, Q, C, R, m0, P0 = (torch.from_numpy(getattr(problem, name)).to(y.device) for name in names)
    wanted = [A, Q, R] if task == "gradient" else []
    for x in wanted:
        x.requires_grad_()
    method = Kalman(backend)

    def model() -> ds.models.LinearGaussian:
        return ds.models.LinearGaussian(A, Q, C, R, m0=m0, P0=P0)

    def gradient() -> tuple[Any, ...]:
        ll = ds.log_likelihood(model(), y, method=method)
        return (ll.detach(), *torch.autograd.grad(ll.sum(), wanted))

    fixed = model() if not wanted else None
    calls: dict[Task, Callable[[], tuple[Any, ...]]] = {
        "log_likelihood": lambda: (ds.log_likelihood(fixed, y, method=method),),
        "filter": lambda: tuple(ds.filter(fixed, y, method=method)[:5]),
        "smoother": lambda: tuple(ds.smooth(fixed, y, method=method)[:4]),
        "gradient": gradient,
    }
    run = kalman_backends.start(backend, model().linear_parameters(None, None), y)
    return calls[task], engine(run)


def engine(run: Any) -> str:  # noqa: ANN401
    """Say what does the work: a backend hands over where it does not apply."""
    from deepssm.inference.kalman import backends as backends

    if run is None:
        return "compiled loop on the CPU"
    if isinstance(run, backends.Threads):
        return "one thread a series"
    return "stationary" if run.engine is backends.STATIONARY else "scan"


def bound(case: Case, task: Task, bandwidth: float) -> float:
    """Seconds that reading the data and writing the results must take."""
    n, p = case.state, case.obs
    numbers = {
        "log_likelihood": p + 1,
        "filter": p + 1 + 2 * (n + n * n),
        "smoother": p + 1 + n + 2 * n * n,
        "gradient": p + 1,
    }
    return 8 * case.series * case.time * numbers[task] / bandwidth


def bandwidth(device: Any, quick: bool) -> float:  # noqa: ANN401
    """Measure bytes read and written a second by a copy on the device."""
    import torch

    source = torch.zeros(2**20 if quick else 2**28, device=device)
    target = torch.empty_like(source)
    times = [_seconds(lambda: target.copy_(source), source) for _ in range(8)]
    return 2 * source.numel() * source.element_size() / statistics.median(times[1:])


def disagreement(found: list[Any], expected: list[Any]) -> float:
    """Largest difference, each result relative to its largest entry."""
    return max(
        float((x.double() - y.double()).abs().max() / y.double().abs().max().clamp_min(1e-300))
        for x, y in zip(found, expected, strict=True)
    )


def store(folder: Path, bench: Bench, rows: list[Row]) -> None:
    """Write `gpu_kalman.json` and `gpu_kalman.md`."""
    import torch

    about = machine() | {"torch": torch.__version__, "CPU threads": str(torch.get_num_threads())}
    about["device"] = "cpu, a rehearsal; times mean nothing"
    if bench.device.type == "cuda":
        about["device"] = torch.cuda.get_device_name(bench.device)
    about["measured bandwidth"] = f"{bench.bandwidth / 1e9:.0f} GB/s, read and written"
    raw = {"machine": about, "rows": [row._asdict() for row in rows]}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu_kalman.json").write_text(json.dumps(raw, indent=1) + "\n")
    facts = "\n".join(f"- {key}: {value}" for key, value in about.items())
    table = markdown(HEADER, (row.line() for row in rows))
    text = (
        f"# Exact filters on a GPU\n\n{facts}\n\nMedians; the bound is what the data and the "
        "results alone take to move. `CPU / this` compares with the compiled loop.\n\n"
    )
    (folder / "gpu_kalman.md").write_text(text + table + "\n")


def _seconds(call: Callable[[], Any], like: Any) -> float:  # noqa: ANN401
    """Seconds of one call: of the device's own clock where there is one."""
    import torch

    if like.device.type != "cuda":
        start = clock.perf_counter()
        call()
        return clock.perf_counter() - start
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begin.record()
    call()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) / 1e3


def _wait(like: Any) -> None:  # noqa: ANN401
    import torch

    if like.device.type == "cuda":
        torch.cuda.synchronize()


def _cell(x: float | None, scale: float = 1.0) -> str:
    return "" if x is None else f"{x * scale:.3g}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny data")
    parser.add_argument("--device", default="cuda", help="`cpu` rehearses, with --quick")
    parser.add_argument("--output", type=Path, help="folder of the table; results/ on a GPU")
    options = parser.parse_args(arguments)
    if options.device == "cpu" and not options.quick:
        parser.error("--device cpu is a rehearsal and needs --quick")
    if options.output is None and options.device != "cpu" and not options.quick:
        options.output = HERE / "results"
    return options


if __name__ == "__main__":
    raise SystemExit(main())
