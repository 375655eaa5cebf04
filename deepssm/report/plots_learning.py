"""Pictures of what a learner did, and of what a deep model uses of its state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from .plots_canvas import COLOURS, MUTED, canvas, legend, numbered, title

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_training(history: Sequence[Mapping[str, float]], parts: Sequence[str] = ()) -> Figure:
    """Draw what a learner maximised, and its parts, against the step.

    Args:
        history: Records with `step` and `objective`; `Learned.history`.
        parts: Other keys to draw in a second panel, such as `"kl"`.
    """
    shown = [key for key in parts if any(key in record for record in history)]
    figure, axes = canvas(columns=1 + bool(shown), width=8 if shown else 5, share=False)
    for i, (each, keys) in enumerate(zip(axes, (["objective"], shown), strict=False)):
        for j, key in enumerate(keys):
            course = [(r["step"], r[key]) for r in history if key in r and np.isfinite(r[key])]
            colour = COLOURS[(i + j) % len(COLOURS)]
            each.plot(*np.array(course).reshape(-1, 2).T, color=colour, label=key)
        each.set(xlabel="step")
        title(each, "objective (nats)" if i == 0 else "parts")
    if shown:
        legend(axes[1])
    return figure


def plot_divergence(divergence: Tensor, active: Tensor, names: Sequence[str] = ()) -> Figure:
    """Draw how much each state component takes from the data, the largest first.

    Args:
        divergence: Nats per step, `(state,)`; `deepssm.inference.divergence_by_component`.
        active: Which components move with the data, `(state,)`; `deepssm.inference.active_units`.
        names: Of the components.
    """
    order = divergence.argsort(descending=True).tolist()
    names = tuple(names) or numbered("z", len(order))
    figure, (axes,) = canvas(width=min(9.0, 0.3 * len(order) + 5), height=2.2)
    for wanted, colour, label in (
        (True, COLOURS[0], "active"),
        (False, MUTED, "follows the prior"),
    ):
        places = [place for place, i in enumerate(order) if bool(active[i]) is wanted]
        if places:
            height = [float(divergence[order[place]]) for place in places]
            axes.bar(places, height, 0.8, color=colour, alpha=0.85, label=label)
    axes.set_ylabel("nats per step", fontsize=9)
    shown = range(0, len(order), max(1, len(order) // 24))
    axes.set_xticks(list(shown), [names[order[place]] for place in shown])
    title(axes, "divergence")
    legend(axes)
    return figure
