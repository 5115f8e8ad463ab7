"""The flags of ``vrestore evaluate``, and what they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vrestore.errors import UsageError
from vrestore.options import RestoreOptions

if TYPE_CHECKING:
    from vrestore.evaluate.request import Request

FOR_THE_ENGINE = (
    *("model", "weights", "device", "precision", "propagation"),
    *("chunk", "lookahead", "tile", "memory", "offline"),
)


def add_flags(parser: argparse.ArgumentParser) -> None:
    """All of them but those that every command has."""
    add = parser.add_argument
    add("--protocol", required=True, metavar="NAME",
        help="reds4, reds-val, vid4, vimeo90k-t, udm10, spmcs, ntire21-vsr, ntire-deblur, "
        "videolq (no truth: NIQE), custom")  # fmt: skip
    add("--lq", type=Path, metavar="DIR", help="inputs: a folder or a film for each clip")
    add("--gt", type=Path, metavar="DIR", help="the truth, likewise")
    add("--make-lq", choices=("bi", "bd"),
        help="make the inputs from the truth, and write them to --lq if that is given")  # fmt: skip
    add("--clips", default="", metavar="NAMES",
        help="only these: 000,011, or a file with one at the beginning of each line")  # fmt: skip
    add("--crop", type=int, metavar="PIXELS", help="cut at each side first (custom; default 0)")
    add("--also", default="", metavar="NAMES",
        help="more measures, such as tof,lpips: niqe, tof, tlp, lpips, dists, warping, vmaf; niqe "
        "and warping need no truth")  # fmt: skip
    add("--unrounded", action="store_true",
        help="outputs are not rounded to 8 bit first (mmagic's habit; else BasicSR's)")  # fmt: skip
    add("--out", type=Path, metavar="FILE", help="every frame's values, .csv or .json")
    add("--plot", type=Path, metavar="PNG", help="PSNR frame by frame")
    add("--plot-cost", type=Path, metavar="PNG", help="PSNR against seconds a frame")
    add("--beside", type=Path, action="append", default=[], metavar="JSON",
        help="one more run for --plot-cost, as --out FILE.json wrote it")  # fmt: skip
    add("--overwrite", action="store_true", help="replace files that exist")
    _add_engine(parser)
    _add_submission(parser)


def _add_engine(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("how the network runs (else as of vrestore)").add_argument
    add("-n", "--model", metavar="NAME", help="a name, or a checkpoint")
    add("--weights", type=Path, metavar="FILE", help="a checkpoint instead of the model's own")
    add("--self-ensemble", action="store_true",
        help="the mean over the eight flips and transpositions; 8 times the work")  # fmt: skip
    add("--temporal-mirror", action="store_true",
        help="the mean with what the reversed clip gives; twice the work")  # fmt: skip
    add("--propagation",
        help="exact (default: as the whole clip, in bounded memory), whole, lookahead")  # fmt: skip
    add("--precision", help="fp32 (default), auto, bf16, fp16, int8")
    add("--device")
    add("--chunk", type=int, metavar="FRAMES")
    add("--lookahead", type=int, metavar="FRAMES")
    add("--tile", type=int, metavar="PIXELS")
    add("--memory", metavar="SIZE")
    add("--offline", action="store_true", default=None)


def _add_submission(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("what a challenge's server takes").add_argument
    add("--submit", type=Path, metavar="ZIP",
        help="write the judged frames with a readme; --gt may then be left out")  # fmt: skip
    add("--submit-frames", metavar="FIRST:STEP", help="other ones, such as 0:1")
    add("--submit-names", metavar="FORM",
        help="of the pictures (default: {clip}_{frame:08d}.png)")  # fmt: skip
    add("--submit-note", default="", metavar="TEXT", help="the readme's last line")
    add("--extra-data", action="store_true", help="the model was trained on more data")


def options_of(args: argparse.Namespace) -> RestoreOptions:
    """How the network runs. Published figures are of whole clips in float32: so is the default."""
    given = {name: getattr(args, name) for name in FOR_THE_ENGINE}
    given = {name: value for name, value in given.items() if value is not None}
    return RestoreOptions(precision="fp32", propagation="exact").but(given, "command line")


def request_of(args: argparse.Namespace) -> Request:
    """What is to be scored, how, and what is to be written. Raises UsageError."""
    from vrestore.evaluate import also
    from vrestore.evaluate.request import Request
    from vrestore.evaluate.run import Scoring
    from vrestore.evaluate.sets import chosen_clips
    from vrestore.evaluate.submission import FLAT, PackForm

    if args.crop is not None and args.crop < 0:
        raise UsageError(f"--crop {args.crop}: pixels to cut at each side, 0 or more")
    form = PackForm(
        frames=None if args.submit_frames is None else every(args.submit_frames),
        names=args.submit_names or FLAT,
        note=args.submit_note,
        extra_data=args.extra_data,
    )
    return Request(
        protocol=args.protocol,
        lq=args.lq,
        truth=args.gt,
        clips=chosen_clips(args.clips),
        scoring=Scoring(
            make_lq=args.make_lq,
            crop=args.crop,
            rounded=not args.unrounded,
            eightfold=args.self_ensemble,
            both_ways=args.temporal_mirror,
            also=also.chosen(args.also),
        ),
        out=args.out,
        plot=args.plot,
        plot_cost=args.plot_cost,
        beside=args.beside,
        submit=args.submit,
        form=form,
        overwrite=args.overwrite,
        offline=bool(args.offline),
    )


def every(text: str) -> range:
    """``9:10``, the frames 9, 19, ... by index from 0; UsageError for anything else."""
    first, colon, step = text.partition(":")
    if not (colon and first.isdecimal() and step.isdecimal() and int(step)):
        raise UsageError(f"--submit-frames {text}: write FIRST:STEP, such as 9:10")
    return range(int(first), 1 << 31, int(step))
