"""A film as frames: in the order in which they are shown, as stored, each with its own time."""

from __future__ import annotations

import heapq
import logging
from collections.abc import Generator, Iterator
from fractions import Fraction

import av
from av.codec.hwaccel import HWAccel

from vrestore.errors import InputError
from vrestore.video.damage import Damage, Findings
from vrestore.video.frame import Frame, VideoInfo
from vrestore.video.pixels import Layout, layout_from_device, layout_of, unpack
from vrestore.video.probe import STORAGE_TIMES_ONLY, open_film

log = logging.getLogger("vrestore")

# DivX puts such packets where a packet before held two pictures.
_PLACEHOLDER_BYTES = 8
# They store when a picture is shown. After a seek in others (AVI, elementary streams), times would
# be guesses: a part of those is read from the beginning.
_SEEKABLE = {"mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm", "mpegts", "nut", "flv", "mxf", "gif"}
# Pictures wait at most this long to be shown: H.264 and HEVC reorder 16, threads hold some more.
_REORDER = 128


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
        self._came = 0  # pictures, those before the start as well
        self._found = Findings(self._info, self._first_pts)
        self._unshown: list[int] = []  # heap: pts of packets whose picture is still to come

    @property
    def damage(self) -> Damage | None:
        """What could not be decoded so far; None where all is well."""
        return self._found.damage

    def __iter__(self) -> Generator[Frame]:
        self._reset()
        found = self._found
        pictures = self._pictures()
        try:
            for picture in pictures:
                self._came += 1
                layout = self._checked_layout(picture)
                pts = self._rising_pts(picture)
                if self._end_pts is not None and pts >= self._end_pts:
                    break
                duration = max(int(picture.duration or 0), 0)
                if found.frame(pts, duration):
                    found.patched += picture.is_corrupt
                    yield Frame(unpack(picture, layout), pts, duration)
            else:
                found.ended()
        finally:
            pictures.close()
        if found.frames:
            return
        if self._came:
            raise InputError(
                f"{self._info.path}: no frame lies between the start and the end asked for; "
                f"the last before them is at {found.clock(found.last_pts)}"
            )
        why = found.errors[0] if found.errors else "the stream is empty"
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
            self._found.begin_run()
            self._unshown.clear()
        run = self._pass(self._first_pts, threads="AUTO", after=None)
        for _ in range(self._came):  # counted: time stamps may come twice, or not at all
            next(run, None)
        lost_in_drain = yield from run
        if lost_in_drain:
            last = self._found.last_pts
            again = Fraction(last) if last is not None else self._first_pts
            yield from self._pass(again, threads="NONE", after=last)

    def _device_pass(self) -> Generator[av.VideoFrame, None, bool]:
        """One run by the device; returns whether it has failed: software says what the fault is."""
        try:
            yield from self._pass(self._first_pts, threads="NONE", after=None)
            return False
        except (av.FFmpegError, ValueError, InputError) as error:
            path, at = self._info.path, self._found.clock(self._found.last_pts)
            log.warning("%s: software goes on after %s (%s)", path, at, _reason(error))
            return True

    def _pass(
        self, from_pts: Fraction | None, threads: str, after: int | None
    ) -> Generator[av.VideoFrame, None, bool]:
        """One run through the file; returns whether draining the decoder met an error."""
        found = self._found
        with open_film(self._info.path, self._device if self._by_device else None) as container:
            stream = container.streams[self._info.stream_index]
            assert isinstance(stream, av.VideoStream)
            stream.thread_type = threads
            for packet in self._seek_and_demux(container, stream, from_pts):
                if packet.pts is not None and (after is None or packet.pts > after):
                    heapq.heappush(self._unshown, packet.pts)
                    if len(self._unshown) > _REORDER:
                        found.lost(heapq.heappop(self._unshown))
                found.packets += after is None and packet.size > _PLACEHOLDER_BYTES
                found.corrupt += after is None and packet.is_corrupt
                try:
                    pictures = self._decoded(stream, packet)
                except (av.FFmpegError, ValueError) as error:
                    if self._by_device:
                        raise
                    found.errors.append(_reason(error))
                    if self._info.container in STORAGE_TIMES_ONLY and packet.pts in self._unshown:
                        self._unshown.remove(packet.pts)  # the next picture must not take its time
                        heapq.heapify(self._unshown)
                        found.lost(packet.pts)
                    continue
                yield from self._shown(pictures, after)
            failures = len(found.errors)
            try:
                yield from self._shown(self._decoded(stream, None), after)
            except av.FFmpegError as error:
                if self._by_device:
                    raise
                found.errors.append(_reason(error))
            waiting = len(self._unshown)
            if threads == "AUTO" and waiting and (failures or len(found.errors) > failures):
                found.errors = found.errors[:failures] or found.errors[:1]
                self._unshown.clear()
                return True
            while found.errors and self._unshown:
                found.lost(heapq.heappop(self._unshown))
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
                    self._found.lost(waiting)
            yield picture

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
            self._found.unreadable(_reason(error))

    def _rising_pts(self, picture: av.VideoFrame) -> int:
        """The time of a picture, of its packet, or one frame after the last; always after it."""
        last = self._found.last_pts
        pts = picture.pts
        if pts is None and picture.dts is not None and (last is None or picture.dts > last):
            pts = picture.dts
        if pts is None:
            pts = self._info.start_pts or 0 if last is None else last + self._found.usual_duration()
        if last is not None and pts <= last:
            self._found.moved(pts)
            pts = last + 1
        return pts

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
        info, found, size = self._info, self._found, (picture.width, picture.height)
        raise InputError(
            f"{info.path}: video stream {info.stream_index} changes at frame {found.frames} "
            f"({found.clock(picture.pts)}) from {info.width}x{info.height} {info.native_format} to "
            f"{size[0]}x{size[1]} {picture.format.name}. Cut the film there first (ffmpeg -i IN "
            "-to TIME -c copy OUT, and -ss TIME for the rest) and restore the parts apart"
        )


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)
