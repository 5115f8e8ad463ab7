"""VMAF: Netflix's measure of a film against the true one, by ffmpeg's libvmaf filter."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from vrestore.errors import InputError, OutputError, UsageError
from vrestore.video.decode import Decoder
from vrestore.video.ffmpeg import ffmpeg_binaries
from vrestore.video.frame import VideoInfo
from vrestore.video.probe import probe
from vrestore.video.trial import in_short

# The scale filter's names where they are not those of the stream's tags.
_SCALE_MATRICES = {"bt470bg": "bt470", "bt2020nc": "bt2020"}
# Without these a change of matrix puts luma off by 1.7 codes on average.
_EXACT = "flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_LOG = "vmaf.json"


@dataclass(frozen=True, slots=True)
class Vmaf:
    """Scores in 0..100, higher is better: of each frame in order, and their mean."""

    frames: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The arithmetic mean, libvmaf's own default pooling."""
        return fmean(self.frames)


def vmaf(restored: Path, truth: Path) -> Vmaf:
    """The score of the film ``restored`` against ``truth``, with the model vmaf_v0.6.1.

    Frames are paired by number, whatever their times. Luma alone counts; where the films' matrices
    or ranges differ, they are brought to those of ``truth``, limited range. UsageError where no
    ffmpeg at hand has libvmaf, InputError where the films differ in size or number of frames.
    """
    binary = ffmpeg_with_libvmaf()
    films = [probe(restored.resolve()), probe(truth.resolve())]
    ours, true = films
    if (ours.width, ours.height) != (true.width, true.height):
        raise InputError(
            f"{restored} is {ours.width}x{ours.height}, {truth} {true.width}x{true.height}; "
            "VMAF compares films of one size"
        )
    counts = [sum(1 for _ in Decoder(film)) for film in films]
    if counts[0] != counts[1]:
        raise InputError(
            f"{restored} has {counts[0]} frames, {truth} {counts[1]}; VMAF compares frame by frame"
        )
    with tempfile.TemporaryDirectory(prefix="vrestore-") as folder:
        # libvmaf writes where it runs: a path would have to be escaped twice in the filter's text.
        ran = subprocess.run(
            [binary, *_arguments(ours, true)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )
        if ran.returncode:
            said = in_short(ran.stderr.decode(errors="replace").splitlines())
            raise OutputError(f"{binary} could not compare {restored} with {truth}: {said}")
        scores = scores_in((Path(folder) / _LOG).read_text("utf-8"))
    if len(scores) != counts[0]:
        raise OutputError(
            f"{binary} compared {len(scores)} frames of {restored} and {truth}, which have "
            f"{counts[0]}; one of them may be damaged"
        )
    return Vmaf(scores)


def scores_in(log: str) -> tuple[float, ...]:
    """The scores of all frames, in order, in libvmaf's JSON log; OutputError where it has none."""
    try:
        frames = sorted(json.loads(log)["frames"], key=lambda frame: frame["frameNum"])
        scores = tuple(float(frame["metrics"]["vmaf"]) for frame in frames)
    except (ValueError, KeyError, TypeError) as error:
        raise OutputError(
            f"libvmaf's log is not as expected ({type(error).__name__}: {error}); "
            "try another build of ffmpeg"
        ) from error
    if not scores:
        raise OutputError("libvmaf compared no frames; look whether both films can be decoded")
    return scores


def ffmpeg_with_libvmaf() -> str:
    """The ffmpeg on PATH where it has the filter, else the imageio-ffmpeg wheel's where that has.

    UsageError where neither does.
    """
    found = ffmpeg_binaries()
    for binary in found:
        asked = [binary, "-hide_banner", "-filters"]
        filters = subprocess.run(asked, stdin=subprocess.DEVNULL, capture_output=True).stdout
        if b"libvmaf" in filters.split():
            return binary
    raise UsageError(
        f"VMAF needs an ffmpeg that was built with libvmaf, which {' and '.join(found)} "
        f"{'were' if len(found) > 1 else 'was'} not: put one that was first on PATH"
    )


def _arguments(ours: VideoInfo, true: VideoInfo) -> list[str]:
    """libvmaf's first input is what is judged, the second the truth."""
    matrix = next((f.colour.matrix for f in (true, ours) if f.colour.matrix != "gbr"), "bt709")
    deep = max(film.pixel_format.depth for film in (ours, true)) > 8
    graph = [
        f"[{number}:{film.stream_index}]{alike(film, matrix, deep)}[film{number}]"
        for number, film in enumerate((ours, true))
    ]
    graph.append(
        f"[film0][film1]libvmaf=log_fmt=json:log_path={_LOG}:n_threads={os.cpu_count() or 1}"
    )
    inputs = [word for f in (ours, true) for word in ("-noautorotate", "-i", f"file:{f.path}")]
    words = ["-v", "error", "-nostdin", *inputs, "-filter_complex", ";".join(graph)]
    return [*words, "-f", "null", "-"]


def alike(film: VideoInfo, matrix: str, deep: bool) -> str:
    """ffmpeg's filters that bring films to one format, limited range, and give frame n the time n.

    ``matrix``: of the result, in the stream's terms; ``deep``: with 10 bits, else 8.
    """
    scale = [_EXACT, f"out_color_matrix={_SCALE_MATRICES.get(matrix, matrix)}", "out_range=limited"]
    own = film.colour.matrix
    if own != "gbr":
        scale.append(f"in_color_matrix={_SCALE_MATRICES.get(own, own)}")
        scale.append(f"in_range={'full' if film.colour.full_range else 'limited'}")
    to = "yuv420p10le" if deep else "yuv420p"
    return f"settb=1/25,setpts=N,scale={':'.join(scale)},format={to}"
