"""Where frames come from: held in memory, pictures in folders, films read at random.

A clip gives any rectangle of any of its frames, and the same values whenever it is asked.
"""

from __future__ import annotations

import bisect
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vrestore.errors import InputError
from vrestore.video.order import natural

SCALE = 4  # the field's; what all sides are multiples of
REDS4 = frozenset({"000", "011", "015", "020"})  # what the field tests on


@dataclass(frozen=True)
class Box:
    """A rectangle in high-resolution pixels."""

    top: int
    left: int
    height: int
    width: int


class Clip(Protocol):
    """Frames of one size, sides multiples of 4."""

    @property
    def frames(self) -> int:
        """How many there are."""

    @property
    def height(self) -> int:
        """In pixels."""

    @property
    def width(self) -> int:
        """In pixels."""

    def crop(self, times: Sequence[int], box: Box) -> Tensor:
        """That rectangle of those frames: ``(T, 3, h, w)`` uint8 RGB."""


@dataclass(frozen=True)
class Held:
    """A clip decoded whole: ``pixels`` ``(T, 3, H, W)`` uint8."""

    pixels: Tensor

    @property
    def frames(self) -> int:
        return self.pixels.shape[0]

    @property
    def height(self) -> int:
        return self.pixels.shape[2]

    @property
    def width(self) -> int:
        return self.pixels.shape[3]

    def crop(self, times: Sequence[int], box: Box) -> Tensor:
        return _inside(self.pixels[list(times)], box)


@dataclass(frozen=True)
class FrameFolder:
    """Pictures in order; each is read when it is asked for."""

    pictures: tuple[Path, ...]
    height: int
    width: int

    @property
    def frames(self) -> int:
        return len(self.pictures)

    def crop(self, times: Sequence[int], box: Box) -> Tensor:
        cut = []
        for time in times:
            frame = read_frames(self.pictures[time])
            if frame.shape[2:] != (self.height, self.width):
                raise InputError(
                    f"{self.pictures[time]}: {frame.shape[3]}x{frame.shape[2]}, not "
                    f"{self.width}x{self.height} as its set; leave it out of the set"
                )
            cut.append(_inside(frame, box))
        return torch.cat(cut)


@dataclass(frozen=True)
class Film:
    """A film's frames, found by their time stamps: decord's where it is installed, else PyAV's.

    ``stamps``: the pts of all frames in order; ``keys``: of those from which decoding can begin.
    """

    path: Path
    height: int
    width: int
    stamps: tuple[int, ...]
    keys: tuple[int, ...]

    @staticmethod
    def open(path: Path) -> Film:
        """List its packets; nothing is decoded. InputError where it holds no video."""
        import av

        try:
            with av.open(str(path)) as container:
                stream = container.streams.video[0]
                packets = [p for p in container.demux(stream) if p.pts is not None]
                stamps = sorted(p.pts for p in packets if p.pts is not None and not p.is_discard)
                keys = sorted(p.pts for p in packets if p.pts is not None and p.is_keyframe)
                height, width = (v // SCALE * SCALE for v in (stream.height, stream.width))
        except (av.FFmpegError, IndexError) as error:
            raise InputError(f"{path}: holds no video that can be read; take it out") from error
        if not stamps or not keys:
            raise InputError(f"{path}: its frames have no time stamps; remux it to MP4 or Matroska")
        return Film(path, height, width, tuple(stamps), tuple(keys))

    @property
    def frames(self) -> int:
        return len(self.stamps)

    def crop(self, times: Sequence[int], box: Box) -> Tensor:
        array = _by_decord(self.path, times)
        if array is None:
            array = self.by_pyav(times)
        return _inside(_as_tensor(array), box)

    def by_pyav(self, times: Sequence[int]) -> NDArray[np.uint8]:
        """``(T, H, W, 3)``: from the nearest place before the first that decoding can begin at.

        Some files say that it can where it cannot: then from the start.
        """
        wanted = {self.stamps[time] for time in times}
        first = bisect.bisect_right(self.keys, min(wanted)) - 1
        for start in dict.fromkeys((self.keys[max(first, 0)], self.keys[0])):
            found = self._decoded(start, wanted)
            if found.keys() == wanted:
                return np.stack([found[self.stamps[time]] for time in times])
        raise InputError(
            f"{self.path}: frames {sorted(times)} cannot be decoded; the film is damaged, take it "
            "out of the training folder"
        )

    def _decoded(self, start: int, wanted: set[int]) -> dict[int, NDArray[np.uint8]]:
        import av

        found: dict[int, NDArray[np.uint8]] = {}
        try:
            with av.open(str(self.path)) as container:
                stream = container.streams.video[0]
                container.seek(start, stream=stream, backward=True)
                for frame in container.decode(stream):
                    if frame.pts in wanted:
                        picture = frame.to_ndarray(format="rgb24")
                        found[frame.pts] = picture.astype(np.uint8, copy=False)
                    if frame.pts is not None and frame.pts >= max(wanted):
                        break
        except av.FFmpegError:
            return {}
        return found


def read_frames(path: Path) -> Tensor:
    """A whole short clip or a photograph as RGB: ``(T, 3, H, W)`` uint8, sides multiples of 4.

    As the product reads them, chroma at its siting; where PyAV is not installed (a bare GPU
    machine), through decord or OpenCV, whose chroma has stairs. A folder of frames is a clip too.
    InputError for what cannot be read.
    """
    if path.is_dir():
        return torch.cat([read_frames(picture) for picture in pictures_in(path)])
    try:
        import av  # noqa: F401, our readers need it
    except ModuleNotFoundError:
        return _as_tensor(_without_pyav(path))
    from vrestore.evaluate.footage import Footage, code_values, frames_of

    frames = torch.stack([code_values(rgb) for _, rgb in frames_of(Footage(path))])
    height, width = (side // SCALE * SCALE for side in frames.shape[2:])
    return frames[..., :height, :width].contiguous()


def pictures_in(folder: Path) -> tuple[Path, ...]:
    """Its PNG, JPEG and WebP pictures by the numbers in their names; InputError if it has none."""
    suffixes = {".png", ".jpg", ".jpeg", ".webp"}
    found = [p for p in folder.glob("[!.]*") if p.suffix.lower() in suffixes]
    if not found:
        raise InputError(f"{folder}: holds no pictures ({', '.join(sorted(suffixes))})")
    return tuple(sorted(found, key=natural))


def reds_clips(folder: Path) -> list[Clip]:
    """REDS: ``CCC/00000000.png`` and on, but for the clips of REDS4, which are for testing."""
    folders = [p for p in sorted(folder.glob("[0-9][0-9][0-9]")) if p.name not in REDS4]
    if not folders:
        raise InputError(f"{folder}: holds no clips like 001/00000000.png; name REDS's train_sharp")
    clips = [pictures_in(clip) for clip in folders]
    height, width = picture_size(clips[0][0])
    return [FrameFolder(clip, height, width) for clip in clips]


def vimeo90k_clips(folder: Path, listed: Path) -> list[Clip]:
    """Vimeo-90K: the septuplets ``00001/0001`` that the file lists, one a line.

    What follows the name on a line is left alone: some lists give sizes there.
    """
    try:
        names = [line.split()[0] for line in listed.read_text("utf-8").splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"{listed}: cannot be read: {error.strerror}") from error
    if not names or not all(re.fullmatch(r"\d+/\d+", name) for name in names):
        raise InputError(f"{listed}: is no list of septuplets like 00001/0001, one a line")
    clips = [
        tuple(folder / "sequences" / name / f"im{i}.png" for i in range(1, 8)) for name in names
    ]
    height, width = picture_size(clips[0][0])
    return [FrameFolder(clip, height, width) for clip in clips]


def film_clips(folder: Path) -> list[Clip]:
    """The films right inside the folder."""
    suffixes = {".mp4", ".mkv", ".mov", ".webm", ".avi"}
    films = sorted(p for p in folder.glob("[!.]*") if p.suffix.lower() in suffixes)
    if not films:
        raise InputError(f"{folder}: holds no films ({', '.join(sorted(suffixes))})")
    return [Film.open(path) for path in films]


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width, cut to multiples of 4; of a PNG from its header (ISO/IEC 15948, 11.2.2)."""
    try:
        with path.open("rb") as file:
            head = file.read(24)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error
    if head[:8] == b"\x89PNG\r\n\x1a\n" and len(head) == 24:
        width, height = struct.unpack(">II", head[16:])
    else:
        height, width = read_frames(path).shape[2:]
    return height // SCALE * SCALE, width // SCALE * SCALE


class Photographs(Sequence[Tensor]):
    """Pictures ``(3, H, W)`` uint8: some held, the others read whenever they are asked for."""

    def __init__(self, held: Sequence[Tensor] = (), files: Sequence[Path] = ()) -> None:
        self.held = tuple(held)
        self.files = tuple(files)

    def __len__(self) -> int:
        return len(self.held) + len(self.files)

    def __getitem__(self, index: Any) -> Any:
        if index < len(self.held):
            return self.held[index]
        return read_frames(self.files[index - len(self.held)])[0]


def _inside(frames: Tensor, box: Box) -> Tensor:
    return frames[..., box.top : box.top + box.height, box.left : box.left + box.width]


def _as_tensor(array: NDArray[Any]) -> Tensor:
    """``(T, H, W, 3)`` -> ``(T, 3, H, W)``, cut to multiples of 4."""
    h, w = (side // SCALE * SCALE for side in array.shape[1:3])
    return torch.from_numpy(np.ascontiguousarray(array[:, :h, :w].transpose(0, 3, 1, 2)))


def _by_decord(path: Path, times: Sequence[int] | None) -> NDArray[np.uint8] | None:
    """Those frames, or all: ``(T, H, W, 3)``; None where decord is not installed."""
    try:
        import decord
    except ImportError:
        return None
    reader = decord.VideoReader(str(path), num_threads=1)
    frames: NDArray[np.uint8] = reader.get_batch(times or range(len(reader))).asnumpy()
    return frames


def _without_pyav(path: Path) -> NDArray[Any]:
    if path.suffix == ".mp4" and (frames := _by_decord(path, None)) is not None:
        return frames
    import cv2

    picture: NDArray[Any] = cv2.imread(str(path))[None, ..., ::-1]
    return picture
