"""Runs a Gaussian filter over series in compiled loops, or says why it cannot."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from ....core.model import Series, StateSpaceModel
from ....ops.compiling import told
from ....ops.lanes import numbers
from ....ops.tracing.program import Untraceable
from ...simulation.conditionals import bind, gaussian_start
from ..robust import Gate, Huber, Robust, StudentT
from .model_steps import ModelSteps, known, steps_of
from .rules import Rule
from .sides import Side, sides

FEWEST_STEPS = 64
"""Steps from which a model is traced; the torch path takes a millisecond each, tracing 50."""

NO_DOUBT, GATE, GATE_EACH, STUDENT, HUBER = range(5)


class CompiledMethod(Protocol):
    """What a compiled loop reads of a Gaussian filter."""

    @property
    def iterations(self) -> int:
        """Linearisations of an emission."""
        ...

    @property
    def robust(self) -> Robust | None:
        """What is made of outliers."""
        ...

    def compiled_rule(self, state_dim: int) -> Rule | None:
        """Return the rule for a size of state, `None` if it has no compiled form."""
        ...


class Arrays(NamedTuple):
    """What `forward_all` writes; an empty array is not written."""

    mean: np.ndarray
    cov: np.ndarray
    predicted_mean: np.ndarray
    predicted_cov: np.ndarray
    log_likelihood: np.ndarray
    trust: np.ndarray
    factor: np.ndarray
    predicted_factor: np.ndarray
    gain: np.ndarray
    rest: np.ndarray
    pivots: np.ndarray
    shift: np.ndarray


class Prepared(NamedTuple):
    """A pass that can run compiled."""

    steps: ModelSteps
    rules: tuple[Rule, Rule]
    numbers: np.ndarray
    doubt: tuple[int, int]


def reason(method: CompiledMethod, model: StateSpaceModel) -> str | None:
    """Say why a method has no compiled form for a model, whatever the data; `None` if it has."""
    try:
        _rules(method, model.state_dim, model.state_dim)
        _doubt(method.robust, model.obs_dim)
    except Untraceable as why:
        return str(why)
    return None


def prepare(
    method: CompiledMethod, model: StateSpaceModel, series: Series, *, at_once: bool = False
) -> Prepared:
    """Trace a model for a method.

    Args:
        method: A Gaussian filter.
        model: The model.
        series: What is to be filtered.
        at_once: Whether to trace however few the steps are.

    Raises:
        Untraceable: Why the pass runs as torch.
    """
    if series.y.device.type != "cpu":
        raise Untraceable("the model is not on a CPU")
    if series.time < FEWEST_STEPS and not at_once and not known(model, series):
        raise Untraceable(f"fewer than {FEWEST_STEPS} steps do not pay for tracing it")
    if method.robust is not None:
        raise Untraceable("its observations are doubted, which runs as torch")
    if model.circular_state or model.circular_obs:
        raise Untraceable("it has angles, whose differences torch follows")
    doubt, values = _doubt(method.robust, model.obs_dim)
    _rules(method, model.state_dim, model.state_dim)
    steps = steps_of(model, series)
    inside = (step.traced.sizes.state for step in steps.both)
    return Prepared(steps, _rules(method, *inside), values, doubt)


def _rules(method: CompiledMethod, first: int, second: int) -> tuple[Rule, Rule]:
    rules = method.compiled_rule(first), method.compiled_rule(second)
    if rules[0] is None or rules[1] is None:
        raise Untraceable(f"`{type(method).__name__}` has no compiled form with these settings")
    return rules[0], rules[1]


def _doubt(robust: Robust | None, obs_dim: int) -> tuple[tuple[int, int], np.ndarray]:
    """Return kind and iterations of a robust update, and its numbers."""
    if robust is None:
        return (NO_DOUBT, 0), np.zeros(1)
    if type(robust) is Gate:
        kind = GATE_EACH if robust.separately else GATE
        return (kind, 1), _thresholds(robust.probability, obs_dim)
    if type(robust) is StudentT:
        return (STUDENT, robust.iterations), np.array([robust.dof])
    if type(robust) is Huber:
        return (HUBER, robust.iterations), np.array([robust.threshold])
    raise Untraceable(f"`{type(robust).__name__}` is not one of the library's robust updates")


def _thresholds(probability: float, most: int) -> np.ndarray:
    """Quantiles of chi-square distributions by their degrees of freedom, by bisection."""
    degrees = torch.arange(most + 1, dtype=torch.float64).clamp_min(1)
    low, high = torch.zeros_like(degrees), degrees + 2_000.0
    for _ in range(200):
        middle = (low + high) / 2
        inside = torch.special.gammainc(degrees / 2, middle / 2) <= probability
        low, high = torch.where(inside, middle, low), torch.where(inside, high, middle)
    return low.numpy()


def forward(
    method: CompiledMethod, model: StateSpaceModel, series: Series, prepared: Prepared,
    *, joint: bool = False, covs: bool = False, trust: bool = False, factors: bool = False,
) -> Arrays:  # fmt: skip
    """Run the forward pass.

    Raises:
        Untraceable: An observation without noise of its own was met.
    """
    from .forward_kernels import forward_all

    y, u, mean, factor = laid_out(model, series)
    count, time, p = y.shape
    n, lanes = mean.shape[-1], lanes_for(len(y))
    F, H = sides(model, prepared.steps, prepared.rules, series, lanes)
    rules = np.array([*prepared.doubt, method.iterations, joint, 0], dtype=np.int64)
    out = _room(count, time, n, p, joint=joint, covs=covs, trust=trust, factors=factors)
    work = numbers(scratch(F, H, n, p, u.shape[-1]), lanes)
    args = y, u, mean, factor, F, H, rules, prepared.numbers, work, tuple(out)
    bad = told(forward_all, 0, count, *args)
    if bad:
        raise Untraceable("some observation has no noise of its own")
    return out


def backward(arrays: Arrays) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return smoothed means, covariances and lag-one covariances, series first."""
    from .backward_kernels import backward_all

    count, time, n = arrays.mean.shape
    given = (
        arrays.mean, arrays.factor, arrays.predicted_factor, arrays.gain, arrays.rest,
        arrays.pivots, arrays.shift,
    )  # fmt: skip
    square = (count, time, n * n)
    out = np.empty((count, time, n)), np.empty(square), np.empty(square)
    work = numbers(3 * n + 9 * n * n, lanes_for(count))
    told(backward_all, 0, count, given, work, out)
    return out


def lanes_for(count: int) -> int:
    """Return how many series go side by side."""
    return 8 if count >= 4 else 1


def laid_out(
    model: StateSpaceModel, series: Series
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lay out observations, inputs with time steps, and the start, series first."""
    with torch.no_grad():
        mean, factor = gaussian_start(bind(model, series), series)
    n = mean.shape[-1]
    y = _flat(series.y, 2)
    start = mean.reshape(-1, n)[:1] if _shared(mean, 1) else mean.reshape(-1, n)
    square = factor.reshape(-1, n, n)[:1] if _shared(factor, 2) else factor.reshape(-1, n, n)
    parts = [np.zeros((1, 1, 0))]
    if series.u is not None:
        parts.append(_flat(series.u, 2))
    if series.dt is not None:
        parts.append(
            _flat(series.dt.reshape(1) if series.dt.ndim == 0 else series.dt, 1)[..., None]
        )
    lead = tuple(max(x.shape[i] for x in parts) for i in (0, 1))
    u = np.concatenate([np.broadcast_to(x, (*lead, x.shape[-1])) for x in parts], -1)
    return y, np.ascontiguousarray(u), _own(start), _own(square)


def _shared(x: Tensor, event: int) -> bool:
    """Tell whether all series have the same entry."""
    return all(step == 0 or size == 1 for step, size in zip(
        x.stride()[: x.ndim - event], x.shape[: x.ndim - event], strict=True
    ))  # fmt: skip


def _flat(x: Tensor, event: int) -> np.ndarray:
    return _own(x.reshape(-1, *x.shape[x.ndim - event :]))


def _own(x: Tensor) -> np.ndarray:
    return np.require(x.detach().double().numpy(), np.float64, ("C", "W"))


def _room(
    count: int, time: int, n: int, p: int, *, joint: bool, covs: bool, trust: bool, factors: bool
) -> Arrays:
    def room(wanted: bool, *shape: int) -> np.ndarray:
        return np.empty((count if wanted else 0, time, *shape))

    return Arrays(
        room(True, n), room(covs, n * n), room(covs or joint, n), room(covs, n * n), room(True),
        room(trust, p), room(joint or factors, n * n), room(joint, n * n), room(joint, n * n),
        room(joint, n * n), room(joint, n * n), room(joint, n),
    )  # fmt: skip


def scratch(F: Side, H: Side, n: int, p: int, inputs: int) -> int:
    """Return how many numbers `forward_all` works with."""
    widths = [_width(side) for side in (F, H)]
    state = 2 * n + 5 * n * n
    step = 2 * n * widths[0] + n * int(F[0][4]) + p * int(H[0][4]) + inputs + p + 1
    update = p * (2 * widths[1] + 2 * p + 2 * (n + 1) + 4) + 2 + n * n + 2 * n
    return state + step + update + max(_push_room(F), _push_room(H))


def _width(side: Side) -> int:
    whole, points = side[0], side[4]
    spread = (0, len(points), whole[1])[whole[0]]
    return int(whole[1] + spread + whole[4])


def _push_room(side: Side) -> int:
    whole, points = side[0], side[4]
    inside, out = int(whole[1]), int(whole[2])
    values = out * (2 + inside + int(whole[4]))
    return inside * (inside + 2) + 4 * out + out * len(points) + values
