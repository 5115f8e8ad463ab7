"""Tensors on their way from the device, while it goes on with the next frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class OnTheWay:
    """Tensors that leave their device; whoever needs them waits, in a thread of their own."""

    tensors: tuple[Tensor, ...]
    arrival: torch.cuda.Event | None

    def arrived(self) -> tuple[Tensor, ...]:
        """The tensors in main memory, once they are there."""
        if self.arrival is not None:
            self.arrival.synchronize()
        return self.tensors


def fetch(tensors: Sequence[Tensor]) -> OnTheWay:
    """Ask for tensors to be brought to main memory, behind all that was asked of the device before.

    From a CUDA device into page-locked memory, which it writes by itself; elsewhere at once.
    """
    if not tensors or tensors[0].device.type != "cuda":
        return OnTheWay(tuple(tensor.cpu() for tensor in tensors), None)
    kept = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True) for t in tensors]
    for mine, theirs in zip(kept, tensors, strict=True):
        mine.copy_(theirs, non_blocking=True)
    arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
    arrival.record(torch.cuda.current_stream(tensors[0].device))
    return OnTheWay(tuple(kept), arrival)
