"""What of a film cannot be decoded: counted as it is met, told in one sentence."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from vrestore.report import of
from vrestore.video.extent import stated_bytes
from vrestore.video.frame import VideoInfo
from vrestore.video.probe import open_film

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
# Their packets may be references that are never shown.
_INVISIBLE_CODECS = ("vp8", "vp9", "av1")


@dataclass(frozen=True, slots=True)
class Damage:
    """What could not be decoded. ``lost_frames`` and ``at_pts`` (ticks of the stream's time base,
    the first loss) are None where they cannot be known."""

    lost_frames: int | None
    at_pts: int | None
    message: str


class Findings:
    """What is found while ``info``'s film is decoded, from ``first_pts`` (None: its beginning).

    A decoder tells every frame, error and loss; ``damage`` sums up, at any time. Times are ticks of
    the stream's time base.
    """

    def __init__(self, info: VideoInfo, first_pts: Fraction | None) -> None:
        self._info = info
        self._first_pts = first_pts
        self.frames = 0  # that were asked for
        self.last_pts: int | None = None
        self._last_duration = 0
        self.patched = 0  # pictures that the decoder itself marks as damaged
        self._moved = 0
        self._first_moved: int | None = None
        self._even = self._uneven = 0  # steps from one frame to the next
        self._holes = self._missed = 0  # gaps between them, and the frames that fit in there
        self._first_hole: tuple[int, int] | None = None  # pts before and after
        self.begin_run()

    def begin_run(self) -> None:
        """Forget what one run through the file found: another begins."""
        self.errors: list[str] = []
        self.packets = 0
        self.corrupt = 0  # packets that the container itself marks as damaged
        self._lost_count = 0  # packets whose picture never came
        self._first_lost: int | None = None
        self._broke_off: str | None = None
        self._missing_at_end: int | None = None

    def frame(self, pts: int, duration: int) -> bool:
        """The next frame in order; whether it is one that was asked for."""
        self._look_for_a_hole(pts)
        self.last_pts, self._last_duration = pts, duration
        asked = self._first_pts is None or pts >= self._first_pts
        self.frames += asked
        return asked

    def lost(self, pts: int) -> None:
        """A packet gave no picture. That alone is no damage: fields share one, some show none."""
        if self._first_pts is None or pts >= self._first_pts:
            self._lost_count += 1
            if self._first_lost is None:
                self._first_lost = pts

    def moved(self, pts: int) -> None:
        """A time stamp that did not rise."""
        self._moved += 1
        if self._first_moved is None:
            self._first_moved = pts

    def unreadable(self, reason: str) -> None:
        """The file cannot be read on."""
        self._broke_off = f"the file cannot be read beyond {self.clock(self.last_pts)} ({reason})"

    def ended(self) -> None:
        """All was read: whether the file holds less than its header says."""
        info = self._info
        claimed_end = self._claimed_end()
        if self._broke_off is None and claimed_end is not None and self.last_pts is not None:
            end = self.last_pts + self._last_duration
            known = self._lost_count * self.usual_duration()
            least = _BREAK_SECONDS
            if self.errors or self.corrupt or self.patched or (self._holes and self._is_even):
                least = _BREAK_SECONDS_IF_DAMAGED + known * info.time_base
            if (claimed_end - end) * info.time_base > least:
                self._broke_off = f"the film breaks off at {self.clock(end)}"
        stated = stated_bytes(info.path) if info.path.is_file() else None
        held = info.path.stat().st_size
        if stated is not None and held < stated:
            end = (self.last_pts or 0) + self._last_duration
            self._broke_off = self._broke_off or f"the film breaks off at {self.clock(end)}"
            self._broke_off += f", its file after {held} of {stated} bytes"
        if self._first_pts is not None or info.frame_count is None:
            return
        missing = info.frame_count - self.frames - self._lost_count
        if self._broke_off is not None and missing > 0:
            self._missing_at_end = missing
            self._broke_off += f" (frame {self.frames} of {info.frame_count})"
        complete = self.packets == info.frame_count and info.codec not in _INVISIBLE_CODECS
        if complete and not self.errors and missing > 0:
            # A container that counts its frames stores one packet a picture.
            self._lost_count = missing
            self.errors.append("packets without a picture")

    @property
    def damage(self) -> Damage | None:
        """What could not be decoded so far; None where all is well."""
        parts: list[str] = []
        lost: int | None = None
        at_pts: int | None = None
        if self.errors:
            lost = self._lost_count or len(self.errors)
            at_pts = self._first_lost
            where = f", the first at {self.clock(at_pts)}" if at_pts is not None else ""
            parts.append(f"{of(lost, 'frame')} not decodable{where} ({self.errors[0]})")
        if self.corrupt:
            lost = lost or 0
            parts.append(f"{of(self.corrupt, 'packet')} damaged or incomplete")
        if self.patched:
            lost = lost or 0
            parts.append(f"{of(self.patched, 'damaged frame')} patched by the decoder")
        if self._first_hole is not None and self._is_even:
            before, after = self._first_hole
            lost = self._missed + (lost or 0)
            at_pts = at_pts if at_pts is not None else before
            more = f", {of(self._holes, 'hole')} in all" if self._holes > 1 else ""
            parts.append(
                f"about {of(self._missed, 'frame')} missing: nothing can be read between "
                f"{self.clock(before)} and {self.clock(after)}{more}"
            )
        if self._broke_off is not None:
            missing = self._missing_at_end
            lost = None if missing is None else missing + (lost or 0)
            at_pts = at_pts if at_pts is not None else self.last_pts
            parts.append(self._broke_off)
        if self._moved:
            at_pts = at_pts if at_pts is not None else self._first_moved
            lost = lost if parts else 0
            parts.append(
                f"{self._moved} time stamps did not rise, the first at "
                f"{self.clock(self._first_moved)}, and were moved to just after the one before"
            )
        if not parts:
            return None
        stream = f"{self._info.path}: video stream {self._info.stream_index}: "
        return Damage(lost, at_pts, stream + "; ".join(parts))

    def usual_duration(self) -> int:
        """From one frame to the next, at least 1."""
        if self._last_duration > 0:
            return self._last_duration
        rate = self._info.average_rate
        return max(round(1 / (rate * self._info.time_base)), 1) if rate else 1

    def clock(self, pts: int | None) -> str:
        """HH:MM:SS.mmm from the first frame's time."""
        if pts is None:
            return "its start"
        ticks = pts - (self._info.start_pts or 0)
        thousandths = max(round(ticks * self._info.time_base * 1000), 0)
        minutes, rest = divmod(thousandths, 60_000)
        return f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1000:02}.{rest % 1000:03}"

    @property
    def _is_even(self) -> bool:
        """Whether frames follow each other at a constant rate, but for few holes."""
        rare = _UNEVEN * (self._uneven + max(self._holes - 1, 0)) <= self._even
        return rare and self._even >= _EVEN_STEPS

    def _look_for_a_hole(self, pts: int) -> None:
        """Whether frames are missing between the last one and this one, at ``pts``."""
        last, usual = self.last_pts, self.usual_duration()
        if last is None or not self.frames or self._info.container not in _PAUSES_UNSAID:
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

    def _claimed_end(self) -> int | None:
        """Where the container says that this stream ends; None where it is silent."""
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
