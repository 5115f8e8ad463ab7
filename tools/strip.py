"""Strips to look at: bicubic, the networks, the truth, side by side, one row a clip.

``python tools/strip.py ../shared/media/val OUT.png --model basicvsr [--rows CLIP:FRAME:X:Y ...]``;
with ``--found`` the clips are themselves what is restored, and there is no truth.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vrestore import Restorer, load_model
from vrestore.errors import InputError, UsageError, VrestoreError, told
from vrestore.evaluate.metrics import to_8bit
from vrestore.models.resize import imresize
from vrestore.train.footage import read_frames
from vrestore.train.reduction import shrink
from vrestore.video.picture_codec import png

BOX_PX = (160, 240)  # height and width of a cell, high-resolution pixels
GAP_PX = 4
REACH = 6, 32  # frames before and after, pixels on each side, that a found clip is restored with
ROWS = ("bedroom:16:200:80", "coffee:16:300:60", "dog:16:260:100", "face:16:150:60",
        "laptop:15:330:160", "road:16:60:120")  # fmt: skip


def main() -> None:
    """Flags in, one picture out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="a folder of high-resolution clips")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", action="append", help="one more column (default: basicvsr)")
    parser.add_argument("--rows", nargs="+", default=ROWS, metavar="CLIP:FRAME:X:Y")
    parser.add_argument("--found", action="store_true", help="the clips are the input")
    args = parser.parse_args()
    try:
        places = [parsed(row) for row in args.rows]
        restorers = [
            Restorer(load_model(name), precision="fp32", propagation="whole")
            for name in args.model or ["basicvsr"]
        ]
        make = found if args.found else reduced
        rows = [beside(make(args.clips, place, restorers)) for place in places]
        gap = torch.full((3, GAP_PX, rows[0].shape[2]), 255, dtype=torch.uint8)
        sheet = torch.cat([part for row in rows for part in (row, gap)][:-1], 1)
        args.picture.write_bytes(png(sheet.numpy()))
    except (VrestoreError, OSError) as error:
        print(f"strip.py: {told(error)}", file=sys.stderr)
        raise SystemExit(told(error).exit_code) from None


@dataclass(frozen=True)
class Place:
    """The left upper corner of what is shown of a frame, in the clip's pixels."""

    clip: str
    number: int
    x: int
    y: int

    def frames(self, folder: Path) -> Tensor:
        """The clip, ``(T, 3, H, W)`` uint8; InputError where it has no such frame or place."""
        path = folder / f"{self.clip}.mp4"
        if not path.exists():
            raise InputError(f"{path}: there is no such clip; name others with --rows")
        frames = read_frames(path)
        count, _, height, width = frames.shape
        if not (self.number < count and self.x < width and self.y < height):
            raise InputError(
                f"{path}: {count} frames of {width}x{height}; frame {self.number}, counted from "
                f"0, or place {self.x},{self.y} is not in it"
            )
        return frames


def parsed(row: str) -> Place:
    """``CLIP:FRAME:X:Y``; UsageError for anything else."""
    try:
        clip, *numbers = row.rsplit(":", 3)
        number, x, y = (int(n) if n.isdecimal() else -1 for n in numbers)
    except ValueError:
        number = x = y = -1
    if min(number, x, y) < 0:
        raise UsageError(f"--rows {row}: write CLIP:FRAME:X:Y, as in {ROWS[0]}")
    return Place(clip, number, x, y)


def reduced(folder: Path, place: Place, restorers: list[Restorer]) -> list[Tensor]:
    """One place of one frame, ``(3, H, W)`` in 0..255: bicubic, each network's, the truth."""
    hr, number = place.frames(folder), place.number
    lr = shrink(hr).float() / 255
    pictures = [to_8bit(imresize(lr[number], 4))]
    pictures += [to_8bit(list(restorer.stream(lr))[number].cpu()) for restorer in restorers]
    height, width = BOX_PX
    top, left = (
        max(0, min(place.y, hr.shape[2] - height)),
        max(0, min(place.x, hr.shape[3] - width)),
    )
    return [p[:, top : top + height, left : left + width] for p in (*pictures, hr[number].float())]


def found(folder: Path, place: Place, restorers: list[Restorer]) -> list[Tensor]:
    """One place of one frame of the input, in its pixels: bicubic, each network's; all one scale.

    Of a network of scale 1 the first is the input itself.
    """
    scale, number, x, y = restorers[0].scale, place.number, place.x, place.y
    height, width = (side // scale for side in BOX_PX)
    frames, pixels = REACH
    first, top, left = max(0, number - frames), max(0, y - pixels), max(0, x - pixels)
    whole = place.frames(folder)[first : number + frames + 1]
    lr = whole[:, :, top : y + height + pixels, left : x + width + pixels].float() / 255
    pictures = [imresize(lr[number - first], scale)]
    pictures += [list(restorer.stream(lr))[number - first].cpu() for restorer in restorers]
    rows = slice(scale * (y - top), scale * (y - top + height))
    columns = slice(scale * (x - left), scale * (x - left + width))
    return [to_8bit(p)[:, rows, columns] for p in pictures]


def beside(pictures: list[Tensor]) -> Tensor:
    """``(3, H, W)`` each -> ``(3, H, W')`` uint8 with gaps between."""
    gap = torch.full((3, pictures[0].shape[1], GAP_PX), 255.0)
    return torch.cat([part for p in pictures for part in (p, gap)][:-1], 2).to(torch.uint8)


if __name__ == "__main__":
    main()
