"""How much memory a model of a run takes, known before any of it is allocated."""

from __future__ import annotations

import math
from pathlib import Path

from ..io.budget import require_memory
from .exit_codes import DataError
from .model_specs import ModelSpec, build

_COVARIANCES = 3  # Of each step: predicted, filtered or smoothed, with the next step.
_MATRICES = 4
_COPIES = 4  # A weight, its gradient and Adam's two moments.


def require_room(spec: ModelSpec, rows: int, horizon: int = 0, samples: int | None = None) -> None:
    """Raise if a model, or what is asked of it, would not fit into memory.

    Args:
        spec: The model.
        rows: Observations of a series.
        horizon: Steps ahead.
        samples: Draws of each.

    Raises:
        ValueError: it would not; the text names the setting and the size.
    """
    n, obs = state_size(spec), len(spec.y)
    item = 4 if spec.deep else 8
    per_step = _COVARIANCES * (n * n + n) + obs * obs + 3 * obs
    draws = (samples or (1000 if spec.deep and horizon else 0)) * (n + obs)
    moments = item * ((rows + horizon) * per_step + horizon * draws + _MATRICES * n * n)
    need = moments + _COPIES * weight_bytes(spec)
    require_memory(
        need,
        f"{spec.words} (a state of {n} numbers) over {rows + horizon} rows",
        _advice(spec, rows, horizon, draws),
    )


def require_weights(spec: ModelSpec, path: Path) -> None:
    """Raise if a file is too small to hold a model's weights, before there is room for them.

    Args:
        spec: The model.
        path: `model.safetensors`.

    Raises:
        DataError: it is.
    """
    wanted, found = weight_bytes(spec), path.stat().st_size
    if wanted > found:
        raise DataError(
            f"{path} holds {found} bytes, the weights of {spec.words} are {wanted}: it belongs to "
            "another config.toml. Run `deepssm fit` again."
        )


def require_fit_to_rows(spec: ModelSpec, rows: int) -> None:
    """Raise if a season or an autoregressive part is longer than the data it was learnt from.

    Raises:
        DataError: it is.
    """
    season = max(spec.period, spec.period2)
    longest = max(season, 2 * spec.harmonics, spec.ar)
    if longest > rows:
        raise DataError(
            f"config.toml: a season of {season:g} rows with {spec.harmonics} harmonics, or "
            f"an order of {spec.ar}, cannot have been learnt from {rows} rows."
        )


def state_size(spec: ModelSpec) -> int:
    """Return the number of components of a model's state."""
    if spec.deep:
        return spec.state_dim
    if spec.kind == "constant-velocity":
        return 2 * len(spec.y)
    level = 1 if spec.kind == "local-level" else 2
    return level + 2 * (spec.harmonics + spec.harmonics2) + spec.ar + len(spec.u)


def weight_bytes(spec: ModelSpec) -> int:
    """Return the bytes of a deep model's weights, counted on a device without memory."""
    if not spec.deep:
        return 0
    import torch

    # Sizes for which not even a tensor without memory can be made; a lower bound tells enough.
    if max(spec.state_dim, spec.hidden, spec.input_dim, len(spec.y)) > 10**7:
        return 8 * (spec.hidden * (spec.state_dim + len(spec.y)) + spec.state_dim**2)
    with torch.device("meta"):
        model = build(spec)
    return sum(math.prod(p.shape) * p.element_size() for p in model.parameters())


def _advice(spec: ModelSpec, rows: int, horizon: int, draws: int) -> str:
    if horizon > rows:
        return "Forecast less far" + (", or draw fewer --samples." if draws else ".")
    if draws:
        return "Draw fewer --samples."
    if spec.deep:
        return "Choose a smaller --state-dim or --hidden."
    return "Choose fewer --harmonics or a smaller --ar, or give fewer rows."
