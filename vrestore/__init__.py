"""vrestore: a film in, the same film restored out.

``restore`` takes files, ``Restorer`` takes tensors; ``load_network`` reads a checkpoint, ``probe``
tells what is in a file. Imports are lazy: naming the package costs nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vrestore.engine.restorer import Restorer
    from vrestore.errors import VrestoreError
    from vrestore.models.catalogue import load_model
    from vrestore.models.checkpoint import load_network
    from vrestore.options import RestoreOptions
    from vrestore.report import Progress, Report
    from vrestore.restore import restore
    from vrestore.video.probe import probe

__version__ = "0.1.0"

_HOME = {
    "restore": "vrestore.restore",
    "Restorer": "vrestore.engine.restorer",
    "RestoreOptions": "vrestore.options",
    "Report": "vrestore.report",
    "Progress": "vrestore.report",
    "load_network": "vrestore.models.checkpoint",
    "load_model": "vrestore.models.catalogue",
    "probe": "vrestore.video.probe",
    "VrestoreError": "vrestore.errors",
}

__all__ = [
    "Progress",
    "Report",
    "RestoreOptions",
    "Restorer",
    "VrestoreError",
    "load_model",
    "load_network",
    "probe",
    "restore",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        value = getattr(import_module(_HOME[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'vrestore' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


class _Package(ModuleType):
    """``vrestore.restore`` is a module too, which Python puts here when anybody imports it; the
    function is what the name means."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_the_module = name == "restore" and isinstance(value, ModuleType)
        super().__setattr__(name, value.restore if is_the_module else value)


sys.modules[__name__].__class__ = _Package
