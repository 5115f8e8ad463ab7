"""What a film will take, before it is begun: memory, time, room on the disk.

Memory is added up from the sizes of the network's tensors. Time and the output's size come from two
samples of the film's middle, restored for good: their difference is what a frame costs, whatever it
costs to begin.
"""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from vrestore.ends import frames_expected, look, target_for
from vrestore.engine.memory import Lengths, need, resident, work_of_chunks
from vrestore.engine.restorer import Restorer
from vrestore.options import RestoreOptions
from vrestore.report import Report, of
from vrestore.restore import load_restorer, restore
from vrestore.video.frame import VideoInfo
from vrestore.video.pictures import list_pictures

SAMPLES = 2, 14  # frames
KEY_FRAME_EVERY = 250  # frames, as x264 and most encoders have it


@dataclass(frozen=True)
class Plan:
    """What is expected; ``frames`` None where the film does not say, and then no totals either.

    ``memory_bytes``: of this program, its libraries included, not of the encoder beside it.
    ``spool_bytes``: of frames that are read again, beside the output while it is made.
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
    memory_bytes: int
    seconds_per_frame: float
    seconds: float | None
    output_bytes: int | None
    spool_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        return {k: str(v) if isinstance(v, Path) else v for k, v in plain.items()}

    def lines(self) -> list[str]:
        """For a person."""
        (w, h), (wide, high) = self.input_size, self.output_size
        frames = "unknown length" if self.frames is None else of(self.frames, "frame")
        chunks = "whole shots" if self.chunk is None else f"chunks of {self.chunk}"
        tiles = f", tiles of {self.tile}" if self.tile else ""
        text = [
            f"{self.source} -> {self.target}: {frames}, {w}x{h} -> {wide}x{high}",
            f"  {self.device} in {self.precision}, {chunks}, {self.lookahead} ahead{tiles}",
            f"  memory: about {self.memory_bytes / 2**20:.0f} MiB, and the encoder's",
            f"  time: about {self.seconds_per_frame:.3f} s a frame"
            + ("" if self.seconds is None else f", {clock(self.seconds)} in all"),
        ]
        if self.output_bytes is not None:
            spool = (
                f", and {self.spool_bytes / 2**20:.0f} MiB meanwhile" if self.spool_bytes else ""
            )
            text.append(f"  room: about {self.output_bytes / 2**20:.1f} MiB{spool}")
        return text


def plan(source: str | Path, target: str | Path | None, options: RestoreOptions) -> Plan:
    """What ``restore`` would take of the same arguments. Writes to a temporary folder only.

    Raises VrestoreError as ``restore`` does.
    """
    source = Path(source)
    target = target_for(source, Path(target) if target else None)
    info = look(source, options)
    restorer = load_restorer(options)
    frames = frames_expected(info, options)
    lengths = restorer.lengths(info.height, info.width)
    if restorer.propagation == "whole":
        lengths = Lengths(None, 0)
    memory = resident() + need(
        restorer.network, info.height, info.width, lengths, frames or KEY_FRAME_EVERY
    )
    few, many = (sample(info, target, options, restorer, count) for count in SAMPLES)
    between = max(many[0].frames - few[0].frames, 1)
    size, how = (info.height, info.width), restorer.propagation
    works = [
        work_of_chunks(restorer.network, *size, lengths, how, shot)
        for shot in (frames or KEY_FRAME_EVERY, many[0].frames)
    ]
    each = max(many[0].seconds - few[0].seconds, 0.0) / between * works[0] / works[1]
    bytes_each = max(many[1] - few[1], 0) / between
    seconds = output = spool = None
    if frames is not None:
        seconds = few[0].seconds + frames * each
        output = round(few[1] * math.ceil(frames / KEY_FRAME_EVERY) + frames * bytes_each)
        spool = info.width * info.height * 3 * frames if restorer.reads_again else 0
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
        memory_bytes=memory,
        seconds_per_frame=round(each, 4),
        seconds=None if seconds is None else round(seconds, 1),
        output_bytes=output,
        spool_bytes=spool,
    )


def sample(
    info: VideoInfo, target: Path, options: RestoreOptions, restorer: Restorer, count: int
) -> tuple[Report, int]:
    """``count`` frames of the middle restored, and their bytes."""
    with tempfile.TemporaryDirectory() as folder:
        source, into = info.path, Path(folder, f"out{target.suffix}")
        if info.container == "pictures":
            source = Path(folder, "in")
            source.mkdir()
            pictures = list_pictures(info.path)
            first = max(0, len(pictures) // 2 - count // 2)
            for picture in pictures[first : first + count]:
                (source / picture.name).symlink_to(picture.resolve())
            part = replace(options, overwrite=True)
        else:
            begin = middle(info, options)
            length = Fraction(count) / (info.average_rate or 25)
            part = replace(options, overwrite=True, start=begin, end=begin + length)
        report = restore(source, into, options=part, restorer=restorer)
        files = [path for path in Path(folder).rglob("out*") if path.is_file()]
        files += Path(folder, "out").rglob("*.*")
        return report, sum(path.stat().st_size for path in set(files))


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
