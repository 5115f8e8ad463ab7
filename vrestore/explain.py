"""``vrestore explain``: from which pixels of which frames a place of the output was made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vrestore.ends import look, open_reader
from vrestore.engine.shots import shots
from vrestore.errors import InputError, OutputError, UsageError
from vrestore.evaluate.attribution import attribution, shares
from vrestore.options import RestoreOptions
from vrestore.video.colour import ColourConverter
from vrestore.video.frame import Frame
from vrestore.video.picture_codec import png

if TYPE_CHECKING:
    from vrestore.models.temporal import Network

log = logging.getLogger("vrestore")

REACH_FRAMES = 7  # on each side
CROP_PX = 64  # of the input, round the place that is asked about
PATCH_PX = 16  # of the output, whose making is explained
STEPS = 20
LEAST_EDGES = 1e-4  # mean difference of neighbouring pixels, 0..1, below which nothing is there
ZOOM = 3  # input pixels are drawn so large
GAP_PX = 4
BAR_PX = 40  # height of a bar that stands for everything

# Figures of 3 x 5 points, a row each three bits.
FIGURES = {
    **dict(zip("01234", (0o75557, 0o26227, 0o71747, 0o71717, 0o55711), strict=True)),
    **dict(zip("56789", (0o74717, 0o74757, 0o71111, 0o75757, 0o75717), strict=True)),
    "%": 0o51245,
    "#": 0o57575,
}  # fmt: skip


@dataclass(frozen=True)
class Place:
    """A place of a film and what is around it: ``clip`` ``(T, 3, h, w)``, R'G'B' in 0..1.

    ``first``: the number of its first frame; ``asked``, ``row``, ``column``: the place in it.
    """

    clip: Tensor
    first: int
    asked: int
    row: int
    column: int


@dataclass(frozen=True)
class Explanation:
    """``shares``: what part came from each frame, by its number; ``strip``: ``(3, H, W)`` uint8."""

    shares: dict[int, float]
    strip: Tensor


def look_at(source: Path, frame: int, x: int, y: int, reach: int = REACH_FRAMES) -> Place:
    """``reach`` frames on each side of number ``frame``, within its shot, cut to ``CROP_PX``.

    Raises InputError where the film ends before, UsageError where (x, y) is outside the picture.
    """
    options = RestoreOptions()
    info = look(source, options)
    if not (0 <= x < info.width and 0 <= y < info.height):
        size = f"{info.width}x{info.height}"
        raise UsageError(f"{source}: {x},{y} is outside its {size} pixels (--at is in the input)")
    to_rgb = ColourConverter(info.pixel_format, info.colour, info.height, info.width).to_rgb
    top = min(max(0, y - CROP_PX // 2), max(0, info.height - CROP_PX))
    left = min(max(0, x - CROP_PX // 2), max(0, info.width - CROP_PX))
    begin = max(0, frame - reach)

    number = -1

    def pictures(stream: Iterable[Frame]) -> Iterator[tuple[int, Tensor]]:
        nonlocal number
        for number, seen in enumerate(stream):
            if number > frame + reach:
                return
            if number >= begin:
                yield number, to_rgb([torch.from_numpy(plane) for plane in seen.planes])

    with closing(iter(open_reader(info, options))) as stream:
        for shot in shots(pictures(stream), picture=itemgetter(1)):
            part = {
                number: rgb[:, top : top + CROP_PX, left : left + CROP_PX].clone()
                for number, rgb in shot
            }
            if frame in part:
                first = min(part)
                clip = torch.stack(list(part.values()))
                return Place(clip, first, frame - first, y - top, x - left)
    raise InputError(f"{source}: has no frame {frame}; it has frames 0 to {number}")


def explain(
    place: Place,
    network: Network,
    steps: int = STEPS,
    stepped: Callable[[int], object] = lambda done: None,
) -> Explanation:
    """Attribution of the output round the place. ``stepped``: told how many steps are done.

    The network sees the place's frames as a shot of their own: IconVSR's key frames are counted
    from the first of them, and RealBasicVSR decides by them how often to clean.
    """
    network = network.requires_grad_(False).eval()
    scale = network.scale
    begin = [max(0, round((v + 0.5) * scale) - PATCH_PX // 2) for v in (place.row, place.column)]
    row, column = begin
    contributions = attribution(
        lambda clip: picture_of(network, clip, place.asked),
        place.clip,
        row,
        column,
        PATCH_PX,
        steps,
        stepped,
    )
    parts = shares(contributions)
    box = [v // scale for v in begin], -(-PATCH_PX // scale)
    strip = drawn(place.clip, contributions, parts, place.asked, place.first, box)
    if contributions.abs().sum() < LEAST_EDGES * 2 * PATCH_PX**2:
        log.warning("the place has no edges to explain: its shares are those of rounding errors")
    return Explanation(dict(enumerate(parts, place.first)), strip)


def picture_of(network: Network, clip: Tensor, index: int) -> Tensor:
    """The one output picture, with gradients, whatever the network's way of seeing time."""
    from vrestore.models.temporal import RecurrentNetwork, WindowNetwork, neighbours

    if isinstance(network, RecurrentNetwork):
        return network(clip)[index]  # type: ignore[no-any-return]
    if isinstance(network, WindowNetwork):
        last = len(clip) - 1
        around = neighbours(index, network.before, network.after, network.border, last)
        return network(clip[around][None])[0]  # type: ignore[no-any-return]
    return network(clip[index : index + 1])[0]  # type: ignore[no-any-return]


def drawn(
    clip: Tensor,
    contributions: Tensor,
    parts: Sequence[float],
    asked: int,
    first: int,
    box: tuple[list[int], int],
) -> Tensor:
    """The frames side by side, grey, with heat; a frame round the place; bars, per cents, numbers.

    ``asked``: the place's frame among them, ``first``: the number of the first of them.
    """
    heat = contributions.abs().sum(1).sqrt()
    heat = heat / heat.max().clamp_min(1e-12)
    columns = []
    for i, (picture, warm, part) in enumerate(zip(clip, heat, parts, strict=True)):
        grey = picture.mean(0).clamp(0, 1) * 0.6 + 0.2
        red = torch.tensor([1.0, 0.1, 0.0]).view(3, 1, 1)
        mixed = grey * (1 - warm) + red * warm
        big = (mixed * 255).round().to(torch.uint8)
        big = big.repeat_interleave(ZOOM, 1).repeat_interleave(ZOOM, 2)
        if i == asked:
            (row, column), side = box
            outline(big, row * ZOOM, column * ZOOM, side * ZOOM)
        bar = torch.full((3, BAR_PX + GAP_PX, big.shape[2]), 255, dtype=torch.uint8)
        height = round(part * BAR_PX)
        bar[:, BAR_PX - height : BAR_PX, : big.shape[2] // 4] = 60
        write(bar, f"{100 * part:.0f}%", big.shape[2] // 4 + GAP_PX, BAR_PX - 10)
        number = f"#{first + i}"
        write(bar, number, max(0, big.shape[2] - 8 * len(number)), BAR_PX - 10)
        columns += [torch.cat((big, bar), 1), torch.full_like(bar[:, :1, :GAP_PX], 255)]
    tall = columns[0].shape[1]
    return torch.cat([c.expand(-1, tall, -1) for c in columns[:-1]], 2)


def outline(picture: Tensor, row: int, column: int, side: int) -> None:
    """A green square, one pixel wide, drawn into the picture."""
    green = torch.tensor([0, 255, 0], dtype=torch.uint8).view(3, 1)
    height, width = picture.shape[1:]
    bottom, right = min(row + side, height - 1), min(column + side, width - 1)
    picture[:, [row, bottom], column : right + 1] = green.unsqueeze(2)
    picture[:, row : bottom + 1, [column, right]] = green.unsqueeze(2)


def write(picture: Tensor, text: str, x: int, y: int) -> None:
    """Figures of 6 x 10 pixels, black, drawn into the picture as far as there is room."""
    for place, figure in enumerate(text):
        bits = [(FIGURES[figure] >> shift) & 1 for shift in reversed(range(15))]
        points = torch.tensor(bits, dtype=torch.bool).view(5, 3)
        points = points.repeat_interleave(2, 0).repeat_interleave(2, 1)
        part = picture[:, y : y + 10, x + 8 * place : x + 8 * place + 6]
        part[:, points[:, : part.shape[2]]] = 0


def check_target(target: Path, *, overwrite: bool) -> None:
    """Before the work: UsageError where it is no PNG, OutputError where a file is there already."""
    if target.suffix.lower() != ".png":
        raise UsageError(f"{target}: the strip is a PNG; give it a name that ends so")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: there is no folder {target.parent}; make it first")
    if target.exists() and not overwrite:
        raise OutputError(f"{target} exists; give --overwrite, or another name with -o")


def save(strip: Tensor, target: Path) -> None:
    """As PNG; OutputError where it cannot be."""
    try:
        target.write_bytes(png(strip.numpy()))
    except OSError as error:
        raise OutputError(f"{target}: cannot be written: {error.strerror}") from error
