"""How near the machine's limit the networks run, what they hold, what a precision costs.

``python tools/bench/model.py``: networks at their published sizes (random weights; ``--weights``
for a file's) in each precision, whole clips, against the ``baseline``: the same network in float32,
contiguous, ``net(chunk)`` of 15 frames, its tail in one piece, as the research scripts run it. Each
in a process of its own, for its memory; of every frame some rows go to a file, to be compared
(whole ones kept the system busy beside the next). On a CPU neither holds more of the clip than it
asks for; what waits on disk is in the system's temporary folder. The most memory is that of a first
round, which is not timed unless it is the only one (``--rounds 0``). ``--memory MIB`` caps ours.
``roof`` is what bare 64-channel 3x3 convolutions reach on the same picture in their better layout
for that precision, a stack after every frame: what else the machine does strikes both alike. On a
GPU, which must not wait for either, the frames lie there and stay there, and the stacks come after
all frames.
"""

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from table import peak_mib, show
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vrestore.engine.exact import Again
from vrestore.engine.precision import DTYPES
from vrestore.engine.restorer import Restorer
from vrestore.models import layers, one_step
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.basicvsrpp import BasicVSRPlusPlus
from vrestore.models.catalogue import load_model
from vrestore.models.edvr import EDVR
from vrestore.models.iconvsr import IconVSR
from vrestore.models.temporal import Network

NETWORKS: dict[str, Callable[[], Network]] = {
    "basicvsr": lambda: BasicVSR(num_block=30),
    "iconvsr": lambda: IconVSR(num_block=30),
    "basicvsr++": BasicVSRPlusPlus,
    "edvr-m": EDVR,
    "shipped": lambda: load_model("basicvsr"),
}
BASELINE_CHUNK = 15  # frames
ROOF_LAYERS = 8


def main() -> None:
    """One table: every network asked for in every precision asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--precision", default="fp32", help="fp32,bf16,fp16,int8")
    parser.add_argument("--network", default="basicvsr", help=",".join(NETWORKS))
    parser.add_argument("--weights", type=Path, help="of the one network")
    parser.add_argument("--size", default="320x180", help="width x height of the input")
    parser.add_argument("--frames", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--propagation", default="whole", help="or lookahead, exact")
    parser.add_argument("--memory", type=int, help="MiB that ours may take, as vrestore --memory")
    parser.add_argument("--chunk", type=int, help="frames that ours renders at a time")
    parser.add_argument("--child", nargs=3, metavar=("NETWORK", "HOW", "OUT"), help="(internal)")
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args, *args.child)))
        return
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in args.network.split(","):
            truth = Path(folder, "baseline.rgb")
            baseline = in_a_process(name, "baseline", truth)
            for precision in args.precision.split(","):
                out = Path(folder, f"{precision}.rgb")
                found = in_a_process(name, precision, out)
                error = squared_error(out, truth)
                rate = args.frames / found["seconds"]
                gflops = 2 * baseline["GMAC"] * rate
                rows.append(
                    {
                        "network": name,
                        "precision": precision,
                        "GMAC_per_frame": round(baseline["GMAC"], 1),
                        "frames_per_second": round(rate, 3),
                        "times_baseline": round(baseline["seconds"] / found["seconds"], 2),
                        "GFLOP_per_second": round(gflops, 1),
                        "of_the_roof": round(gflops / found["roof"], 3) if found["roof"] else None,
                        "peak_MiB": found["peak_MiB"],
                        "of_baseline_peak": round(found["peak_MiB"] / baseline["peak_MiB"], 3),
                        "dB_to_float32": round(-10 * math.log10(error + 1e-20), 1),
                    }
                )
    show(__file__, rows, args.device)


def in_a_process(network: str, how: str, out: Path) -> dict[str, float]:
    """What ``measure`` finds, elsewhere."""
    command = [sys.executable, *sys.argv, "--child", network, how, str(out)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, float] = json.loads(answer.splitlines()[-1])
    return found


def measure(args: argparse.Namespace, network: str, how: str, out: str) -> dict[str, float]:
    """Least seconds of the rounds, the roof, the first's memory; the last's frames: ``out``."""
    torch.manual_seed(0)
    net = (load_model("basicvsr", args.weights) if args.weights else NETWORKS[network]()).eval()
    width, height = map(int, args.size.split("x"))
    clip = made = moving_picture(args.frames, width, height)
    if args.device != "cpu":
        clip = list(torch.stack([*made]).to(args.device))
    found: dict[str, float] = {}
    aside: list[float] = []  # seconds that are not the network's
    if how == "baseline":
        one_step.ONE_STEP = False
        layers.TAIL_BAND_BYTES = layers.GPU_BAND_BYTES = 1 << 60
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            list(as_research_does(net, [made[i % args.frames] for i in range(2)]))
            twice = counter.get_total_flops()
            list(as_research_does(net, [made[i % args.frames] for i in range(4)]))
        # Of two frames, since some do what others are spared, and the flows to them.
        found["GMAC"] = (counter.get_total_flops() - 2 * twice) / 4e9
        net = net.to(args.device, memory_format=torch.contiguous_format)

        def run() -> Iterator[Tensor]:
            return as_research_does(net, clip)
    else:
        memory = args.memory and args.memory << 20
        ways = {"precision": how, "propagation": args.propagation, "chunk": args.chunk}
        restorer = Restorer(net, device=args.device, memory=memory, **ways)
        restorer.choice.scratch = Path(out).parent

        def run() -> Iterator[Tensor]:
            for x in restorer.stream(clip):
                yield x
                if bare and args.device == "cpu":
                    aside.append(bare())

    best = float("inf")
    bare: Callable[[], float] | None = None
    for number in range(args.rounds + 1):
        timed = number == args.rounds or number > 0
        if number == 1 and how != "baseline":
            bare = better_stack(args.device, DTYPES.get(how, torch.float32), height, width)
        aside.clear()
        writing = 0.0
        start = moment(args.device)
        with Path(out).open("wb") as file:
            on_the_device = []
            for x in run():
                if args.device != "cpu":  # which must not wait for the file
                    on_the_device.append(x)
                    continue
                begun = moment("cpu")
                file.write(compared(x))
                writing += moment("cpu") - begun
                del x
            seconds = moment(args.device) - start - sum(aside) - writing
            for x in on_the_device:
                file.write(compared(x))
        if not number and args.device == "cpu":  # later rounds hold the stacks, too
            found["peak_MiB"] = peak_mib()
        if bare and args.device != "cpu":
            aside = [bare() for _ in range(args.frames)]
        if seconds < best and timed:
            best, found["seconds"] = seconds, seconds
            flops = 2 * ROOF_LAYERS * 64 * 64 * 9 * height * width
            found["roof"] = flops * len(aside) / sum(aside) / 1e9 if aside else 0.0
    if args.device != "cpu":
        found["peak_MiB"] = torch.cuda.max_memory_allocated() // 2**20
    return found


def moving_picture(frames: int, width: int, height: int) -> Sequence[Tensor] | Again[Tensor]:
    """A smooth random picture that moves a pixel a frame: so many of ``(3, height, width)``."""
    g = torch.Generator().manual_seed(0)
    big = torch.rand(1, 3, (height + frames) // 4 + 1, (width + frames) // 4 + 1, generator=g)
    big = nn.functional.interpolate(big, scale_factor=4, mode="bicubic")[0].clamp(0, 1)
    return Again(range(frames), lambda t: big[:, t : t + height, t : t + width].contiguous())


def compared(frame: Tensor) -> bytes:
    """Every eighth row."""
    return frame[:, ::8].clamp(0, 1).cpu().contiguous().numpy().tobytes()


def squared_error(one: Path, other: Path) -> float:
    """The mean over two files of float32."""
    a, b = (np.memmap(path, np.float32, "r") for path in (one, other))
    parts = range(0, a.size, 1 << 22)
    return (
        float(sum(np.square(a[i : i + (1 << 22)] - b[i : i + (1 << 22)]).sum() for i in parts))
        / a.size
    )


@torch.no_grad()
def as_research_does(net: Network, clip: Sequence[Tensor] | Again[Tensor]) -> Iterator[Tensor]:
    """``net(chunk)``, or ``net(window)`` frame by frame where the network sees windows."""
    if hasattr(net, "before"):
        last = len(clip) - 1
        for i in range(len(clip)):
            around = [min(max(i + k, 0), last) for k in range(-net.before, net.after + 1)]
            yield net(torch.stack([clip[k] for k in around])[None])[0]
        return
    for first in range(0, len(clip), BASELINE_CHUNK):
        chunk = range(first, min(first + BASELINE_CHUNK, len(clip)))
        yield from net(torch.stack([clip[k] for k in chunk]))


def better_stack(device: str, dtype: torch.dtype, height: int, width: int) -> Callable[[], float]:
    """Bare convolutions, in the layout in which they are faster: how many seconds they take."""

    def timed(layout: torch.memory_format) -> Callable[[], float]:
        stack = nn.Sequential(*(nn.Conv2d(64, 64, 3, padding=1) for _ in range(ROOF_LAYERS)))
        stack = stack.to(device, dtype, memory_format=layout)  # type: ignore[call-overload]
        x = torch.rand(1, 64, height, width, device=device).to(dtype, memory_format=layout)

        @torch.no_grad()
        def run() -> float:
            start = moment(device)
            stack(x)
            return moment(device) - start

        return run

    stacks = [timed(layout) for layout in (torch.contiguous_format, torch.channels_last)]
    return min(stacks, key=lambda run: min(run() for _ in range(4)))


def moment(device: str) -> float:
    """Now, when all that was asked of the device is done."""
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter()


if __name__ == "__main__":
    main()
