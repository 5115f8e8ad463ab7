"""One evaluation as it was asked for: seen to first, then run, then written."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vrestore.errors import OutputError, UsageError
from vrestore.evaluate import also
from vrestore.evaluate.figures import known_as
from vrestore.evaluate.inputs import write_reduced
from vrestore.evaluate.plots import check_plot, plot_costs, plot_frames, read_run
from vrestore.evaluate.protocols import Protocol, find
from vrestore.evaluate.run import Scoring, crop_of, evaluate
from vrestore.evaluate.sets import Clip, check_alike, check_sizes, find_clips
from vrestore.evaluate.submission import Pack, PackForm
from vrestore.evaluate.table import Evaluation, frames_file, write
from vrestore.options import RestoreOptions
from vrestore.report import ProgressCallback
from vrestore.restore import load_restorer


@dataclass(frozen=True)
class Request:
    """``lq`` and ``truth``: folders with a folder or a film for each clip; ``lq`` None or not yet
    there: made as ``scoring.make_lq`` says, and written there if it was named. ``clips``: only
    these. ``out``: values per frame, .csv or .json. ``plot``, ``plot_cost``: pictures, the second
    with the runs in ``beside``. ``submit``: a zip as ``form`` says; then the truth may be missing.
    ``offline``: nothing is fetched for the measures.
    """

    protocol: str
    lq: Path | None = None
    truth: Path | None = None
    clips: Sequence[str] = ()
    scoring: Scoring = field(default_factory=Scoring)
    out: Path | None = None
    plot: Path | None = None
    plot_cost: Path | None = None
    beside: Sequence[Path] = ()
    submit: Path | None = None
    form: PackForm = field(default_factory=PackForm)
    overwrite: bool = False
    offline: bool = False


def look_over(request: Request) -> tuple[Clip, ...]:
    """The clips, checked before anything long begins, as is what the measures need.

    Raises UsageError, InputError, OutputError, and ModelError for weights of a measure.
    """
    protocol = find(request.protocol)
    _check_sides(request, protocol)
    if request.scoring.crop is not None and protocol.name != "custom":
        raise UsageError(f"--crop: {protocol.title} lays it down; it is for --protocol custom")
    if request.beside and not request.plot_cost:
        raise UsageError("--beside names runs for --plot-cost FILE")
    for file in (request.out, request.plot, request.plot_cost, request.submit):
        if file and file.exists() and not request.overwrite:
            raise OutputError(f"{file}: exists already; use --overwrite, or name another")
        if file and not file.absolute().parent.is_dir():
            raise OutputError(f"{file}: there is no folder {file.parent}")
        if file and not os.access(file.absolute().parent, os.W_OK):
            raise OutputError(f"{file}: nothing can be written into {file.parent}; name another")
    if request.out and request.out.suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"{request.out}: values per frame go into a .csv or a .json")
    for file in (request.plot, request.plot_cost):
        if file:
            check_plot(file)
        if file and not request.truth:
            raise UsageError(f"{file}: PSNR is drawn, which needs a truth; give --gt DIR")
    lq = None if request.scoring.make_lq else request.lq
    clips = find_clips(protocol, lq, request.truth, request.clips)
    for file in request.beside:
        _check_beside(read_run(file), file, request, protocol, clips)
    if request.submit:
        request.form.check(clips)
    check_alike(clips)
    also.check(request.scoring.also, protocol, clips, crop_of(protocol, request.scoring))
    also.load(request.scoring.also, torch.device("cpu"), offline=request.offline)
    return clips


def fulfil(
    request: Request,
    clips: tuple[Clip, ...],
    options: RestoreOptions,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Run it over what ``look_over`` found, and write all that was asked for.

    ``options``: model, weights, device, precision, propagation and sizes; the rest is for films.
    """
    protocol, scoring = find(request.protocol), request.scoring
    restorer = load_restorer(options)
    model = known_as(options.model, options.weights) or str(options.weights or options.model)
    if scoring.make_lq is None:
        check_sizes(clips, restorer.scale)
    elif request.lq:
        write_reduced(clips, request.lq, scoring.make_lq, restorer.scale)
        clips = find_clips(protocol, request.lq, request.truth, request.clips)
    pack = None
    with ExitStack() as at_end:
        if request.submit:
            pack = at_end.enter_context(
                Pack(request.submit, request.form, overwrite=request.overwrite)
            )
        found = evaluate(
            clips, protocol, restorer, scoring, model=model, progress=progress, pack=pack
        )
        if request.out:  # what took long is written first
            write(frames_file(found, request.out), request.out)
        if pack:
            pack.close(found.seconds_per_frame, restorer.device)
    if request.plot:
        plot_frames(found, request.plot)
    if request.plot_cost:
        plot_costs([*map(read_run, request.beside), found.as_dict()], request.plot_cost)
    return found


def _check_beside(
    run: dict[str, Any], file: Path, request: Request, protocol: Protocol, clips: Sequence[Clip]
) -> None:
    """UsageError where the run of that file is not of what is asked for now, as far as is known."""
    scoring = request.scoring
    asked = {
        "protocol": protocol.name,
        "crop": crop_of(protocol, scoring),
        "rounded": scoring.rounded,
    }
    for key, value in asked.items():
        if run[key] != value:
            raise UsageError(f"--beside {file}: is of {key} {run[key]}, this run of {value}")
    theirs, ours = {clip["clip"] for clip in run["clips"]}, {clip.name for clip in clips}
    if theirs != ours:
        some = ", ".join(sorted(theirs ^ ours)[:3])
        raise UsageError(f"--beside {file}: is not of the same clips: {some}")


def _check_sides(request: Request, protocol: Protocol) -> None:
    """Whether there is an input, and a truth where there must be one."""
    lq, truth, make_lq = request.lq, request.truth, request.scoring.make_lq
    if truth and not protocol.has_truth:
        raise UsageError(f"{protocol.title} has no truth; leave --gt out")
    if make_lq and not truth:
        raise UsageError("--make-lq makes the input from --gt DIR; give that")
    if not make_lq and not lq:
        raise UsageError("no input; give --lq DIR, or --gt DIR and --make-lq bi")
    if make_lq and lq and lq.exists():
        raise UsageError(
            f"--lq {lq} exists: leave --make-lq out to use it, or name a folder that does not"
        )
    if protocol.has_truth and not (truth or request.submit or request.scoring.also):
        raise UsageError(
            f"{protocol.title} is scored against its truth; give --gt DIR, or --also "
            "niqe,warping, which need none"
        )
