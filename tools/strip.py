"""Strips to look at: bicubic, the network, the truth, side by side, one row a clip.

``python tools/strip.py ../shared/media/val OUT.png --model basicvsr [--rows CLIP:FRAME:X:Y ...]``
"""

import argparse
from fractions import Fraction
from pathlib import Path

import av
import torch

from vrestore import Restorer, load_model
from vrestore.evaluate.metrics import to_8bit
from vrestore.models.resize import imresize
from vrestore.train.data import read_frames, shrink

BOX_PX = (160, 240)  # height and width of a cell, high-resolution pixels
GAP_PX = 4
ROWS = ("bedroom:16:200:80", "coffee:16:300:60", "dog:16:260:100", "face:16:150:60",
        "laptop:15:330:160", "road:16:60:120")  # fmt: skip


def main() -> None:
    """Flags in, one picture out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clips", type=Path, help="a folder of high-resolution clips")
    parser.add_argument("picture", type=Path)
    parser.add_argument("--model", default="basicvsr")
    parser.add_argument("--rows", nargs="+", default=ROWS, metavar="CLIP:FRAME:X:Y")
    args = parser.parse_args()
    restorer = Restorer(load_model(args.model), precision="fp32", propagation="whole")
    rows = [cells(args.clips, row, restorer) for row in args.rows]
    gap = torch.full((3, GAP_PX, rows[0].shape[2]), 255, dtype=torch.uint8)
    sheet = torch.cat([part for row in rows for part in (row, gap)][:-1], 1)
    save_png(sheet, args.picture)


def cells(folder: Path, row: str, restorer: Restorer) -> torch.Tensor:
    """``(3, H, 3W)`` uint8: one place of one frame three times."""
    clip, frame, x, y = row.split(":")
    hr = read_frames(folder / f"{clip}.mp4")
    lr = shrink(hr).float() / 255
    number = int(frame)
    restored = list(restorer.stream(lr))[number].cpu()
    height, width = BOX_PX
    top, left = min(int(y), hr.shape[2] - height), min(int(x), hr.shape[3] - width)
    pictures = [to_8bit(imresize(lr[number], 4)), to_8bit(restored), hr[number].float()]
    cut = [p[:, top : top + height, left : left + width] for p in pictures]
    gap = torch.full((3, height, GAP_PX), 255.0)
    return torch.cat([cut[0], gap, cut[1], gap, cut[2]], 2).to(torch.uint8)


def save_png(picture: torch.Tensor, path: Path) -> None:
    """``(3, H, W)`` uint8 to a PNG."""
    frame = av.VideoFrame.from_ndarray(picture.permute(1, 2, 0).contiguous().numpy(), "rgb24")
    encoder = av.CodecContext.create("png", "w")
    encoder.width, encoder.height, encoder.pix_fmt = frame.width, frame.height, "rgb24"
    encoder.options = {"pred": "mixed", "compression_level": "9"}
    encoder.time_base = Fraction(1, 25)
    path.write_bytes(b"".join(bytes(p) for p in (*encoder.encode(frame), *encoder.encode(None))))


if __name__ == "__main__":
    main()
