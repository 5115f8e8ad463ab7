"""A model over a benchmark: the product's own engine, its frames scored as they come."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from vrestore.engine.exact import Again
from vrestore.engine.restorer import Restorer
from vrestore.engine.spool import Spool
from vrestore.errors import InputError, UsageError
from vrestore.evaluate import also
from vrestore.evaluate.degradations import cropped
from vrestore.evaluate.ensemble import Run, both_ways, eightfold, mirrored
from vrestore.evaluate.figures import published
from vrestore.evaluate.footage import at_any_place, frames_of, kept
from vrestore.evaluate.inputs import made_by, reduced
from vrestore.evaluate.metrics import clipped, luma, psnr, ssim, to_8bit
from vrestore.evaluate.protocols import Degradation, Protocol
from vrestore.evaluate.sets import Clip
from vrestore.evaluate.submission import Pack
from vrestore.evaluate.table import ClipScores, Evaluation, FlowBetween, FrameScores, Scores
from vrestore.models.resize import imresize
from vrestore.models.temporal import Network, RecurrentNetwork, WindowNetwork
from vrestore.report import Progress, ProgressCallback, of


@dataclass(frozen=True)
class Scoring:
    """How a set is run and scored beyond what its protocol lays down.

    ``make_lq``: the input is made from the truth. ``crop`` None: the protocol's. ``rounded``: to 8
    bit before it is compared (BasicSR), else only clipped (mmagic). ``eightfold`` and
    ``both_ways``: the self-ensembles. ``also``: measures beside PSNR and SSIM (`table.TITLES`).
    """

    make_lq: Degradation | None = None
    crop: int | None = None
    rounded: bool = True
    eightfold: bool = False
    both_ways: bool = False
    also: Sequence[str] = ()


def evaluate(
    clips: Sequence[Clip],
    protocol: Protocol,
    restorer: Restorer,
    scoring: Scoring,
    *,
    model: str,
    progress: ProgressCallback | None = None,
    pack: Pack | None = None,
) -> Evaluation:
    """Restore every clip in one piece, no cuts sought, and score its judged frames.

    ``model``: its name, by which published figures are found. ``pack`` takes the restored frames
    that it wants. Frames stream: no clip is held. Raises InputError for a frame that is missing or
    of the wrong size, UsageError for a model of another scale than the protocol's and for measures
    that cannot be had.
    """
    network = restorer.network
    if protocol.scale not in (None, restorer.scale):
        raise UsageError(
            f"{protocol.title} is x{protocol.scale}, {model} is x{restorer.scale}: name another"
        )
    if isinstance(network, WindowNetwork) and protocol.border is not None:
        network.border = protocol.border
    names = scoring.also if protocol.has_truth else ("niqe", *scoring.also)
    also.check(names, protocol, clips, crop_of(protocol, scoring))
    instruments = also.load(names, where(restorer.device))
    guises = guises_of(protocol, network, scoring)
    watch = Watch(restorer.device, protocol.title, outputs_of(clips, guises), progress)
    run = watch.timed(restorer.stream)
    for guise in guises:
        run = guise.wrap(run)
    made: str | None = scoring.make_lq
    found = []
    for nth, clip in enumerate(clips):
        with Spool() as spool:
            lq = input_of(clip, scoring, restorer.scale, spool)
            if nth == 0 and made is None and clip.truth:
                made = told_input(clip, lq, restorer.scale)
            with measures_of(clip, lq, restorer.scale, protocol, scoring, instruments) as measures:
                found.append(score_clip(clip, lq, run, protocol, scoring, pack, measures))
    beside = None  # a part of a set has no published figure, nor has input of unknown making
    if protocol.is_whole([clip.name for clip in clips]) and (made or not protocol.degradation):
        beside = published(model, protocol.name, made)
    return Evaluation(
        protocol=protocol,
        model=model,
        how=(described(restorer), *(guise.name for guise in guises)),
        rounded=scoring.rounded,
        crop=crop_of(protocol, scoring),
        made_by=made,
        clips=tuple(found),
        seconds_per_frame=watch.seconds / max(sum(clip.restored for clip in found), 1),
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        published=beside,
        flow_between=flow_between(clips[0], protocol) if "warping" in names else None,
    )


def score_clip(
    clip: Clip,
    lq: Again[Tensor],
    run: Run,
    protocol: Protocol,
    scoring: Scoring,
    pack: Pack | None,
    measures: also.Measures,
) -> ClipScores:
    """One clip, a frame at a time; each truth is read when its frame is there."""
    judged = frozenset(protocol.judged_of(len(lq)))
    true_count = clip.truth.count if clip.truth else None
    if clip.lq and not clip.lq.pictures and true_count not in (None, len(lq)):
        raise InputError(f"{clip.lq.path}: {of(len(lq), 'frame')}, but its truth has {true_count}")
    for name in scoring.also:
        also.check_length(name, clip.name, len(lq))  # of a film it was not known before
    truths = frames_of(clip.truth, judged, len(lq)) if clip.truth else iter(())
    crop, count, width = crop_of(protocol, scoring), 0, lq[0].shape[-1]
    plain: dict[int, Scores] = {}
    for index, out in enumerate(run(lq)):
        count += 1
        if pack:
            pack.add(clip.name, clip.first + index, index, out, index in judged)
        truth = None
        if clip.truth and index in judged:
            _, truth = next(truths)
            truth = cropped(truth, out.shape[-1] // width)
        try:
            if truth is not None:
                plain[index] = compared(out, truth, crop, rounded=scoring.rounded)
            measures.add(index, out, truth, judged=index in judged)
        except UsageError as error:  # a measure does not know which picture is too small for it
            raise UsageError(f"{clip.name}, frame {clip.first + index}: {error}") from error
    for _ in truths:  # a film says only at its end that it was longer
        pass
    rows = together(plain, measures.end(), judged, clip.first)
    return ClipScores(clip.name, count, rows)


def together(
    plain: Mapping[int, Scores],
    further: Mapping[str, Mapping[int, float]],
    judged: Collection[int],
    first: int,
) -> tuple[FrameScores, ...]:
    """By index, and by measure and index, to a row for each frame: numbered from ``first`` on.

    Judged frames have one where anything was measured at all.
    """
    cells: dict[int, dict[str, float]] = {}
    for name, scores in further.items():
        for index, score in scores.items():
            cells.setdefault(index, {})[name] = score
    scored = plain.keys() | cells.keys()
    return tuple(
        FrameScores(
            first + index,
            replace(plain.get(index, Scores()), **cells.get(index, {})),
            index in judged,
        )
        for index in sorted(scored.union(judged) if scored else ())
    )


def measures_of(
    clip: Clip,
    lq: Again[Tensor],
    scale: int,
    protocol: Protocol,
    scoring: Scoring,
    instruments: also.Instruments,
) -> also.Measures:
    """One clip's, with what the warping error finds motion in."""
    in_truth = flow_between(clip, protocol) == "true"
    guide = None if in_truth else Again(lq, partial(imresize, scale=scale))
    crop = crop_of(protocol, scoring)
    return also.Measures(instruments, crop, rounded=scoring.rounded, guide=guide)


def flow_between(clip: Clip, protocol: Protocol) -> FlowBetween:
    """Which frames show the motion: neighbours are needed, so the truth only where it is whole."""
    return "true" if clip.truth and protocol.judged is None else "enlarged input"


def crop_of(protocol: Protocol, scoring: Scoring) -> int:
    """Pixels cut at each side."""
    return protocol.crop if scoring.crop is None else scoring.crop


def compared(out: Tensor, truth: Tensor, crop: int, *, rounded: bool = True) -> Scores:
    """PSNR and SSIM of ``(3, H, W)`` in 0..1 against the truth, which is 8-bit, in RGB and in Y.

    The crop comes first, then Y. ``rounded`` False: the output is clipped but keeps its fractions.
    """
    device = where(out.device)
    out, truth = out.to(device).float(), to_8bit(truth.to(device))
    out = to_8bit(out) if rounded else clipped(out)
    y, true_y = luma(out), luma(truth)
    return Scores(
        psnr_rgb=float(psnr(out, truth, crop)),
        ssim_rgb=float(ssim(out, truth, crop)),
        psnr_y=float(psnr(y, true_y, crop)),
        ssim_y=float(ssim(y, true_y, crop)),
    )


def where(device: torch.device) -> torch.device:
    """Where scores are computed: not every device has float64."""
    return device if device.type == "cuda" else torch.device("cpu")


def input_of(clip: Clip, scoring: Scoring, scale: int, spool: Spool) -> Again[Tensor]:
    """The clip's input, in any order: given, or made of the truth, frame by frame, and kept."""
    if clip.lq:
        return at_any_place(clip.lq, spool)
    if clip.truth is None or scoring.make_lq is None:
        raise UsageError(f"{clip.name}: nothing to restore; give --lq, or --gt and --make-lq")
    return kept(reduced(clip.truth, scoring.make_lq, scale), spool)


def told_input(clip: Clip, lq: Again[Tensor], scale: int) -> str | None:
    """What made the clip's input, by its first frame that has a truth."""
    assert clip.truth is not None
    with closing(frames_of(clip.truth)) as truths:
        index, truth = next(truths)
        return made_by(lq[index], truth, scale)


@dataclass(frozen=True)
class Guise:
    """A self-ensemble: what it is called, and how many frames the network makes for one."""

    name: str
    wrap: Callable[[Run], Run]
    times: int


def guises_of(protocol: Protocol, network: Network, scoring: Scoring) -> list[Guise]:
    """The ensembles that the protocol and the options ask for, innermost first."""
    guises = []
    if scoring.eightfold:
        guises.append(Guise("self-ensemble x8", eightfold, 8))
    if protocol.mirrored and isinstance(network, RecurrentNetwork):
        guises.append(Guise("each clip with its reverse", mirrored, 2))
    if scoring.both_ways:
        guises.append(Guise("mean with the reversed clip", both_ways, 2))
    return guises


def outputs_of(clips: Sequence[Clip], guises: Sequence[Guise]) -> int | None:
    """How many frames the network will make; None where a film does not say how long it is."""
    sides = [clip.lq or clip.truth for clip in clips]
    counts = [side.count for side in sides if side]
    known = [count for count in counts if count is not None]
    times = math.prod(guise.times for guise in guises)
    return sum(known) * times if len(known) == len(clips) else None


def described(restorer: Restorer) -> str:
    """Device, precision, and how time was gone through."""
    network = restorer.network
    words = f"{restorer.device} in {restorer.precision}"
    if isinstance(network, RecurrentNetwork):
        return f"{words}, propagation {restorer.propagation}"
    return f"{words}, border {network.border}" if isinstance(network, WindowNetwork) else words


class Watch:
    """Times the network, and nothing else, and tells how far it is."""

    def __init__(
        self,
        device: torch.device,
        title: str,
        total: int | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.seconds = 0.0
        self._device, self._title, self._total = device, Path(title), total
        self._progress, self._outputs, self._started = progress, 0, time.monotonic()

    def timed(self, run: Run) -> Run:
        """``run``, with the time from asking for a frame until it is there."""

        def watched(clip: Again[Tensor]) -> Iterator[Tensor]:
            outs = run(clip)
            while True:
                started = time.perf_counter()
                out = next(outs, None)
                if self._device.type == "cuda":
                    torch.cuda.synchronize(self._device)
                self.seconds += time.perf_counter() - started
                if out is None:
                    return
                self._outputs += 1
                if self._progress:
                    seconds = time.monotonic() - self._started
                    now = Progress(self._title, self._outputs, self._total, seconds)
                    self._progress(now)
                yield out

        return watched
