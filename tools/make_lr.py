"""Low-resolution input of originals: ``python tools/make_lr.py SOURCE TARGET --how bd --scale 4``.

SOURCE is a film, a folder of pictures, or a folder of either; TARGET gets the same names. Pictures
become PNG, films FFV1 in .mkv; 16-bit ones stay 16-bit. With --crf all goes through x264 besides:
pictures are PNG again, films keep their container.
"""

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor

from vrestore.ends import look, open_reader, open_writer
from vrestore.errors import InputError, UsageError, VrestoreError, told
from vrestore.evaluate.compression import compress
from vrestore.evaluate.degradations import bd, bd_duf, bi
from vrestore.evaluate.metrics import to_8bit
from vrestore.evaluate.sets import refuse_clips_beside
from vrestore.options import RestoreOptions
from vrestore.video.colour import ColourConverter
from vrestore.video.encode import CONTAINERS, Encoder
from vrestore.video.frame import Frame, VideoInfo
from vrestore.video.pictures import PictureWriter, is_picture

HOW: dict[str, Callable[[Tensor, int], Tensor]] = {"bi": bi, "bd": bd, "bd-duf": bd_duf}


def main(arguments: list[str] | None = None) -> None:
    """Flags in, one line for every clip."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path, help="a folder; for one film, or that film's name")
    parser.add_argument("--how", choices=HOW, default="bi", help="MATLAB, BasicVSR's, DUF's")
    parser.add_argument("--scale", type=int, default=4)
    parser.add_argument("--crf", type=float, help="compress by x264 as well: 0 to 51")
    parser.add_argument("--overwrite", action="store_true", help="replace what exists")
    args = parser.parse_args(arguments)
    damaged = False
    try:
        if args.scale < 2:
            raise UsageError(f"--scale {args.scale} makes nothing smaller; take 2 or more")
        for source, target in clips(args.source, args.target, args.crf):
            options = options_of(args.crf, overwrite=args.overwrite)
            damage = reduce(source, target, HOW[args.how], args.scale, options)
            if damage:
                print(f"{source}: {damage}", file=sys.stderr)
                damaged = True
    except (VrestoreError, OSError, KeyboardInterrupt) as error:
        print(f"make_lr.py: {told(error)}", file=sys.stderr)
        raise SystemExit(told(error).exit_code) from error
    if damaged:
        raise SystemExit(InputError.exit_code)


def clips(
    source: Path, target: Path, crf: float | None, above: tuple[Path, ...] = ()
) -> list[tuple[Path, Path]]:
    """Every film and every folder of pictures in ``source``, and what will be made of it."""
    if not source.is_dir():
        named = bool(target.suffix) and not target.is_dir()
        return [(source, target if named else target / made_name(source, crf))]
    inside = sorted(entry for entry in source.iterdir() if not entry.name.startswith("."))
    picture = next((entry for entry in inside if is_picture(entry)), None)
    if picture:
        refuse_clips_beside(picture)
        return [(source, target)]
    films = [entry for entry in inside if entry.suffix.lower() in CONTAINERS and entry.is_file()]
    found = [(film, target / made_name(film, crf)) for film in films]
    above = (*above, source.resolve())  # a link back there leads nowhere
    for folder in (entry for entry in inside if entry.is_dir() and entry.resolve() not in above):
        found += clips(folder, target / folder.name, crf, above)
    if not found:
        raise InputError(f"{source}: neither films nor pictures in it; name another folder")
    aims = [aim for _, aim in found]
    for place, aim in found:
        if aims.count(aim) > 1:
            raise UsageError(f"{place} and another film would both become {aim}; rename one")
    return found


def made_name(source: Path, crf: float | None) -> str:
    """A picture's or a film's own name, as far as its container holds what is written."""
    if is_picture(source):
        return f"{source.stem}.png"
    keeps = crf is not None and source.suffix.lower() in CONTAINERS
    return source.name if keeps else f"{source.stem}.mkv"


def options_of(crf: float | None, *, overwrite: bool) -> RestoreOptions:
    """Lossless, or x264 of that crf; UsageError where that is none."""
    if crf is not None and not 0 <= crf <= 51:
        raise UsageError(f"--crf {crf:g}: x264 has 0 to 51")
    codec = "ffv1" if crf is None else "libx264"
    return RestoreOptions(codec=codec, crf=crf, overwrite=overwrite)


def reduce(
    source: Path,
    target: Path,
    how: Callable[[Tensor, int], Tensor],
    scale: int,
    options: RestoreOptions,
) -> object:
    """One film or folder of pictures at 1/scale; what of it could not be read, or None."""
    crf = options.crf
    info = look(source, options)
    height, width = info.height // scale, info.width // scale
    if not min(height, width):
        raise UsageError(f"{source}: {info.width}x{info.height} is too small for --scale {scale}")
    target.parent.mkdir(parents=True, exist_ok=True)
    reader, count = open_reader(info, options), 0
    with writer_for(info, target, width, height, options) as writer:
        to_rgb = ColourConverter(info.pixel_format, info.colour, info.height, info.width).to_rgb
        from_rgb = ColourConverter(writer.pixel_format, writer.colour, height, width).from_rgb
        with closing(iter(reader)) as frames:
            made = ((frame, small(to_rgb(tensors(frame)), info, how, scale)) for frame in frames)
            if crf is not None and info.container == "pictures":
                made = compressed(info, made, crf)
            for frame, rgb in made:
                planes = tuple(plane.numpy() for plane in from_rgb(rgb))
                writer.write(Frame(planes, frame.pts, frame.duration))
                count += 1
        writer.close()
    cut = (info.width - width * scale, info.height - height * scale)
    said = f"; cut off: {cut[0]} px right, {cut[1]} px at the bottom" if any(cut) else ""
    print(f"{target}: {width}x{height}, frames: {count}{said}")
    return reader.damage


def small(rgb: Tensor, info: VideoInfo, how: Callable[[Tensor, int], Tensor], scale: int) -> Tensor:
    """A frame at 1/scale, of a picture as MATLAB has it: its codes in float64, halves rounded up.

    In float32 one sample of a hundred thousand of 8 bits, four of a thousand of 16, are another.
    """
    if info.container != "pictures":
        return how(rgb, scale)
    peak = info.pixel_format.peak
    reduced = how((rgb.double() * peak).round() / peak, scale)
    return (reduced * peak + 0.5).floor() / peak


def writer_for(
    info: VideoInfo, target: Path, width: int, height: int, options: RestoreOptions
) -> Encoder | PictureWriter:
    """Pictures become PNG whatever they were: nothing but ``--crf`` compresses."""
    if info.container == "pictures":
        return PictureWriter(target, info, overwrite=options.overwrite)
    return open_writer(info, target, width, height, options)


def compressed(
    info: VideoInfo, made: Iterable[tuple[Frame, Tensor]], crf: float
) -> Iterator[tuple[Frame, Tensor]]:
    """Small pictures through x264, all at once; UsageError where they are of more than 8 bits."""
    if info.pixel_format.depth > 8:
        raise UsageError(f"{info.path}: x264 would take {info.pixel_format.depth} bits to 8")
    frames, small = zip(*made, strict=True)
    codes = to_8bit(torch.stack(small)).to(torch.uint8)
    return zip(frames, compress(codes, "libx264", crf=crf) / 255, strict=True)


def tensors(frame: Frame) -> list[Tensor]:
    """The frame's planes, as the colour converter takes them."""
    return [torch.from_numpy(plane) for plane in frame.planes]


if __name__ == "__main__":
    main()
