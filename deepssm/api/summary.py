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

from ..core.abilities import LinearGaussianModel
from ..core.methods import Learned
from ..core.model import Readable, Series, StateSpaceModel
from ..inference.estimation.objective import free_parameters, readable_parameters
from .validation import Labels

_WIDTH, _LABEL, _MOST_ENTRIES, _MOST_CHANNELS, _MOST_UNUSUAL = 78, 34, 16, 4, 4
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
    model: StateSpaceModel, learned: Learned, series: Series, labels: Labels | None = None
) -> str:
    """Return parameters, standard errors, criteria and residual tests as a table of text.

    Intervals of positive parameters are symmetric in their logarithm, those of probabilities in
    their logit, others in the parameter. Weights of networks are counted, not listed.
    States that never change, such as the effect of a regressor, are listed like parameters; the
    largest auxiliary residuals say where to look for outliers and breaks.

    Args:
        model: The fitted model.
        learned: What its learner reported.
        series: The data it was fitted to.
        labels: Row labels and column names of the data.
    """
    labels = Labels(None, None) if labels is None else labels
    blocks = [
        _header(model, learned, series, labels),
        _parameters(model, learned),
        _constant_states(model, learned, series),
        _residual_lines(model, learned, series),
        _unusual_lines(model, series, labels),
        _warning_lines(learned),
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
    free = free_parameters(model)
    if not free:
        return "No free parameters."
    shown, parts = readable_parameters(model), []
    for one in free:
        support = constraints.positive if one.positive else constraints.real
        held = Readable(one.name, one.constrained(one.tensor), support)
        parts.append(shown.get(one.name, held))
    width = min(_LABEL, max(len(part.name) for part in parts) + 8)
    lines = [
        f"{'':<{width}}{'estimate':>11}{'std err':>11}{'[0.025':>11}{'0.975]':>11}",
        "-" * _WIDTH,
    ]
    for part in parts:
        lines += _rows(part, learned.standard_errors.get(part.name), width)
    return "\n".join(lines)


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
        low, high = _interval(estimate, error, part.support)
        numbers = "".join(f"{_number(x):>11}" for x in (estimate, error, low, high))
        rows += _line(part.name + label, numbers, width)
    return rows


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


def _constant_states(model: StateSpaceModel, learned: Learned, series: Series) -> str:
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
    lines = [f"{'Constant states':<34}{'estimate':>11}{'std err':>11}{'[0.025':>11}{'0.975]':>11}"]
    lines.append("-" * _WIDTH)
    for i in stays.nonzero().flatten().tolist():
        mean, error = last.mean[-1, i].item(), last.cov[-1, i, i].sqrt().item()
        low, high = _interval(mean, error, constraints.real)
        numbers = "".join(f"{_number(x):>11}" for x in (mean, error, low, high))
        lines += _line(model.state_names[i], numbers)  # type: ignore[attr-defined]
    return "\n".join(lines)


def _unusual_lines(model: StateSpaceModel, series: Series, labels: Labels) -> str:
    from ..inference.kalman.disturbances import smoothed_disturbances

    small = 10 <= series.time and series.time * model.state_dim**2 <= _LARGEST
    if not isinstance(model, LinearGaussianModel) or series.batch_shape or not small:
        return ""
    found = smoothed_disturbances(model, series).labelled(labels.index, labels.names)
    unusual = found.unusual(3.0).head(_MOST_UNUSUAL)
    lines = [f"{'Largest auxiliary residuals':<34}{'sd':>11}", "-" * _WIDTH]
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
    lines = [f"{'Standardised residuals':<34}{'statistic':>11}{'p':>11}", "-" * _WIDTH]
    for title, statistic, p in rows:
        if e.shape[-1] > _MOST_CHANNELS:
            share = f"p < 0.05 in {int((p < 0.05).sum())} of {e.shape[-1]}"
            lines.append(f"{title:<34}{share:>22}")
            continue
        for i in range(e.shape[-1]):
            label = title if e.shape[-1] == 1 else f"{title} [{i}]"
            lines.append(f"{label:<34}{statistic[i].item():>11.3f}{p[i].item():>11.3f}")
    if e.shape[-1] == 1:
        lines.append(
            f"{'Skewness, kurtosis':<34}{tests.skewness[0].item():>11.3f}"
            f"{tests.kurtosis[0].item():>11.3f}"
        )
    return "\n".join(lines)


def _warning_lines(learned: Learned) -> str:
    return "\n".join(
        textwrap.fill(f"Warning: {sentence}", _WIDTH, subsequent_indent="  ")
        for sentence in learned.warnings
    )
