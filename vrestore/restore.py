"""The road itself, file to file.

``look`` says what is in the film, the reader gives frames as stored, ``shots`` cuts the road where
the film cuts, the ``Restorer`` turns each shot's tensors into better ones, the writer keeps the
time stamps that they came with. Decoding runs ahead and encoding behind, each in a bounded queue.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from vrestore.ends import frames_expected, look, notes, open_reader, open_writer, target_for
from vrestore.engine.exact import Again
from vrestore.engine.prefetch import WritingBehind, prefetch
from vrestore.engine.restorer import Restorer
from vrestore.engine.shots import shots
from vrestore.engine.spool import Spool
from vrestore.engine.transfer import OnTheWay, fetch
from vrestore.errors import UsageError
from vrestore.models.catalogue import load_model
from vrestore.options import RestoreOptions
from vrestore.report import Progress, ProgressCallback, Report
from vrestore.video.colour import ColourConverter
from vrestore.video.frame import Colour, Frame, PixelFormat, VideoInfo
from vrestore.video.tint import OneTint, Tint

FRAMES_AHEAD = 8  # at most so many decoded and waiting, and so many restored and waiting


def restore(
    source: str | Path,
    target: str | Path | None = None,
    *,
    options: RestoreOptions | None = None,
    progress: ProgressCallback | None = None,
    restorer: Restorer | None = None,
    **changes: Any,
) -> Report:
    """Restore one film, folder of pictures or picture; ``changes`` are fields of RestoreOptions.

    ``target`` None: beside the source, ``NAME_restored``. ``restorer``: one that is at hand, for
    several films in turn. Returns when the output is complete, verified and under its final name.
    Raises VrestoreError; what broke off is restored as far as it goes, see ``Report.damage``.
    """
    options = (options or RestoreOptions()).but(changes, "restore()")
    source = Path(source)
    target = target_for(source, Path(target) if target else None)
    info = look(source, options)
    reader = open_reader(info, options)
    restorer = restorer or load_restorer(options)
    scale = options.scale or restorer.scale
    width, height = round(info.width * scale), round(info.height * scale)
    if min(width, height) < 1:
        raise UsageError(f"{source}: {info.width}x{info.height} times {scale:g} leaves no picture")
    expected = frames_expected(info, options)
    started = time.monotonic()
    frame_count = shot_count = 0
    choice = restorer.choice
    told_before = len(choice.told)

    with open_writer(info, target, width, height, options) as writer:
        way = Way(info, writer.pixel_format, writer.colour, (height, width), restorer.device)
        choice.scratch, choice.beside = scratch_for(target), writer.child_bytes

        def write(item: tuple[OnTheWay, int, int]) -> None:
            planes, pts, duration = item
            arrived = tuple(plane.numpy() for plane in planes.arrived())
            writer.write(Frame(arrived, pts, duration))

        with (
            closing(prefetch(reader, FRAMES_AHEAD)) as frames,
            WritingBehind(write, FRAMES_AHEAD) as behind,
        ):
            for shot in shots(map(way.seen, frames), picture_of, enabled=options.scene_cuts):
                shot_count += 1
                again = way.to_rgb if restorer.reads_again else None
                with pictures_of(way.entering(shot), again, choice.scratch) as pictures:
                    for item in restorer.finished(pictures, way.leaving):
                        way.in_flight.popleft()
                        behind.put(item)
                        frame_count += 1
                        if progress:
                            seconds = time.monotonic() - started
                            begun = len(way.in_flight)
                            progress(Progress(source, frame_count, expected, seconds, begun))
        if progress and frame_count != expected:  # it was unknown, an estimate, or too much
            seconds = time.monotonic() - started
            progress(Progress(source, frame_count, frame_count, seconds))
        written = writer.close()

    damage = reader.damage
    return Report(
        source=source,
        target=written.path,
        frames=frame_count,
        shots=shot_count,
        seconds=round(time.monotonic() - started, 3),
        input_size=(info.width, info.height),
        output_size=(width, height),
        model=str(options.weights or options.model),
        device=str(restorer.device),
        precision=restorer.precision,
        colour=describe(info.colour, info.pixel_format),
        guessed=info.colour.guessed,
        copied=written.copied,
        converted=written.converted,
        dropped=written.dropped,
        notes=(*written.notes, *notes(info, target, options), *choice.told[told_before:]),
        damage=damage.message if damage else None,
    )


class Way:
    """A frame's way into the network and out of it, and what of it goes past.

    ``size``: height and width of what is written, ``stored`` as ``colour``. ``in_flight``: pts,
    duration and tint of the frames inside, the first being the next to leave.
    """

    def __init__(
        self,
        info: VideoInfo,
        stored: PixelFormat,
        colour: Colour,
        size: tuple[int, int],
        device: torch.device,
    ) -> None:
        self._in = ColourConverter(info.pixel_format, info.colour, info.height, info.width, device)
        self._out = ColourConverter(stored, colour, *size, device)
        self._size = size
        self._tints = OneTint(info.pixel_format, info.colour)
        self.in_flight: deque[tuple[int, int, Tint | None]] = deque()

    def to_rgb(self, planes: Sequence[Tensor]) -> Tensor:
        """``(3, H, W)``, as the network sees it."""
        return self._in.to_rgb(planes)

    def seen(self, frame: Frame) -> tuple[Frame, Tensor]:
        """The frame, and its picture."""
        return frame, self.to_rgb([torch.from_numpy(plane) for plane in frame.planes])

    def entering(self, shot: Iterable[tuple[Frame, Tensor]]) -> Iterator[tuple[Frame, Tensor]]:
        """The same; what goes past the network is remembered."""
        for frame, rgb in shot:
            self.in_flight.append((frame.pts, frame.duration, self._tints.of(frame.planes)))
            yield frame, rgb

    def leaving(self, rgb: Tensor) -> tuple[OnTheWay, int, int]:
        """Planes of what was restored from the first in flight, with its pts and duration.

        It may be asked again, where memory ran out: the frame is in flight until it is taken off.
        """
        if rgb.shape[1:] != self._size:  # another scale than the network's was asked for
            rgb = resize(rgb, *self._size)
        pts, duration, tint = self.in_flight[0]
        if tint is not None:
            rgb = self._tints.give(rgb, tint)
        return fetch(self._out.from_rgb(rgb)), pts, duration


def load_restorer(options: RestoreOptions) -> Restorer:
    """The network and how it runs, as the options say."""
    return Restorer(
        load_model(options.model, options.weights, offline=options.offline),
        propagation=options.propagation,
        precision=options.precision,
        device=options.device,
        chunk=options.chunk,
        lookahead=options.lookahead,
        tile=options.tile,
        memory=options.memory,
    )


@contextmanager
def pictures_of(
    shot: Iterable[tuple[Frame, Tensor]],
    to_rgb: Callable[[Sequence[Tensor]], Tensor] | None,
    folder: Path | None,
) -> Iterator[Iterable[Tensor]]:
    """A shot's pictures one by one; ``to_rgb`` given, to be read again: from its frames as stored.

    Those are kept in ``folder``; None: where the system keeps temporary files.
    """
    if to_rgb is None:
        yield (rgb for _, rgb in shot)
        return
    with Spool(folder) as spool:
        for frame, _ in shot:
            spool.append([torch.from_numpy(plane) for plane in frame.planes])
        yield Again(spool, to_rgb)


def scratch_for(target: Path) -> Path | None:
    """Where temporary files go: beside the output. There is room, and /tmp is often memory."""
    return target.parent if target.parent.is_dir() else None


def picture_of(item: tuple[Frame, Tensor]) -> Tensor:
    """What the cut detector looks at."""
    return item[1]


def resize(rgb: Tensor, height: int, width: int) -> Tensor:
    """``(3, H, W) -> (3, height, width)``: antialiased bicubic (a = -0.5)."""
    size = (height, width)
    return F.interpolate(rgb[None], size, mode="bicubic", antialias=True, align_corners=False)[0]


def describe(colour: Colour, stored: PixelFormat) -> str:
    """The colour of a stream in one phrase."""
    phrase = f"matrix {colour.matrix}, {'full' if colour.full_range else 'limited'} range"
    shared = stored.sub_x or stored.sub_y  # chroma samples, whose place counts
    return f"{phrase}, chroma {colour.siting}" if shared else phrase
