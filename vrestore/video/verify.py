"""Whether a finished film holds every frame, each at its time."""

from __future__ import annotations

import heapq
import struct
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import IO

import av

from vrestore.errors import InputError, OutputError
from vrestore.video.probe import STORAGE_TIMES_ONLY, is_cover, open_film

# H.264 and HEVC reorder at most 16 pictures; hidden frames of VP9 and AV1 are no packets.
_REORDER = 64


class PtsLog:
    """Time stamps that were written, in order, in an unnamed file: nothing grows with the film."""

    def __init__(self) -> None:
        self._file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        self.count = 0

    def append(self, pts: int) -> None:
        """One more, in ticks."""
        self._file.write(struct.pack("=q", pts))
        self.count += 1

    def __iter__(self) -> Iterator[int]:
        self._file.seek(0)
        while block := self._file.read(8 * 4096):
            for (pts,) in struct.iter_unpack("=q", block):
                yield pts

    def close(self) -> None:
        """Gives the file back."""
        self._file.close()


def verify(path: Path, written: PtsLog, time_base: Fraction, nth: int, kinds: list[str]) -> None:
    """Compare the ``nth`` film stream of ``path`` with what was ``written``, in ``time_base``.

    Every frame must be there, at its time within half a tick of the container's own. ``kinds``:
    the kinds of the streams that must be there too. Raises OutputError at the first difference.
    """
    try:
        with open_film(path) as film:
            films = [stream for stream in film.streams.video if not is_cover(stream)]
            found: list[str] = [s.type for s in film.streams if not is_cover(s)]
            for kind in sorted(set(kinds)):
                wanted, got = kinds.count(kind), found.count(kind)
                if got < wanted:
                    raise _wrong(path, f"{wanted} {kind} streams became {got}")
            if nth >= len(films):
                raise _wrong(path, "it holds no video stream")
            own = films[nth].time_base
            assert own is not None
            times = _presented(film, films[nth])
            for number, pts in enumerate(written):
                shown = next(times, None)
                if shown is None:
                    raise _wrong(path, f"{number} of {written.count} frames arrived")
                if abs(shown * own - pts * time_base) * 2 > own:
                    raise _wrong(
                        path,
                        f"frame {number} is shown at {float(shown * own):.6f} s instead of "
                        f"{float(pts * time_base):.6f} s",
                    )
            if next(times, None) is not None:
                raise _wrong(path, f"more than the {written.count} frames arrived")
    except (InputError, av.FFmpegError) as error:
        raise _wrong(path, str(error)) from error


def _presented(film: av.container.InputContainer, stream: av.VideoStream) -> Iterator[int]:
    """Time stamps in the order of display."""
    stored = film.format.name in STORAGE_TIMES_ONLY
    waiting: list[int] = []
    for packet in film.demux(stream):
        pts = packet.dts if stored or packet.pts is None else packet.pts
        if packet.size and pts is not None:
            heapq.heappush(waiting, pts)
            if len(waiting) > _REORDER:
                yield heapq.heappop(waiting)
    while waiting:
        yield heapq.heappop(waiting)


def _wrong(path: Path, what: str) -> OutputError:
    return OutputError(
        f"{path}: the film did not turn out as it must: {what}. It was not kept; try another "
        "container (.mkv or .mp4) or codec"
    )
