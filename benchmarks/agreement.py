"""Whether two contestants found the same. A ratio between different answers means nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

TOLERANCE = 1e-6


def disagreement(ours: Path, theirs: Path) -> str:
    """Compare two files of results; return what differs, or nothing.

    Log-likelihoods are compared series by series, other arrays relative to their largest entry.
    """
    with np.load(ours) as a, np.load(theirs) as b:
        shared = [name for name in b.files if name in a.files]
        if not shared:
            return "it returned nothing to compare"
        errors = {name: _error(name, a[name], b[name]) for name in shared}
    wrong = [f"{name} by {error:.1e}" for name, error in errors.items() if not error <= TOLERANCE]
    return "differs from deepssm: " + ", ".join(wrong) if wrong else ""


def _error(name: str, ours: np.ndarray, theirs: np.ndarray) -> float:
    if ours.shape != theirs.shape:
        return float("inf")
    if name == "log_likelihood":
        return float(np.max(np.abs(theirs / ours - 1)))
    if name in ("Q", "R"):
        # The derivative in a symmetric matrix is defined up to its antisymmetric part.
        ours, theirs = (x + np.swapaxes(x, -1, -2) for x in (ours, theirs))
    return float(np.max(np.abs(theirs - ours)) / np.max(np.abs(ours)))
