"""How a shot is parted: into chunks and tiles, the largest that fit the memory at hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from vrestore.engine.costs import costs
from vrestore.engine.kept import HERE, Places
from vrestore.models.temporal import Network, RecurrentNetwork

WASTE, FIXED_BYTES = 1.35, 25 << 20  # of the heap, and of the libraries' own buffers
PLENTY = 4096  # bytes a pixel and frame: no network takes more
LEAST_FRAMES = 4  # to render at a time, and to look ahead, where memory is short
TILE_SIDES = (512, 256, 128)  # pixels of the input
TILES_SAVE = 0.9  # of what whole pictures take, or less, tiles must take where neither fits
ON_THE_ROAD = 4  # output frames as float RGB: one that is converted, eight that wait to be coded


@dataclass(frozen=True)
class Lengths:
    """How a shot is parted: frames of a chunk (None: whole), frames ahead, side of a tile.

    ``on_disk``: what waits to be rendered, states and frames with their flows, does so on disk.
    """

    chunk: int | None
    lookahead: int
    tile: int | None = None
    on_disk: bool = False

    @property
    def reach(self) -> int | None:
        """Frames that are held at once; None: as many as there are."""
        return None if self.chunk is None else self.chunk + self.lookahead


@dataclass
class Parting:
    """How one shot is parted now: all of its tiles alike, shorter once memory ran out in one.

    ``on_less`` is told. ``places``: where states, and frames with their flows, wait to be rendered;
    ``to_disk``: whether that may be on disk, asked where memory ran out.
    """

    lengths: Lengths
    on_less: Callable[[Lengths], object] = lambda less: None
    places: Callable[[Lengths], Places] = lambda lengths: HERE
    to_disk: Callable[[], bool] = lambda: False

    def shorten(self) -> None:
        """To the next ``shorter`` lengths; the least ones stay."""
        less = shorter(self.lengths, self.to_disk())
        if less is not None:
            self.lengths = less
            self.on_less(less)


def need(
    net: Network,
    height: int,
    width: int,
    lengths: Lengths,
    shot: int | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    edges: bool = False,
) -> int:
    """Bytes that restoring takes beyond the program itself, with convolutions in ``dtype``.

    Of a ``shot`` of so many frames, where that is known: whole, or at the ``edges`` of its chunks.
    """
    whole = costs(net, height, width, dtype)
    road = round(WASTE * ON_THE_ROAD * whole.out) + FIXED_BYTES
    if edges and lengths.chunk and shot:
        road += whole.edges(-(-shot // lengths.chunk))
    chunk, lookahead = lengths.chunk, lengths.lookahead
    if chunk is None:
        chunk, lookahead = shot or 0, 0
    if not isinstance(net, RecurrentNetwork):
        chunk, lookahead = 1, 0
    if lengths.tile is None or lengths.tile >= max(height, width):
        return road + whole.bytes(chunk, lookahead, WASTE, lengths.on_disk)
    sides = min(lengths.tile, height), min(lengths.tile, width)
    tile = costs(net, *sides, dtype)
    tiles = height * width / (sides[0] * sides[1]) * 1.3  # with their overlaps
    held = tiles * tile.carried
    if lengths.on_disk:
        held += 2 * 3 * 4 * height * width  # the frame that tiles are cut from
    else:
        held += tiles * tile.entered(chunk + lookahead, False)
    held += chunk * whole.out
    return road + round(WASTE * held) + tile.bytes(chunk, lookahead, WASTE, lengths.on_disk)


def kept_on_disk(
    net: Network, height: int, width: int, lengths: Lengths, dtype: torch.dtype = torch.float32
) -> int:
    """Bytes of what waits on disk, at most at once.

    States, encoded frames with their flows, and frames as they came, to come again.
    """
    if not lengths.on_disk or lengths.chunk is None or lengths.reach is None:
        return 0
    whole = costs(net, height, width, dtype)
    to_come_again = (lengths.reach + lengths.lookahead) * 3 * 4 * height * width
    kept = whole.kept(lengths.chunk, lengths.lookahead)
    return kept + lengths.reach * whole.moment + to_come_again


def fitting(
    net: Network,
    height: int,
    width: int,
    asked: Lengths,
    budget: int,
    *,
    dtype: torch.dtype = torch.float32,
    tiles: bool = True,
    disk: int = 0,
) -> Lengths:
    """The lengths nearest to those asked for that fit ``budget`` bytes; else those that take least.

    What waits on disk, of which there are ``disk`` bytes, costs little time, and shorter chunks
    hold no less then; else these cost more, less look-ahead and tiles cost quality: in this order.
    Tiles, in the shortest chunks, are for pictures of twice their size and more; of others they
    would hold as much. Without ``tiles``, chunks alone are shorter. Where nothing fits, tiles must
    be worth what they cost.
    """
    if asked.reach is not None and PLENTY * height * width * asked.reach <= budget:
        return asked
    tries = [asked]
    if isinstance(net, RecurrentNetwork) and asked.chunk is not None:
        there = replace(asked, on_disk=True)
        if kept_on_disk(net, height, width, there, dtype) <= disk:
            tries.append(there)
    least = tries[-1]
    while isinstance(net, RecurrentNetwork) and (less := shorter(least)) is not None:
        least = less
        if not least.on_disk:
            tries.append(least)
    whole = tries[-1]
    sides = [side for side in TILE_SIDES if 2 * side <= max(height, width)]
    for side in sides if tiles and asked.tile is None else ():
        tries += [replace(least, lookahead=asked.lookahead, tile=side), replace(least, tile=side)]
    needs = {lengths: need(net, height, width, lengths, dtype=dtype) for lengths in tries}
    fits = (lengths for lengths, size in needs.items() if size <= budget)
    smallest = min(needs, key=needs.__getitem__)
    return next(fits, smallest if needs[smallest] < TILES_SAVE * needs[whole] else whole)


def shorter(lengths: Lengths, to_disk: bool = False) -> Lengths | None:
    """What to try next, None: no less would do before tiles. ``to_disk``: what waits first."""
    chunk, lookahead = lengths.chunk, lengths.lookahead
    if to_disk and chunk is not None and not lengths.on_disk:
        return replace(lengths, on_disk=True)
    if chunk is not None and chunk > LEAST_FRAMES:
        return replace(lengths, chunk=max(chunk // 2, LEAST_FRAMES))
    if chunk is not None and lookahead > LEAST_FRAMES:
        return replace(lengths, lookahead=max(lookahead // 2, LEAST_FRAMES))
    return None
