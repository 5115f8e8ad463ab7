"""A shot restored tile by tile, where whole pictures do not fit the memory.

::

    |<------ tile ------>|
    |________________    |            every frame is cut at the same places;
    |                \\   |            neighbours overlap, and share what both restored
    |            |----\\--|----------|
                       \\___________

Tiles are restored one after the other, ``depth`` frames of each, so that between them only what
the network carries on is held. The tiles' own values are those of a small picture: what crosses
their edges is seen within the overlap alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

OVERLAP = 32  # pixels of the input that neighbours share


def spans(length: int, side: int, overlap: int = OVERLAP) -> list[tuple[int, int]]:
    """Where tiles of at most ``side`` begin and end along a side of ``length``, evenly spread."""
    if length <= side:
        return [(0, length)]
    count = -(-(length - overlap) // (side - overlap))
    return [
        (round(k * (length - side) / (count - 1)), round(k * (length - side) / (count - 1)) + side)
        for k in range(count)
    ]


def shares(places: list[tuple[int, int]], scale: int) -> list[Tensor]:
    """Each tile's share in the output along one side: ramps where two overlap, 1 in all."""
    rises = []
    for k, (start, end) in enumerate(places):
        at = torch.arange(start * scale, end * scale, dtype=torch.float32) + 0.5
        share = torch.ones_like(at)
        if k:
            shared = (places[k - 1][1] - start) * scale
            share = ((at - start * scale) / shared).clamp(max=1)
        if k + 1 < len(places):
            shared = (end - places[k + 1][0]) * scale
            share = torch.minimum(share, ((end * scale - at) / shared).clamp(max=1))
        rises.append(share)
    total = torch.zeros(places[-1][1] * scale)
    for (start, end), share in zip(places, rises, strict=True):
        total[start * scale : end * scale] += share
    return [r / total[a * scale : b * scale] for (a, b), r in zip(places, rises, strict=True)]


class Tiles:
    """The tiles of all ``frames``, one by one; gone through as often as these can be. ``side``
    None: whole."""

    def __init__(self, frames: Iterable[Tensor], side: int | None) -> None:
        self._frames = frames
        self._side = side

    def __iter__(self) -> Iterator[Tensor]:
        for frame in self._frames:
            height, width = frame.shape[2:]
            for row in spans(height, self._side or height):
                for column in spans(width, self._side or width):
                    yield frame[:, :, slice(*row), slice(*column)].contiguous()


def tiled(
    restore: Callable[[Iterator[Tensor]], Iterator[Tensor]],
    frames: Callable[[], Iterator[Tensor]],
    side: int,
    scale: int,
    depth: int,
) -> Iterator[Tensor]:
    """Restore one shot: ``(N, 3, H, W)`` frames in, ``(N, 3, sH, sW)`` out, one for one, in order.

    ``frames`` gives them from the first one on each time: every tile goes through them by itself,
    and none is held for the others. ``restore`` does the same as this for one tile, of at most
    ``side`` pixels on each side. Where it gives ``depth`` frames at a time, no more of its work is
    held than one tile's.
    """
    first = next(frames(), None)
    if first is None:
        return
    height, width = first.shape[2:]
    del first
    rows, columns = spans(height, side), spans(width, side)
    down, across = shares(rows, scale), shares(columns, scale)
    places = [(r, c) for r in range(len(rows)) for c in range(len(columns))]

    def cut(
        source: Iterator[Tensor], row: tuple[int, int], column: tuple[int, int]
    ) -> Iterator[Tensor]:
        for frame in source:
            yield frame[:, :, slice(*row), slice(*column)].contiguous()

    tiles = [restore(cut(frames(), rows[r], columns[c])) for r, c in places]
    while True:
        outs: list[Tensor] = []
        for tile, (r, c) in zip(tiles, places, strict=True):
            share = down[r][:, None] * across[c]
            top, left = rows[r][0] * scale, columns[c][0] * scale
            for k, out in enumerate(islice(tile, depth)):
                if k == len(outs):
                    outs.append(out.new_zeros(*out.shape[:2], height * scale, width * scale))
                h, w = out.shape[2:]
                outs[k][:, :, top : top + h, left : left + w] += out * share.to(out.device)
        if not outs:
            return
        outs.reverse()
        while outs:
            yield outs.pop()
