"""What was found out about an object once and holds for its life."""

from __future__ import annotations

from weakref import WeakSet

from .model import StateSpaceModel


class Checked:
    """The models that passed a check, which need not be made again; it keeps none alive."""

    def __init__(self) -> None:
        self._passed: WeakSet[StateSpaceModel] = WeakSet()

    def __contains__(self, model: StateSpaceModel) -> bool:
        """Tell whether this very model passed."""
        return model in self._passed

    def add(self, model: StateSpaceModel) -> None:
        """Note that a model passed."""
        self._passed.add(model)
