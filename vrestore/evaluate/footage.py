"""One side of a clip: its frames by index, out of pictures or of a film, through our readers."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from vrestore.ends import look, open_reader
from vrestore.engine.exact import Again
from vrestore.engine.spool import Spool
from vrestore.errors import InputError
from vrestore.options import RestoreOptions
from vrestore.report import of
from vrestore.video.colour import ColourConverter
from vrestore.video.frame import Frame, VideoInfo
from vrestore.video.picture_codec import decode_picture


@dataclass(frozen=True)
class Footage:
    """Where frames come from. ``pictures`` by index from 0, of which some may be left out; none:
    ``path`` is a film. ``first``: the number in the name of the picture of index 0, None where
    names have none."""

    path: Path
    pictures: Mapping[int, Path] = field(default_factory=dict)
    first: int | None = None

    @property
    def count(self) -> int | None:
        """How many frames there are; None: a film, whose frames are known when it ends."""
        return len(self.pictures) or None

    def name_of(self, index: int) -> str:
        """A frame, as messages say it."""
        return str(self.pictures[index]) if self.pictures else f"{self.path}, frame {index}"


def size_of(footage: Footage) -> tuple[int, int]:
    """Width and height of the first frame in pixels. Raises InputError."""
    first = next(iter(footage.pictures.values()), footage.path)
    info = look(first, RestoreOptions())
    return info.width, info.height


def frames_of(
    footage: Footage, wanted: Collection[int] | None = None, count: int | None = None
) -> Generator[tuple[int, Tensor]]:
    """The wanted frames (None: all) with their indices, ``(3, H, W)`` R'G'B', nominal 0..1.

    Raises InputError, with the file's name, for what cannot be read, breaks off, changes its size,
    or for a film that at its end has not ``count`` frames.
    """
    if footage.pictures:
        pictures = _Pictures(footage)
        for index in footage.pictures:
            if wanted is None or index in wanted:
                yield index, pictures[index]
        return
    info = look(footage.path, RestoreOptions())
    to_rgb = ColourConverter(info.pixel_format, info.colour, info.height, info.width).to_rgb
    frames = 0
    for index, frame in enumerate(_film(footage.path, info)):
        frames += 1
        if wanted is None or index in wanted:
            yield index, to_rgb([torch.from_numpy(plane) for plane in frame.planes])
    if count not in (None, frames):
        raise InputError(f"{footage.path}: {of(frames, 'frame')}, but its input has {count}")


def at_any_place(footage: Footage, spool: Spool) -> Again[Tensor]:
    """All frames, ``(3, H, W)``, in any order: pictures are read anew, a film's frames are kept."""
    if footage.pictures:
        return Again([*footage.pictures], _Pictures(footage).__getitem__)
    info = look(footage.path, RestoreOptions())
    for frame in _film(footage.path, info):
        spool.append([torch.from_numpy(plane) for plane in frame.planes])
    converter = ColourConverter(info.pixel_format, info.colour, info.height, info.width)
    return Again(spool, converter.to_rgb)


def kept(frames: Iterator[Tensor], spool: Spool) -> Again[Tensor]:
    """Frames made once, in any order: as the 8-bit code values that a file would hold."""
    for rgb in frames:
        spool.append((code_values(rgb),))
    return Again(spool, lambda item: item[0].float() / 255)


def code_values(rgb: Tensor) -> Tensor:
    """Nominal 0..1 -> uint8, rounded and clipped."""
    return (rgb * 255).round().clamp(0, 255).to(torch.uint8)


class _Pictures:
    """Pictures by index, all of the first one's size."""

    def __init__(self, footage: Footage) -> None:
        self._footage = footage
        self._size = size_of(footage)

    def __getitem__(self, index: int) -> Tensor:
        path = self._footage.pictures[index]
        picture = decode_picture(path)
        height, width = picture.planes[0].shape
        if (width, height) != self._size:
            first = next(iter(self._footage.pictures.values())).name
            raise InputError(
                f"{path}: {width}x{height}, but {first} is {self._size[0]}x{self._size[1]}; "
                "the frames of a clip have one size"
            )
        to_rgb = ColourConverter(picture.pixel_format, picture.colour, height, width).to_rgb
        return to_rgb([torch.from_numpy(plane) for plane in picture.planes])


def _film(path: Path, info: VideoInfo) -> Generator[Frame]:
    """All its frames; InputError where it breaks off, since what is left is another clip."""
    reader = open_reader(info, RestoreOptions())
    with closing(iter(reader)) as stream:
        yield from stream
    if reader.damage:
        raise InputError(f"{reader.damage.message}; a clip that is scored must be whole")
