"""Learning two-layer models on the bound in which the linear state is integrated out."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from ...core.arguments import checked
from ...core.guides import ReadsFrames
from ...core.methods import Learned
from ...core.model import Series, StateSpaceModel
from ...core.pyro_sites import seeded
from ...core.two_layers import ConditionallyLinear
from ..guides.frame_encoder import FrameEncoder
from .collapsed import Collapsed
from .collapsed_terms import BoundTerms, bound_terms
from .minibatches import Minibatches, evaluation_batch, flatten


@checked
@dataclass(frozen=True, eq=False)
class CollapsedSVI:
    """Maximise `E_q[log p(y | a) - log q(a | y) + log p(a | u)]`, the last term exact.

    Several short starts with encoders of their own are compared by the bound, and the best one is
    trained on. The weight of the divergence grows to 1 meanwhile, and what the model has beside
    its networks (matrices, noises) learns faster than they do.

    Args:
        encoder: Reads frames, trained in place; `None` builds a `FrameEncoder` for each start.
        steps: Gradient steps of the start that goes on, its short run included.
        starts: Number of short runs.
        start_steps: Steps of each.
        batch_size: Series a step.
        window: Steps of a window; shorter series are used whole.
        learning_rate: Of Adam for networks; it falls to a hundredth along half a cosine.
        matrices_rate: Factor on that for parameters that belong to no network.
        kl_start: Weight of the divergence at the first step.
        kl_warmup: Steps until it is 1.
        clip: Largest norm of the gradient.
        hide: Share of the steps that train on series with a gap of up to two thirds, where the
            weights of the modes learn to be fed by predictions; 0 trains on the data as they are.
        hidden: Width of the encoder.
        report_every: Steps between evaluations, of which the best weights are returned.
        num_samples: Draws of the method that is returned.

    Source: Fraccaro, Kamronn, Paquet, Winther (2017), with `z` integrated out.
    """

    encoder: nn.Module | None = None
    steps: int = 2500
    starts: int = 2
    start_steps: int = 200
    batch_size: int = 32
    window: int | None = 64
    learning_rate: float = 1e-2
    matrices_rate: float = 3.0
    kl_start: float = 1.0
    kl_warmup: int = 200
    clip: float = 10.0
    hide: float = 0.3
    hidden: int = 64
    report_every: int = 100
    num_samples: int = 64

    def __post_init__(self) -> None:
        """Check the options."""
        for name in ("steps", "starts", "start_steps", "batch_size", "hidden", "report_every"):
            if vars(self)[name] < 1:
                raise ValueError(f"`{name}` must be at least 1, got {vars(self)[name]}.")
        if not self.learning_rate > 0 or not self.matrices_rate > 0:
            raise ValueError(
                "`learning_rate` and `matrices_rate` must be positive, got "
                f"{self.learning_rate} and {self.matrices_rate}."
            )

    def fit(
        self,
        model: StateSpaceModel,
        series: Series,
        *,
        progress: bool = True,
        generator: torch.Generator | None = None,
    ) -> Learned:
        """Train the model in place and return its encoder as `Collapsed`.

        Args:
            model: A `ConditionallyLinear` model; parameters that need no gradient stay.
            series: The data.
            progress: Whether to show a bar.
            generator: Drives initial weights, minibatches and draws.

        Raises:
            ValueError: the model has no two layers, or nothing was observed.
            FloatingPointError: no start had a finite bound.
        """
        if not isinstance(model, ConditionallyLinear):
            raise ValueError(
                "`CollapsedSVI` needs a model that is linear given a path of `a`, such as "
                f"`KalmanVAE`, got {type(model).__name__}: use `SVI()`."
            )
        data = flatten(series)
        if bool(torch.isnan(data.y).all()):
            raise ValueError("`y` holds no observation: every value is missing (NaN).")
        with seeded(generator):
            model.initialize_from(data)
            best = self._best_start(model, data, progress)
            best.run(data, self.steps, progress)
        model.load_state_dict(best.best_state[0].state_dict())
        encoder = best.best_state[1]
        if self.encoder is not None:
            self.encoder.load_state_dict(encoder.state_dict())
            encoder = self.encoder
        return self._learned(best, encoder, data)

    def _best_start(self, model: StateSpaceModel, data: Series, progress: bool) -> _Training:
        runs = []
        count = 1 if self.steps <= self.start_steps else self.starts
        for _ in range(count):
            runs.append(_Training(self, copy.deepcopy(model), self._encoder(model, data), data))
            if count > 1:
                runs[-1].run(data, self.start_steps, progress)
        return max(runs, key=lambda run: run.best if math.isfinite(run.best) else -math.inf)

    def _encoder(self, model: StateSpaceModel, data: Series) -> nn.Module:
        if self.encoder is not None:
            return copy.deepcopy(self.encoder)
        layers = cast("ConditionallyLinear", model)
        encoder = FrameEncoder(model.obs_dim, layers.latent_dim, self.hidden)
        encoder.to(device=model.device, dtype=model.dtype).initialize_from(data)
        return encoder

    def _learned(self, run: _Training, encoder: nn.Module, data: Series) -> Learned:
        if not math.isfinite(run.best):
            raise FloatingPointError(
                "The bound was finite at no evaluation: try a lower `learning_rate`, or look for "
                f"outliers in `y`, largest {float(torch.nan_to_num(data.y).abs().max()):.3g}."
            )
        record = max(run.history, key=lambda entry: entry["objective"])
        count = sum(p.numel() for p in run.parameters)
        diagnostics = {
            "elbo_per_step": record["elbo"],
            "divergence_per_step": record["divergence"],
            "steps": run.history[-1]["step"],
            "num_parameters": float(count),
        }
        objective = record["elbo"] * _frames(data)
        method = Collapsed(encoder, num_samples=self.num_samples)
        return Learned(method, objective, run.history, {}, diagnostics, run.warnings)


class _Training:
    """One start: a model, an encoder and their optimiser, and the best weights so far."""

    def __init__(
        self, options: CollapsedSVI, model: StateSpaceModel, encoder: nn.Module, data: Series
    ) -> None:
        self.options, self.model, self.encoder = options, model, encoder
        groups = _groups(model, encoder, options)
        self.parameters = [p for group in groups for p in cast("list[Tensor]", group["params"])]
        self.optimizer = torch.optim.Adam(groups, lr=options.learning_rate)
        self.batches = Minibatches(data, options.batch_size, options.window)
        self.trial = evaluation_batch(data, 2 * options.batch_size, options.window)
        self.step, self.best, self.history = 0, -math.inf, list[dict[str, float]]()
        self.warnings: list[str] = []
        self.best_state = copy.deepcopy((model, encoder))

    def run(self, data: Series, until: int, progress: bool) -> None:
        """Train up to a number of steps."""
        from tqdm import tqdm

        bar = tqdm(range(self.step, until), disable=not progress, leave=False)
        for step in bar:
            self._update(next(self.batches))
            self.step = step + 1
            if self.step % self.options.report_every == 0 or self.step == until:
                self._evaluate()
                bar.set_postfix_str(f"elbo {self.history[-1]['elbo']:.3f} nats/step")

    def _update(self, batch: Series) -> None:
        options = self.options
        growth = min(self.step / max(options.kl_warmup, 1), 1.0)
        weight = options.kl_start + (1 - options.kl_start) * growth
        fraction = self.step / options.steps
        rate = options.learning_rate * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * fraction)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.zero_grad(set_to_none=True)
        if float(torch.rand(())) < options.hide:
            batch = _with_gap(batch)
        terms = self._terms(batch)
        loss = -terms.weighted(weight).sum() / max(_frames(batch), 1)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, options.clip)
        if bool(torch.isfinite(loss)) and bool(torch.isfinite(norm)):
            self.optimizer.step()
        else:
            self.warnings.append(f"Step {self.step}: not finite, and left out.")

    def _evaluate(self) -> None:
        generator = torch.Generator(self.trial.y.device).manual_seed(0)
        with torch.no_grad(), seeded(generator):
            terms = self._terms(self.trial, 4)
        count = max(_frames(self.trial), 1) * 4
        reconstruction = float(terms.reconstruction.sum()) / count
        divergence = float((terms.log_q - terms.log_p).sum()) / count
        bound = reconstruction - divergence
        self.history.append(
            {"step": float(self.step), "objective": bound, "elbo": bound,
             "reconstruction": reconstruction, "divergence": divergence}
        )  # fmt: skip
        if bound > self.best:
            self.best, self.best_state = bound, copy.deepcopy((self.model, self.encoder))

    def _terms(self, batch: Series, num_draws: int = 1) -> BoundTerms:
        layers, encoder = (
            cast("ConditionallyLinear", self.model),
            cast("ReadsFrames", self.encoder),
        )
        return bound_terms(layers, encoder, batch, num_draws)


def _groups(
    model: StateSpaceModel, encoder: nn.Module, options: CollapsedSVI
) -> list[dict[str, object]]:
    """Split parameters into those of networks and those that the model holds itself."""
    own = [p for p in model.parameters(recurse=False) if p.requires_grad]
    known = {id(p) for p in own}
    both = [*model.parameters(), *encoder.parameters()]
    nets = [p for p in both if p.requires_grad and id(p) not in known]
    groups = [{"params": nets, "factor": 1.0}, {"params": own, "factor": options.matrices_rate}]
    found: list[dict[str, object]] = [dict(group) for group in groups if group["params"]]
    if not found:
        raise ValueError("`model` and `encoder` have no free parameter: nothing can be learnt.")
    return found


def _with_gap(batch: Series) -> Series:
    """Return a batch without the frames of one stretch, of up to two thirds of the series."""
    time = batch.time
    length = int(torch.randint(1, max(2 * time // 3, 1) + 1, ()))
    start = int(torch.randint(0, time - length + 1, ()))
    y = batch.y.clone()
    y[:, start : start + length] = torch.nan
    return batch if bool(torch.isnan(y).all()) else batch._replace(y=y)


def _frames(series: Series) -> int:
    """Return the number of frames with an observation."""
    return int((~torch.isnan(series.y)).any(-1).sum())
