"""A deep Markov model of the JSB chorales, trained for as long as the papers train theirs.

A recipe is trained on the training pieces; the weights kept are those with the best un-annealed
bound on the validation pieces. Recipes are compared by their validation scores alone. `--test`
scores the kept weights on the test pieces, once: minus the bound, the importance-sampled
likelihood with S = 2000, and that of a particle filter whose proposals are the guide's steps, in
nats per quarter note and never to be compared with one another. With `--refine` the proposals
are also optimised for each piece by itself, as its own three lines: the model, and so the
likelihood that is estimated, is the same, but it is not the amortised guide of the papers.

With `--dreams` the guide is trained on by itself, on pieces that the trained model makes up; the
epoch of that training is chosen on validation too.

A run that was cut goes on from its last checkpoint when it is started again.

Run: python benchmarks/chorales.py RECIPE [--epochs N] [--seed N] [--folder F] [--test]
     [--dreams UPDATES] [--refine STEPS]

Source: Krishnan, Shalit, Sontag (2017), Structured inference networks, table 3: 6.926 and 6.388.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, cast

import torch
from chorales_scores import minus_bound, refined, report
from torch import Tensor, nn
from torch.nn import functional as F

from deepssm.core.autoregressive import with_autoregressive_input
from deepssm.core.model import Series, StateSpaceModel
from deepssm.data.polyphonic import Polyphonic, pad, polyphonic
from deepssm.inference import SVI, GateCombiner, RecurrentEncoder, SmoothingGuide
from deepssm.inference.guides.encoders.features import Reader
from deepssm.inference.variational.objectives import Loss
from deepssm.models import BernoulliEmission, DeepMarkov, GatedTransition

KEYS, BATCH = 88, 20
DREAM, DREAMS = 60, 300  # Steps of a made-up piece, and batches of them.


@dataclass(frozen=True)
class Recipe:
    """Sizes and settings of one training.

    Attributes:
        state: Size of `z`.
        emission: Width of the emission's two layers.
        transition: Width of the gated transition.
        encoder: Width of the guide.
        cell: Of the guide's recurrent network.
        learning_rate: Of Adam, at its highest.
        l2: Weight decay of the model's matrices; the guide has none.
        weight_decay: Weight decay of everything.
        clip: Largest norm of the gradient.
        kl_start: Weight of the divergence at the first update.
        warmup: Updates until that weight is 1.
        averaging: See `SVI`.
        dropout: Share of the emission's hidden units left out while training.
        deafness: Share of the notes the guide does not hear while training.
        feedback: Which part of the model reads the last chord: another class of models.
    """

    state: int = 32
    emission: int = 100
    transition: int = 100
    encoder: int = 200
    cell: Literal["gru", "relu"] = "gru"
    learning_rate: float = 5e-3
    l2: float = 2e-4
    weight_decay: float = 0.0
    clip: float = 3.0
    kl_start: float = 0.1
    warmup: int = 2000
    averaging: float = 0.999
    dropout: float = 0.0
    deafness: float = 0.0
    feedback: Literal["none", "both"] = "none"


PLAIN = Recipe()
PAPER = Recipe(
    state=100,
    transition=200,
    encoder=600,
    cell="relu",
    learning_rate=8e-4,
    l2=8e-5,
    clip=1.0,
    kl_start=0.01,
    warmup=5000,
    averaging=0.0,
)
WIDE = replace(PLAIN, state=64, transition=200, learning_rate=3e-3, kl_start=0.2, warmup=1000)
RECIPES = {
    "paper": PAPER,
    "paper, decay of all": replace(PAPER, l2=0.0, weight_decay=1.6e-3),
    "wide, decay of all": replace(WIDE, l2=0.0, weight_decay=3e-4, averaging=0.0),
    "wide, strong decay": replace(WIDE, l2=0.0, weight_decay=1.6e-3),
    "wide, l2": replace(WIDE, l2=3e-4),
    "wide, dropout": replace(WIDE, l2=0.0, weight_decay=3e-4, dropout=0.2, deafness=0.2),
    "paper's model, GRU": replace(
        WIDE, state=100, learning_rate=2e-3, l2=8e-5, kl_start=0.05, warmup=4000
    ),
    "plain": PLAIN,
    "plain, last chord read": replace(PLAIN, feedback="both"),
    "dropout": replace(PLAIN, l2=3e-4, dropout=0.1, deafness=0.1),
    "narrow": replace(
        PLAIN, transition=64, encoder=100, kl_start=0.05, warmup=2500, dropout=0.05, deafness=0.1
    ),
}


@dataclass(frozen=True)
class Regularized:
    """The bound with units left out while training, less `l2 / 2` times the squared matrices."""

    l2: float

    def __call__(
        self, model: StateSpaceModel, guide: nn.Module, *, num_particles: int = 1
    ) -> RegularizedLoss:
        """Return the loss."""
        return RegularizedLoss(model, guide, self.l2, num_particles)


class RegularizedLoss(Loss):
    """The loss of `Regularized`; model and guide are in training mode only within it."""

    def __init__(
        self, model: StateSpaceModel, guide: nn.Module, l2: float, num_particles: int
    ) -> None:
        super().__init__(model, guide)
        self.l2, self.num_particles = l2, num_particles
        self.eval()

    def objective(self, series: Series, kl_weight: float, scale: float) -> Tensor:
        """Return what is to be minimised."""
        self.train()
        law, z, prior = self.draw(series, self.num_particles)
        divergence = law.divergence(prior).sum()
        gain = (self.likelihood(z, series).sum() - kl_weight * divergence) / self.num_particles
        self.eval()
        squares = [p.square().sum() for p in self.model.parameters() if p.ndim > 1]
        return 0.5 * self.l2 * torch.stack(squares).sum() - scale * gain


class DeafReader(Reader):
    """A reader that misses a share of the notes while the guide is trained."""

    def __init__(self, obs_dim: int, share: float) -> None:
        super().__init__(obs_dim, changes=False, gaps=False)
        self.share = share

    def forward(self, series: Series) -> Tensor:
        """Return the features of every step."""
        return F.dropout(super().forward(series), self.share, self.training)


def build(recipe: Recipe) -> tuple[DeepMarkov, SmoothingGuide]:
    """Return the untrained model and its guide, ST-R."""
    n, past = recipe.state, 2 * KEYS if recipe.feedback == "both" else 0
    emission = BernoulliEmission(n, KEYS, past, recipe.emission)
    for place in (4, 2):  # behind the second hidden layer, then behind the first
        cast("nn.Sequential", emission.logits).insert(place, nn.Dropout(recipe.dropout))
    transition = GatedTransition(n, past, recipe.transition)
    model = DeepMarkov(KEYS, n, transition=transition, emission=emission, feedback=recipe.feedback)
    reader = DeafReader(KEYS, recipe.deafness)
    guide = SmoothingGuide(
        KEYS,
        n,
        encoder=RecurrentEncoder(reader.size, recipe.encoder, cell=recipe.cell),
        combiner=GateCombiner(n, KEYS, recipe.encoder),
        reader=reader,
    )
    return model, guide


def series_of(model: DeepMarkov, pieces: list[Tensor]) -> Series:
    """Return padded pieces, and the chords that the model reads."""
    y = pad(pieces).y
    return Series(y, with_autoregressive_input(model, y, None))


def batches(model: DeepMarkov, pieces: list[Tensor]) -> list[Series]:
    """Return batches of pieces of like length."""
    pieces = sorted(pieces, key=len)
    starts = range(0, len(pieces), BATCH)
    return [series_of(model, pieces[start : start + BATCH]) for start in starts]


def train(
    recipe: Recipe, data: Polyphonic, epochs: int, folder: Path
) -> tuple[DeepMarkov, SmoothingGuide]:
    """Train a recipe, printing the bounds on a third of the training pieces and on validation."""
    model, guide = build(recipe)
    updates, heard = -(-len(data.train) // BATCH), batches(model, data.train[::3])

    def show(record: Mapping[str, float]) -> None:
        level = minus_bound(model, [guide] * len(heard), heard, 1)
        print(
            f"epoch {record['step'] / updates:5.0f}  train {level:6.3f}  validation "
            f"{-record['elbo']:6.3f} = {-record['reconstruction']:6.3f} + "
            f"{record['divergence']:6.3f}  CPU {time.process_time():6.0f} s",
            flush=True,
        )

    method = SVI(
        guide,
        steps=epochs * updates,
        batch_size=BATCH,
        window=None,
        bucketed=True,
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        clip=recipe.clip,
        kl_start=recipe.kl_start,
        kl_warmup=recipe.warmup,
        objective=Regularized(recipe.l2),
        averaging=recipe.averaging,
        report_every=max(epochs // 60, 1) * updates,
        validation=series_of(model, data.valid),
        folder=folder,
        checkpoint_every=50 * updates,
        resume=True,
        callbacks=(show,),
    )
    learned = method.fit(model, series_of(model, data.train), progress=False)
    print(*learned.warnings, sep="\n", end="\n" if learned.warnings else "")
    return model, guide


def dream(model: DeepMarkov, guide: SmoothingGuide, updates: int, validation: Series) -> None:
    """Train the guide alone on pieces that the model makes up, which it cannot hear too often.

    Source: Hinton, Dayan, Frey & Neal (1995), The wake-sleep algorithm, for the made-up data; the
    objective is the bound, as in waking.
    """
    model.requires_grad_(False)
    with torch.no_grad():
        y = model(time=DREAM, batch_shape=(BATCH * DREAMS,))[1]

    def show(record: Mapping[str, float]) -> None:
        print(
            f"dream {record['step']:5.0f}  validation {-record['elbo']:6.3f}  "
            f"CPU {time.process_time():6.0f} s",
            flush=True,
        )

    SVI(
        guide,
        steps=updates,
        batch_size=BATCH,
        window=None,
        learning_rate=2e-3,
        clip=3.0,
        weight_decay=0.0,
        kl_start=1.0,
        averaging=0.99,
        report_every=max(updates // 12, 1),
        validation=validation,
        callbacks=(show,),
    ).fit(model, Series(y, with_autoregressive_input(model, y, None)), progress=False)


def main() -> None:
    """Train one recipe and score it on the validation pieces, and where asked on the test's."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("recipe", choices=RECIPES)
    parser.add_argument("--epochs", type=int, default=700)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path("chorales"), help="of the checkpoint")
    parser.add_argument("--dreams", type=int, default=0, help="updates of the guide on dreams")
    parser.add_argument("--test", action="store_true")
    parser.add_argument("--refine", type=int, default=0, help="steps for each piece by itself")
    parser.add_argument("--rate", type=float, default=1e-2, help="learning rate of these steps")
    parser.add_argument("--samples", type=int, default=2000, help="and particles")
    asked = parser.parse_args()
    print(f"{asked.recipe}: {RECIPES[asked.recipe]}", flush=True)
    print(f"{asked.epochs} epochs, seed {asked.seed}, torch {torch.__version__}", flush=True)
    torch.manual_seed(asked.seed)
    data = polyphonic("JSB_Chorales")
    model, guide = train(RECIPES[asked.recipe], data, asked.epochs, asked.folder)
    if asked.dreams:
        dream(model, guide, asked.dreams, series_of(model, data.valid))
    print(f"training, CPU seconds of this process   {time.process_time():8.0f}")
    for name, pieces in (("validation", data.valid), ("test", data.test)):
        if name == "validation" or asked.test:
            series = batches(model, pieces)
            report(f"{name}, amortised", model, [guide] * len(series), series, asked.samples)
            if asked.refine:
                start = time.process_time()
                guides = refined(model, guide, series, asked.refine, asked.rate)
                print(f"{asked.refine} steps a piece: CPU {time.process_time() - start:.0f} s")
                report(f"{name}, refined", model, guides, series, asked.samples)


if __name__ == "__main__":
    main()
