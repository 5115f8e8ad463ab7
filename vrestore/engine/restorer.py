"""Restorer: a network, how it runs, and one method that turns frames into frames."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
from torch import Tensor

from vrestore.engine.precision import InPrecision, choose_dtype
from vrestore.engine.propagation import propagate
from vrestore.errors import OutOfMemory, UsageError, is_out_of_memory
from vrestore.models.temporal import FrameNetwork, RecurrentNetwork

CHUNK_FRAMES = 32
LOOKAHEAD_FRAMES = 16  # official BasicVSR loses at most 0.01 dB to the whole shot


class Restorer:
    """Runs a network over shots of any length.

    ``propagation``: ``lookahead`` (default; memory does not depend on the shot's length) or
    ``whole`` (equals ``net(clip)``; memory grows with the shot). ``precision``: ``auto`` (timed
    on this device), ``fp32``, ``bf16``, ``fp16``. ``device``: ``auto``, or torch's name of one.
    The network is moved to the device. UsageError: an unknown name or a size below its least.
    """

    def __init__(
        self,
        network: RecurrentNetwork | FrameNetwork,
        *,
        propagation: Literal["lookahead", "whole"] | str = "lookahead",
        precision: str = "auto",
        device: str | torch.device = "auto",
        chunk: int = CHUNK_FRAMES,
        lookahead: int = LOOKAHEAD_FRAMES,
    ) -> None:
        if propagation not in ("lookahead", "whole"):
            raise UsageError(f"propagation {propagation!r} is unknown; choose lookahead or whole")
        if chunk < 1 or lookahead < 0:
            raise UsageError(f"chunk {chunk} must be at least 1, lookahead {lookahead} at least 0")
        self.device = find_device(device)
        self.network = network.to(self.device).eval()
        self.scale = network.scale
        self.dtype = choose_dtype(precision, network, self.device)
        self.chunk = None if propagation == "whole" else chunk
        self.lookahead = lookahead

    def stream(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Restore one shot: ``(3, H, W)`` in 0..1 in, ``(3, scale*H, scale*W)`` out, lazily.

        One out for one in, in order, on the restorer's device; a clip ``(T, 3, H, W)`` serves as
        an iterable. Nothing is clamped. OutOfMemory says what to lower.
        """
        run = InPrecision(self.network, self.device, self.dtype)
        batches = (frame.to(self.device, torch.float32).unsqueeze(0) for frame in frames)
        try:
            if isinstance(self.network, FrameNetwork):
                for batch in batches:
                    yield run.frame(batch)[0]
                return
            passes = self.network.passes
            for out in propagate(run, passes, batches, self.chunk, self.lookahead):
                yield out[0]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"{self.device} ran out of memory; lower --chunk and --lookahead "
                f"(now {self.chunk or 'whole'} and {self.lookahead}), or use --device cpu"
            ) from error


def find_device(name: str | torch.device) -> torch.device:
    """``auto`` is the first GPU where there is one; UsageError where the named one is not there."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise UsageError(f"device {name!r} cannot be used: {first_line}") from error
    return device
