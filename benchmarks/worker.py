"""A process that prepares jobs and times them on request, one line of JSON each way.

A contestant runs in the environment that has its packages. The process stays, so that the script
that leads can alternate between contestants; it never runs two at once. Needs NumPy alone.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cases import Problem, Task, load

Arrays = dict[str, np.ndarray]
MIN_SECONDS, SHORT = 0.03, 1.0  # of a measurement, and of a call that may need repeating
SLOW = 60.0  # seconds of a first call (compilation included) after which there is no second one


class Unable(Exception):
    """A contestant cannot do a task; says why."""


class Job(NamedTuple):
    """Work to time.

    Attributes:
        call: Does the work, completely, and returns what the package returns.
        read: Turns that into arrays: `log_likelihood` `(series,)`; `mean`, `cov` over
            `(series, time)`; gradients `A`, `Q`, `R`. Not timed.
    """

    call: Callable[[], Any]
    read: Callable[[Any], Arrays]


class Contestant(NamedTuple):
    """A package under test.

    Attributes:
        name: What the table calls it.
        packages: Distributions whose versions the report gives.
        prepare: Makes the job for a task, or raises `Unable`.
        limit: Most series and most steps it is given: Python loops would take hours.
    """

    name: str
    packages: tuple[str, ...]
    prepare: Callable[[Task, Problem], Job]
    limit: tuple[int, int] = (10**9, 10**9)


class Worker:
    """Holds the job that is being timed."""

    def __init__(self, contestants: tuple[Contestant, ...]) -> None:
        self.contestants = {contestant.name: contestant for contestant in contestants}
        self.call: Callable[[], Any] = lambda: None
        self.repeats = 1

    def hello(self) -> dict[str, Any]:
        """Say who is here, with versions."""
        return {
            name: {package: importlib.metadata.version(package) for package in c.packages}
            for name, c in self.contestants.items()
        }

    def prepare(self, name: str, task: Task, source: str, target: str) -> dict[str, Any]:
        """Get a job ready, run it twice if it is not slow, and write what it found."""
        contestant = self.contestants[name]
        problem = load(Path(source)).cut(*contestant.limit)
        try:
            job = contestant.prepare(task, problem)
        except Unable as reason:
            return {"unable": str(reason)}
        first, found = _timed(job.call)
        np.savez(target, allow_pickle=False, **_thinned(job.read(found)))
        del found
        again = first if first > SLOW else _timed(job.call)[0]
        self.call, self.repeats = job.call, 1
        if again < SHORT:
            # A third call, for the second one may still take its results from fresh memory.
            cpu = time.process_time()
            job.call()
            cpu = time.process_time() - cpu
            self.repeats = int(np.ceil(MIN_SECONDS / max(cpu, 1e-6)))
        series, steps, _ = problem.y.shape
        return {"first": first, "second": again, "series": series, "time": steps}

    def reference(
        self, name: str, task: Task, source: str, target: str, series: int, time: int
    ) -> dict[str, Any]:
        """Write the results on part of the data; the job that is being timed stays."""
        job = self.contestants[name].prepare(task, load(Path(source)).cut(series, time))
        np.savez(target, allow_pickle=False, **_thinned(job.read(job.call())))
        return {}

    def measure(self) -> dict[str, float]:
        """Run the job once more, or a few times if it is short; seconds of one call.

        A short job first runs once untimed: the other contestant had the caches in between.
        """
        if self.repeats > 1:
            self.call()
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(self.repeats):
            self.call()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return {"wall": wall / self.repeats, "cpu": cpu / self.repeats}

    def clear(self) -> dict[str, Any]:
        """Let the job and its data go."""
        self.call = lambda: None
        return {}


def serve(*contestants: Contestant) -> None:
    """Answer requests on standard input until it ends; what packages print goes to stderr."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    worker = Worker(contestants)
    print(json.dumps(worker.hello()), file=answers)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = getattr(worker, request.pop("do"))(**request)
        except Exception as error:  # noqa: BLE001
            answer = {"unable": f"it failed: {type(error).__name__}: {str(error)[:160]}"}
        print(json.dumps(answer), file=answers)


def _timed(call: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    found = call()
    return time.perf_counter() - start, found


def _thinned(found: Arrays, most: int = 64) -> Arrays:
    """Keep first series and a few steps of long results, the last step among them."""
    out = {}
    for name, array in found.items():
        value = np.asarray(array, float)
        if name in ("mean", "cov"):
            steps = np.unique(np.linspace(0, value.shape[1] - 1, most).astype(int))
            value = value[:8, steps]
        out[name] = value
    return out
