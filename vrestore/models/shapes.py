"""What the shapes of a checkpoint's tensors tell of the network that they belong to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

from torch import Tensor, nn


class Shapes:
    """The shapes of a state dict, or of a part of it, asked by name."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._shapes = {key: tuple(value.shape) for key, value in state.items()}

    def size(self, key: str, axis: int = 0) -> int:
        """One side of one tensor; LookupError with the key where it has none."""
        shape = self._shapes.get(key, ())
        if axis >= len(shape):
            raise LookupError(key)
        return shape[axis]

    def has(self, prefix: str) -> bool:
        """Whether any key begins so."""
        return any(key.startswith(prefix) for key in self._shapes)

    def count(self, pattern: str) -> int:
        """How many different numbers the pattern's group takes at the start of the keys."""
        found = (re.match(pattern, key) for key in self._shapes)
        return len({match[1] for match in found if match})

    def under(self, prefix: str) -> Shapes:
        """The part below ``prefix``, without it."""
        part = Shapes({})
        part._shapes = {
            key.removeprefix(prefix): shape
            for key, shape in self._shapes.items()
            if key.startswith(prefix)
        }
        return part


class Architecture(Protocol):
    """A network's class, in which a checkpoint can be recognised and read."""

    @property
    def parts(self) -> frozenset[str]:
        """The first word of the keys that every such checkpoint has."""

    def sizes(self, shapes: Shapes) -> dict[str, Any]:
        """The constructor's arguments. LookupError or ValueError: they cannot be read off."""

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        """The network itself."""
