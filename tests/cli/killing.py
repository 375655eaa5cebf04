"""Commands and trainings in processes of their own, stopped at some moment."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from deepssm.cli.saved_runs import load

RUN = {"config.toml", "model.safetensors", "metrics.jsonl", "results.nc", "report.html", "log.txt"}

TRAINER = """
import sys, torch
import deepssm as ds
from deepssm import checkpoint
folder, steps = sys.argv[1], int(sys.argv[2])
torch.manual_seed(0)
torch.set_num_threads(1)
model = ds.models.DeepMarkov(1, 2, hidden=4)
data = torch.randn(5, 12, 1, generator=torch.Generator().manual_seed(3)).cumsum(-2)
method = ds.inference.SVI(
    steps=steps, batch_size=2, folder=folder, resume=True, checkpoint_every=1, report_every=1
)
print("begun", flush=True)
generator = torch.Generator().manual_seed(1)
ds.fit(model, data, method=method, progress=False, generator=generator)
checkpoint.save(folder + "/model.safetensors", {}, model=model)
"""


class Ended(NamedTuple):
    """How a process ended.

    Attributes:
        code: Its exit code, negative if a signal killed it.
        text: What it said on standard error.
        seconds: How long it ran.
    """

    code: int
    text: str
    seconds: float


def fit_words(data: Path, out: Path, *, deep: bool = False) -> list[str]:
    """Return a command that fits a small model."""
    words = [sys.executable, "-m", "deepssm", "fit", str(data), "--out", str(out), "--overwrite"]
    settings = ["--steps", "40", "--hidden", "4"]
    kind = ["--model", "deep-kalman", *settings] if deep else ["--model", "local-level"]
    return [*words, *kind]


def trainer_words(folder: Path, steps: int) -> list[str]:
    """Return a training with a checkpoint after every step, which goes on where one is."""
    return [sys.executable, "-c", TRAINER, str(folder), str(steps)]


def write_data(path: Path) -> None:
    """Write a small table."""
    path.write_text("\n".join(["level", *(f"{(i * 37) % 11 + 0.1 * i}" for i in range(60))]))


def run(words: list[str], number: int | None = None, after: float = 0.0, seen: str = "") -> Ended:
    """Run a process; stop it some seconds after it has said `seen`, on either stream.

    Args:
        words: The command.
        number: The signal, `None` for none.
        after: Seconds.
        seen: Text to wait for.
    """
    start = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        preexec_fn=None if sys.platform == "win32" else _listen,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        heard = []
        while number is not None and seen and not any(seen in line for line in heard):
            line = process.stdout.readline()
            if not line:
                break
            heard.append(line)
        if number is not None:
            time.sleep(after)
            process.send_signal(number)
        rest, _ = process.communicate(timeout=300)
    return Ended(process.returncode, "".join(heard) + rest, time.monotonic() - start)


def _listen() -> None:
    """Take Ctrl-C, which a process in the background ignores."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def moments(count: int, longest: float, seed: int) -> list[tuple[int, float]]:
    """Return signals and seconds at which to send them."""
    chance = random.Random(seed)
    kinds = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]
    return [(int(kinds[i % 3]), chance.uniform(0.0, longest)) for i in range(count)]


def faults_of_run(out: Path, number: int, code: int, before: set[str]) -> list[str]:
    """Return what is wrong after a fit was stopped.

    Args:
        out: The run folder.
        number: The signal.
        code: The exit code.
        before: What lay beside the data: one that a kill -9 ended may have left more.
    """
    faults = []
    if out.exists():
        if {path.name for path in out.iterdir()} != RUN:
            faults.append(f"run folder holds {sorted(path.name for path in out.iterdir())}")
        else:
            load(out).forecast(2)
    elif out.name in before:
        faults.append("the older run is gone")
    left = {path.name for path in out.parent.iterdir()} - {out.name, "data.csv"}
    left -= {f"{out.name}.training", *before}
    if number != signal.SIGKILL and left:
        faults.append(f"{sorted(left)} left after signal {number}")
    if code not in (0, -number if number == signal.SIGKILL else 128 + number, -number):
        faults.append(f"exit code {code}")
    return faults
