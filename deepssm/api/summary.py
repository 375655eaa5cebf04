"""The table that `Fit.summary()` prints."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping
from datetime import date
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.distributions import constraints

from ..core.abilities import HasDerivedNumbers, LinearGaussianModel
from ..core.methods import Learned, averages_parameters
from ..core.model import Readable, Series, StateSpaceModel
from ..inference.estimation.objective import free_parameters, readable_parameters
from .validation import Labels

_WIDTH, _LABEL, _MOST_ENTRIES, _MOST_CHANNELS, _MOST_UNUSUAL = 90, 30, 16, 4, 4
_SIZES = (11, 11, 8, 8, 11, 11)
_COLUMNS = ("estimate", "std err", "z", "p", "[0.025", "0.975]")
_QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}
# Beyond this many numbers, one covariance a step, disturbances are not worth a summary's time.
_LARGEST = 1_000_000


@runtime_checkable
class HasParts(Protocol):
    """A model that is a sum of others, which the summary names."""

    @property
    def parts(self) -> Mapping[str, object]:
        """The summands by name."""
        ...


def summary_text(
    model: StateSpaceModel,
    learned: Learned,
    series: Series,
    labels: Labels | None = None,
    inputs: tuple[str, ...] | None = None,
) -> str:
    """Return parameters, standard errors, criteria and residual tests as a table of text.

    Intervals of positive parameters are symmetric in their logarithm, those of probabilities in
    their logit, others in the parameter. Weights of networks are counted, not listed.
    States that never change, such as the effect of a regressor, are listed like parameters; the
    largest auxiliary residuals say where to look for outliers and breaks. `z` and `p` test a
    number on the real line against 0; a variance has none, for 0 is its bound. Of many series
    with parameters of their own, quantiles over the series are listed.

    Args:
        model: The fitted model.
        learned: What its learner reported.
        series: The data it was fitted to.
        labels: Row labels and column names of the data.
        inputs: Names of the inputs' columns.
    """
    labels = Labels(None, None) if labels is None else labels
    blocks = [
        _header(model, learned, series, labels),
        _parameters(model, learned),
        _over_series(model, learned, series),
        _constant_states(model, learned, series, inputs),
        _residual_lines(model, learned, series),
        _unusual_lines(model, series, labels),
        _warning_lines(learned),
        _known_line(learned),
    ]
    rule = "=" * _WIDTH
    return "\n".join([rule, f"\n{rule}\n".join(block for block in blocks if block), rule])


def _header(model: StateSpaceModel, learned: Learned, series: Series, labels: Labels) -> str:
    batch = "" if not series.batch_shape else f" x {math.prod(series.batch_shape)} series"
    pairs = [
        ("Model", " + ".join(_model_names(model))),
        ("Inference", type(learned.method).__name__),
        ("Steps", f"{series.time}{batch}"),
        ("Observed values", f"{int((~series.y.isnan()).sum())}"),
        ("Objective (nats)", f"{learned.objective:.4f}"),
    ]
    titles = {
        "log_likelihood": "Log likelihood",
        "log_prior": "Log prior",
        "aic": "AIC",
        "bic": "BIC",
        "num_parameters": "Parameters",
        "gradient_norm": "Gradient norm",
    }
    for key, title in titles.items():
        if key in learned.diagnostics:
            pairs.append((title, f"{learned.diagnostics[key]:.{_digits(key)}}"))
    half = _WIDTH // 2
    model_line = textwrap.shorten(f"Model: {pairs[0][1]}", _WIDTH)
    if labels.names is not None:
        model_line += "\n" + textwrap.shorten(f"Data: {', '.join(labels.names)}", _WIDTH)
    if labels.index is not None and len(labels.index):
        model_line += f"\nSample: {_moment(labels.index[0])} to {_moment(labels.index[-1])}"
    cells = [f"{title + ':':<18}{value:>{half - 20}}" for title, value in pairs[1:]]
    cells += [""] * (len(cells) % 2)
    rows = zip(cells[::2], cells[1::2], strict=True)
    return "\n".join([model_line, *(f"{left:<{half}}  {right}".rstrip() for left, right in rows)])


def _digits(key: str) -> str:
    return {"num_parameters": "0f", "gradient_norm": "1e"}.get(key, "4f")


def _model_names(model: StateSpaceModel) -> list[str]:
    if not isinstance(model, HasParts):
        return [type(model).__name__]
    return [type(part).__name__ for part in model.parts.values()]


def _parameters(model: StateSpaceModel, learned: Learned) -> str:
    parts = _parts(model)
    if not parts:
        return "No free parameters."
    width = min(_LABEL, max(len(part.name) for part in parts) + 8)
    lines = [_heading("", width), "-" * _WIDTH]
    for part in parts:
        lines += _rows(part, learned.standard_errors.get(part.name), width)
    return "\n".join(lines)


def _parts(model: StateSpaceModel) -> list[Readable]:
    """Return the free parameters as a person reads them, then what follows from them."""
    shown, parts = readable_parameters(model), []
    for one in free_parameters(model):
        support = constraints.positive if one.positive else constraints.real
        if isinstance(one.constraint, constraints.interval):
            support = one.constraint
        held = Readable(one.name, one.constrained(one.tensor), support)
        parts.append(shown.get(one.name, held))
    if isinstance(model, HasDerivedNumbers):
        parts += [Readable(name, value) for name, value in model.derived().items()]
    return parts


def _heading(title: str, width: int = _LABEL) -> str:
    return f"{title:<{width}}" + "".join(
        f"{name:>{size}}" for name, size in zip(_COLUMNS, _SIZES, strict=True)
    )


def _numbers(estimate: float, error: float, support: constraints.Constraint) -> str:
    low, high = _interval(estimate, error, support)
    z = estimate / error if support is constraints.real and error > 0 else math.nan
    p = math.erfc(abs(z) / math.sqrt(2.0))
    tests = ("-", "-") if z != z else (f"{z:.2f}", f"{p:.3f}")
    cells = (_number(estimate), _number(error), *tests, _number(low), _number(high))
    return "".join(f"{cell:>{size}}" for cell, size in zip(cells, _SIZES, strict=True))


def _rows(part: Readable, errors: Tensor | None, width: int) -> list[str]:
    value = part.value.detach().double().cpu()
    weights = errors is None and part.name.rpartition(".")[2] in ("weight", "bias")
    if value.numel() > (1 if weights else _MOST_ENTRIES):
        shape = " x ".join(str(size) for size in value.shape)
        return _line(part.name, f"{shape + ' values':>22}", width)
    flat = torch.full_like(value, torch.nan) if errors is None else errors.double().cpu()
    rows = []
    for i, index in enumerate(itertools.product(*map(range, value.shape))):
        label = f"[{', '.join(map(str, index))}]" if index else ""
        estimate, error = value.reshape(-1)[i].item(), flat.reshape(-1)[i].item()
        rows += _line(part.name + label, _numbers(estimate, error, part.support), width)
    return rows


def _over_series(model: StateSpaceModel, learned: Learned, series: Series) -> str:
    """List quantiles, over the series, of parameters that every series has for itself."""
    batch = series.batch_shape
    own = [
        part
        for part in _parts(model)
        if len(batch)
        and part.value.shape[: len(batch)] == batch
        and part.value.numel() > _MOST_ENTRIES
    ]
    if not own:
        return ""
    title = f"Over {batch.numel()} series"
    lines = [f"{title:<{_LABEL}}" + "".join(f"{name:>12}" for name in _QUANTILES), "-" * _WIDTH]
    for part in own:
        values = part.value.detach().double().cpu().flatten(0, len(batch) - 1)
        columns = {part.name: values.reshape(len(values), -1)}
        errors = learned.standard_errors.get(part.name)
        if errors is not None:
            columns[f"{part.name}, std err"] = errors.double().cpu().reshape(len(values), -1)
        for name, column in columns.items():
            for i in range(column.shape[-1]):
                label = name if column.shape[-1] == 1 else f"{name}[{i}]"
                lines += _line(label, _quantiles(column[:, i]))
    return "\n".join(lines)


def _quantiles(column: Tensor) -> str:
    known = column[~column.isnan()]
    if not len(known):
        return f"{'-':>12}" * len(_QUANTILES)
    levels = torch.tensor([*_QUANTILES.values()], dtype=known.dtype)
    # `torch.quantile` refuses more than 16 million entries.
    places = (levels * (len(known) - 1)).round().long()
    return "".join(f"{_number(x):>12}" for x in known.sort().values[places].tolist())


def _line(label: str, numbers: str, width: int = _LABEL) -> list[str]:
    """Return a row of a table; a label too long for its column stands on a line of its own."""
    if len(label) < width:
        return [f"{label:<{width}}{numbers}"]
    return [*textwrap.wrap(label, _WIDTH, break_on_hyphens=False), " " * width + numbers]


def _interval(
    estimate: float, error: float, support: constraints.Constraint
) -> tuple[float, float]:
    if error != error:
        return error, error
    reach = 1.959964 * error
    if support is constraints.positive and estimate > 0:
        ratio = math.exp(min(reach / estimate, 700.0))
        return estimate / ratio, estimate * ratio
    if support is constraints.unit_interval and 0 < estimate < 1:
        other = 1 - estimate
        ratio = math.exp(min(reach / (estimate * other), 700.0))
        return estimate / (estimate + other * ratio), estimate / (estimate + other / ratio)
    return estimate - reach, estimate + reach


def _number(x: float) -> str:
    if x != x:
        return "-"
    if 1e4 <= abs(x) < 1e7:
        return f"{x:.1f}"
    return f"{x:.4f}" if 1e-2 <= abs(x) < 1e4 or x == 0 else f"{x:.3e}"


def _moment(when: object) -> str:
    from pandas import Period

    return f"{when:%Y-%m-%d}" if isinstance(when, date | Period) else str(when)


def _constant_states(
    model: StateSpaceModel, learned: Learned, series: Series, inputs: tuple[str, ...] | None
) -> str:
    """List the states that move in no step, with their deviation given all data."""
    if not isinstance(model, LinearGaussianModel) or series.batch_shape or not series.time:
        return ""
    with torch.no_grad():
        A, b, Q = model.linear_parameters(series.u, series.dt).transition
        stays = (A == torch.eye(A.shape[-1]).to(A)).all(-1).all(0) & (b == 0).all(0)
        stays = stays & (Q == 0).all(-1).all(0)
        if A.ndim > 3 or not bool(stays.any()):
            return ""
        last = learned.method.filter(model, series)
        names = _names_of_states(model, series, inputs)
    lines = [_heading("Constant states"), "-" * _WIDTH]
    for i in stays.nonzero().flatten().tolist():
        mean, error = last.mean[-1, i].item(), last.cov[-1, i, i].sqrt().item()
        lines += _line(names[i], _numbers(mean, error, constraints.real))
    return "\n".join(lines)


def _names_of_states(
    model: LinearGaussianModel, series: Series, inputs: tuple[str, ...] | None
) -> list[str]:
    """Return the states' names, those of coefficients with the column that they belong to."""
    assert isinstance(model, StateSpaceModel)
    names = list(model.state_names)
    if inputs is None or series.u is None or len(inputs) != series.u.shape[-1]:
        return names
    dt = series.dt if series.dt is None or not series.dt.ndim else series.dt[:1]
    zero = torch.zeros_like(series.u[:1])
    base = model.linear_parameters(zero, dt).emission.matrix
    for j, column in enumerate(inputs):
        one = zero.clone()
        one[..., j] = 1.0
        loads = (model.linear_parameters(one, dt).emission.matrix != base).flatten(0, -2).any(0)
        for i in loads.nonzero().flatten().tolist():
            if str(column) not in names[i]:
                names[i] = f"{names[i]} ({column})"
    return names


def _unusual_lines(model: StateSpaceModel, series: Series, labels: Labels) -> str:
    from ..inference.kalman.disturbances import smoothed_disturbances

    small = 10 <= series.time and series.time * model.state_dim**2 <= _LARGEST
    if not isinstance(model, LinearGaussianModel) or series.batch_shape or not small:
        return ""
    found = smoothed_disturbances(model, series).labelled(labels.index, labels.names)
    unusual = found.unusual(3.0).head(_MOST_UNUSUAL)
    lines = [f"{'Largest auxiliary residuals':<{_LABEL}}{'sd':>11}", "-" * _WIDTH]
    for (when, name), residual in unusual.items():  # type: ignore[misc]
        lines += _line(f"{name}, {_moment(when)}", f"{residual:>11.2f}")
    return "\n".join(lines) if len(unusual) else ""


def _residual_lines(model: StateSpaceModel, learned: Learned, series: Series) -> str:
    from ..evaluation.residuals import residual_tests, residuals

    if not isinstance(model, LinearGaussianModel):
        return ""
    e = residuals(model, series, learned.method).movedim(-2, -1)
    e = e.reshape(-1, series.time).mT
    if int((~e.isnan()).sum(0).min()) < 10:
        return ""
    tests = residual_tests(e)
    rows = [
        (f"Ljung-Box Q({tests.lags})", *tests.ljung_box),
        ("Jarque-Bera", *tests.jarque_bera),
        ("Heteroskedasticity H", *tests.heteroskedasticity),
    ]
    lines = [f"{'Standardised residuals':<{_LABEL}}{'statistic':>11}{'p':>11}", "-" * _WIDTH]
    for title, statistic, p in rows:
        if e.shape[-1] > _MOST_CHANNELS:
            share = f"p < 0.05 in {int((p < 0.05).sum())} of {e.shape[-1]}"
            lines.append(f"{title:<{_LABEL}}{share:>22}")
            continue
        for i in range(e.shape[-1]):
            label = title if e.shape[-1] == 1 else f"{title} [{i}]"
            lines.append(f"{label:<{_LABEL}}{statistic[i].item():>11.3f}{p[i].item():>11.3f}")
    if e.shape[-1] == 1:
        lines.append(
            f"{'Skewness, kurtosis':<{_LABEL}}{tests.skewness[0].item():>11.3f}"
            f"{tests.kurtosis[0].item():>11.3f}"
        )
    return "\n".join(lines)


def _known_line(learned: Learned) -> str:
    """Say what forecasts leave out, which weighs where observations are few."""
    if averages_parameters(learned.method):
        return ""
    return "Bands of states and forecasts take these parameters as known."


def _warning_lines(learned: Learned) -> str:
    return "\n".join(
        textwrap.fill(f"Warning: {sentence}", _WIDTH, subsequent_indent="  ")
        for sentence in learned.warnings
    )
