"""Stochastic variational inference: train a model and a guide on the evidence lower bound."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyro
import torch
from torch import nn

from ...core.arguments import checked
from ...core.deprecation import warn_renamed
from ...core.guides import Guide, InitializesGuide
from ...core.methods import Learned
from ...core.model import Series, StateSpaceModel
from ...core.objectives import (
    ChoosesMethod,
    KeepsState,
    Loss,
    Objective,
    PreparesLoss,
    ReportsBound,
)
from ...core.pyro_sites import seeded
from ..guides.smoothing_guide import default_guide
from . import distributed
from .amortized import Amortized
from .compile import compiled_parts
from .elbo import bound, negative_elbo
from .interrupt import deferred_interrupt
from .minibatches import Minibatches, evaluation_batch, flatten, held_out
from .overshooting import forecast_score
from .run_log import Callback, RunLog, locked_training
from .state import TrainingState, best_line, check_finite
from .validation import check_counts, check_guide, check_model, check_posterior
from .weight_decay import parameter_groups


@checked
@dataclass(frozen=True, eq=False)
class SVI:
    """Maximise `E_q[log p(y | z)] - KL(q || p)` over the parameters of model and guide.

    Long series are trained on windows cut anywhere, whose first state is drawn from `p(z_1)`,
    which so becomes the distribution of a state at no particular time.

    Args:
        guide: A `Guide` that is an `nn.Module`, trained in place; `None` builds one that fits the
            model, for real data `LinearizedGuide`, which needs few steps. Guides with weights
            need a thousand or more.
        steps: Gradient steps.
        batch_size: Series or windows a step.
        window: Steps of a window; shorter series are used whole. `None` never cuts.
        learning_rate: Of Adam, at its highest; it rises over the first 5 % of the steps and then
            falls to a hundredth along a half cosine.
        kl_start: Weight of the divergence at the first step.
        kl_warmup: Gradient steps until that weight is 1.
        clip: Largest norm of the gradient, per parameter block of model and guide together.
        num_particles: Paths per series and step.
        weight_decay: Pull of all parameters towards 0. `None` takes it from the model's
            `prior_scale` (a deep model has one), as a normal prior on its parameters alone.
        averaging: Where above 0, the weights that are evaluated and returned are an average over
            the steps, of whose weight this share outlasts a step: 0.999 averages about 1000 steps.
        report_every: Steps between evaluations of the un-annealed bound, whose best weights are
            the ones returned.
        validation: Series held out, such as `deepssm.as_series(model, y, u)`: where given,
            the best weights are those with the largest bound on them rather than on the training
            data. Training data are refused here.
        patience: Evaluations without a new best before stopping; `None` runs all steps.
        max_rescues: How often a non-finite loss may send the training back to the last good
            weights at half the learning rate.
        hidden: Width of the default guide, where it has weights.
        overshoot: Steps at the end of each window that are also forecast without their
            observations and scored by CRPS; 0 does not.
        overshoot_weight: Weight of that score beside the bound per step.
        objective: What is maximised, an `Objective`; `None` is the evidence lower bound with
            analytic divergence.
        bucketed: Whether whole series of like length share a batch.
        precision: `"bfloat16"` runs matrix products in half the bits, for GPUs.
        compile: Whether `torch.compile` takes the model's networks and the guide's readers, with
            the same results to rounding; see `compiled_parts`. It starts slowly, and on CPUs no
            step became faster by it.
        folder: Where checkpoints and `metrics.jsonl` are written while training; Ctrl-C writes
            one too, and then returns the best weights so far.
        checkpoint_every: Steps between checkpoints.
        resume: Go on from the checkpoint in `folder`, if there is one, as if never stopped.
        callbacks: Called with every record of the history, such as `TensorBoard(folder)`.

    Source: Kingma, Welling (2014); Krishnan, Shalit, Sontag (2017), algorithm 1.
    """

    guide: Guide | None = None
    steps: int = 600
    batch_size: int = 16
    window: int | None = 128
    learning_rate: float = 1e-2
    kl_start: float = 0.2
    kl_warmup: int = 200
    clip: float = 10.0
    num_particles: int = 1
    weight_decay: float | None = None
    averaging: float = 0.0
    report_every: int = 25
    validation: Series | None = None
    patience: int | None = None
    max_rescues: int = 5
    hidden: int = 32
    overshoot: int = 0
    overshoot_weight: float = 1.0
    objective: Objective | None = None
    bucketed: bool = False
    precision: Literal["full", "bfloat16"] = "full"
    compile: bool = False
    folder: str | Path | None = None
    checkpoint_every: int = 200
    resume: bool = False
    callbacks: tuple[Callback, ...] = ()

    def __post_init__(self) -> None:
        """Check the options."""
        check_counts(
            vars(self), steps=1, batch_size=1, window=2, num_particles=1, report_every=1,
            patience=1, hidden=1, overshoot=0, checkpoint_every=1,
        )  # fmt: skip
        if not self.learning_rate > 0 or not 0 <= self.averaging < 1:
            raise ValueError(
                "`learning_rate` must be positive and `averaging` in [0, 1), got "
                f"{self.learning_rate} and {self.averaging}."
            )
        if self.precision not in ("full", "bfloat16"):
            raise ValueError(f"`precision` is 'full' or 'bfloat16', got {self.precision!r}.")

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        """Train the model in place and return the trained guide as its method of inference.

        Args:
            model: The model; parameters that need no gradient stay as they are.
            series: The data.
            progress: Whether to show a bar.
            generator: Drives initial weights of the guide, minibatches and paths.

        Returns:
            `history` in nats per observed step: `elbo`, `reconstruction`, `divergence`.

        Raises:
            ValueError: nothing was observed, nothing is left to learn, the data do not fit the
                model, `guide` was made for another or returns no distribution of its paths,
                `resume` finds another model's checkpoint, or `torchrun` is set up so that
                processes train apart.
            FloatingPointError: the loss stayed non-finite after all rescues.
            BlockingIOError: another training writes into `folder`.
        """
        data = flatten(series)
        if bool(torch.isnan(data.y).all()):
            raise ValueError("`y` holds no observation: every value is missing (NaN).")
        own = locked_training(self.folder)
        with own, seeded(generator), pyro.settings.context(module_local_params=True):
            model.initialize_from(data)
            guide = default_guide(model, data, self.hidden) if self.guide is None else self.guide
            guide = check_guide(model, guide)
            check_model(model, data)
            if isinstance(guide, InitializesGuide):
                guide.initialize_from(model, data)
            check_posterior(model, guide, evaluation_batch(data, self.batch_size, self.window))
            return self._train(model, guide, data, progress)

    def _train(
        self, model: StateSpaceModel, guide: nn.Module, data: Series, progress: bool
    ) -> Learned:
        if self.resume and self.folder is None:
            raise ValueError("`resume` needs `folder`, where the checkpoint is, got None.")
        loss = (self.objective or negative_elbo)(model, guide, num_particles=self.num_particles)
        if isinstance(loss, PreparesLoss):
            loss.prepare(data)
        modules = nn.ModuleList([model, guide, *_training_state(loss)])
        parameters = [p for p in modules.parameters() if p.requires_grad]
        if not parameters:
            raise ValueError("`model` and `guide` have no free parameter: nothing can be learnt.")
        distributed.check_set_up(modules, len(data.y))
        groups = parameter_groups(loss, model, parameters, data, self.weight_decay)
        optimizer = torch.optim.Adam(groups, lr=self.learning_rate, fused=True)
        training = TrainingState(modules, optimizer, self.averaging)
        run = _Run(model, guide, loss, distributed.replicate(loss), training)
        with compiled_parts(model, guide) if self.compile else nullcontext():
            stopped = self._run(run, data, progress)
        run.training.restore_best()
        return self._learned(run, data, stopped)

    def _run(self, run: _Run, data: Series, progress: bool) -> str:
        """Train, and return a sentence if the user interrupted it."""
        training, log = run.training, RunLog(self.folder, self.callbacks)
        trial = evaluation_batch(data, 4 * self.batch_size, self.window)
        if self.validation is not None:
            trial = held_out(self.validation, data)
        batches = Minibatches(data, self.batch_size, self.window, bucketed=self.bucketed)
        first = log.resume(training, batches) if self.resume else 0
        log.begin(training.history)
        stop = False
        try:
            with deferred_interrupt() as interruption:
                for step in _progress(range(first, self.steps), progress, training):
                    self._step(step, run, next(batches))
                    done = step + 1
                    if done % self.report_every == 0 or done == self.steps:
                        with training.averaged():
                            found = _evaluate(run.model, run.guide, trial, run.loss)
                            training.report(done, distributed.mean_record(found))
                            log.record(training.history[-1])
                    stop = distributed.anywhere(interruption.asked, data.y.device)
                    if done % self.checkpoint_every == 0 or stop:
                        log.save(done, training, batches)
                    if stop:
                        break
                    if self.patience is not None and training.since_best >= self.patience:
                        break
                else:
                    log.save(self.steps, training, batches)
        except KeyboardInterrupt:
            return log.interrupted()
        return log.interrupted() if stop else ""

    def _step(self, step: int, run: _Run, batch: Series) -> None:
        weight = self.kl_start + (1 - self.kl_start) * min(step / max(self.kl_warmup, 1), 1.0)
        if not any(True for _ in run.guide.parameters()):
            weight = 1.0  # A guide without weights cannot collapse; it fits the bound itself.
        training = run.training
        for group in training.optimizer.param_groups:
            group["lr"] = self.learning_rate * training.caution * _schedule(step / self.steps)
        training.optimizer.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            # Pyro warns of NaN and goes on; here it is dealt with below.
            warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
            with torch.autocast(
                batch.y.device.type, torch.bfloat16, enabled=self.precision == "bfloat16"
            ):
                value = run.replica(*batch, weight, 1.0 / max(_count(batch), 1))
                if self.overshoot and batch.y.shape[1] > self.overshoot:
                    value = value + self.overshoot_weight * forecast_score(
                        run.model, run.guide, batch, self.overshoot
                    )
            value.backward()
        norm = nn.utils.clip_grad_norm_(training.modules.parameters(), self.clip)
        if distributed.agreed(check_finite(value, norm), value.device):
            training.update(step)
        else:
            training.rescue(step, _culprit(run, batch), batch, self.max_rescues)

    def _learned(self, run: _Run, data: Series, stopped: str) -> Learned:
        training = run.training
        loss, guide = run.loss, run.guide
        method = loss.method(guide) if isinstance(loss, ChoosesMethod) else Amortized(guide)
        best = training.best
        notes = [*training.warnings, *([stopped] if stopped else [])]
        diagnostics = {
            "elbo_per_step": best["elbo"],
            "divergence_per_step": best["divergence"],
            "steps": float(training.history[-1]["step"]) if training.history else 0.0,
            "num_parameters": float(training.num_parameters),
        }
        objective = best["elbo"] * _count(data)
        return Learned(method, objective, training.history, {}, diagnostics, notes)


def _schedule(fraction: float) -> float:
    if fraction < 0.05:
        return 0.1 + 0.9 * fraction / 0.05
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (fraction - 0.05) / 0.95))


class _Run(NamedTuple):
    """One training: `replica` is the loss, or what `torch.distributed` makes of it."""

    model: StateSpaceModel
    guide: nn.Module
    loss: nn.Module
    replica: nn.Module
    training: TrainingState


def _evaluate(
    model: StateSpaceModel,
    guide: nn.Module,
    trial: Series,
    loss: Loss | None = None,
) -> dict[str, float]:
    """Return the un-annealed bound on a fixed batch with fixed noise, in nats per step."""
    generator = torch.Generator(trial.y.device).manual_seed(0)
    count = max(_count(trial), 1)
    with torch.no_grad(), seeded(generator):
        parts = bound(model, guide, trial)
        own = loss.bound(trial) if isinstance(loss, ReportsBound) else None
    tighter = {} if own is None else {"bound": float(own.sum()) / count}
    reconstruction = float(parts.reconstruction.sum()) / count
    divergence = float(parts.divergence.sum()) / count
    return {
        "elbo": reconstruction - divergence,
        "reconstruction": reconstruction,
        "divergence": divergence,
        **tighter,
    }


def _training_state(loss: nn.Module) -> list[nn.Module]:
    if isinstance(loss, KeepsState):
        return [loss.training_state()]
    old = dict(loss.named_children()).get("state")
    if old is None:
        return []
    warn_renamed("The module `state` of a loss", "what its method `training_state` returns")
    return [old]


def _culprit(run: _Run, batch: Series) -> str:
    """Name the site whose term of the bound is not finite."""
    with torch.no_grad():
        parts = bound(run.model, run.guide, batch)
    if not check_finite(parts.divergence):
        return "site `z`"
    return "the gradient" if check_finite(parts.reconstruction) else "site `y`"


def _count(series: Series) -> int:
    """Return the number of steps with an observation."""
    return int((~torch.isnan(series.y)).any(-1).sum())


def _progress(steps: range, show: bool, training: TrainingState) -> Iterator[int]:
    if not show:
        yield from steps
        return
    from tqdm import tqdm

    with tqdm(steps, desc="SVI", unit="step", mininterval=0.5) as bar:
        for step in bar:
            yield step
            if training.history:
                bar.set_postfix_str(best_line(training.history[-1], training.best), refresh=False)
