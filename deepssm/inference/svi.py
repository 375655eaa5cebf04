"""Stochastic variational inference: train a model and a guide on the evidence lower bound."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyro
import torch
from torch import Tensor, nn

from ..base import Series, StateSpaceModel
from ..results import Learned
from ..sequences import seeded
from .amortized import Amortized
from .elbo import bound, negative_elbo
from .guides import default_guide
from .minibatches import evaluation_batch, flatten, minibatches
from .overshooting import forecast_score
from .training_state import Keeper, best_line, check_finite


@dataclass(frozen=True, eq=False)
class SVI:
    """Maximise `E_q[log p(y | z)] - KL(q || p)` over the parameters of model and guide.

    Long series are trained on windows cut anywhere, whose first state is drawn from `p(z_1)`,
    which so becomes the law of a state at no particular time.

    Args:
        guide: A guide, trained in place; `None` builds one that fits the model, for real data
            `LinearizedGuide`, which needs few steps. Guides with weights need a thousand or more.
        steps: Gradient steps.
        batch_size: Series or windows a step.
        window: Steps of a window; shorter series are used whole. `None` never cuts.
        learning_rate: Of Adam, at its highest; it rises over the first 5 % of the steps and then
            falls to a hundredth along a half cosine.
        kl_start: Weight of the divergence at the first step.
        kl_warmup: Gradient steps until that weight is 1.
        clip: Largest norm of the gradient, per parameter block of model and guide together.
        num_particles: Paths per series and step.
        weight_decay: Of the model's network weights.
        report_every: Steps between evaluations of the un-annealed bound, whose best weights are
            the ones kept.
        patience: Evaluations without a new best before stopping; `None` runs all steps.
        max_rescues: How often a non-finite loss may send the training back to the last good
            weights at half the learning rate.
        hidden: Width of the default guide, where it has weights.
        overshoot: Steps at the end of each window that are also forecast without their
            observations and scored by CRPS; 0 does not.
        overshoot_weight: Weight of that score beside the bound per step.

    Source: Kingma, Welling (2014); Krishnan, Shalit, Sontag (2017), algorithm 1.
    """

    guide: nn.Module | None = None
    steps: int = 600
    batch_size: int = 16
    window: int | None = 128
    learning_rate: float = 1e-2
    kl_start: float = 0.2
    kl_warmup: int = 200
    clip: float = 10.0
    num_particles: int = 1
    weight_decay: float = 0.0
    report_every: int = 25
    patience: int | None = None
    max_rescues: int = 5
    hidden: int = 32
    overshoot: int = 0
    overshoot_weight: float = 1.0

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
            ValueError: nothing was observed, or nothing is left to learn.
            FloatingPointError: the loss stayed non-finite after all rescues.
        """
        data = flatten(series)
        if bool(torch.isnan(data.y).all()):
            raise ValueError("`y` holds no observation: every value is missing (NaN).")
        with seeded(generator), pyro.settings.context(module_local_params=True):
            model.initialize_from(data)
            guide = default_guide(model, data, self.hidden) if self.guide is None else self.guide
            initialize = getattr(guide, "initialize_from", None)
            if initialize is not None:
                initialize(model, data)
            return self._train(model, guide, data, progress)

    def _train(
        self, model: StateSpaceModel, guide: nn.Module, data: Series, progress: bool
    ) -> Learned:
        parameters = [p for p in (*model.parameters(), *guide.parameters()) if p.requires_grad]
        if not parameters:
            raise ValueError("`model` and `guide` have no free parameter: nothing can be learnt.")
        optimizer = torch.optim.Adam(
            parameters, lr=self.learning_rate, weight_decay=self.weight_decay
        )
        trial = evaluation_batch(data, 4 * self.batch_size, self.window)
        keeper = Keeper(nn.ModuleList([model, guide]), optimizer)
        batches = minibatches(data, self.batch_size, self.window)
        loss = negative_elbo(model, guide, num_particles=self.num_particles)
        interrupted = False
        try:
            for step in _progress(self.steps, progress, keeper):
                self._step(step, loss, next(batches), optimizer, parameters, keeper)
                if (step + 1) % self.report_every == 0 or step + 1 == self.steps:
                    keeper.report(step + 1, _evaluate(model, guide, trial))
                    if self.patience is not None and keeper.since_best >= self.patience:
                        break
        except KeyboardInterrupt:
            interrupted = True
        keeper.restore_best()
        return self._learned(guide, data, keeper, interrupted)

    def _step(
        self,
        step: int,
        loss: Callable[..., Tensor],
        batch: Series,
        optimizer: torch.optim.Optimizer,
        parameters: list[nn.Parameter],
        keeper: Keeper,
    ) -> None:
        weight = self.kl_start + (1 - self.kl_start) * min(step / max(self.kl_warmup, 1), 1.0)
        if not any(True for _ in loss.guide.guide.parameters()):  # type: ignore[attr-defined]
            weight = 1.0  # A guide without weights cannot collapse; it fits the bound itself.
        for group in optimizer.param_groups:
            group["lr"] = self.learning_rate * keeper.caution * _schedule(step / self.steps)
        optimizer.zero_grad(set_to_none=True)
        with warnings.catch_warnings():
            # Pyro warns of NaN and goes on; here it is dealt with below.
            warnings.filterwarnings("ignore", "Encountered NaN", UserWarning)
            value = loss(*batch, weight, 1.0 / max(_count(batch), 1))
            if self.overshoot and batch.y.shape[1] > self.overshoot:
                value = value + self.overshoot_weight * forecast_score(
                    loss.model.model, loss.guide.guide, batch, self.overshoot
                )
            value.backward()
        norm = nn.utils.clip_grad_norm_(parameters, self.clip)
        if check_finite(value, norm):
            optimizer.step()
        else:
            keeper.rescue(step, _culprit(loss, batch), batch, self.max_rescues)

    def _learned(
        self, guide: nn.Module, data: Series, keeper: Keeper, interrupted: bool
    ) -> Learned:
        best = keeper.best
        notes = list(keeper.warnings)
        if interrupted:
            notes.append("Training was interrupted; the best weights so far are in place.")
        diagnostics = {
            "elbo_per_step": best["elbo"],
            "divergence_per_step": best["divergence"],
            "steps": float(keeper.history[-1]["step"]) if keeper.history else 0.0,
            "num_parameters": float(keeper.num_parameters),
        }
        objective = best["elbo"] * _count(data)
        return Learned(Amortized(guide), objective, keeper.history, {}, diagnostics, notes)


def _schedule(fraction: float) -> float:
    if fraction < 0.05:
        return 0.1 + 0.9 * fraction / 0.05
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (fraction - 0.05) / 0.95))


def _evaluate(model: StateSpaceModel, guide: nn.Module, trial: Series) -> dict[str, float]:
    """Return the un-annealed bound on a fixed batch with fixed noise, in nats per step."""
    generator = torch.Generator(trial.y.device).manual_seed(0)
    with torch.no_grad(), seeded(generator):
        parts = bound(model, guide, trial)
    count = max(_count(trial), 1)
    reconstruction = float(parts.reconstruction.sum()) / count
    divergence = float(parts.divergence.sum()) / count
    return {
        "elbo": reconstruction - divergence,
        "reconstruction": reconstruction,
        "divergence": divergence,
    }


def _culprit(loss: Callable[..., Tensor], batch: Series) -> str:
    """Name the site whose term of the bound is not finite."""
    with torch.no_grad():
        parts = bound(loss.model.model, loss.guide.guide, batch)  # type: ignore[attr-defined]
    if not check_finite(parts.divergence):
        return "site `z`"
    return "the gradient" if check_finite(parts.reconstruction) else "site `y`"


def _count(series: Series) -> int:
    """Return the number of steps with an observation."""
    return int((~torch.isnan(series.y)).any(-1).sum())


def _progress(steps: int, show: bool, keeper: Keeper) -> Iterator[int]:
    if not show:
        yield from range(steps)
        return
    from tqdm import tqdm

    with tqdm(range(steps), desc="SVI", unit="step", mininterval=0.5) as bar:
        for step in bar:
            yield step
            if keeper.history:
                bar.set_postfix_str(best_line(keeper.history[-1], keeper.best), refresh=False)
