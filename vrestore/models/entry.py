"""One row of the catalogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vrestore.models.download import Remote, models_folder


@dataclass(frozen=True)
class Entry:
    """A model by name.

    ``architecture``: the class that it is. Its weights: ``file`` inside the package, or ``remote``
    to be fetched, or neither where it needs none. ``figure``: PSNR in dB and SSIM as published.
    ``told``: constructor arguments that the weights' shapes do not tell.
    """

    name: str
    architecture: str
    task: str
    scale: int
    parameters: int
    data: str
    figure: str
    licence: str
    note: str = ""
    file: str | None = None
    remote: Remote | None = None
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def path(self) -> Path | None:
        """Where its weights lie on this machine, whether or not they do; None: it needs none."""
        if self.file:
            return Path(__file__).parent / self.file
        return models_folder() / self.remote.file if self.remote else None

    @property
    def is_here(self) -> bool:
        """Whether it can run without being fetched; of a file whose size is known, by that too."""
        path = self.path
        if path is None or not path.is_file():
            return path is None
        size = self.remote.size_bytes if self.remote else None
        return size in (None, path.stat().st_size)
