"""How models of images learn unless the user says otherwise."""

from __future__ import annotations

from .objectives_constrained import MaskedSuffix
from .svi import SVI


def image_learner() -> SVI:
    """Return `SVI` with the last frames of each batch hidden from the guide.

    With the plain bound frames are encoded one by one and their motion is not learnt. The guide
    is the default one for images; see `default_guide`.
    """
    return SVI(
        steps=1500,
        batch_size=24,
        learning_rate=3e-3,
        kl_start=1.0,
        hidden=48,
        report_every=100,
        objective=MaskedSuffix(10),
    )
