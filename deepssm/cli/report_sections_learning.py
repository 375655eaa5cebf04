"""The parts of the report page about learning and about what a deep model uses of its state."""

from __future__ import annotations

from ..inference.variational.active_units import active_units, divergence_by_component
from ..report.html import Section, picture
from ..report.plots_learning import plot_divergence, plot_training
from .holdout import Study
from .model_specs import guide_of


def learning_sections(study: Study) -> list[Section]:
    """Return the course of learning of each model that has one."""
    pictures = []
    for name, (_, fit) in study.fits.items():
        if len(fit.learned.history) > 1:
            drawn = plot_training(fit.learned.history, ("reconstruction", "divergence"))
            alt = f"What learning {name} maximised, step by step."
            pictures.append(picture(drawn, alt, name, name=f"learning-{name}"))
    text = "The log-likelihood of a classical model, the evidence lower bound of a deep one."
    return [Section("Learning", text, pictures)] if pictures else []


def state_sections(study: Study) -> list[Section]:
    """Return how much each state component of a deep model takes from the data."""
    sections = []
    for name, (_, fit) in study.fits.items():
        guide = guide_of(fit.learned)
        if guide is None:
            continue
        share = divergence_by_component(fit.model, guide, fit.series)
        active = active_units(fit.model, guide, fit.series)
        names = fit.model.state_names
        listed = ", ".join(f"{n} {x:.3f}" for n, x in zip(names, share.tolist(), strict=True))
        alt = f"Divergence of guide and prior in nats per step by state component: {listed}."
        text = (
            f"{int(active.sum())} of {len(active)} state components move with the data. The bars "
            "say how far the guide departs from the prior, each component given those before it; "
            "one near zero could be left out."
        )
        drawn = picture(plot_divergence(share, active, names), alt, name=f"state-{name}")
        sections.append(Section(f"What the state is used for: {name}", text, [drawn]))
    return sections
