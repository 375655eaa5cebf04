"""What `--model` means: a few plain settings from which a model is built, and built again."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ..io.run_schema import MODEL
from ..io.schema import SchemaError, one_of
from .exit_codes import DataError, UsageError

if TYPE_CHECKING:
    from torch import nn

    from ..core.methods import InferenceMethod, Learned, LearningMethod
    from ..core.model import StateSpaceModel

Kind = Literal[
    "local-level", "local-linear-trend", "structural", "constant-velocity", "deep-kalman"
]


@dataclass(frozen=True)
class ModelSpec:
    """How to build a model; plain data, kept in `config.toml`.

    Attributes:
        kind: The word after `--model`.
        y: Names of the observed columns.
        u: Names of the input columns.
        period: Rows in a season; 0 when there is none. A deep model gets the season's waves as
            inputs.
        period2: Rows in a second, longer season of a structural model, such as a week of hours; 0
            when there is none.
        harmonics: Waves in a season.
        ar: Order of an autoregressive part, which takes the place of white noise; 0 for none.
        state_dim: Size of a deep model's state.
        hidden: Width of a deep model's networks.
        steps: Training steps of a deep model.
    """

    kind: Kind
    y: tuple[str, ...]
    u: tuple[str, ...] = ()
    period: float = 0.0
    period2: float = 0.0
    harmonics: int = 0
    ar: int = 0
    state_dim: int = 0
    hidden: int = 0
    steps: int = 0

    @property
    def deep(self) -> bool:
        """Whether the model is neural."""
        return self.kind == "deep-kalman"

    @property
    def uneven(self) -> bool:
        """Whether the model takes uneven time steps."""
        return self.kind == "constant-velocity"

    @property
    def input_dim(self) -> int:
        """Number of inputs of the model, the waves of a deep model's season included."""
        return len(self.u) + (2 * self.harmonics if self.deep else 0)

    @property
    def harmonics2(self) -> int:
        """Waves in the second season; those that both seasons have are the first one's."""
        if not self.period2:
            return 0
        return min(self.harmonics, max(1, math.ceil(self.period2 / self.period) - 1))

    @property
    def min_rows(self) -> int:
        """Fewest observations of a column from which it can be learnt."""
        return max(40 if self.deep else 10, round(2 * max(self.period, self.period2)), 2 * self.ar)

    @property
    def words(self) -> str:
        """The model in words."""
        return {
            "local-level": "local level" + self._ar_words,
            "local-linear-trend": "local linear trend" + self._ar_words,
            "structural": f"trend + season of {self.period:g} rows ({self.harmonics} harmonics)"
            + (f" + season of {self.period2:g} rows" if self.period2 else "")
            + self._ar_words,
            "constant-velocity": "constant velocity",
            "deep-kalman": f"deep Kalman filter, state {self.state_dim}, width {self.hidden}"
            + (f", season of {self.period:g} rows" if self.period else ""),
        }[self.kind]

    @property
    def _ar_words(self) -> str:
        return f" + AR({self.ar})" if self.ar else ""

    def to_config(self) -> dict[str, Any]:
        """Return plain data for `config.toml`."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}


def spec_from_config(config: dict[str, Any]) -> ModelSpec:
    """Read a specification back, checking every entry.

    Raises:
        DataError: an entry is unknown, missing, or of a wrong kind or size.
    """
    config = {"period2": 0.0, **config}
    names = set(ModelSpec.__dataclass_fields__)
    if set(config) != names:
        odd = ", ".join(sorted(set(config) ^ names)[:5])
        raise DataError(f"config.toml: unknown or missing model settings: {odd}.")
    try:
        MODEL(config, "")
        one_of(*get_args(Kind))(config["kind"], "kind")
    except SchemaError as error:
        raise DataError(f"config.toml: a model setting is wrong: {error}.") from None
    _check_together(config)
    settings = {**config, "y": tuple(config["y"]), "u": tuple(config["u"])}
    periods = {name: float(config[name]) for name in ("period", "period2")}
    return ModelSpec(**{**settings, **periods})


def _check_together(config: dict[str, Any]) -> None:
    """Demand of settings what every model that was ever built keeps to."""
    deep, several = config["kind"] == "deep-kalman", len(config["y"]) > 1
    columns = [*config["y"], *config["u"]]
    if len(set(columns)) < len(columns):
        raise DataError("config.toml: a column is named twice.")
    if several and not deep and config["kind"] != "constant-velocity":
        raise DataError(f"config.toml: {config['kind']} takes one column.")
    if config["harmonics"] > max(config["period"], 0.0) / 2:
        raise DataError("config.toml: more harmonics than half the rows of a season.")
    if config["kind"] == "structural" and not (config["period"] > 2 and config["harmonics"]):
        raise DataError("config.toml: a structural model needs a period and harmonics.")
    if config["period2"] and not (config["kind"] == "structural" and config["period2"] > 2):
        raise DataError("config.toml: a second season is of a structural model, above 2 rows.")
    if deep and not (config["state_dim"] and config["hidden"] and config["steps"]):
        raise DataError("config.toml: a deep model needs state_dim, hidden and steps.")


def complete(spec: ModelSpec, *, step: str) -> ModelSpec:
    """Fill in what the user left open.

    Args:
        spec: The settings given.
        step: The time step in words, which tells how many rows make a year or a day.

    Raises:
        UsageError: the settings do not fit together.
    """
    from dataclasses import replace

    if not spec.deep and spec.kind != "constant-velocity" and len(spec.y) > 1:
        raise UsageError(
            f"--model {spec.kind} takes one column, got {', '.join(spec.y)}. Choose one with --y, "
            "or --model deep-kalman, which takes several."
        )
    if spec.u and spec.kind == "constant-velocity":
        raise UsageError("--model constant-velocity takes no inputs: leave out --u.")
    if spec.period and not (spec.deep or spec.kind == "structural"):
        raise UsageError(
            f"--model {spec.kind} has no season: leave out --period, or choose structural."
        )
    if spec.ar and (spec.deep or spec.uneven):
        raise UsageError(f"--model {spec.kind} has no autoregressive part: leave out --ar.")
    if spec.kind == "structural" and not spec.period:
        spec = replace(spec, period=usual_period(step))
        if not spec.period:
            raise UsageError(
                f"--model structural needs --period, the rows in a season (the step is {step})."
            )
    if spec.period:
        if spec.period <= 2:
            raise UsageError(f"--period must be more than 2 rows, got {spec.period:g}.")
        if spec.period2 and (spec.deep or spec.period2 == spec.period):
            raise UsageError(
                "--period takes two seasons of different lengths for --model structural only, got "
                f"{spec.period:g} and {spec.period2:g}."
            )
        most = int(spec.period / 2)
        spec = replace(spec, harmonics=min(spec.harmonics or 4, most))
    if spec.deep:
        spec = replace(
            spec,
            state_dim=spec.state_dim or 2 + len(spec.y),
            hidden=spec.hidden or 16,
            steps=spec.steps or 600,
        )
    return spec


def usual_period(step: str) -> float:
    """Return the rows in a year, or in a day for steps below one, or 0 for other steps."""
    import pandas as pd

    if not any(letter.isalpha() for letter in step):
        return 0.0
    if step.startswith("1 business day"):
        return float(len(step.partition("(")[2].split()))
    days = pd.Timedelta(step) / pd.Timedelta(days=1)
    for low, high, rows in ((28, 31, 12.0), (90, 92, 4.0), (7, 7, 365.25 / 7), (1, 1, 7.0)):
        if low <= days <= high:
            return rows
    return 1 / days if 0 < days <= 0.25 else 0.0


def season_inputs(spec: ModelSpec, start: int, count: int) -> np.ndarray:
    """Return the waves that a deep model sees of its season, `(count, 2 harmonics)`.

    Args:
        spec: Says the period and the number of waves.
        start: Row number of the first row, counted from the run's first.
        count: Number of rows.
    """
    waves = spec.harmonics if spec.deep else 0
    angle = 2 * np.pi * (start + np.arange(count)[:, None]) / (spec.period or 1.0)
    angles = angle * np.arange(1, waves + 1)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def build(spec: ModelSpec) -> StateSpaceModel:
    """Return the model that a specification describes, not yet learnt."""
    from .. import models

    inputs = len(spec.u)
    if spec.kind == "constant-velocity":
        return models.ConstantVelocity(dims=len(spec.y))
    if spec.kind == "deep-kalman":
        sizes = (len(spec.y), spec.state_dim)
        return models.DeepMarkov(*sizes, input_dim=spec.input_dim, hidden=spec.hidden)
    model = models.LocalLevel() if spec.kind == "local-level" else models.LocalLinearTrend()
    if spec.kind == "structural":
        model = model + models.Seasonal(spec.period, harmonics=spec.harmonics)
        if spec.period2:
            waves = spec.harmonics2
            model = model + models.Seasonal(spec.period2, harmonics=waves, name="season2")
    if spec.ar:
        model = model + models.Autoregressive(spec.ar, noise_variance=0.0)
    return model + models.Regression(inputs) if inputs else model


def build_guide(spec: ModelSpec) -> nn.Module | None:
    """Return the guide of a deep model, which follows the model as it learns; others need none."""
    from ..inference.guides.linearized_guide import LinearizedGuide

    return LinearizedGuide(2) if spec.deep else None


def learner(
    spec: ModelSpec, guide: nn.Module | None, folder: Path | None = None, *, resume: bool = False
) -> LearningMethod | None:
    """Return how a deep model is learnt; `None` for others, which `fit` knows how to learn.

    Args:
        spec: What it is.
        guide: The guide of a deep model.
        folder: Where training leaves checkpoints.
        resume: Whether to go on from the one that is there.
    """
    from .. import inference

    if guide is None:
        return None
    return inference.SVI(guide, steps=spec.steps, folder=folder, resume=resume)


def method(model: StateSpaceModel, guide: nn.Module | None) -> InferenceMethod:
    """Return how a learnt model is reasoned about: by its guide, or as its abilities say."""
    from .. import inference
    from ..api.defaults import default_method

    return default_method(model) if guide is None else inference.Amortized(guide)


def guide_of(learned: Learned) -> nn.Module | None:
    """Return the trained guide of a result, if it has one."""
    from ..core.methods import UsesGuide

    return learned.method.guide if isinstance(learned.method, UsesGuide) else None
