"""How well decoding, network and encoding overlap, and what memory a long film takes.

``python tools/bench/pipeline.py [--model basicvsr]`` times each of the three alone on one film,
made or given, then the whole road, and prints total against the slowest; then the peak memory of a
long and a short run, each in a process of its own. Writes ``pipeline.json`` beside itself.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from table import commit, peak_mib

FILM = "mandelbrot=s={size}:r=25:maxiter=200,noise=alls=20:allf=t"


def main() -> None:
    """One table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="bicubic")
    parser.add_argument("--size", default="320x180")
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--film", type=Path, help="the beginning of this one, scaled to the size")
    parser.add_argument("--memory", action="store_true", help="also 200 against 20,000 frames")
    parser.add_argument("--peak-of", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.peak_of:
        peak(args.peak_of, args.model)
        return
    with tempfile.TemporaryDirectory() as folder:
        result = stages(args, Path(folder))
        if args.memory:
            result |= memory(args.model, Path(folder))
    for name, value in result.items():
        print(f"| {name} | {value} |")
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")


def make_film(path: Path, size: str, frames: int, film: Path | None = None) -> Path:
    """A film that is neither still nor easy to code, or part of a given one."""
    from vrestore.video.ffmpeg import ffmpeg_binary

    source = ["-f", "lavfi", "-i", FILM.format(size=size)]
    if film is not None:
        source = ["-i", str(film), "-an", "-vf", f"scale={size.replace('x', ':')}"]
    how = ["-frames:v", str(frames), "-pix_fmt", "yuv420p"]
    command = [ffmpeg_binary(), "-v", "error", "-y", *source, *how, str(path)]
    subprocess.run(command, check=True)
    return path


def stages(args: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Seconds of decoding, network (with colour) and encoding alone, and of the road."""
    import torch

    from vrestore import restore
    from vrestore.ends import look, open_reader, open_writer
    from vrestore.options import RestoreOptions
    from vrestore.restore import load_restorer
    from vrestore.video.colour import ColourConverter
    from vrestore.video.frame import Frame

    film = make_film(folder / "in.mp4", args.size, args.frames, args.film)
    options = RestoreOptions(model=args.model, scene_cuts=False)
    restorer = load_restorer(options)
    info = look(film, options)

    start = time.perf_counter()
    frames = list(open_reader(info, options))
    decode = time.perf_counter() - start

    into = ColourConverter(info.pixel_format, info.colour, info.height, info.width, restorer.device)
    height, width = info.height * restorer.scale, info.width * restorer.scale
    writer = open_writer(info, folder / "alone.mp4", width, height, options)
    out_of = ColourConverter(writer.pixel_format, writer.colour, height, width, restorer.device)
    list(restorer.stream(into.to_rgb([torch.from_numpy(p) for p in f.planes]) for f in frames[:3]))
    start = time.perf_counter()
    rgb = (into.to_rgb([torch.from_numpy(p) for p in f.planes]) for f in frames)
    restored = [
        tuple(plane.cpu().numpy() for plane in out_of.from_rgb(x)) for x in restorer.stream(rgb)
    ]
    network = time.perf_counter() - start

    start = time.perf_counter()
    with writer:
        for frame, planes in zip(frames, restored, strict=True):
            writer.write(Frame(planes, frame.pts, frame.duration))
        writer.close()
    encode = time.perf_counter() - start
    count = len(frames)
    del restored, frames

    start = time.perf_counter()
    restore(film, folder / "road.mp4", options=options, restorer=restorer)
    road = time.perf_counter() - start
    return {
        "model": args.model,
        "film": f"{count} frames of {args.size}, {args.film.name if args.film else 'made'}",
        "device": str(restorer.device),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": commit(),
        "decode_s": round(decode, 2),
        "network_s": round(network, 2),
        "encode_s": round(encode, 2),
        "road_s": round(road, 2),
        "road_over_slowest": round(road / max(decode, network, encode), 3),
        "road_over_sum": round(road / (decode + network + encode), 3),
    }


def memory(model: str, folder: Path) -> dict[str, object]:
    """Peak resident memory of 200 and 20,000 frames of 64x48, each in its own process."""
    peaks = {}
    for frames in (200, 20_000):
        film = make_film(folder / f"{frames}.mp4", "64x48", frames)
        command = [sys.executable, __file__, "--peak-of", str(film), "--model", model]
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[frames] = int(out.split()[-1])
    return {
        "peak_200_frames_MiB": peaks[200],
        "peak_20000_frames_MiB": peaks[20_000],
        "peak_ratio": round(peaks[20_000] / peaks[200], 3),
    }


def peak(film: Path, model: str) -> None:
    """Restore, then print this process's peak in MiB."""
    from vrestore import restore

    restore(film, film.with_suffix(".out.mp4"), model=model)
    print(peak_mib())


if __name__ == "__main__":
    main()
