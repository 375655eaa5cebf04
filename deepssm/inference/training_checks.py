"""The public door of `SVI`: options and guides that cannot work are refused by name."""

from __future__ import annotations

from typing import Any

from torch import nn

from ..base import StateSpaceModel


def check_counts(options: dict[str, Any], **least: int) -> None:
    """Refuse options that are no whole numbers, or too small; `None` passes.

    Args:
        options: Values by name.
        **least: The smallest value of each.

    Raises:
        ValueError: One is neither `None` nor a whole number of at least that size.
    """
    for name, smallest in least.items():
        value = options[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and value >= smallest):
            raise ValueError(
                f"`{name}` must be a whole number, {smallest} or more, got {value!r}."
            )


def check_guide(model: StateSpaceModel, guide: nn.Module) -> None:
    """Refuse a guide that was made for another model.

    Args:
        model: The model.
        guide: A guide; one that does not tell its sizes passes.

    Raises:
        ValueError: Its sizes, dtype or device differ from the model's.
    """
    inner = getattr(guide, "guide", guide)
    sizes = {name: getattr(model, name) for name in ("obs_dim", "state_dim", "input_dim")}
    own = {name: getattr(inner, name, size) for name, size in sizes.items()}
    if own != sizes:
        differing = [f"{name}={own[name]}" for name in sizes if own[name] != sizes[name]]
        fit = ", ".join(f"{name}={size}" for name, size in sizes.items())
        raise ValueError(
            f"`guide` was made for {', '.join(differing)}, but the model has {fit}: build it as "
            f"`{type(inner).__name__}({fit})`."
        )
    first = next((p for p in guide.parameters() if p.is_floating_point()), None)
    if first is not None and (first.dtype, first.device) != (model.dtype, model.device):
        raise ValueError(
            f"`guide` computes in {first.dtype} on {first.device}, but the model in {model.dtype} "
            f"on {model.device}: `guide.to({str(model.device)!r}, {model.dtype})`."
        )
