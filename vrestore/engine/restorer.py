"""Restorer: a network, how it runs, and one method that turns frames into frames."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from typing import Literal, TypeVar

import torch
from torch import Tensor

from vrestore.engine.choice import LOOKAHEAD_FRAMES, Choice, asked_for
from vrestore.engine.exact import Again, Indexed, propagate_exactly
from vrestore.engine.lengths import Lengths, Parting, shorter
from vrestore.engine.memory import give_back_freed_memory, keep_freed_memory
from vrestore.engine.precision import InPrecision, Numbers, choose_precision, difference
from vrestore.engine.propagation import handed_over, propagate
from vrestore.engine.retry import Held, in_turn
from vrestore.engine.spool import Spool
from vrestore.engine.tiling import Tiles, tiled
from vrestore.engine.windows import slide
from vrestore.errors import OutOfMemory, UsageError, is_out_of_memory
from vrestore.models.temporal import FrameNetwork, Network, RecurrentNetwork, WindowNetwork

R = TypeVar("R")

PROPAGATIONS = ("lookahead", "whole", "exact")
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

    ``chunk`` None: 32 frames, or what fits the memory at hand, of which the program may take
    ``memory`` bytes; with ``lookahead`` pictures may be cut into tiles too. ``tile``: so many
    pixels of the input on a side. Where memory runs out all the same, what can be made smaller is,
    for the shots that follow too, one warning each; ``whole`` gives up instead, and ``exact`` once
    its chunks are the shortest: these change no bit.
    """

    def __init__(
        self,
        network: Network,
        *,
        propagation: Literal["lookahead", "whole", "exact"] | str = "lookahead",
        precision: str = "auto",
        device: str | torch.device = "auto",
        chunk: int | None = None,
        lookahead: int = LOOKAHEAD_FRAMES,
        tile: int | None = None,
        memory: int | None = None,
    ) -> None:
        if propagation not in PROPAGATIONS:
            known = ", ".join(PROPAGATIONS)
            raise UsageError(f"propagation {propagation!r} is unknown; choose one of {known}")
        asked = asked_for(network, propagation, chunk, lookahead, tile)
        self.device = find_device(device)
        if self.device.type == "cpu":
            keep_freed_memory()
        self.network = network.to(self.device).eval()
        self.scale = network.scale
        self.precision = choose_precision(precision, network, self.device)
        self._run = InPrecision(self.network, self.device, self.precision)
        give_back_freed_memory(self.device)  # timing precisions and calibrating int8 took some
        self._tried = self.precision == "fp32"
        self.propagation = propagation
        fits = chunk is None and propagation != "whole"
        self.choice = Choice(self._run, propagation, asked, fits, memory)
        self._first = None
        if isinstance(network, RecurrentNetwork) and network.first is not None:
            self._first = Restorer(
                network.first,
                propagation=propagation,
                precision=self.precision,
                device=self.device,
                chunk=chunk,
                lookahead=lookahead,
                tile=tile,
            )
            self._first.choice.told = self.choice.told

    def _run_in(self, run: InPrecision) -> None:
        """From now on."""
        self._run = self.choice.run = run
        self.precision = run.precision

    @property
    def reads_again(self) -> bool:
        """Whether a shot's frames are read more than once; best given as what can be indexed."""
        return self.propagation == "exact" and isinstance(self.network, RecurrentNetwork)

    def stream(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Restore one shot: ``(3, H, W)`` in 0..1 in, ``(3, scale*H, scale*W)`` out, lazily.

        One out for one in, in order, on the restorer's device; a clip ``(T, 3, H, W)`` serves as
        an iterable. ``exact`` reads what has a length and can be indexed in place, and keeps other
        frames in a temporary file. Nothing is clamped. UsageError: a frame of another
        form; ModelError: what came out is no number; OutOfMemory says what to lower.
        """
        return self.finished(frames, lambda restored: restored)

    def finished(self, frames: Iterable[Tensor], finish: Callable[[Tensor], R]) -> Iterator[R]:
        """What ``finish`` makes of each frame that ``stream`` gives.

        Where it runs out of memory, that frame comes again as if the network had. Of a restored
        frame nothing is held beyond that.
        """
        numbers = Numbers()

        def checked(out: Tensor) -> R:
            made = finish(out[0].to(self.device))
            numbers.add(out, self._run)
            return made

        size: tuple[int, int] | None = None
        with ExitStack() as at_end:
            at_end.callback(self.choice.leave)
            try:
                if self._first is not None:
                    frames = self._through(self._first, frames)
                first, frames = _peeked(frames, 1 if self._tried else TRIED_FRAMES)
                if not first:
                    return
                height, width = self._batch(first[0]).shape[2:]
                size = height, width
                self._try_on(first, size)
                del first
                yield from self._restored(frames, size, at_end, checked)
                numbers.check(self._run)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                advice = self.choice.advice(size)
                raise OutOfMemory(f"{self.device} ran out of memory; {advice}") from error

    def _through(self, first: Restorer, frames: Iterable[Tensor]) -> Iterable[Tensor]:
        """The shot as ``first`` leaves it, parted as it is parted here."""
        head, frames = _peeked(frames, 1)
        if head:
            height, width = self._batch(head[0]).shape[2:]
            first.choice.follow(self.choice, height, width)
        return first.stream(frames)

    def _restored(
        self,
        frames: Iterable[Tensor],
        size: tuple[int, int],
        at_end: ExitStack,
        finish: Callable[[Tensor], R],
    ) -> Iterator[R]:
        """The runner that the network's kind and the propagation ask for."""
        lengths = self.choice.lengths(*size)
        run, net = self._run, self.network
        if isinstance(net, RecurrentNetwork) and self.propagation == "exact":
            assert lengths.chunk is not None
            if not isinstance(frames, Indexed):
                spool = at_end.enter_context(Spool(self.choice.scratch))
                for frame in frames:
                    spool.append((self._checked(frame, size),))
                frames = Again(spool, itemgetter(0))
            return self._exactly(Again(frames, partial(self._batch, size=size)), size, finish)
        if isinstance(net, RecurrentNetwork) and self.propagation == "whole":
            batches = (self._batch(frame, size) for frame in frames)
            return map(finish, propagate(run, net, batches, Parting(Lengths(None, 0))))
        warm = 0
        if isinstance(net, RecurrentNetwork):
            warm = lengths.lookahead
        elif isinstance(net, WindowNetwork):
            warm = net.before + net.after  # with fewer the shot's end would be that of a short one
        found: list[int] = []
        return in_turn(
            Held((self._checked(frame, size) for frame in frames), warm),
            self._ways(size),
            lambda way, again: self._parted(way, size, again, found),
            finish,
        )

    def _exactly(
        self, shot: Again[Tensor], size: tuple[int, int], finish: Callable[[Tensor], R]
    ) -> Iterator[R]:
        """The shot in chunks, in shorter ones where memory runs out: the bits do not tell."""
        net, restored = self.network, 0
        assert isinstance(net, RecurrentNetwork)
        while True:
            lengths = self.choice.lengths(*size)
            assert lengths.chunk is not None
            places = self.choice.places(lengths)
            at_edges = self.choice.at_edges(*size, lengths, len(shot))
            try:
                for out in propagate_exactly(
                    self._run, net, shot, lengths.chunk, places, at_edges, restored
                ):
                    try:
                        finished = finish(out)
                    finally:
                        del out
                    restored += 1
                    yield finished
                    del finished
                return
            except (RuntimeError, MemoryError) as error:
                less = None
                if is_out_of_memory(error):
                    less = shorter(lengths, self.choice.to_disk(*size))
                if less is None:
                    raise
            # Only here, behind the handler, has the error let go of what it held.
            self.choice.go_on(*size, less)
            give_back_freed_memory(self.device)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _ways(self, size: tuple[int, int]) -> Iterator[Lengths]:
        """What is tried where the one before ran out of memory."""
        first = self.choice.lengths(*size)
        yield from self.choice.ways(*size)
        if self._run.device.type != "cpu":
            self.choice.tell("out of memory: going on with --device cpu")
            here = copy.deepcopy(self.network).to("cpu")  # a cleaner in it runs elsewhere, too
            self._run_in(InPrecision(here, torch.device("cpu"), "fp32"))
            self.choice.chosen[size] = first
            yield first

    def _parted(
        self, lengths: Lengths, size: tuple[int, int], frames: Held, found: list[int]
    ) -> Iterator[Tensor]:
        """A shot in chunks, and in tiles where there are any.

        ``found``: what a survey of the shot found, where one was made; else this one's goes there.
        """
        run, net, first = self._run, self.network, frames.first
        if lengths.on_disk:
            frames.put_away(self.choice.places(lengths).frames)

        def batches() -> Iterator[Tensor]:
            return (self._batch(frame, size) for frame in frames)

        if isinstance(net, RecurrentNetwork) and not found:
            ahead = Again(frames.ahead(lengths.reach), partial(self._batch, size=size))
            found.append(run.survey(Tiles(ahead, lengths.tile)))

        def on_less(less: Lengths) -> None:
            self.choice.go_on(*size, less)
            if less.on_disk:
                frames.put_away(self.choice.places(less).frames)

        parting = Parting(lengths, on_less, self.choice.places, partial(self.choice.to_disk, *size))

        def whole(frames: Iterator[Tensor]) -> Iterator[Tensor]:
            if isinstance(net, RecurrentNetwork):
                return propagate(run, net, frames, parting, found[0], first)
            return _one_by_one(run, net, frames)

        if lengths.tile is None:
            return whole(batches())
        depth = lengths.chunk if isinstance(net, RecurrentNetwork) else None
        return tiled(whole, batches, lengths.tile, net.scale, depth or 1)

    def _try_on(self, first: list[Tensor], size: tuple[int, int]) -> None:
        """Try a precision below float32 on the middle of the first frames, whole.

        A flat picture, as before a fade, shows nothing: then the next shot is tried as well.
        """
        if self._tried:
            return
        middles = [_middle(self._batch(frame, size)) for frame in first]
        exact = InPrecision(self.network, self.device, "fp32")
        runs = (list(_whole(run, self.network, middles)) for run in (exact, self._run))
        truth, found = map(torch.cat, runs)
        self._tried = bool(torch.cat(middles).std() > FLAT)
        wrong = difference(truth, found)
        if wrong is not None:
            self.choice.tell(f"precision {self.precision} {wrong}: going on in fp32")
            self._run_in(exact)
            self._tried = True

    def _batch(self, frame: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """``(3, H, W)`` of any floating type -> ``(1, 3, H, W)`` float32 on the device."""
        checked = self._checked(frame, size)
        return checked.to(self._run.device, torch.float32).unsqueeze(0)

    def _checked(self, frame: Tensor, size: tuple[int, int] | None) -> Tensor:
        """The frame, which must be one, and of the shot's size where that is known."""
        if not isinstance(frame, Tensor):
            raise UsageError(f"a frame is a tensor (3, H, W), not {type(frame).__name__}")
        if frame.dim() != 3 or len(frame) != 3 or not frame.is_floating_point():
            raise UsageError(
                f"a frame is (3, H, W), R'G'B' in 0..1, not {frame.dtype} {tuple(frame.shape)}"
            )
        if size is not None and tuple(frame.shape[1:]) != size:
            h, w = frame.shape[1:]
            raise UsageError(
                f"a frame of {w}x{h} in a shot of {size[1]}x{size[0]}; give it its own stream"
            )
        return frame


def _peeked(frames: Iterable[Tensor], count: int) -> tuple[list[Tensor], Iterable[Tensor]]:
    """The first frames, at most so many, and all of them."""
    if isinstance(frames, Indexed):
        return [frames[i] for i in range(min(count, len(frames)))], frames
    stream = iter(frames)
    first = list(islice(stream, count))
    return first, chain(handed_over([*first]), stream)


def _one_by_one(
    run: InPrecision, net: FrameNetwork | WindowNetwork, frames: Iterable[Tensor]
) -> Iterator[Tensor]:
    if isinstance(net, WindowNetwork):
        return slide(run, net, frames)
    return (run.frame(frame) for frame in frames)


def _whole(run: InPrecision, net: Network, frames: Iterable[Tensor]) -> Iterator[Tensor]:
    if isinstance(net, RecurrentNetwork):
        return propagate(run, net, frames, Parting(Lengths(None, 0)))
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
