"""Low-resolution inputs: made from the truth, written, or told by what made them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch import Tensor

from vrestore.errors import OutputError, UsageError
from vrestore.evaluate.degradations import bd, bd_duf, bi, cropped
from vrestore.evaluate.footage import Footage, code_values, frames_of
from vrestore.evaluate.metrics import psnr
from vrestore.evaluate.protocols import Degradation
from vrestore.evaluate.sets import Clip
from vrestore.video.partial import partial_name
from vrestore.video.picture_codec import png

MADE: dict[Degradation, Callable[[Tensor, int], Tensor]] = {"bi": bi, "bd": bd}
ALIKE_DB = 45.0  # the same reduction in other software differs by a rounding: above 50 dB
APART_DB = 3.0  # on pictures without edges all reductions are one


def reduced(truth: Footage, how: Degradation, scale: int) -> Iterator[Tensor]:
    """The truth at 1/scale, ``(3, h, w)`` in 0..1, its 8-bit codes as MATLAB's.

    That is, of sums in float64, halves rounded up: in float32 one of a hundred thousand is another.
    What does not divide by ``scale`` is cut right and bottom. UsageError where nothing is reduced.
    """
    if scale == 1:
        raise UsageError("--make-lq makes smaller pictures, but the model does not enlarge")
    for _, rgb in frames_of(truth):
        small = MADE[how](code_values(rgb).double() / 255, scale)
        yield (small * 255 + 0.5).floor().clamp(0, 255) / 255


def write_reduced(clips: Sequence[Clip], folder: Path, how: Degradation, scale: int) -> None:
    """Every clip's input as PNG under the names of its truth; the folder appears when it is whole.

    A film's frames are called 00000000.png and on. Raises OutputError.
    """
    growing = folder.absolute().with_name(partial_name(folder))
    try:
        for clip in clips:
            assert clip.truth is not None
            place = growing / clip.name
            place.mkdir(parents=True)
            for index, rgb in enumerate(reduced(clip.truth, how, scale)):
                found = clip.truth.pictures.get(index)
                name = found.stem if found else f"{index:08d}"
                (place / f"{name}.png").write_bytes(png(code_values(rgb).cpu().numpy()))
        growing.rename(folder)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(growing, ignore_errors=True)


def made_by(lq: Tensor, truth: Tensor, scale: int) -> str | None:
    """``bi``, ``bd`` or ``bd_duf``: what made this frame ``(3, h, w)`` of its truth ``(3, H, W)``.

    None where it is none of them (noise, compression, another kernel), or cannot be told.
    """
    kinds: dict[str, Callable[[Tensor, int], Tensor]] = {"bi": bi}
    if scale % 2 == 0:
        kinds["bd"] = bd
    if scale in (2, 3, 4):
        kinds["bd_duf"] = bd_duf
    truth = cropped(truth, scale)
    if scale == 1 or lq.shape[-2] * scale != truth.shape[-2]:
        return None
    found = sorted(
        (float(psnr(code_values(make(truth, scale)), code_values(lq))), kind)
        for kind, make in kinds.items()
    )
    (best, kind), second = found[-1], found[-2][0] if len(found) > 1 else 0.0
    return kind if best > ALIKE_DB and best - second > APART_DB else None
