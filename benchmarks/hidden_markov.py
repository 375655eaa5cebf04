"""Hidden Markov models and switching filters with dynamax, hmmlearn and filterpy, by turns.

    python benchmarks/hidden_markov.py --peers PYTHON [--quick] [--turns N]

`PYTHON` is an interpreter that has the peers. Processes stay and are timed by turns, in processor
time, one thread; results must agree (paths of Viterbi but for ties) or no ratio is shown. Gaussian
states with full covariances, float64 for all. The table goes to `results/hidden_markov.md`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import Paired, Remote, alternate, machine, markdown

HERE = Path(__file__).parent
SIZES = ((3, 100_000, 1), (3, 100_000, 2), (30, 20_000, 2), (200, 1_000, 2))
TASKS = ("log-likelihood", "smoother", "Viterbi", "EM step", "gradient")
PEERS = ("dynamax", "hmmlearn")
TOLERANCE = 1e-6


class Row(NamedTuple):
    """One comparison."""

    task: str
    data: str
    peer: str
    paired: Paired
    gap: float


def compared(
    ours: Remote, theirs: Remote, peer: str, task: str, sizes: list[int], turns: int
) -> Row | None:
    """Time one task by turns, or say why not."""
    with tempfile.TemporaryDirectory() as folder:
        files = [str(Path(folder) / f"{i}.npy") for i in range(2)]
        for remote, name, file in ((ours, "deepssm", files[0]), (theirs, peer, files[1])):
            answer = remote.ask("prepare", name=name, task=task, sizes=sizes, target=file)
            if "unable" in answer:
                print(f"{task} {sizes}: {name} is unable: {answer['unable']}", file=sys.stderr)
                return None
        a, b = (np.load(file) for file in files)
    if task == "Viterbi":
        gap = float((a != b).mean())
    else:
        gap = float(np.abs(a - b).max() / max(1.0, np.abs(b).max()))
    paired = alternate(ours.measure, theirs.measure, turns)
    label = f"K={sizes[0]} T={sizes[1]} p={sizes[2]}" if len(sizes) == 3 else f"T={sizes[0]} n=4"
    return Row(task, label, peer, paired, gap)


def shown(row: Row) -> list[str]:
    """Return the cells of a row."""
    p = row.paired
    agrees = row.gap < (1e-3 if row.task == "Viterbi" else TOLERANCE)
    ratio = f"{p.cpu_ratio:.2f} ({p.spread[0]:.2f}-{p.spread[1]:.2f})" if agrees else "differs"
    times = f"{1e3 * p.ours.cpu:.2f}", f"{1e3 * p.theirs.cpu:.2f}"
    return [row.task, row.data, times[0], row.peer, times[1], ratio, f"{row.gap:.0e}"]


def report(rows: list[Row], versions: dict[str, str]) -> str:
    """Return the page."""
    about = ", ".join(f"{k} {v}" for k, v in machine().items())
    names = ", ".join(f"{k} {v}" for k, v in versions.items())
    header = ("job", "data", "ours, ms", "peer", "theirs, ms", "theirs / ours", "gap")
    return (
        "# Hidden Markov models and switching filters\n\n"
        "Processor time of one thread, medians; ratios are medians of those within a turn, with\n"
        "their quartiles. From `benchmarks/hidden_markov.py`, which says how.\n\n"
        f"{about}.\n{names}.\n\n{markdown(header, [shown(row) for row in rows])}\n"
    )


def main(peers: str, quick: bool = False, turns: int = 9) -> None:
    """Run all comparisons and write the page."""
    ours = Remote(Path(sys.executable), "hidden_markov_worker.py", {})
    theirs = Remote(Path(peers), "hidden_markov_worker.py", {})
    jobs = [
        (peer, task, list(size))
        for size in (((3, 1_000, 2),) if quick else SIZES)
        for task in TASKS
        for peer in PEERS
        if (task, peer) != ("gradient", "hmmlearn")
    ]
    jobs += [("filterpy", "IMM", [100 if quick else 1_000])]
    rows = []
    for peer, task, sizes in jobs:
        row = compared(ours, theirs, peer, task, sizes, turns)
        if row is not None:
            rows.append(row)
            print(" ".join(shown(row)), flush=True)
    versions = theirs.contestants | ours.contestants
    if not quick:
        page = report(rows, {k: str(v) for k, v in versions.items()})
        (HERE / "results" / "hidden_markov.md").write_text(page)
    for remote in (ours, theirs):
        remote.close()


if __name__ == "__main__":
    given = sys.argv[sys.argv.index("--peers") + 1] if "--peers" in sys.argv else sys.executable
    count = int(sys.argv[sys.argv.index("--turns") + 1]) if "--turns" in sys.argv else 9
    main(given, "--quick" in sys.argv, count)
