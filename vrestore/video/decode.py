"""A film as frames: in the order in which they are shown, as stored, each with its own time."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
from av.codec.hwaccel import HWAccel

from vrestore.errors import InputError
from vrestore.report import of
from vrestore.video.extent import stated_bytes
from vrestore.video.frame import Frame, VideoInfo
from vrestore.video.pixels import Layout, layout_from_device, layout_of, unpack
from vrestore.video.probe import STORAGE_TIMES_ONLY, open_film

log = logging.getLogger("vrestore")

# A film that ends this much before its own header says has broken off. (Less is no sign: headers
# round, and say how long the longest stream is. A file shorter than it says of itself is one.)
_BREAK_SECONDS = Fraction(1)
_BREAK_SECONDS_IF_DAMAGED = Fraction(1, 10)
# These store no duration that would cover a pause. Where all other frames follow each other evenly,
# a gap of so many frames, and so long, is a hole: what was stored there could not be read.
_PAUSES_UNSAID = {"matroska,webm", "mpegts", "mpeg", "flv", "asf", "nut"}
_HOLE_FRAMES, _HOLE_SECONDS = 5, Fraction(1, 5)
_EVEN_STEPS = 10  # at least, before a gap is taken for one
_UNEVEN = 50  # one in so many steps may be uneven by less
# DivX puts such packets where a packet before held two pictures.
_PLACEHOLDER_BYTES = 8
# Their packets may be references that are never shown.
_INVISIBLE_CODECS = ("vp8", "vp9", "av1")
# They store when a picture is shown. After a seek in others (AVI, elementary streams), times would
# be guesses: a part of those is read from the beginning.
_SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "nut", "flv", "mxf", "gif"}
# Pictures wait at most this long to be shown: H.264 and HEVC reorder 16, threads hold some more.
_REORDER = 128


@dataclass(frozen=True, slots=True)
class Damage:
    """What could not be decoded. ``lost_frames`` and ``at_pts`` (ticks of the stream's time base,
    the first loss) are None where they cannot be known."""

    lost_frames: int | None
    at_pts: int | None
    message: str


class Decoder:
    """The frames of ``info``'s film in ``[start, end)``, seconds from the first frame's time.

    Iterating yields one ``Frame`` per stored picture and can be repeated; each pass opens the file
    anew, closes it at its end or when the iterator is closed, and holds no frames. ``damage`` tells
    during and after a pass what could not be decoded; frames beyond a damaged place still come.
    Raises InputError while iterating where no frame at all can be decoded or lies in the range,
    and where size or format change in mid-stream (at that frame: those before it are yielded).
    ``device`` (``hwaccel.device_for``) decodes them, None = software, which goes on where it fails.
    """

    def __init__(
        self,
        info: VideoInfo,
        *,
        start: Fraction | None = None,
        end: Fraction | None = None,
        device: HWAccel | None = None,
    ) -> None:
        self._info = info
        self._device = device
        layout = layout_of(info.native_format)
        if layout is None:
            raise InputError(
                f"{info.path}: cannot unpack {info.native_format}; probe the film anew"
            )
        self._layout = layout
        first = info.start_pts or 0
        self._first_pts = None if not start else first + start / info.time_base
        self._end_pts = None if end is None else first + end / info.time_base
        self._reset()

    def _reset(self) -> None:
        self._by_device = self._device is not None
        self._moved = 0
        self._first_moved: int | None = None
        self._patched = 0  # pictures that the decoder itself marks as damaged
        self._frames = 0
        self._came = 0  # pictures, those before the start as well
        self._last_pts: int | None = None
        self._last_duration = 0
        self._even = self._uneven = 0  # steps from one frame to the next
        self._holes = self._missed = 0  # gaps between them, and the frames that fit in there
        self._first_hole: tuple[int, int] | None = None  # pts before and after
        self._reset_run()

    def _reset_run(self) -> None:
        """What one run through the file finds."""
        self._errors: list[str] = []
        self._lost_count = 0  # packets whose picture never came
        self._first_lost: int | None = None
        self._broke_off: str | None = None
        self._missing_at_end: int | None = None
        self._corrupt = 0  # packets that the container itself marks as damaged
        self._packets = 0
        self._unshown: list[int] = []  # heap: pts of packets whose picture is still to come

    @property
    def damage(self) -> Damage | None:
        """What could not be decoded so far; None where all is well."""
        parts: list[str] = []
        lost: int | None = None
        at_pts: int | None = None
        if self._errors:
            lost = self._lost_count or len(self._errors)
            at_pts = self._first_lost
            where = f", the first at {self._clock(at_pts)}" if at_pts is not None else ""
            parts.append(f"{of(lost, 'frame')} not decodable{where} ({self._errors[0]})")
        if self._corrupt:
            lost = lost or 0
            parts.append(f"{of(self._corrupt, 'packet')} damaged or incomplete")
        if self._patched:
            lost = lost or 0
            parts.append(f"{of(self._patched, 'damaged frame')} patched by the decoder")
        if self._first_hole is not None and self._is_even:
            before, after = self._first_hole
            lost = self._missed + (lost or 0)
            at_pts = at_pts if at_pts is not None else before
            more = f", {of(self._holes, 'hole')} in all" if self._holes > 1 else ""
            parts.append(
                f"about {of(self._missed, 'frame')} missing: nothing can be read between "
                f"{self._clock(before)} and {self._clock(after)}{more}"
            )
        if self._broke_off is not None:
            missing = self._missing_at_end
            lost = None if missing is None else missing + (lost or 0)
            at_pts = at_pts if at_pts is not None else self._last_pts
            parts.append(self._broke_off)
        if self._moved:
            at_pts = at_pts if at_pts is not None else self._first_moved
            lost = lost if parts else 0
            parts.append(
                f"{self._moved} time stamps did not rise, the first at "
                f"{self._clock(self._first_moved)}, and were moved to just after the one before"
            )
        if not parts:
            return None
        stream = f"{self._info.path}: video stream {self._info.stream_index}: "
        return Damage(lost, at_pts, stream + "; ".join(parts))

    def __iter__(self) -> Generator[Frame]:
        self._reset()
        pictures = self._pictures()
        try:
            for picture in pictures:
                self._came += 1
                layout = self._checked_layout(picture)
                pts = self._rising_pts(picture)
                if self._end_pts is not None and pts >= self._end_pts:
                    break
                duration = max(int(picture.duration or 0), 0)
                self._look_for_a_hole(pts)
                self._last_pts, self._last_duration = pts, duration
                if self._first_pts is None or pts >= self._first_pts:
                    self._frames += 1
                    self._patched += picture.is_corrupt
                    yield Frame(unpack(picture, layout), pts, duration)
            else:
                self._look_for_missing_end()
        finally:
            pictures.close()
        if self._frames:
            return
        if self._came:
            raise InputError(
                f"{self._info.path}: no frame lies between the start and the end asked for; "
                f"the last before them is at {self._clock(self._last_pts)}"
            )
        why = self._errors[0] if self._errors else "the stream is empty"
        raise InputError(
            f"{self._info.path}: no frame of video stream {self._info.stream_index} can be decoded "
            f"({why}); the file is damaged"
        )

    def _pictures(self) -> Generator[av.VideoFrame]:
        """Decoded pictures from the key frame before the start, past every error.

        When threads are drained at the end of the file, an error takes the pictures behind it
        along. Those are then decoded once more, in one thread. Where a device fails, software
        begins anew, and gives what comes behind the pictures that the device gave.
        """
        if self._by_device:
            failed = yield from self._device_pass()
            if not failed:
                return
            self._by_device = False
            self._reset_run()
        run = self._pass(self._first_pts, threads="AUTO", after=None)
        for _ in range(self._came):  # counted: time stamps may come twice, or not at all
            next(run, None)
        lost_in_drain = yield from run
        if lost_in_drain:
            last = self._last_pts
            again = Fraction(last) if last is not None else self._first_pts
            yield from self._pass(again, threads="NONE", after=last)

    def _device_pass(self) -> Generator[av.VideoFrame, None, bool]:
        """One run by the device; returns whether it has failed: software says what the fault is."""
        try:
            yield from self._pass(self._first_pts, threads="NONE", after=None)
            return False
        except (av.FFmpegError, ValueError, InputError) as error:
            path, at = self._info.path, self._clock(self._last_pts)
            log.warning("%s: software goes on after %s (%s)", path, at, _reason(error))
            return True

    def _pass(
        self, from_pts: Fraction | None, threads: str, after: int | None
    ) -> Generator[av.VideoFrame, None, bool]:
        """One run through the file; returns whether draining the decoder met an error."""
        with open_film(self._info.path, self._device if self._by_device else None) as container:
            stream = container.streams[self._info.stream_index]
            assert isinstance(stream, av.VideoStream)
            stream.thread_type = threads
            for packet in self._seek_and_demux(container, stream, from_pts):
                if packet.pts is not None and (after is None or packet.pts > after):
                    heapq.heappush(self._unshown, packet.pts)
                    if len(self._unshown) > _REORDER:
                        self._note_lost(heapq.heappop(self._unshown))
                self._packets += after is None and packet.size > _PLACEHOLDER_BYTES
                self._corrupt += after is None and packet.is_corrupt
                try:
                    pictures = self._decoded(stream, packet)
                except (av.FFmpegError, ValueError) as error:
                    if self._by_device:
                        raise
                    self._errors.append(_reason(error))
                    if self._info.container in STORAGE_TIMES_ONLY and packet.pts in self._unshown:
                        self._unshown.remove(packet.pts)  # the next picture must not take its time
                        heapq.heapify(self._unshown)
                        self._note_lost(packet.pts)
                    continue
                yield from self._shown(pictures, after)
            failures = len(self._errors)
            try:
                yield from self._shown(self._decoded(stream, None), after)
            except av.FFmpegError as error:
                if self._by_device:
                    raise
                self._errors.append(_reason(error))
            waiting = len(self._unshown)
            if threads == "AUTO" and waiting and (failures or len(self._errors) > failures):
                self._errors = self._errors[:failures] or self._errors[:1]
                self._unshown.clear()
                return True
            while self._errors and self._unshown:
                self._note_lost(heapq.heappop(self._unshown))
            return False

    def _decoded(
        self, stream: av.VideoStream, packet: av.Packet[av.VideoStream] | None
    ) -> list[av.VideoFrame]:
        """What comes of a packet (None: of the film's end); ValueError for what a device is not to
        judge: damage, of which it tells nothing, and a film that changes."""
        if self._by_device and packet is not None and packet.is_corrupt:
            raise ValueError("a damaged packet")
        pictures = stream.decode(packet)
        if self._by_device and not all(map(self._layout_of, pictures)):
            raise ValueError("pictures of another form")
        return pictures

    def _shown(self, pictures: list[av.VideoFrame], after: int | None) -> Iterator[av.VideoFrame]:
        for picture in pictures:
            if after is not None and picture.pts is not None and picture.pts <= after:
                continue
            if self._info.container in STORAGE_TIMES_ONLY and self._unshown:
                picture.pts = self._unshown[0]
            while picture.pts is not None and self._unshown and self._unshown[0] <= picture.pts:
                waiting = heapq.heappop(self._unshown)
                if waiting < picture.pts:
                    self._note_lost(waiting)
            yield picture

    def _note_lost(self, pts: int) -> None:
        """A packet gave no picture. That alone is no damage: fields share one, some show none."""
        if self._first_pts is None or pts >= self._first_pts:
            self._lost_count += 1
            if self._first_lost is None:
                self._first_lost = pts

    def _seek_and_demux(
        self,
        container: av.container.InputContainer,
        stream: av.VideoStream,
        from_pts: Fraction | None,
    ) -> Iterator[av.Packet[av.VideoStream]]:
        """Packets from a key frame at or before ``from_pts``, or all of them."""
        if from_pts is None or self._info.container not in _SEEKABLE:
            yield from self._demux(container, stream)
            return
        back_ticks = 0
        for _ in range(8):
            target = int(from_pts) - back_ticks
            try:
                container.seek(target, stream=stream, backward=True)
            except av.FFmpegError:
                break
            packets = self._demux(container, stream)
            for packet in packets:
                if packet.is_keyframe and packet.pts is not None:
                    if packet.pts <= from_pts:
                        yield packet
                        yield from packets
                        return
                    break
            back_ticks = max(back_ticks * 2, int(2 / self._info.time_base))
        # No index that can be trusted: from the beginning.
        with open_film(self._info.path) as anew:
            same = anew.streams[self._info.stream_index]
            assert isinstance(same, av.VideoStream)
            yield from self._demux(anew, same)

    def _demux(
        self, container: av.container.InputContainer, stream: av.VideoStream
    ) -> Iterator[av.Packet[av.VideoStream]]:
        """Packets with data, up to the end or to where the file cannot be read on."""
        try:
            for packet in container.demux(stream):
                if packet.size:
                    if self._info.container in STORAGE_TIMES_ONLY:
                        packet.pts = packet.dts
                    yield packet
        except (av.FFmpegError, OSError) as error:
            self._broke_off = f"the file cannot be read beyond {self._clock(self._last_pts)} "
            self._broke_off += f"({_reason(error)})"

    def _rising_pts(self, picture: av.VideoFrame) -> int:
        """The time of a picture, of its packet, or one frame after the last; always after it."""
        last = self._last_pts
        pts = picture.pts
        if pts is None and picture.dts is not None and (last is None or picture.dts > last):
            pts = picture.dts
        if pts is None:
            pts = self._info.start_pts or 0 if last is None else last + self._usual_duration()
        if last is not None and pts <= last:
            self._moved += 1
            if self._first_moved is None:
                self._first_moved = pts
            pts = last + 1
        return pts

    def _usual_duration(self) -> int:
        """Ticks from one frame to the next, at least 1."""
        if self._last_duration > 0:
            return self._last_duration
        rate = self._info.average_rate
        return max(round(1 / (rate * self._info.time_base)), 1) if rate else 1

    def _layout_of(self, picture: av.VideoFrame) -> Layout | None:
        """How the picture is unpacked; None where it is not of the film's size and format."""
        info = self._info
        if self._by_device and picture.format.name != info.native_format:
            return layout_from_device(picture, info)
        found = picture.width, picture.height, picture.format.name
        return self._layout if found == (info.width, info.height, info.native_format) else None

    def _checked_layout(self, picture: av.VideoFrame) -> Layout:
        """The same, or an InputError."""
        layout = self._layout_of(picture)
        if layout is not None:
            return layout
        info, size = self._info, (picture.width, picture.height)
        raise InputError(
            f"{info.path}: video stream {info.stream_index} changes at frame {self._frames} "
            f"({self._clock(picture.pts)}) from {info.width}x{info.height} {info.native_format} to "
            f"{size[0]}x{size[1]} {picture.format.name}. Cut the film there first (ffmpeg -i IN "
            "-to TIME -c copy OUT, and -ss TIME for the rest) and restore the parts apart"
        )

    @property
    def _is_even(self) -> bool:
        """Whether frames follow each other at a constant rate, but for few holes."""
        rare = _UNEVEN * (self._uneven + max(self._holes - 1, 0)) <= self._even
        return rare and self._even >= _EVEN_STEPS

    def _look_for_a_hole(self, pts: int) -> None:
        """Whether frames are missing between the last one and this one, at ``pts``."""
        last, usual = self._last_pts, self._usual_duration()
        if last is None or not self._frames or self._info.container not in _PAUSES_UNSAID:
            return
        late = pts - last - usual
        if late > _HOLE_FRAMES * usual and late * self._info.time_base > _HOLE_SECONDS:
            self._holes += 1
            self._missed += round(late / usual)
            self._first_hole = self._first_hole or (last, pts)
        elif abs(late) <= usual // 4 + 1:
            self._even += 1
        else:
            self._uneven += 1

    def _look_for_missing_end(self) -> None:
        """Whether the file holds less than its header says."""
        info = self._info
        claimed_end = self._claimed_end()
        if self._broke_off is None and claimed_end is not None and self._last_pts is not None:
            end = self._last_pts + self._last_duration
            known = self._lost_count * self._usual_duration()
            least = _BREAK_SECONDS
            if self._errors or self._corrupt or self._patched or (self._holes and self._is_even):
                least = _BREAK_SECONDS_IF_DAMAGED + known * info.time_base
            if (claimed_end - end) * info.time_base > least:
                self._broke_off = f"the film breaks off at {self._clock(end)}"
        stated = stated_bytes(info.path) if info.path.is_file() else None
        held = info.path.stat().st_size
        if stated is not None and held < stated:
            end = (self._last_pts or 0) + self._last_duration
            self._broke_off = self._broke_off or f"the film breaks off at {self._clock(end)}"
            self._broke_off += f", its file after {held} of {stated} bytes"
        if self._first_pts is not None or info.frame_count is None:
            return
        missing = info.frame_count - self._frames - self._lost_count
        if self._broke_off is not None and missing > 0:
            self._missing_at_end = missing
            self._broke_off += f" (frame {self._frames} of {info.frame_count})"
        complete = self._packets == info.frame_count and info.codec not in _INVISIBLE_CODECS
        if complete and not self._errors and missing > 0:
            # A container that counts its frames stores one packet a picture.
            self._lost_count = missing
            self._errors.append("packets without a picture")

    def _claimed_end(self) -> int | None:
        """Ticks at which the container says that this stream ends; None where it is silent."""
        with open_film(self._info.path) as container:
            stream = container.streams[self._info.stream_index]
            if stream.duration is not None and container.format.name != "mpegts":
                return int((stream.start_time or 0) + stream.duration)
            tag = stream.metadata.get("DURATION", "")
        try:  # Matroska: HH:MM:SS.nnnnnnnnn
            hours, minutes, seconds = tag.split(":")
            total = int(hours) * 3600 + int(minutes) * 60 + Fraction(seconds)
        except ValueError:
            return None
        return int(total / self._info.time_base)

    def _clock(self, pts: int | None) -> str:
        """HH:MM:SS.mmm from the first frame's time."""
        if pts is None:
            return "its start"
        ticks = pts - (self._info.start_pts or 0)
        thousandths = max(round(ticks * self._info.time_base * 1000), 0)
        minutes, rest = divmod(thousandths, 60_000)
        return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
