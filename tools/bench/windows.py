"""What the ring of features saves: EDVR streamed, against every window computed from its frames.

``python tools/bench/windows.py``: EDVR-M (random weights) in one precision, three ways. ``naive``
is what the published code does: each of a window's frames is made into features, and the first
convolution of every alignment sees both frames (498 GMAC a frame of 320x180). ``window`` is our own
network given one window after another: what the reference frame decides is known once for its
neighbours (478). ``ring`` keeps features from window to window as well (376). Frames per second,
both ratios, peak memory, and that all three make the same bits.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from table import peak_mib, show
from torch import Tensor

from vrestore.engine.precision import InPrecision
from vrestore.engine.restorer import Restorer
from vrestore.models.edvr import EDVR
from vrestore.models.temporal import Features, neighbours


class Published(EDVR):
    """EDVR that shares nothing within a window either, as its published code."""

    def aligned_and_fused(self, pyramids: Sequence[Features]) -> Tensor:
        """The reference frame's half of each alignment anew for every neighbour."""
        align, reference = self.pcd_align, pyramids[self.center_frame_idx][:3]
        aligned = [align(p[:3], p[3:], align.of_reference(reference)) for p in pyramids]
        fused: Tensor = self.fusion(aligned)
        return fused


def main() -> None:
    """One table of three rows and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--size", default="160x90")
    parser.add_argument("--frames", type=int, default=8)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    torch.manual_seed(0)
    net = EDVR()
    restorer = Restorer(net, device=args.device, precision=args.precision)
    published = Published()
    published.load_state_dict(net.state_dict())
    clip = torch.rand(args.frames, 3, height, width)

    def windows(net: EDVR) -> Iterator[Tensor]:
        run = InPrecision(net, restorer.device, restorer.precision)
        for i in range(len(clip)):
            window = clip[neighbours(i, net.before, net.after, net.border, len(clip) - 1)]
            frames = window.to(restorer.device).unsqueeze(1).unbind()
            yield run.fuse([run.features(frame) for frame in frames])[0]

    ways: dict[str, Callable[[], Iterator[Tensor]]] = {
        "ring": lambda: restorer.stream(clip),
        "window": lambda: windows(net),
        "naive": lambda: windows(published),
    }
    best = dict.fromkeys(ways, float("inf"))
    outputs: dict[str, list[Tensor]] = {}
    peaks = {}
    for _ in range(3):
        for way, frames in ways.items():
            if args.device != "cpu":
                torch.cuda.reset_peak_memory_stats()
            start = time.perf_counter()
            outputs[way] = [frame.cpu() for frame in frames()]
            best[way] = min(best[way], time.perf_counter() - start)
            gpu = args.device != "cpu"
            peaks[way] = torch.cuda.max_memory_allocated() >> 20 if gpu else peak_mib()
    same = all(
        torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(*outputs.values(), strict=True)
    )
    rows = [
        {
            "way": way,
            "frames_per_second": round(len(clip) / seconds, 3),
            "times_window": round(best["window"] / seconds, 3),
            "times_naive": round(best["naive"] / seconds, 3),
            "peak_MiB": peaks[way],
            "same_bits": same,
        }
        for way, seconds in best.items()
    ]
    show(__file__, rows, args.device)


if __name__ == "__main__":
    main()
