"""Frames to a film: one ffmpeg child, all else copied, verified before it gets its name.

Every picture goes through a pipe as raw video in NUT, which keeps its time stamp. The output grows
under a partial name beside the final one, which it gets when every frame has been found in it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
from collections import deque
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import IO, Self

import av
import numpy as np

from vrestore.errors import OutputError, UsageError, VrestoreError
from vrestore.video.along import MOV_FAMILY, carried, company
from vrestore.video.command import CONTAINERS, EncodeSettings, arguments, plan, trial_arguments
from vrestore.video.ffmpeg import ffmpeg_binary, ffmpeg_version
from vrestore.video.frame import Colour, Frame, PixelFormat, VideoInfo, Written
from vrestore.video.isobmff import write_display_matrix
from vrestore.video.partial import clear_abandoned, partial_name
from vrestore.video.probe import open_film
from vrestore.video.trial import by_nvenc, in_short, refusal, try_out
from vrestore.video.verify import PtsLog, verify

__all__ = ["CONTAINERS", "EncodeSettings", "Encoder"]

_OLDEST_FFMPEG = 5
_STDERR_LINES = 40
_CHILD_BYTES = 50 << 20  # of ffmpeg's program, and of what does not grow with the picture
_CHILD_FRAMES, _FRAMES_A_CORE = 90, 8  # in its queues, and in x264's or x265's for each core
_AVI_LATEST_START = Fraction(1)  # seconds that AVI would have to fill with empty frames


class Encoder:
    """Writes ``source``'s restored frames, ``width`` x ``height``, and all else of it, to ``path``.

    ``write`` takes frames with planes of ``pixel_format`` that mean ``colour``, their pts in the
    source's ticks and rising. With ``start`` or ``end`` (seconds from the first frame, as in
    ``Decoder``) only that part of the other streams comes along, and all times are moved so that
    the part begins when the film did. As a context manager: aborts on an exception, else closes.
    Raises UsageError for what contradicts itself, OutputError for what cannot be written.
    """

    pixel_format: PixelFormat
    colour: Colour

    def __init__(
        self,
        path: Path,
        source: VideoInfo,
        width: int,
        height: int,
        settings: EncodeSettings,
        *,
        overwrite: bool = False,
        start: Fraction | None = None,
        end: Fraction | None = None,
    ) -> None:
        self._plan = plan(path.suffix, source, width, height, settings)
        _check_target(path, source, overwrite)
        self._path, self._source, self._overwrite = path, source, overwrite
        self._size = (width, height)
        binary = ffmpeg_binary()
        version = ffmpeg_version(binary)
        if version < _OLDEST_FFMPEG:
            raise OutputError(
                f"{binary} is version {version}; install ffmpeg {_OLDEST_FFMPEG} or later"
            )
        if settings.nvenc and settings.codec is None:
            self._plan = by_nvenc(binary, path.suffix, source, width, height, settings, self._plan)
        self.pixel_format, self.colour = self._plan.pixel_format, self._plan.colour
        try_out(
            tuple(trial_arguments(binary, source, self._plan, width, height, settings)), self._plan
        )
        first = (source.start_pts or 0) * source.time_base
        self._cut = cut = bool(start) or end is not None
        self._shift = round((start or 0) / source.time_base)
        self._along = company(source, self._plan.muxer, binary, cut=cut)
        self._notes = list(self._plan.notes)
        if cut and self._along.has_chapters:
            self._notes.append("chapters are left out of a part of a film")
        self._report: Written | None = None
        self._over = False
        self._last_pts: int | None = None
        clear_abandoned(path)
        with contextlib.ExitStack() as held:
            self._log = held.enter_context(contextlib.closing(PtsLog()))
            covers = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="vrestore-")))
            for cover in self._along.covers:
                (covers / cover.name).write_bytes(cover.content)
            command = arguments(
                binary,
                version,
                self._partial(),
                source,
                self._plan,
                self._along,
                settings,
                last_duration=_last_duration(source, end),
                covers=covers,
                shift=self._shift,
                window=(first + (start or 0), None if end is None else first + end)
                if cut
                else None,
            )
            self._child = _start(command, self._partial())
            self._held = held.pop_all()
        self._pipe: av.container.OutputContainer | None = None
        self._said: deque[str] = deque(maxlen=_STDERR_LINES)
        # A pipe that nobody reads stops the child; a queue of frames does not serve for lines.
        self._listener = threading.Thread(
            target=_listen, args=(self._child.stderr, self._said), daemon=True
        )
        try:
            self._listener.start()
            self._open_pipe()
        except BaseException:
            self.abort()
            raise

    @property
    def child_bytes(self) -> int:
        """About what ffmpeg holds beside this process, as seen of 640x360 to 3840x2160."""
        frames = _CHILD_FRAMES + _FRAMES_A_CORE * (os.cpu_count() or 1)
        return _CHILD_BYTES + frames * self.pixel_format.frame_bytes(*self._size)

    def _open_pipe(self) -> None:
        """To ffmpeg: NUT, whose frames have times."""
        assert self._child.stdin is not None
        source, (width, height) = self._source, self._size
        self._pipe = av.open(self._child.stdin, "w", format="nut", buffer_size=1 << 20)
        # Without a rate NUT would claim PyAV's default of 24, and Matroska would store it.
        self._stream = self._pipe.add_stream("rawvideo", rate=source.average_rate)
        if not source.average_rate:
            self._stream.codec_context.framerate = Fraction(0, 1)
        self._stream.width, self._stream.height = width, height
        self._stream.pix_fmt = self._plan.pipe_format
        self._stream.time_base = source.time_base
        self._stream.codec_context.time_base = source.time_base

    def write(self, frame: Frame) -> None:
        """Append one frame. Raises OutputError where ffmpeg has ended, with what it said."""
        if self._over:
            raise ValueError("the encoder is closed")
        pts = frame.pts - self._shift
        self._check(frame, pts)
        order = (1, 2, 0) if self.pixel_format.family == "rgb" else range(len(frame.planes))
        word = np.dtype(np.uint8 if self.pixel_format.depth <= 8 else "<u2")
        planes = [np.ascontiguousarray(frame.planes[i], dtype=word) for i in order]
        packet = av.Packet(b"".join(plane.data for plane in planes))
        packet.pts = packet.dts = pts
        packet.time_base = self._source.time_base
        packet.stream = self._stream
        packet.is_keyframe = True
        try:
            assert self._pipe is not None
            self._pipe.mux_one(packet)
        except (OSError, av.FFmpegError, ValueError) as error:
            raise self._failure() from error
        self._last_pts = pts
        self._log.append(pts)

    def close(self) -> Written:
        """Finish the film, verify it and give it its name; later calls return the same report.

        Raises OutputError, and leaves nothing behind, where ffmpeg fails or a frame is missing.
        """
        if self._report is not None:
            return self._report
        if self._over:
            raise ValueError("the encoder was aborted")
        try:
            if not self._log.count:
                raise OutputError(f"{self._path}: no frame was written, so there is no film")
            self._finish_child()
            self._verify()
            self._publish()
        except BaseException:
            self.abort()
            raise
        self._end()
        self._report = Written(
            path=self._path,
            frames=self._log.count,
            copied=self._along.copied,
            converted=self._along.converted,
            dropped=self._along.dropped,
            notes=tuple(self._notes),
        )
        return self._report

    def abort(self) -> None:
        """End ffmpeg at once and delete what it has written."""
        if not self._over:
            self._end()
            self._partial().unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self.abort()
        elif not self._over:
            self.close()

    def _partial(self) -> Path:
        return self._path.with_name(partial_name(self._path))

    def _check(self, frame: Frame, pts: int) -> None:
        """Raises ValueError for a frame of another shape, UsageError for a time AVI cannot hold."""
        fmt = self.pixel_format
        width, height = self._size
        small = (-(-height >> fmt.sub_y), -(-width >> fmt.sub_x))
        wanted = [(height, width)] + [small] * (0 if fmt.family == "gray" else 2)
        if [plane.shape for plane in frame.planes] != wanted:
            got = [plane.shape for plane in frame.planes]
            raise ValueError(f"{fmt} wants planes of {wanted}, not {got}")
        if self._last_pts is not None and pts <= self._last_pts:
            raise ValueError(f"time stamps must rise: {pts} after {self._last_pts}")
        if self._plan.muxer == "avi":
            rate = self._source.average_rate
            number = pts * self._source.time_base * rate if rate else Fraction(1, 2)
            regular = abs(number - round(number)) * 8 < 1
            if not regular or (self._last_pts is None and number > _AVI_LATEST_START * (rate or 1)):
                at = float(pts * self._source.time_base)
                raise UsageError(
                    f"{self._path}: AVI holds a constant frame rate from time 0 on; frame "
                    f"{self._log.count}, at {at:.3f} s, does not fall on it. Write .mkv or .mp4"
                )

    def _finish_child(self) -> None:
        """Let ffmpeg write its end, and see that it was content."""
        assert self._child.stdin is not None
        assert self._pipe is not None
        try:
            self._pipe.close()
            self._child.stdin.close()
        except (OSError, av.FFmpegError, ValueError) as error:
            raise self._failure() from error
        status = self._child.wait()
        self._listener.join(timeout=10)
        # FFmpeg 5 ends content although the disk was full at the last.
        if status != 0 or self._disk_full():
            raise self._failure()

    def _verify(self) -> None:
        kinds = [one.kind if one else "video" for one in self._along.streams]
        films = [one for one in self._along.streams if one is None or one.kind == "video"]
        nth = films.index(None)
        matrix = self._source.display_matrix
        if matrix is not None and self._plan.muxer in MOV_FAMILY:
            write_display_matrix(self._partial(), nth, _scaled(matrix, self._source, self._size))
        checked = [kind for kind in kinds if kind in ("video", "audio", "subtitle")]
        if self._plan.muxer in MOV_FAMILY:
            checked = ["video", *self._kinds_with_packets()]
        verify(self._partial(), self._log, self._source.time_base, nth, checked)

    def _kinds_with_packets(self) -> list[str]:
        """The kinds of the streams that must be there: MP4 has no track for one without packets.

        Of a part of a film nothing is sure: it may hold nothing of a stream.
        """
        riders = [one for one in self._along.streams if one and one.kind != "cover"]
        if self._cut:
            return []
        found = carried(self._source, riders) if riders else set()
        for one in riders:
            if one.index not in found:
                self._notes.append(f"#{one.index} {one.kind} holds nothing: it has no track now")
        return [one.kind for one in riders if one.index in found]

    def _publish(self) -> None:
        """The final name, and nobody else's file under it, in one step."""
        partial = self._partial()
        try:
            with partial.open("rb") as file:
                os.fsync(file.fileno())
            if self._overwrite:
                os.replace(partial, self._path)
                return
            try:
                os.link(partial, self._path)
            except FileExistsError:
                raise _exists(self._path) from None
            except OSError:  # no hard links on this file system
                with self._path.open("xb"):
                    os.replace(partial, self._path)
                return
            partial.unlink()
        except OSError as error:
            raise OutputError(f"{self._path}: cannot be written: {error.strerror}") from error

    def _failure(self) -> VrestoreError:
        """Why ffmpeg ended, in its own words; nothing of it is left afterwards."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(timeout=10)
        self._listener.join(timeout=10)
        status = self._child.poll()
        self.abort()
        if self._disk_full():
            return OutputError(
                f"{self._path}: no space left on device; free some, or write elsewhere"
            )
        return refusal(self._said, self._plan) or OutputError(
            f"{self._path}: ffmpeg ended with status {status} after {self._log.count} frames: "
            f"{in_short(list(self._said))}"
        )

    def _disk_full(self) -> bool:
        return any("No space left on device" in line for line in self._said)

    def _end(self) -> None:
        """Nothing that was opened stays open; ffmpeg and its group are gone."""
        self._over = True
        if self._child.poll() is None:
            if os.name == "posix":
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._child.pid, signal.SIGKILL)
            else:
                self._child.kill()
            self._child.wait()
        for resource in (self._pipe, self._child.stdin):
            with contextlib.suppress(OSError, av.FFmpegError, ValueError):
                if resource is not None:
                    resource.close()
        if self._listener.ident is not None:  # it may not have been started yet
            self._listener.join(timeout=10)
        if self._child.stderr is not None:
            self._child.stderr.close()
        self._held.close()


def _listen(stderr: IO[bytes], said: deque[str]) -> None:
    for line in stderr:
        said.append(line.decode(errors="replace").strip())


def _check_target(path: Path, source: VideoInfo, overwrite: bool) -> None:
    """Raises UsageError for the film itself, OutputError for what may not be written."""
    with contextlib.suppress(OSError):
        if path.exists() and path.samefile(source.path):
            raise UsageError(f"{path}: is the film that is being read; choose another output")
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: there is no such folder; make it first")
    if path.is_dir():
        raise OutputError(f"{path}: is a folder; name a file in it")
    if not overwrite and os.path.lexists(path):
        raise _exists(path)


def _exists(path: Path) -> OutputError:
    return OutputError(f"{path}: exists already; use --overwrite, or choose another output")


def _start(command: list[str], partial: Path) -> subprocess.Popen[bytes]:
    """The child, once ``partial`` exists: an unwritable folder is known before the first frame."""
    try:
        partial.touch()
    except OSError as error:
        raise OutputError(
            f"{partial.parent}: cannot be written to ({error.strerror}); choose another folder"
        ) from error
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us; we end ffmpeg
        )
    except BaseException as error:  # Ctrl-C, too, leaves nothing behind
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(f"{command[0]} does not start: {error}") from error
        raise


def _last_duration(source: VideoInfo, end: Fraction | None) -> int:
    """Ticks that the last frame before ``end`` is shown, as the file says; 0 = it does not.

    MP4 stores how far apart packets are decoded. Where the frame shown last is not the one stored
    last, that is not how long it is shown; the rest of its track is.
    """
    if not source.streams:
        return 0
    limit = None if end is None else (source.start_pts or 0) + end / source.time_base
    last, duration, is_last_stored = -(2**63), 0, True
    with open_film(source.path) as film, contextlib.suppress(av.FFmpegError):
        stream = film.streams[source.stream_index]
        target = limit if limit is not None else (stream.start_time or 0) + (stream.duration or 0)
        with contextlib.suppress(av.FFmpegError):
            film.seek(int(target), stream=stream, backward=True)
        for packet in film.demux(stream):
            if packet.pts is None or not packet.size or (limit is not None and packet.pts >= limit):
                if limit is not None and packet.dts is not None and packet.dts >= limit:
                    break
            else:
                is_last_stored = packet.pts > last
                if is_last_stored:
                    last, duration = packet.pts, packet.duration or 0
        rest = (stream.start_time or 0) + (stream.duration or 0) - last
        if limit is None and "mp4" in source.container and not is_last_stored and rest > 0:
            duration = rest
    return int(duration)


def _scaled(matrix: tuple[int, ...], source: VideoInfo, size: tuple[int, int]) -> tuple[int, ...]:
    """The matrix for pictures of another size: its offsets are lengths, the rest is none."""
    a, b, u, c, d, v, x, y, w = matrix
    across = Fraction(size[0], source.width)
    return (a, b, u, c, d, v, round(x * across), round(y * across), w)
