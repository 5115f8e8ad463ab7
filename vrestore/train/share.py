"""A run on several processes: each makes its share of the batch, all take the same step."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch import distributed as dist

from vrestore.errors import UsageError


@dataclass(frozen=True)
class Share:
    """Process ``rank`` of ``world``. Two processes of one thread each outrun one of two threads on
    small batches, and suffer far less from company on the machine."""

    rank: int = 0
    world: int = 1

    @staticmethod
    def join(device: torch.device) -> Share:
        """The place that ``torchrun`` gave this process; alone where it was started without."""
        world = int(os.environ.get("WORLD_SIZE", "1"))
        if world == 1:
            return ALONE
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return Share(dist.get_rank(), world)

    def check(self, batch: int, each: int = 1) -> None:
        """UsageError where the batch, of ``each`` at once, cannot be shared evenly.

        The mean of means would be wrong.
        """
        if batch % (self.world * each):
            together = f" in lots of {each}" if each > 1 else ""
            raise UsageError(
                f"a batch of {batch} cannot be shared by {self.world} processes evenly{together}"
            )

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """The mean over all processes, in place, in one message."""
        if self.world == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([g.flatten() for g in gradients])
        dist.all_reduce(flat)
        flat /= self.world
        for gradient, part in zip(
            gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(part.view_as(gradient))

    def anyone(self, flag: bool, device: torch.device) -> bool:
        """Whether the flag is up in any process, so that all stop at the same step."""
        if self.world == 1:
            return flag
        up = torch.tensor(float(flag), device=device)
        dist.all_reduce(up)
        return bool(up.item())

    def average(self, value: float, device: torch.device) -> float:
        """The mean of a number over all processes."""
        if self.world == 1:
            return value
        total = torch.tensor(value, dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return float(total.item()) / self.world


ALONE = Share()
