"""Restorer: a network, how it runs, and one method that turns frames into frames."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import chain, islice
from operator import itemgetter
from typing import Literal

import torch
from torch import Tensor

from vrestore.engine.exact import Again, Indexed, propagate_exactly
from vrestore.engine.memory import keep_freed_memory
from vrestore.engine.precision import InPrecision, choose_precision, difference
from vrestore.engine.propagation import handed_over, propagate
from vrestore.engine.spool import Spool
from vrestore.engine.windows import slide
from vrestore.errors import OutOfMemory, UsageError, is_out_of_memory
from vrestore.models.temporal import FrameNetwork, Network, RecurrentNetwork, WindowNetwork

log = logging.getLogger("vrestore")

PROPAGATIONS = ("lookahead", "whole", "exact")
CHUNK_FRAMES = 32
LOOKAHEAD_FRAMES = 16  # official BasicVSR loses at most 0.01 dB to the whole shot
TRIED_FRAMES, TRIED_SIDE = 5, 128  # of the film's beginning, in a precision below float32
FLAT = 0.01  # standard deviation of a picture on which nothing can be seen to fail


class Restorer:
    """Runs a network over shots of any length.

    ``propagation``: ``lookahead`` (default; memory does not depend on the shot's length), ``whole``
    (equals ``net(clip)``; memory grows with the shot) or ``exact`` (equals ``whole`` bit for bit in
    the memory of chunks; takes longer, and reads the frames again and again). ``precision``:
    ``auto`` (timed on this device), ``fp32``, ``bf16``, ``fp16``, ``int8`` (x86 CPUs); what is
    below float32 is tried on the first frames, and given up with a warning if it is not near it.
    ``device``: ``auto``, or torch's name of one. The network is moved to the device. UsageError: an
    unknown name, or a size below its least.
    """

    def __init__(
        self,
        network: Network,
        *,
        propagation: Literal["lookahead", "whole", "exact"] | str = "lookahead",
        precision: str = "auto",
        device: str | torch.device = "auto",
        chunk: int = CHUNK_FRAMES,
        lookahead: int = LOOKAHEAD_FRAMES,
    ) -> None:
        if propagation not in PROPAGATIONS:
            known = ", ".join(PROPAGATIONS)
            raise UsageError(f"propagation {propagation!r} is unknown; choose one of {known}")
        if chunk < 1 or lookahead < 0:
            raise UsageError(f"chunk {chunk} must be at least 1, lookahead {lookahead} at least 0")
        self.device = find_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.network = network.to(self.device).eval()
        self.scale = network.scale
        self.precision = choose_precision(precision, network, self.device)
        self._run = InPrecision(self.network, self.device, self.precision)
        self._tried = self.precision == "fp32"
        self.propagation = propagation
        self.chunk = chunk
        self.lookahead = lookahead

    @property
    def reads_again(self) -> bool:
        """Whether a shot's frames are read more than once; best given as what can be indexed."""
        return self.propagation == "exact" and isinstance(self.network, RecurrentNetwork)

    def stream(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Restore one shot: ``(3, H, W)`` in 0..1 in, ``(3, scale*H, scale*W)`` out, lazily.

        One out for one in, in order, on the restorer's device; a clip ``(T, 3, H, W)`` serves as
        an iterable. ``exact`` reads what has a length and can be indexed in place, and keeps other
        frames in a temporary file. Nothing is clamped. UsageError: a frame of another
        form; OutOfMemory says what to lower.
        """
        with ExitStack() as at_end:
            try:
                if not self._tried:
                    frames = self._tried_on(frames)
                for out in self._restored(frames, at_end):
                    yield out[0]
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory(f"{self.device} ran out of memory; {self._advice()}") from error

    def _restored(self, frames: Iterable[Tensor], at_end: ExitStack) -> Iterator[Tensor]:
        """The runner that the network's kind and the propagation ask for."""
        run, net = self._run, self.network
        if not isinstance(net, RecurrentNetwork):
            return _one_by_one(run, net, map(self._batch, frames))
        if self.propagation == "exact":
            if not isinstance(frames, Indexed):
                spool = at_end.enter_context(Spool())
                for frame in frames:
                    spool.append((frame,))
                frames = Again(spool, itemgetter(0))
            return propagate_exactly(run, net, Again(frames, self._batch), self.chunk)
        chunk = None if self.propagation == "whole" else self.chunk
        return propagate(run, net, map(self._batch, frames), chunk, self.lookahead)

    def _tried_on(self, frames: Iterable[Tensor]) -> Iterable[Tensor]:
        """The same frames; the precision is tried on the middle of the first, whole.

        A flat picture, as before a fade, shows nothing: then the next shot is tried as well.
        """
        if isinstance(frames, Indexed):
            first = [frames[i] for i in range(min(TRIED_FRAMES, len(frames)))]
        else:
            stream = iter(frames)
            first = list(islice(stream, TRIED_FRAMES))
            frames = chain(handed_over([*first]), stream)
        middles = [_middle(self._batch(frame)) for frame in first]
        del first
        if not middles:
            return frames
        exact = InPrecision(self.network, self.device, "fp32")
        runs = (list(_whole(run, self.network, middles)) for run in (exact, self._run))
        truth, found = map(torch.cat, runs)
        self._tried = bool(torch.cat(middles).std() > FLAT)
        wrong = difference(truth, found)
        if wrong is not None:
            log.warning("precision %s %s: going on in fp32", self.precision, wrong)
            self.precision, self._run, self._tried = "fp32", exact, True
        return frames

    def _advice(self) -> str:
        """What may help where memory ran out; ``lookahead`` has tried shorter chunks by itself."""
        less = "a smaller picture" if self.device.type == "cpu" else "--device cpu"
        if not isinstance(self.network, RecurrentNetwork):
            return f"try {less}"
        if self.propagation == "lookahead":
            return f"the shortest chunks did not fit either; try {less}"
        if self.propagation == "whole":
            return f"try --propagation exact, or {less}"
        return f"try less than --chunk {self.chunk}, or {less}"

    def _batch(self, frame: Tensor) -> Tensor:
        """``(3, H, W)`` of any floating type -> ``(1, 3, H, W)`` float32 on the device."""
        if not isinstance(frame, Tensor):
            raise UsageError(f"a frame is a tensor (3, H, W), not {type(frame).__name__}")
        if frame.dim() != 3 or len(frame) != 3 or not frame.is_floating_point():
            raise UsageError(
                f"a frame is (3, H, W), R'G'B' in 0..1, not {frame.dtype} {tuple(frame.shape)}"
            )
        return frame.to(self.device, torch.float32).unsqueeze(0)


def _one_by_one(
    run: InPrecision, net: FrameNetwork | WindowNetwork, frames: Iterable[Tensor]
) -> Iterator[Tensor]:
    if isinstance(net, WindowNetwork):
        return slide(run, net, frames)
    return (run.frame(frame) for frame in frames)


def _whole(run: InPrecision, net: Network, frames: Iterable[Tensor]) -> Iterator[Tensor]:
    if isinstance(net, RecurrentNetwork):
        return propagate(run, net, frames, chunk=None, lookahead=0)
    return _one_by_one(run, net, frames)


def _middle(frame: Tensor) -> Tensor:
    """At most ``TRIED_SIDE`` rows and columns from the middle of ``(N, 3, H, W)``."""
    top, left = (max(0, (side - TRIED_SIDE) // 2) for side in frame.shape[2:])
    return frame[:, :, top : top + TRIED_SIDE, left : left + TRIED_SIDE]


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
