"""The rows of the benchmark, the targets they are held to, and the files they are written to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from cases import CASES, TASKS, Case, Task
from common import Paired, Timing, machine, markdown, median

# Least ratio to the best peer that issue 2 asks for; None: it asks for none.
ONE = {"log_likelihood": 20.0, "filter": 20.0, "smoother": 20.0, "gradient": 50.0}
MANY = {"log_likelihood": 2.5, "filter": 2.5, "smoother": 5.0, "gradient": 3.0}
GAPS = {"log_likelihood": 3.0, "filter": 10.0, "smoother": 6.0}


class Entry(NamedTuple):
    """What one peer did in one row; times in microseconds per step and series.

    Attributes:
        reason: Why there is no ratio; empty if there is.
        wall: On the clock. cpu: Processor time. ours: Our processor time in the same turns.
        ratio: Median over turns of `their / our` processor time. wall_ratio: Same on the clock.
        spread: Quartiles of `ratio`. turns: How many turns.
        first: Seconds of the first call, compilation included. steps: Series times steps it had.
    """

    reason: str
    wall: float = float("nan")
    cpu: float = float("nan")
    ours: float = float("nan")
    ratio: float = float("nan")
    wall_ratio: float = float("nan")
    spread: tuple[float, float] = (float("nan"), float("nan"))
    turns: int = 0
    first: float = float("nan")
    steps: int = 0

    @classmethod
    def unable(cls, reason: str) -> Entry:
        """Make the entry of a peer that cannot do it."""
        return cls(reason)

    @classmethod
    def of(cls, pair: Paired, mine: dict[str, Any], theirs: dict[str, Any], reason: str) -> Entry:
        """Scale a pair of timings to one step of one series."""
        a, b = mine["series"] * mine["time"], theirs["series"] * theirs["time"]
        low, high = pair.spread
        return cls(
            reason=reason,
            wall=pair.theirs.wall / b * 1e6,
            cpu=pair.theirs.cpu / b * 1e6,
            ours=pair.ours.cpu / a * 1e6,
            ratio=pair.cpu_ratio * a / b,
            wall_ratio=pair.wall_ratio * a / b,
            spread=(low * a / b, high * a / b),
            turns=pair.turns,
            first=theirs["first"],
            steps=b,
        )


class Row(NamedTuple):
    """One task on one data set; our times in microseconds per step and series.

    Rows of one report may come from several runs, so each tells when it was taken, and of what.
    """

    size: str
    data: str
    task: Task
    target: float | None
    wall: float
    cpu: float
    first: float
    second: float
    date: str
    commit: str
    peers: dict[str, Entry]

    @classmethod
    def of(
        cls,
        case: Case,
        task: Task,
        own: list[Timing],
        mine: dict[str, Any],
        peers: dict[str, Entry],
    ) -> Row:
        """Collect a row."""
        scale, ours = 1e6 / (mine["series"] * mine["time"]), median(own)
        about = machine()
        return cls(
            case.label, case.data, task, target(case, task), ours.wall * scale, ours.cpu * scale,
            mine["first"], mine["second"], about["date"], about["commit"], peers,
        )  # fmt: skip

    @property
    def best(self) -> tuple[str, Entry] | None:
        """The fastest peer that agrees with us."""
        able = [(name, entry) for name, entry in self.peers.items() if not entry.reason]
        return min(able, key=lambda pair: pair[1].ratio, default=None)

    @property
    def verdict(self) -> str:
        """Whether the target is met."""
        if self.target is None or self.best is None:
            return ""
        return "yes" if self.best[1].ratio >= self.target else "**no**"

    def cells(self) -> list[str]:
        """Cells of the main table."""
        head = [self.size, self.data, self.task.replace("_", "-"), _micro(self.cpu)]
        if self.best is None:
            return [*head, "none", "", "", "", "", "", self.commit]
        name, entry = self.best
        low, high = entry.spread
        wanted = "" if self.target is None else f"{self.target:g}"
        return [
            *head, name, _micro(entry.cpu), f"{entry.ratio:.1f}", f"{low:.1f} to {high:.1f}",
            wanted, self.verdict, self.commit,
        ]  # fmt: skip

    def line(self) -> str:
        """One line for the terminal."""
        return "  ".join(cell or "-" for cell in self.cells())


class Report(NamedTuple):
    """All rows, versions of all packages, environments that were absent, cached first calls."""

    rows: list[Row]
    versions: dict[str, dict[str, str]]
    missing: dict[str, str]
    cached: dict[str, float]

    def markdown(self) -> str:
        """Render everything for people."""
        about = machine()
        parts = [
            "# Exact linear-Gaussian inference against its peers",
            "\n".join(f"- {name}: {value}" for name, value in about.items() if name != "commit"),
            _MEANING,
            markdown(_MAIN, (row.cells() for row in self.rows)),
            self._absent(),
            "## Every peer\n\nProcessor time in µs per step and series, and its ratio to ours.",
            self._everyone(),
            "## First calls\n\nIn seconds; ours beyond a second call. JAX always compiles.",
            self._first(),
            "## Who could not do what",
            self._unable(),
            "## Versions",
            "\n".join(f"- {n}: {', '.join(f'{k} {v}' for k, v in p.items())}"
                      for n, p in self.versions.items()),
        ]  # fmt: skip
        return "\n\n".join(part for part in parts if part) + "\n"

    def after(self, path: Path) -> Report:
        """Add the rows of an earlier report that this one does not have."""
        if not path.exists():
            return self
        old = json.loads(path.read_text())
        rows = list(self.rows)
        keys = {(row.size, row.data, row.task) for row in rows}
        for kept in old["rows"]:
            if (kept["size"], kept["data"], kept["task"]) not in keys:
                peers = {name: Entry(**entry) for name, entry in kept.pop("peers").items()}
                rows.append(Row(**kept, peers=peers))
        order = [(c.label, c.data, task) for c in CASES for task in TASKS]
        rows.sort(key=lambda row: order.index((row.size, row.data, row.task)))
        cached = old["cached_first_calls"] | self.cached
        return self._replace(rows=rows, versions=old["versions"] | self.versions, cached=cached)

    def _absent(self) -> str:
        there = {(row.size, row.data, row.task) for row in self.rows}
        absent = [
            f"{case.label} {case.data} ({task.replace('_', '-')})"
            for case in CASES
            for task in TASKS
            if (case.label, case.data, task) not in there
        ]
        return "Not measured: " + "; ".join(absent) + "." if absent else ""

    def _names(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row.peers))

    def _everyone(self) -> str:
        def cell(entry: Entry | None) -> str:
            if entry is None or not entry.steps:
                return ""
            ratio = "other result" if entry.reason else f"{entry.ratio:.1f}×"
            return f"{_micro(entry.cpu)} ({ratio})"

        rows = [
            [r.size, r.data, r.task, _micro(r.cpu), *(cell(r.peers.get(n)) for n in self._names())]
            for r in self.rows
        ]
        return markdown(["size", "data", "task", "deepssm", *self._names()], rows)

    def _first(self) -> str:
        names = [n for n in self._names() if n in ("dynamax", "cuthbert")]
        rows = []
        for row in self.rows:
            if row.data != "complete":
                continue
            cached = self.cached.get(f"{row.size} {row.task}")
            theirs = [row.peers.get(name) for name in names]
            rows.append([
                row.size, row.task, f"{max(0.0, row.first - row.second):.2f}",
                "" if cached is None else f"{max(0.0, cached):.2f}",
                *("" if e is None or not e.steps else f"{e.first:.2f}" for e in theirs),
            ])  # fmt: skip
        return markdown(["size", "task", "deepssm", "deepssm, cached on disk", *names], rows)

    def _unable(self) -> str:
        reasons: dict[tuple[str, str], list[str]] = {}
        for row in self.rows:
            for name, entry in row.peers.items():
                if entry.reason:
                    where = f"{row.task}, {row.size}, {row.data}"
                    reasons.setdefault((name, entry.reason), []).append(where)
        lines = [f"- {script} was not run: {why}" for script, why in self.missing.items()]
        for (name, reason), where in reasons.items():
            places = where[0] if len(where) == 1 else f"{len(where)} rows"
            lines.append(f"- {name}: {reason} ({places})")
        return "\n".join(lines)


def target(case: Case, task: Task) -> float | None:
    """Return the least ratio that issue 2 asks of a row, if it asks for one."""
    if (case.state, case.obs) != (4, 2):
        return None
    if case.gaps:
        return GAPS.get(task)
    return {(1, 10_000): ONE, (256, 1_000): MANY}.get((case.series, case.time), {}).get(task)


def store(report: Report, folder: Path) -> Report:
    """Write a report as Markdown and JSON, with the rows that are there already; return both."""
    folder.mkdir(parents=True, exist_ok=True)
    report = report.after(folder / "linear_gaussian.json")
    (folder / "linear_gaussian.md").write_text(report.markdown())
    rows = [
        row._asdict() | {"peers": {n: e._asdict() for n, e in row.peers.items()}}
        for row in report.rows
    ]
    content = {"machine": machine(), "rows": rows, "versions": report.versions}
    content |= {"missing": report.missing, "cached_first_calls": report.cached}
    (folder / "linear_gaussian.json").write_text(json.dumps(content, indent=1) + "\n")
    return report


def _micro(x: float) -> str:
    return f"{x:.3g}" if x < 100 else f"{x:.0f}"


_MAIN = (
    "size", "data", "task", "deepssm, µs", "best peer", "its µs", "ratio", "quartiles", "target",
    "met", "commit",
)  # fmt: skip
_MEANING = """\
Times are processor time in µs per step and series, one thread, float64; `ratio` is the median of
(their time / our time) over turns in which both were timed one after the other, the best peer
being the one with the smallest ratio among those whose results agree with ours to 1e-6.
`gradient` is the log-likelihood with its derivatives in `A`, `Q` and `R`. Targets are those of
issue 2."""
