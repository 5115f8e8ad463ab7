"""How fast each form of the deformable convolution is, against a plain convolution of its size.

``python tools/bench/deform.py``: EDVR's (64 features, 8 groups) and BasicVSR++'s (128 to 64, 16
groups), forward and backward. ``gather`` fetches four neighbours by index where ``plain`` leaves
that to ``grid_sample``; ``rows`` is what a CPU infers with; torchvision's and mmcv's kernels where
they are installed.
"""

import argparse
import math
import time
from collections.abc import Callable

import torch
from table import show
from torch import Tensor
from torch.nn import functional as F

from vrestore.models.deform import STIFF, foreign_kernels, plain_kernel, row_kernel

SHAPES = {"EDVR": (64, 8), "BasicVSR++": (128, 16)}  # input features, deformable groups


def main() -> None:
    """One table: every form on every shape, as times of the plain convolution's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", default="160x90", help="width x height of the features")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    rows = []
    for name, (features, groups) in SHAPES.items():
        g = torch.Generator().manual_seed(0)
        x = torch.randn(1, features, height, width, generator=g).to(args.device)
        offset = (torch.randn(1, 18 * groups, height, width, generator=g) * 2).to(args.device)
        mask = torch.rand(1, 9 * groups, height, width, generator=g).to(args.device)
        weight = (torch.randn(64, features, 3, 3, generator=g) * 0.05).to(args.device)
        inputs = [
            t.to(memory_format=torch.channels_last).requires_grad_()  # as the networks have them
            for t in (x, offset, mask, weight)
        ]
        forms: dict[str, Callable[[], Tensor]] = {
            "convolution": lambda i=inputs: F.conv2d(i[0], i[3], padding=1),
            "plain": lambda i=inputs: plain_kernel(*i, None, STIFF),
            "gather": lambda i=inputs: gathered(*i),
        }
        if args.device == "cpu":
            forms["rows"] = lambda i=inputs: row_kernel(*(t.detach() for t in i), None, STIFF)
        for package, kernel in foreign_kernels().items():
            forms[package] = lambda i=inputs, k=kernel: k(*i, None, STIFF)
        truth = forms["plain"]().detach()
        best = {form: [float("inf")] * 2 for form in forms}
        for _ in range(args.rounds + 1):  # by turns; the best of each
            for form, run in forms.items():
                for k, seconds in enumerate(timed(run, args.device)):
                    best[form][k] = min(seconds, best[form][k])
        for form, (forward, both) in best.items():
            error = (forms[form]().detach() - truth).abs().max().item()
            rows.append(
                {
                    "layer": name,
                    "form": form,
                    "forward_ms": round(forward * 1e3, 2),
                    "forward_over_convolution": round(forward / best["convolution"][0], 2),
                    "with_backward_ms": "" if math.isnan(both) else round(both * 1e3, 2),
                    "error": "" if form == "convolution" else f"{error:.0e}",
                }
            )
    show(__file__, rows, args.device)


def timed(run: Callable[[], Tensor], device: str) -> tuple[float, float]:
    """Seconds of the forward run alone, and with the backward one (nan where there is none)."""
    start = moment(device)
    with torch.no_grad():
        run()
    between = moment(device)
    out = run()
    if not out.requires_grad:
        return between - start, math.nan
    out.sum().backward()
    return between - start, moment(device) - between


def moment(device: str) -> float:
    """Now, when all that was asked of the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


def gathered(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    """The same by four gathers; STIFF, 3x3."""
    (n, c, h, w), points = x.shape, 9
    groups = mask.shape[1] // points
    flat = x.reshape(n * groups, c // groups, h * w)
    moves = offset.reshape(n * groups, points, 2, h, w)
    ky, kx = torch.meshgrid(*(torch.arange(3, device=x.device),) * 2, indexing="ij")
    at_y = moves[:, :, 0] + torch.arange(h, device=x.device)[:, None]
    at_x = moves[:, :, 1] + torch.arange(w, device=x.device)
    at_y = at_y + (ky - 1).reshape(-1, 1, 1)
    at_x = at_x + (kx - 1).reshape(-1, 1, 1)
    top, left = at_y.floor(), at_x.floor()
    samples = torch.zeros((), device=x.device)
    for dy in (0, 1):
        for dx in (0, 1):
            y, x_ = top + dy, left + dx
            inside = (y >= 0) & (y < h) & (x_ >= 0) & (x_ < w)
            share = (1 - (at_y - y).abs()) * (1 - (at_x - x_).abs()) * inside
            index = (y.clamp(0, h - 1) * w + x_.clamp(0, w - 1)).long().reshape(n * groups, 1, -1)
            found = flat.gather(2, index.expand(-1, c // groups, -1))
            samples = samples + found * share.reshape(n * groups, 1, -1)
    samples = samples * mask.reshape(n * groups, 1, -1)
    columns = samples.reshape(n, c * points, h * w)
    return (weight.reshape(weight.shape[0], -1) @ columns).reshape(n, -1, h, w)


if __name__ == "__main__":
    main()
