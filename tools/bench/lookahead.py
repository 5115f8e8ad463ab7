"""What chunks cost in quality, against how far ahead their backward passes start.

``python tools/bench/lookahead.py ../shared/media/val``: the shipped network; ``--weights FILE`` for
others, ``--network iconvsr`` or ``basicvsrpp`` for compact ones of random weights (there only
``to_whole_dB`` says anything). Clips are reduced by MATLAB's bicubic filter and restored as a whole
shot and in chunks; ``worst_dB`` is the most that a clip's mean Y-PSNR
loses, ``to_whole_dB`` the least Y-PSNR of a frame against that of the whole shot.
"""

import argparse
from functools import partial
from pathlib import Path

import torch
from table import show
from torch import Tensor

from vrestore.engine.restorer import Restorer
from vrestore.evaluate.metrics import luma, psnr
from vrestore.models.basicvsrpp import BasicVSRPlusPlus
from vrestore.models.catalogue import load_model
from vrestore.models.iconvsr import IconVSR
from vrestore.train.footage import read_frames
from vrestore.train.reduction import shrink

CROP = 4
RANDOM = {
    "iconvsr": partial(IconVSR, num_feat=32, num_block=8),
    "basicvsrpp": partial(BasicVSRPlusPlus, mid_channels=32, num_blocks=5),
}


def main() -> None:
    """One table: every look-ahead on all clips."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--weights", help="a checkpoint, or the name of a model")
    parser.add_argument("--network", choices=RANDOM, help="a random one instead")
    parser.add_argument("--frames", type=int, help="at most so many of each clip")
    parser.add_argument("--side", type=int, help="at most so many rows and columns of its middle")
    parser.add_argument("--chunk", type=int, default=8, help="short, so that there are many edges")
    parser.add_argument("--lookahead", default="0,2,4,8,16")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    paths = sorted(args.folder.glob("*.mp4"))
    clips = [middle(read_frames(path), args.frames, args.side) for path in paths]
    torch.manual_seed(0)
    net = RANDOM[args.network]() if args.network else load_model(args.weights or "basicvsr")
    how = {"device": args.device, "precision": "fp32"}
    whole = Restorer(net, propagation="whole", **how)
    truths = [(clip, whole_of(whole, clip)) for clip in clips]
    rows = []
    for lookahead in map(int, args.lookahead.split(",")):
        restorer = Restorer(net, chunk=args.chunk, lookahead=lookahead, **how)
        lost, near = [], []
        for clip, best in truths:
            out = whole_of(restorer, clip)
            lost.append(y_psnr(best, clip) - y_psnr(out, clip))
            near.append(psnr(luma(out), luma(best), crop=CROP).min().item())
        rows.append(
            {
                "network": args.network or Path(args.weights or "basicvsr").stem,
                "frames": max(map(len, clips)),
                "chunk": args.chunk,
                "lookahead": lookahead,
                "worst_dB": round(max(lost), 4),
                "mean_dB": round(sum(lost) / len(lost), 4),
                "to_whole_dB": round(min(near), 1),
            }
        )
        print(rows[-1], flush=True)
    show(__file__, rows, args.device)


def middle(clip: Tensor, frames: int | None, side: int | None) -> Tensor:
    """The first frames, and the middle of the picture, of ``(T, 3, H, W)``."""
    top, left = (max(0, (whole - (side or whole)) // 8 * 4) for whole in clip.shape[2:])
    bottom, right = (start + (side or 1 << 30) // 4 * 4 for start in (top, left))
    return clip[:frames, :, top:bottom, left:right]


def whole_of(restorer: Restorer, clip: Tensor) -> Tensor:
    """The reduced clip restored, in 0..255 and not rounded: what is asked is less than a code."""
    small = shrink(clip).float() / 255
    return torch.stack([out.cpu().clamp(0, 1) * 255 for out in restorer.stream(small)])


def y_psnr(a: Tensor, b: Tensor) -> float:
    """Mean over the frames of the luma's PSNR."""
    return psnr(luma(a), luma(b), crop=CROP).mean().item()


if __name__ == "__main__":
    main()
