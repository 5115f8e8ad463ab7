"""What a frame costs against its size, the film's length and the number of threads.

``python tools/bench/scaling.py``: the shipped network in float32, ``lookahead`` as the product runs
it. Each number is the least of the rounds, which go by turns, so that what else the machine does
strikes all alike. ``of_first``: per pixel and frame, against the first row of its kind; 1 is a cost
that grows with the work alone. Threads: how many times the speed of one.
"""

import argparse
import os
import time

import torch
from table import show

from vrestore.engine.restorer import Restorer
from vrestore.models.catalogue import load_model

SIZES = ((96, 64), (160, 90), (240, 135), (320, 180), (480, 270))
LENGTHS = (1, 8, 32, 64, 128)
THIS_SIZE, THIS_LENGTH = (160, 90), 24


def main() -> None:
    """One table of three parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="basicvsr")
    parser.add_argument("--precision", default="fp32")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    restorer = Restorer(load_model(args.model), precision=args.precision, device=args.device)
    every = torch.get_num_threads()
    counts = sorted({*(2**k for k in range(10) if 2**k < every), every, os.cpu_count() or 1})
    jobs = [("size", size, THIS_LENGTH, every) for size in SIZES]
    jobs += [("length", THIS_SIZE, length, every) for length in LENGTHS]
    if args.device == "cpu":
        jobs += [("threads", THIS_SIZE, THIS_LENGTH, threads) for threads in counts]
    seconds = dict.fromkeys(jobs, float("inf"))
    for _ in range(args.rounds):
        for job in jobs:
            seconds[job] = min(seconds[job], measure(restorer, *job[1:]))
    rows = []
    for job in jobs:
        kind, (width, height), length, threads = job
        first = next(other for other in jobs if other[0] == kind)
        rows.append(
            {
                "against": kind,
                "size": f"{width}x{height}",
                "frames": length,
                "threads": threads,
                "ms_per_frame": round(1e3 * seconds[job] / length, 1),
                "of_first": round(each(job, seconds) / each(first, seconds), 3),
            }
        )
    show(__file__, rows, args.device)


def each(job: tuple[str, tuple[int, int], int, int], seconds: dict[object, float]) -> float:
    """Seconds of a pixel of a frame."""
    _, (width, height), length, _ = job
    return seconds[job] / (width * height * length)


def measure(restorer: Restorer, size: tuple[int, int], length: int, threads: int) -> float:
    """Seconds that a clip of noise takes."""
    width, height = size
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    clip = torch.rand(length, 3, height, width, generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    for out in restorer.stream(clip):
        last = out
    last.cpu()
    torch.set_num_threads(before)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
