"""A model traced: both steps as machine code, checked against torch, kept as long as it is."""

from __future__ import annotations

from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pyro
import torch
from torch import Tensor

from ....core.abilities import HasStepFunctions
from ....core.model import Series, StateSpaceModel
from ....ops.tracing.evaluate import evaluate
from ....ops.tracing.program import Untraceable
from ....ops.tracing.traced import Function, Traced, trace
from ...simulation.conditionals import bind, gaussian_start
from .functions import StepFunction, dtype_tolerance, step_functions

GIVEN, VARIANCE, FACTOR = 0, 1, 2


class Step(NamedTuple):
    """One step of a model.

    Attributes:
        traced: Its program.
        noise: `GIVEN` beside it, or by its second output: `VARIANCE` or `FACTOR`.
    """

    traced: Traced
    noise: int


class ModelSteps(NamedTuple):
    """Transition and emission.

    Attributes:
        transition: The step of the state.
        emission: The step to the observation.
        points: States at which values are compared with torch.
        inside: Whether the noise enters inside the functions.
    """

    transition: Step
    emission: Step
    points: Tensor
    inside: bool

    @property
    def both(self) -> tuple[Step, Step]:
        """The two steps."""
        return self.transition, self.emission


class Sample(NamedTuple):
    """Points at which compiled code is compared with torch."""

    z: Tensor
    u: Tensor | None
    dt: Tensor | None


_KNOWN: WeakKeyDictionary[StateSpaceModel, dict[tuple[int, bool], ModelSteps]] = (
    WeakKeyDictionary()
)


def known(model: StateSpaceModel, series: Series) -> bool:
    """Tell whether a model has been traced for such series already."""
    return _key(series) in _KNOWN.get(model, {})


def steps_of(model: StateSpaceModel, series: Series) -> ModelSteps:
    """Return the steps of a model as they are now, traced again if it has changed.

    Whatever a function reads may have been replaced since it was traced, a number in a closure
    too; so its values are compared with torch at each call.

    Raises:
        Untraceable: Why the model runs as torch.
    """
    kept = _KNOWN.setdefault(model, {})
    key = _key(series)
    with torch.inference_mode(False), pyro.validation_enabled(False):
        functions = step_functions(model)
        if key in kept and _still_right(model, kept[key], functions, series):
            return kept[key]
        kept.pop(key, None)
        sample = _sample(_states(model, series), series)
        names, steps = ("transition", "emission"), []
        for name, function in zip(names, functions, strict=True):
            wide = _widened(sample, function.inside)
            with _named(name):
                steps.append(_traced(function.call, wide, model))
        for name, step, function in zip(names, steps, functions, strict=True):
            with _named(name):
                _check(step, function, sample, slopes=True)
    inside = any(function.inside > model.state_dim for function in functions)
    found = ModelSteps(steps[0], steps[1], sample.z, inside)
    kept[key] = found
    return found


class _named:
    """Puts the name of a step before the reason that it cannot be traced."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Untraceable):
            raise Untraceable(f"of its {self._name}: {error}") from error


def _key(series: Series) -> tuple[int, bool]:
    return 0 if series.u is None else series.u.shape[-1], series.dt is not None


def _states(model: StateSpaceModel, series: Series, count: int = 3) -> Tensor:
    """Draw states from the start, `(count, state)`."""
    with torch.no_grad():
        mean, factor = gaussian_start(bind(model, series), series)
        n = mean.shape[-1]
        mean, factor = mean.reshape(-1, n)[0], factor.reshape(-1, n, n)[0]
        generator = torch.Generator().manual_seed(0)
        noise = torch.randn(count, n, generator=generator, dtype=torch.float64)
        noise[0] = 0.1
        return mean + noise.to(mean) @ factor.mT


def _sample(z: Tensor, series: Series) -> Sample:
    """Join states with inputs and time steps of the series."""
    if series.u is None and series.dt is None:
        return Sample(z, None, None)
    at = torch.linspace(min(1, series.time - 1), series.time - 1, len(z)).long()
    u = None if series.u is None else series.u.reshape(-1, *series.u.shape[-2:])[0][at]
    if series.dt is None:
        return Sample(z, u, None)
    dt = series.dt if series.dt.ndim == 0 else series.dt.reshape(-1, series.time)[0][at]
    return Sample(z, u, dt.expand(len(z)).clone())


def _widened(sample: Sample, inside: int) -> Sample:
    """Add values of the noise inside a function behind the states."""
    extra = inside - sample.z.shape[-1]
    if not extra:
        return sample
    noise = torch.linspace(-0.3, 0.4, len(sample.z) * extra, dtype=sample.z.dtype)
    return sample._replace(z=torch.cat((sample.z, noise.reshape(-1, extra)), -1))


def _traced(call: Function, sample: Sample, model: StateSpaceModel) -> Step:
    first = [None if x is None else x[:1] for x in sample]
    assert first[0] is not None
    try:
        traced = trace(call, first[0], first[1], first[2])
    except Untraceable:
        raise
    except Exception as error:
        raise Untraceable(
            f"it fails on a single state ({type(error).__name__}: {error})"
        ) from error
    if isinstance(model, HasStepFunctions):
        return Step(traced, GIVEN)
    return Step(traced, VARIANCE if traced.outputs[1].ndim == 1 else FACTOR)


def _still_right(
    model: StateSpaceModel,
    steps: ModelSteps,
    functions: tuple[StepFunction, StepFunction],
    series: Series,
) -> bool:
    sample = _sample(steps.points, series)
    try:
        if torch.is_grad_enabled() and not all(_owned(model, step) for step in steps.both):
            return False
        for step, function in zip(steps.both, functions, strict=True):
            _check(step, function, sample, slopes=False)
    except Untraceable:
        return False
    return True


def _owned(model: StateSpaceModel, step: Step) -> bool:
    """Tell whether whatever is learnable in a step is a parameter of the model."""
    own = {id(x) for x in model.parameters()}
    recorder = step.traced.recorder
    sources = [x for leaf, _ in recorder.leaves for x in recorder.origins(leaf)]
    return all(id(x) in own for x in sources if x.requires_grad)


def _check(step: Step, function: StepFunction, sample: Sample, *, slopes: bool) -> None:
    """Compare values, and slopes if asked, with those of torch.

    Raises:
        Untraceable: They differ.
    """
    sample = _widened(sample, function.inside)
    z = sample.z.detach().clone().requires_grad_(slopes)
    try:
        with torch.enable_grad() if slopes else torch.no_grad():
            results = function.call(z, sample.u, sample.dt)
    except Untraceable:
        raise
    except Exception as error:
        raise Untraceable(f"it fails near the start ({type(error).__name__}: {error})") from error
    count = len(z)
    want = torch.cat(
        [x.detach().expand(count, *x.shape[1:]).reshape(count, -1) for x in results], -1
    )
    parts = [want]
    if slopes:
        with torch.enable_grad():
            parts.append(_jacobian(results[0], z).reshape(count, -1))
    u = _inputs(sample)
    got = evaluate(step.traced, z.detach().double().numpy(), u, slopes=slopes)
    wanted = torch.cat(parts, -1).double().numpy()
    tolerance = dtype_tolerance(sample.z.dtype)
    largest = np.abs(wanted).max()
    if np.isfinite(largest) and np.abs(got - wanted).max() <= tolerance * (1.0 + largest):
        return
    scale = 1.0 + np.abs(np.where(np.isfinite(wanted), wanted, 0.0)).max()
    near = np.isclose(got, wanted, rtol=tolerance, atol=tolerance * scale, equal_nan=True)
    if not near.all():
        raise Untraceable("its compiled form does not give what torch gives")
    if not np.isfinite(wanted).any():
        raise Untraceable("it is not a number at the start, so that it cannot be checked")


def _jacobian(value: Tensor, z: Tensor) -> Tensor:
    """Return the derivative of each row of `value` by the same row of `z`."""
    rows = []
    for i in range(value.shape[-1]):
        if not value.requires_grad:
            rows.append(torch.zeros_like(z))
            continue
        (row,) = torch.autograd.grad(
            value[..., i].sum(), z, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        rows.append(row)
    return torch.stack(rows, -2).detach()


def _inputs(sample: Sample) -> np.ndarray:
    parts = [np.zeros((len(sample.z), 0))]
    if sample.u is not None:
        parts.append(sample.u.detach().double().numpy())
    if sample.dt is not None:
        parts.append(sample.dt.detach().double().numpy()[:, None])
    return np.ascontiguousarray(np.concatenate(parts, -1))
