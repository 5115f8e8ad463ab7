"""A film copied by our decoder and encoder, and what tests of both make films of."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import witness

from vrestore.video.decode import Decoder
from vrestore.video.encode import Encoder, EncodeSettings
from vrestore.video.frame import Frame, PixelFormat, Written
from vrestore.video.probe import probe

MakeClip = Callable[..., Path]
FAST = EncodeSettings(preset="ultrafast", crf=30)
PICTURES = ("-f", "lavfi", "-i", "testsrc2=s=96x64:r=25:d=2")
TONE = ("-f", "lavfi", "-i", "sine=f=440:d=2")
X264 = ("-c:v", "libx264", "-preset", "veryfast", "-g", "12", "-bf", "3", "-pix_fmt", "yuv420p")


def as_wanted(frame: Frame, fmt: PixelFormat, width: int, height: int) -> Frame:
    """The frame itself where it fits ``fmt``, else grey of that shape."""
    small = (-(-height >> fmt.sub_y), -(-width >> fmt.sub_x))
    shapes = [(height, width)] + [small] * (0 if fmt.family == "gray" else 2)
    word = np.uint8 if fmt.depth <= 8 else np.uint16
    if [(p.shape, p.dtype) for p in frame.planes] == [(s, word) for s in shapes]:
        return frame
    planes = tuple(np.full(shape, fmt.peak // 2, word) for shape in shapes)
    return Frame(planes, frame.pts, frame.duration)


def copy_film(
    source: Path,
    target: Path,
    settings: EncodeSettings = FAST,
    *,
    scale: int = 1,
    start: Fraction | None = None,
    end: Fraction | None = None,
    overwrite: bool = False,
) -> Written:
    info = probe(source)
    width, height = info.width * scale, info.height * scale
    part = {"start": start, "end": end}
    with Encoder(target, info, width, height, settings, overwrite=overwrite, **part) as encoder:
        for frame in Decoder(info, **part):
            encoder.write(as_wanted(frame, encoder.pixel_format, width, height))
        return encoder.close()


def assert_same_sound(source: Path, target: Path) -> None:
    """Packet for packet; in a transport stream AAC gets a header (ADTS), so by times alone."""
    if target.suffix in (".ts", ".m2ts"):
        witness.assert_same_pts(source, target, "audio")
    else:
        witness.assert_same_packets(source, target, ("audio",))


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if ".part-" in path.name]
