"""Frames on disk, to be read again in any order; gone with the process, however it ends."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from vrestore.errors import OutputError


class Spool:
    """Items of some tensors each, all of one form; ``folder`` None is the system's temporary one.

    The file has no name: nothing is left behind even by a process that is killed.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115, closed by close()
        self._form: list[tuple[torch.Size, torch.dtype]] = []
        self._bytes_each = 0
        self._count = 0

    def append(self, item: Sequence[Tensor]) -> None:
        """Write one item at the end. OutputError: no room; ValueError: of another form."""
        form = [(tensor.shape, tensor.dtype) for tensor in item]
        if not self._count:
            self._form = form
            self._bytes_each = sum(tensor.numel() * tensor.element_size() for tensor in item)
        elif form != self._form:
            raise ValueError(f"item {self._count} is {form}, those before it {self._form}")
        try:
            self._file.seek(self._count * self._bytes_each)
            for tensor in item:
                flat = tensor.detach().cpu().contiguous().reshape(-1)
                self._file.write(flat.view(torch.uint8).numpy().data)
            self._file.flush()  # here, and not when the file is closed, is the place for an error
        except OSError as error:
            raise OutputError(
                f"{self.folder or tempfile.gettempdir()}: frames that are to be read again cannot "
                f"be kept there: {error.strerror}; make room, or use --propagation lookahead"
            ) from error
        self._count += 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> list[Tensor]:
        if not 0 <= index < self._count:
            raise IndexError(index)
        self._file.seek(index * self._bytes_each)
        out = []
        for shape, dtype in self._form:
            raw = bytearray(shape.numel() * dtype.itemsize)
            self._file.readinto(raw)
            out.append(torch.frombuffer(raw, dtype=dtype).reshape(shape))
        return out

    def close(self) -> None:
        """Give the room back."""
        with suppress(OSError):  # of what could not be written, and was told
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
