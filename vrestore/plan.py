"""What a film will take, before it is begun: memory, time, room on the disk.

Memory is added up from the sizes of the network's tensors. Time and the output's size come from
samples of the film's middle, restored for good: the first says what it costs to begin, the
difference of the two after it what a frame costs.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from vrestore.ends import frames_expected, look, open_writer, target_for
from vrestore.engine.costs import costs
from vrestore.engine.lengths import Lengths
from vrestore.engine.memory import resident
from vrestore.engine.restorer import Restorer
from vrestore.models.temporal import RecurrentNetwork
from vrestore.options import RestoreOptions
from vrestore.report import Report, of, plain
from vrestore.restore import load_restorer, restore
from vrestore.video.frame import VideoInfo
from vrestore.video.pictures import list_pictures

SAMPLES = 2, 2, 14  # frames; what is done once is done in the first
KEY_FRAME_EVERY = 250  # frames, as x264 and most encoders have it


@dataclass(frozen=True)
class Plan:
    """What is expected; ``frames`` None where the film does not say, and then no totals either.

    ``memory_bytes``: of this program with its libraries; ``encoder_bytes``: of ffmpeg beside it.
    ``spool_bytes``: beside the output while it is made, of frames that are read again, states at
    the edges of chunks that are, and where ``states_on_disk`` of all that waits to be rendered.
    """

    source: Path
    target: Path
    frames: int | None
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    device: str
    precision: str
    chunk: int | None
    lookahead: int
    tile: int | None
    states_on_disk: bool
    memory_bytes: int
    encoder_bytes: int
    seconds_per_frame: float
    seconds: float | None
    output_bytes: int | None
    spool_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return plain(self)

    def lines(self) -> list[str]:
        """For a person."""
        (w, h), (wide, high) = self.input_size, self.output_size
        frames = "unknown length" if self.frames is None else of(self.frames, "frame")
        chunks = "whole shots" if self.chunk is None else f"chunks of {self.chunk}"
        ways = [chunks if (self.chunk, self.lookahead) != (1, 0) else "frame by frame"]
        ways += [f"{self.lookahead} ahead"] if self.lookahead else []
        ways += [f"tiles of {self.tile}"] if self.tile else []
        ways += ["what waits on disk"] if self.states_on_disk else []
        text = [
            f"{self.source} -> {self.target}: {frames}, {w}x{h} -> {wide}x{high}",
            f"  {self.device} in {self.precision}, {', '.join(ways)}",
            f"  memory: about {self.memory_bytes / 2**20:.0f} MiB"
            + (
                f", and {self.encoder_bytes / 2**20:.0f} the encoder's"
                if self.encoder_bytes
                else ""
            ),
            f"  time: about {self.seconds_per_frame:.3f} s a frame"
            + ("" if self.seconds is None else f", {clock(self.seconds)} in all"),
        ]
        if self.output_bytes is not None:
            spool = (
                f", and {self.spool_bytes / 2**20:.0f} MiB meanwhile" if self.spool_bytes else ""
            )
            text.append(f"  room: about {self.output_bytes / 2**20:.1f} MiB{spool}")
        return text


def plan(
    source: str | Path,
    target: str | Path | None,
    options: RestoreOptions,
    *,
    into_folder: bool = False,
) -> Plan:
    """What ``restore`` would take of the same arguments. Leaves nothing behind.

    ``into_folder``: ``target`` is one, though it may not be there yet. Raises VrestoreError as
    ``restore`` does.
    """
    source = Path(source)
    target = target_for(source, Path(target) if target else None, folder=into_folder)
    info = look(source, options)
    restorer = load_restorer(options)
    frames = frames_expected(info, options)
    scale = options.scale or restorer.scale
    size = round(info.width * scale), round(info.height * scale)
    new_folder = into_folder and not target.parent.is_dir()
    restorer.choice.beside = encoder_bytes(info, target, size, options, new_folder)
    restorer.choice.scratch = next(folder for folder in target.parents if folder.is_dir())
    lengths = restorer.choice.lengths(info.height, info.width)
    if not isinstance(restorer.network, RecurrentNetwork):
        lengths = Lengths(1, 0, lengths.tile)
    elif restorer.propagation == "whole":
        lengths = Lengths(None, 0)
    shot = frames or KEY_FRAME_EVERY
    held = lengths  # a short film fills no chunk
    if lengths.chunk is not None:
        chunk = min(lengths.chunk, shot)
        held = replace(lengths, chunk=chunk, lookahead=min(lengths.lookahead, shot - chunk))
    again = restorer.reads_again
    memory = resident() + restorer.choice.need(info.height, info.width, held, shot)
    waiting = restorer.choice.on_disk(info.height, info.width, shot)
    beside = restorer.choice.beside  # samples have folders and encoders of their own
    first, few, many = (sample(info, target, options, restorer, count) for count in SAMPLES)
    between = many[0].frames - few[0].frames
    cost = costs(restorer.network, info.height, info.width)
    works = [
        cost.work(lengths.chunk, lengths.lookahead, shot, restorer.propagation == "exact")
        for shot in (shot, many[0].frames)
    ]
    repeats = works[0] / works[1] if works[1] else 1.0
    each, bytes_each = many[0].seconds / many[0].frames, many[1] / many[0].frames
    if between > 0 and many[0].seconds > few[0].seconds:  # on a busy machine it may not be
        each = (many[0].seconds - few[0].seconds) / between * repeats
    if between > 0:
        bytes_each = max(many[1] - few[1], 0) / between
    seconds = output = spool = None
    if frames is not None:
        rest = max(frames - few[0].frames, 0)
        seconds = first[0].seconds + rest * each
        output = round(few[1] * math.ceil(frames / KEY_FRAME_EVERY) + rest * bytes_each)
        spool = frames * (spooled_bytes(restorer, info) if again else 0)
        spool += waiting
    return Plan(
        source=source,
        target=target,
        frames=frames,
        input_size=few[0].input_size,
        output_size=few[0].output_size,
        device=str(restorer.device),
        precision=restorer.precision,
        chunk=lengths.chunk,
        lookahead=lengths.lookahead,
        tile=lengths.tile,
        states_on_disk=lengths.on_disk,
        memory_bytes=memory,
        encoder_bytes=beside,
        seconds_per_frame=round(each, 4),
        seconds=None if seconds is None else round(seconds, 1),
        output_bytes=output,
        spool_bytes=spool,
    )


def encoder_bytes(
    info: VideoInfo, target: Path, size: tuple[int, int], options: RestoreOptions, new_folder: bool
) -> int:
    """What ffmpeg will hold, for an output of ``size``. What the writer would refuse, it refuses.

    ``new_folder``: the target's is yet to be made.
    """
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder, target.name) if new_folder else target
        writer = open_writer(info, there, *size, replace(options, overwrite=True))
        writer.abort()
        return writer.child_bytes


def spooled_bytes(restorer: Restorer, info: VideoInfo) -> int:
    """Of a frame that is read again: as stored, and as a cleaner leaves it, in float32."""
    stored = info.pixel_format.frame_bytes(info.width, info.height)
    cleaned = isinstance(restorer.network, RecurrentNetwork) and restorer.network.first is not None
    return stored + (3 * 4 * info.width * info.height if cleaned else 0)


def sample(
    info: VideoInfo, target: Path, options: RestoreOptions, restorer: Restorer, count: int
) -> tuple[Report, int]:
    """``count`` frames of the middle restored, and their bytes."""
    part = replace(options, overwrite=True)
    with tempfile.TemporaryDirectory() as folder:
        source, made = info.path, Path(folder, "made")
        into = made / target.name
        (into if target.is_dir() else made).mkdir(parents=True)
        if info.container != "pictures":
            begin = middle(info, options)
            length = Fraction(count) / (info.average_rate or 25)
            part = replace(part, start=begin, end=begin + length)
        elif source.is_dir():
            source = Path(folder, "some")
            source.mkdir()
            pictures = list_pictures(info.path)
            first = max(0, len(pictures) // 2 - count // 2)
            for picture in pictures[first : first + count]:
                (source / picture.name).symlink_to(picture.resolve())
        report = restore(source, into, options=part, restorer=restorer)
        files = [path for path in made.rglob("*") if path.is_file()]
        return report, sum(path.stat().st_size for path in files)


def middle(info: VideoInfo, options: RestoreOptions) -> Fraction:
    """Seconds from the first frame to where the sample begins."""
    rate = info.average_rate
    last = info.duration
    if last is None and info.frame_count is not None and rate is not None:
        last = Fraction(info.frame_count) / rate
    begin = options.start or Fraction(0)
    end = options.end if last is None else min(options.end or last, last)
    if end is None or rate is None:
        return begin
    return max(begin, min((begin + end) / 2, end - max(SAMPLES) / rate))


def clock(seconds: float) -> str:
    """``0:01:05``."""
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}"
