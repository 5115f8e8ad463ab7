"""Which chunks and tiles shots are parted into: those asked for, what fits, less after that."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from vrestore.engine.costs import costs
from vrestore.engine.kept import HERE, Keep, Places, on_disk_in, room_in
from vrestore.engine.lengths import TILE_SIDES, Lengths, fitting, kept_on_disk, need, shorter
from vrestore.engine.memory import at_hand, group_room, resident
from vrestore.engine.precision import InPrecision
from vrestore.engine.tiling import OVERLAP
from vrestore.errors import UsageError, is_out_of_memory
from vrestore.models.temporal import Network, RecurrentNetwork

log = logging.getLogger("vrestore")

CHUNK_FRAMES = 32
LOOKAHEAD_FRAMES = 16  # official BasicVSR loses at most 0.01 dB to the whole shot


def asked_for(
    net: Network, propagation: str, chunk: int | None, lookahead: int, tile: int | None
) -> Lengths:
    """What a user asks for, and what where nothing; UsageError where it cannot be."""
    if (chunk is not None and chunk < 1) or lookahead < 0:
        raise UsageError(f"chunk {chunk} must be at least 1, lookahead {lookahead} at least 0")
    if tile is not None and tile < 3 * OVERLAP:
        raise UsageError(f"tile {tile} must be at least {3 * OVERLAP} pixels of the input")
    ahead = propagation == "lookahead" or not isinstance(net, RecurrentNetwork)
    if tile is not None and not ahead:
        raise UsageError(f"tiles are for propagation lookahead, not {propagation}")
    return Lengths(chunk or CHUNK_FRAMES, lookahead if ahead else 0, tile)


class Choice:
    """How shots are parted, for each size of their frames; what was too much is not tried again.

    ``run``: the network, where and in which precision; another one may take its place.
    ``asked``: how; ``fits``: less than that where it does not fit what is at hand, of which the
    program may take ``memory`` bytes. ``scratch``: the folder where states may wait, and frames
    that are read again; None: where the system keeps temporary files, and no states. ``beside``:
    bytes that other processes of the run take, of what is at hand for all. ``told``: what could
    not be done as it was asked for, in order.
    """

    def __init__(
        self,
        run: InPrecision,
        propagation: str,
        asked: Lengths,
        fits: bool,
        memory: int | None,
    ) -> None:
        self.run = run
        self.propagation = propagation
        self.memory = memory
        self.recurrent = isinstance(run.given, RecurrentNetwork)
        self.exact = propagation == "exact" and self.recurrent
        self.tiles = propagation == "lookahead" or not self.recurrent
        self.asked = asked
        self.fits = fits
        self.chosen: dict[tuple[int, int], Lengths] = {}  # by height and width
        self.scratch: Path | None = None
        self.beside = 0
        self._of_shot: Places | None = None
        self.told: list[str] = []

    def lengths(self, height: int, width: int) -> Lengths:
        """How shots of frames of this size are parted now."""
        size = height, width
        if size not in self.chosen:
            self.chosen[size] = self._fitting(size) if self.fits else self.asked
        return self.chosen[size]

    def follow(self, other: Choice, height: int, width: int) -> None:
        """Frames of this size as another parts them, unless they were met; and wait where there."""
        self.chosen.setdefault((height, width), other.lengths(height, width))
        self.scratch = other.scratch

    def _fitting(self, size: tuple[int, int]) -> Lengths:
        """What fits; the shortest where there is no memory to find that out."""
        try:
            chosen = fitting(
                self.run.given,
                *size,
                self.asked,
                at_hand(self.memory, self.run.device, self.beside),
                dtype=self.run.dtype,
                tiles=self.tiles,
                disk=room_in(self.scratch) if self.run.device.type == "cpu" else 0,
            )
            self._tell_of_the_cap(size, chosen)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            chosen = self.asked
            while less := shorter(chosen):
                chosen = less
        return chosen

    def need(self, height: int, width: int, lengths: Lengths, shot: int | None = None) -> int:
        """Bytes that a shot, of so many frames, takes so parted, beyond the program itself."""
        edges = self.exact and not self._edges_on_disk(height, width, lengths, shot or 0)
        net, dtype = self.run.given, self.run.dtype
        return need(net, height, width, lengths, shot, dtype=dtype, edges=edges)

    def on_disk(self, height: int, width: int, shot: int) -> int:
        """Bytes that states of a shot's frames take beside the output while they wait."""
        lengths = self.lengths(height, width)
        edges = self._edges_on_disk(height, width, lengths, shot)
        return edges + kept_on_disk(self.run.given, height, width, lengths, self.run.dtype)

    def places(self, lengths: Lengths) -> Places:
        """Where states and frames of the shot wait: on disk, if that is so and there is any."""
        return self._file() if lengths.on_disk else HERE

    def at_edges(self, height: int, width: int, lengths: Lengths, shot: int) -> Keep:
        """Where states at the edges of chunks do, in ``exact``; of a long shot they are many."""
        on_disk = self._edges_on_disk(height, width, lengths, shot)
        return (self._file() if on_disk else HERE).states

    def _edges_on_disk(self, height: int, width: int, lengths: Lengths, shot: int) -> int:
        """Their bytes; 0 where they are none, or stay in memory for want of room."""
        if not self.exact or lengths.chunk is None or self.run.device.type != "cpu":
            return 0
        net, dtype, room = self.run.given, self.run.dtype, room_in(self.scratch)
        if not room:
            return 0
        try:
            taken = costs(net, height, width, dtype).edges(-(-shot // lengths.chunk))
            beside = kept_on_disk(net, height, width, lengths, dtype)
        except (RuntimeError, MemoryError):  # not even for that is there memory
            return 0
        return taken if taken + beside <= room else 0

    def _file(self) -> Places:
        """The shot's own, until it is left."""
        if self._of_shot is None:
            there = self.scratch if room_in(self.scratch) else None
            self._of_shot = HERE if there is None else on_disk_in(there)
        return self._of_shot

    def leave(self) -> None:
        """The shot is over: its file goes."""
        self._of_shot = None

    def to_disk(self, height: int, width: int) -> bool:
        """Whether states of such frames may wait on disk: there is room for those asked for."""
        if self.run.device.type != "cpu" or not self.recurrent:
            return False
        there, room = replace(self.asked, on_disk=True), room_in(self.scratch)
        try:
            net, dtype = self.run.given, self.run.dtype
            return room > 0 and kept_on_disk(net, height, width, there, dtype) < room
        except (RuntimeError, MemoryError):  # not even for that is there memory
            return False

    def ways(self, height: int, width: int) -> Iterator[Lengths]:
        """What is tried where the one before ran out of memory; told, and kept for later shots."""
        size, lengths = (height, width), self.lengths(height, width)
        yield lengths
        if self.recurrent:
            # Mostly propagation went so far by itself.
            while less := shorter(self.chosen[size], self.to_disk(*size)):
                self.go_on(height, width, less)
                yield less
        least = self.chosen[size]
        for side in TILE_SIDES:
            if side < min(max(size), lengths.tile or max(size)):
                self.go_on(height, width, replace(least, tile=side))
                yield self.chosen[size]

    def go_on(self, height: int, width: int, less: Lengths) -> None:
        """Remember for frames of this size what still fits, and tell it once."""
        before = self.chosen[height, width]
        if before == less:
            return
        self.chosen[height, width] = less
        how = []
        if less.on_disk and not before.on_disk:
            how += ["what waits on disk"]
        if self.recurrent and less.reach != before.reach:
            how += [f"--chunk {less.chunk} --lookahead {less.lookahead}"]
        if less.tile is not None:
            how += [f"--tile {less.tile}"]
        self.tell(f"out of memory: going on with {', '.join(how)}")

    def _tell_of_the_cap(self, size: tuple[int, int], chosen: Lengths) -> None:
        """Where even the least takes more than ``memory``, or than a group of processes may."""
        room = group_room() if self.run.device.type == "cpu" else None
        if self.memory is None and room is None:
            return
        more, used = self.need(*size, chosen), resident()
        about = f"the least that there is takes about {(more + used) / 2**20:.0f} MiB"
        if self.memory is not None and more + used > self.memory:
            self.tell(f"--memory cannot be held: {about}")
        elif room is not None and more > room - self.beside:
            self.tell(f"the control group's limit of memory will hardly do: {about}")

    def tell(self, step: str) -> None:
        """At once in the log, and for the report of the film."""
        log.warning("%s", step)
        self.told.append(step)

    def advice(self, size: tuple[int, int] | None) -> str:
        """What may help where memory ran out; ``size``: of the frames, None before one was met."""
        less = "a smaller picture" if self.run.device.type == "cpu" else "--device cpu"
        if self.recurrent and self.propagation == "whole":
            return f"try --propagation exact, or {less}"
        last = self.chosen.get(size) if size else None
        if last is None or (self.recurrent and shorter(last) is not None):
            return f"try {less}, or end what else takes memory"
        if self.exact:
            return f"the shortest chunks did not fit either; try --propagation lookahead, or {less}"
        tried = ["the shortest chunks"] * self.recurrent
        tried += ["the least tiles"] * (last.tile is not None)
        did = f"{' and '.join(tried)} did not fit either; " if tried else ""
        return f"{did}try {less}"
