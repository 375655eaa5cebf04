"""Exact linear-Gaussian inference, side by side with peers. See README.md.

Run: python benchmarks/linear_gaussian.py [--quick] [--only B=256] [--output folder]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from agreement import disagreement
from cases import CASES, QUICK, TASKS, Case, Task, save, simulate
from common import HERE, Remote, alternate
from report import Entry, Report, Row, store

Peers = dict[str, Remote]


class Plan(NamedTuple):
    """How much to run.

    Attributes:
        cases: Data to time. turns: Most turns of a pair. seconds: Time a pair may take, roughly.
        folder: Scratch space.
    """

    cases: tuple[Case, ...]
    turns: int
    seconds: float
    folder: Path


def main(arguments: list[str] | None = None) -> Report:
    """Time every case and task, and write the table and the raw numbers after every row."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        plan = _plan(options, Path(scratch))
        cache = {} if options.quick else {"NUMBA_CACHE_DIR": scratch}
        ours = _open_ours(cache)
        peers, missing = _open_peers(options)
        versions = ours.contestants | {n: p.contestants[n] for n, p in peers.items()}
        report = Report([], versions, missing, {})
        for row in run(plan, ours, peers):
            print(row.line(), flush=True)
            report = report._replace(rows=[*report.rows, row])
            _with(report, options.output)
        ours.close()
        for remote in set(peers.values()):
            remote.close()
        cached = {} if options.quick else first_calls(plan, _open_ours(cache))
    report = _with(report._replace(cached=cached), options.output)
    print("\n" + report.markdown())
    return report


def _with(report: Report, folder: Path | None) -> Report:
    return report if folder is None else store(report, folder)


def run(plan: Plan, ours: Remote, peers: Peers) -> Iterator[Row]:
    """Yield a row for each case and task."""
    for case in plan.cases:
        source = plan.folder / "data.npz"
        save(simulate(case), source)
        for task in TASKS:
            yield time_row(plan, case, task, source, ours, peers)


def time_row(plan: Plan, case: Case, task: Task, source: Path, ours: Remote, peers: Peers) -> Row:
    """Time one task on one data set: us and each peer by turns."""
    job = {"name": "deepssm", "task": task, "source": str(source)}
    target = plan.folder / "ours.npz"
    mine = ours.ask("prepare", target=str(target), **job)
    if "unable" in mine:
        raise RuntimeError(f"deepssm on {case.label}, {task}: {mine['unable']}")
    entries, own = {}, [ours.measure() for _ in range(3)]
    for name, peer in peers.items():
        theirs = plan.folder / f"{name}.npz"
        request = job | {"name": name, "target": str(theirs)}
        found = peer.ask("prepare", **request)
        if "unable" in found:
            entries[name] = Entry.unable(found["unable"])
            continue
        reference = target
        if (found["series"], found["time"]) != (mine["series"], mine["time"]):
            reference = plan.folder / "cut.npz"
            size = {"series": found["series"], "time": found["time"]}
            ours.ask("reference", target=str(reference), **job, **size)
        turns = _turns(plan, mine["second"] + found["second"])
        pair = alternate(ours.measure, peer.measure, turns)
        own.append(pair.ours)
        entries[name] = Entry.of(pair, mine, found, disagreement(reference, theirs))
        peer.ask("clear")
    ours.ask("clear")
    return Row.of(case, task, own, mine, entries)


def first_calls(plan: Plan, ours: Remote) -> dict[str, float]:
    """Seconds of a fresh process's first call beyond its second, compiled code being cached."""
    found = {}
    for case in plan.cases:
        if case.gaps:
            continue
        source, target = plan.folder / "data.npz", plan.folder / "ours.npz"
        save(simulate(case), source)
        for task in TASKS:
            job = {"name": "deepssm", "task": task, "source": str(source), "target": str(target)}
            answer = ours.ask("prepare", **job)
            found[f"{case.label} {task}"] = answer["first"] - answer["second"]
    ours.close()
    return found


def _turns(plan: Plan, seconds: float) -> int:
    return int(min(plan.turns, max(3, plan.seconds / max(seconds, 1e-9))))


def _open_ours(environment: dict[str, str]) -> Remote:
    path = os.pathsep.join([str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return Remote(Path(sys.executable), "ours.py", {"PYTHONPATH": path} | environment)


def _open_peers(options: argparse.Namespace) -> tuple[Peers, dict[str, str]]:
    peers: Peers = {}
    missing: dict[str, str] = {}
    for folder, script in ((options.peers, "peers_numpy.py"), (options.peers_jax, "peers_jax.py")):
        python = folder / "bin" / "python"
        try:
            if not python.exists():
                raise RuntimeError(f"no environment at {folder}")
            remote = Remote(python, script, {"PYTHONPATH": ""})
            peers |= dict.fromkeys(remote.contestants, remote)
        except RuntimeError as reason:
            missing[script] = str(reason)
            print(f"skipped {script}: {reason}", flush=True)
    return peers, missing


def _plan(options: argparse.Namespace, folder: Path) -> Plan:
    cases = tuple(
        c for c in (QUICK if options.quick else CASES) if options.only in f"{c.label} {c.data}"
    )
    return Plan(
        cases, 3 if options.quick else 21, 0.2 if options.quick else options.seconds, folder
    )


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--quick", action="store_true", help="tiny data, under a minute")
    parser.add_argument("--only", default="", help="run cases whose label holds this, e.g. B=256")
    parser.add_argument("--seconds", type=float, default=4.0, help="for a pair and a row")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder to write to")
    parser.add_argument("--peers", type=Path, default=HERE / ".peers", help="environment")
    parser.add_argument("--peers-jax", type=Path, default=HERE / ".peers-jax", help="environment")
    options = parser.parse_args(arguments)
    if options.quick and options.output == HERE / "results":
        options.output = None
    return options


if __name__ == "__main__":
    main()
