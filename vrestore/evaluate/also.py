"""What ``--also`` asks for beside PSNR and SSIM: measures of a picture, of neighbours, of a clip.

Measures of a picture see what PSNR sees: the judged frames, cut by the crop. All others see every
frame of a clip, whole, and have borders and ends of their own.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from vrestore.engine.exact import Again
from vrestore.errors import ModelError, UsageError
from vrestore.evaluate import consistency, niqe
from vrestore.evaluate.footage import size_of
from vrestore.evaluate.metrics import clipped, to_8bit
from vrestore.evaluate.perceptual import Distance, load_dists, load_lpips
from vrestore.evaluate.protocols import Protocol
from vrestore.evaluate.sets import Clip
from vrestore.evaluate.table import TITLES
from vrestore.evaluate.vmaf import ffmpeg_with_libvmaf
from vrestore.evaluate.vmaf_frames import VmafOfFrames
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.catalogue import load_model

WITHOUT_TRUTH = frozenset({"niqe", "warping"})
OF_TRUE_CLIPS = frozenset({"tof", "tlp", "vmaf"})  # need the truth of every frame
LEAST_FRAMES = {
    "tof": 2 * consistency.LEFT_OUT_FRAMES + 2,
    "tlp": 2 * consistency.LEFT_OUT_FRAMES + 2,
    "warping": 2,
}


# What refuses a picture that is too small, of width, height and crop.
LEAST_PICTURE: dict[str, Callable[[int, int, int], object]] = {
    "tof": lambda width, height, crop: consistency.tecogan_window(height, width),
    "tlp": lambda width, height, crop: consistency.tecogan_window(height, width),
    "niqe": niqe.check_size,
}


def chosen(text: str) -> tuple[str, ...]:
    """``niqe,warping``, each once; UsageError for an unknown one names the nearest."""
    names = tuple(dict.fromkeys(word.strip().lower() for word in text.split(",") if word.strip()))
    for name in names:
        if name not in TITLES:
            near = difflib.get_close_matches(name, TITLES, 1, 0.5)
            hint = f"did you mean {near[0]}?" if near else f"choose of {', '.join(TITLES)}"
            raise UsageError(f"--also {name}: there is no such measure; {hint}")
    return names


def check(names: Sequence[str], protocol: Protocol, clips: Sequence[Clip], crop: int = 0) -> None:
    """UsageError for a measure that these clips cannot have, as far as is known before a run.

    InputError for one that cannot be read.
    """
    for name in names:
        if name in OF_TRUE_CLIPS and protocol.judged is not None:
            raise UsageError(
                f"--also {name}: {TITLES[name]} compares every frame of a clip with the truth, and "
                f"{protocol.title} judges single frames; leave it out"
            )
        if name not in WITHOUT_TRUTH and any(clip.truth is None for clip in clips):
            raise UsageError(
                f"--also {name}: {TITLES[name]} compares with the truth, which was not given; "
                f"without one there are {' and '.join(sorted(WITHOUT_TRUTH))}"
            )
        for clip in clips:
            side = clip.lq or clip.truth
            if side and side.count is not None:
                check_length(name, clip.name, side.count)
        for clip in clips:
            if clip.truth and name in LEAST_PICTURE:
                try:
                    LEAST_PICTURE[name](*size_of(clip.truth), crop)
                except UsageError as error:
                    raise UsageError(f"{clip.name}: --also {name}: {error}") from error


def check_length(name: str, clip: str, frames: int) -> None:
    """UsageError where a clip of ``frames`` has no pair for that measure."""
    if name in LEAST_FRAMES:
        title = f"{clip}: --also {name}: {TITLES[name]}"
        consistency.check_length(title, frames, LEAST_FRAMES[name])


@dataclass(frozen=True)
class Instruments:
    """What the measures in ``names`` look through, loaded once for all clips."""

    names: tuple[str, ...]
    device: torch.device
    lpips: Distance | None = None
    dists: Distance | None = None
    flow: consistency.Flow | None = None


def load(names: Sequence[str], device: torch.device, *, offline: bool = False) -> Instruments:
    """All that ``names`` need, or an error that says what is missing and what to do.

    UsageError for a package, or an ffmpeg with libvmaf; ModelError for weights that are not here
    and cannot be fetched, or must not (``offline``).
    """
    if "tof" in names:
        consistency.opencv()
    if "vmaf" in names:
        ffmpeg_with_libvmaf()
    sees = "lpips" in names or "tlp" in names
    return Instruments(
        tuple(names),
        device,
        lpips=load_lpips(device, offline=offline) if sees else None,
        dists=load_dists(device, offline=offline) if "dists" in names else None,
        flow=flow_of_basicvsr(device) if "warping" in names else None,
    )


def flow_of_basicvsr(device: torch.device) -> consistency.Flow:
    """The flow network of the weights that ship, between pictures ``(3, H, W)`` in 0..255."""
    net = load_model("basicvsr")
    if not isinstance(net, BasicVSR):
        raise ModelError("basicvsr is of another architecture: it has no flow network to take")
    spynet = net.spynet.to(device)

    @torch.no_grad()
    def flow(a: Tensor, b: Tensor) -> Tensor:
        found: Tensor = spynet(a[None] / 255, b[None] / 255)[0]
        return found

    return flow


class Measures:
    """Of one clip, frame by frame; a context manager.

    ``guide``: the frames that the warping error finds its flow in, ``(3, H, W)`` in 0..1 and of the
    result's size; None: the truth.
    """

    def __init__(
        self,
        instruments: Instruments,
        crop: int,
        *,
        rounded: bool = True,
        guide: Again[Tensor] | None = None,
    ) -> None:
        self._with, self._crop, self._rounded, self._guide = instruments, crop, rounded, guide
        self._of_pictures: dict[str, dict[int, float]] = {}
        self._held = ExitStack()
        self._over_time: dict[str, consistency.Neighbours | VmafOfFrames] = {}
        names = instruments.names
        if "tof" in names:
            self._over_time["tof"] = consistency.tof()
        if "tlp" in names and instruments.lpips:
            self._over_time["tlp"] = consistency.tlp(instruments.lpips)
        if "warping" in names and instruments.flow:
            self._over_time["warping"] = consistency.warping_error(instruments.flow)
        if "vmaf" in names:
            self._over_time["vmaf"] = self._held.enter_context(VmafOfFrames())

    def add(self, index: int, out: Tensor, truth: Tensor | None, *, judged: bool) -> None:
        """The next frame ``(3, H, W)`` in 0..1. Raises UsageError where a measure cannot be had."""
        if not self._with.names:
            return
        out = out.to(self._with.device).float()
        ours = to_8bit(out) if self._rounded else clipped(out)
        true = None if truth is None else to_8bit(truth.to(self._with.device))
        if judged:
            for name, score in self._scores_of(ours, true).items():
                self._of_pictures.setdefault(name, {})[index] = score
        for name, measure in self._over_time.items():
            seen = true
            if name == "warping" and self._guide is not None:
                seen = clipped(self._guide[index].to(ours))
            if seen is None:
                raise UsageError(f"frame {index}: {TITLES[name]} needs a truth, and there is none")
            measure.add(seen, ours)

    def end(self) -> dict[str, dict[int, float]]:
        """By measure and index; frames that a measure does not score are not in it."""
        return self._of_pictures | {n: measure.end() for n, measure in self._over_time.items()}

    def _scores_of(self, ours: Tensor, true: Tensor | None) -> dict[str, float]:
        """Those of one picture."""
        scores = {}
        if "niqe" in self._with.names:
            found = niqe.if_any(ours.round(), self._crop)
            if found is not None:
                scores["niqe"] = found
        distances = {"lpips": self._with.lpips, "dists": self._with.dists}
        for name, distance in distances.items():
            if name in self._with.names and distance and true is not None:
                a, b = (cut(picture, self._crop) for picture in (ours, true))
                scores[name] = float(distance(a, b))
        return scores

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._held.__exit__(kind, error, trace)


def cut(picture: Tensor, crop: int) -> Tensor:
    """``(3, H, W)`` less ``crop`` pixels at each side."""
    height, width = picture.shape[1:]
    return picture[:, crop : height - crop, crop : width - crop]
