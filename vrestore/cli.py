"""Flags in, one call out."""

from __future__ import annotations

import argparse
import dataclasses
import io
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from vrestore import __version__
from vrestore.errors import InputError, UsageError, VrestoreError, told
from vrestore.options import RestoreOptions
from vrestore.report import of

if TYPE_CHECKING:
    from vrestore.progress import Silence


# Threads that wait for each other behind every layer spin for a while before they sleep. Beside
# other programs they spin away the time of the one that they wait for: as long as GNU's OpenMP has
# it, a film took 29 s beside two busy processes, so long 17 s; on a quiet machine both took 7 s.
SPINS = "10000"


class Parser(argparse.ArgumentParser):
    """argparse whose complaints are UsageErrors, so that every message has one form."""

    words: Sequence[str] = ()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.words = args or ()
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        for word in self.words:
            if word.startswith("-") and Path(word).exists():
                raise UsageError(f"{word} was taken for an option; write ./{word}")
        raise UsageError(f"{message}; see {self.prog} --help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code: 0 done, 1 some films failed, 2 usage, 3 input,
    4 model or weights, 5 out of memory, 6 no space or not writable, 130 interrupted."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)  # read when torch is loaded, later
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        kind = getattr(signal, name, None)
        if kind is not None and signal.getsignal(kind) != signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(kind, _interrupt)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names need not be text in any encoding
        sys.stdout.reconfigure(errors="surrogateescape")
    as_json, debug = "--json" in argv, "--debug" in argv
    try:
        if argv[:1] == ["models"]:
            return run_models(models_parser().parse_args(argv[1:]))
        if argv[:1] == ["explain"]:
            return run_explain(explain_parser().parse_args(argv[1:]))
        if argv[:1] == ["evaluate"]:
            return run_evaluate(evaluate_parser().parse_args(argv[1:]))
        return run(build_parser().parse_args(argv))
    except BrokenPipeError:
        sys.stderr.close()
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        complain(told(error), as_json)
        return told(error).exit_code


def build_parser() -> argparse.ArgumentParser:
    """Every flag; those named after a field of RestoreOptions fill that field."""
    parser = Parser(
        prog="vrestore",
        description="Restores a film: the same film, sharper and larger; all else in it untouched.",
        epilog="Example: vrestore clip.mp4 --model basicvsr. Also: vrestore models (what there is, "
        "and how to get it), vrestore explain (what an output was made from), "
        "vrestore evaluate (a model on the field's benchmarks).",
    )
    add = parser.add_argument
    add(
        "inputs", nargs="*", type=Path, metavar="INPUT", help="films, folders of pictures, pictures"
    )
    add("-i", "--input", dest="more", type=Path, action="append", default=[], metavar="INPUT",
        help="one more input")  # fmt: skip
    add("-o", "--output", metavar="OUT",
        help="a file; with several inputs, or a trailing slash, a folder; NAME_%%08d.png: pictures "
        "(default: NAME_restored beside the input)")  # fmt: skip
    add("-n", "--model", metavar="NAME",
        help="basicvsr (x4, default), basicvsr-real (x4, cleans as well), restore (x1, cleans), "
        "edvr (x4), iconvsr (x4), bicubic (x4), identity (x1), a name that `vrestore models` "
        "lists, or a checkpoint")  # fmt: skip
    add("--weights", type=Path, metavar="FILE", help="a checkpoint instead of the model's own")
    add("-s", "--scale", type=float, help="output size against the input's (default: the model's)")
    add("--hwaccel", metavar="KIND",
        help="what a GPU's video engine does of reading and, without --codec, writing: none "
        "(default), cuda (NVDEC and NVENC), auto (what there is), or another name of FFmpeg's, to "
        "read")  # fmt: skip
    add("--offline", action="store_true", default=None, help="fetch no weights")
    add("--config", type=Path, metavar="TOML", help="options from a file; flags win over it")
    add("--overwrite", action="store_true", default=None, help="replace outputs that exist")
    add("--allow-truncated", action="store_true", default=None,
        help="exit 0 where a damaged input was restored as far as it goes")  # fmt: skip
    group = parser.add_argument_group("which part, and how fast")
    group.add_argument("--fps", metavar="RATE",
        help="of a film made of pictures: 24, 23.976, 24000/1001 (default 25)")  # fmt: skip
    group.add_argument("--start", metavar="TIME", help="seconds or H:MM:SS from the first frame")
    group.add_argument("--end", metavar="TIME", help="where to stop, likewise")
    group = parser.add_argument_group("how the output is written (ffmpeg's own names)")
    group.add_argument("--codec", help="libx264 (default), libx265, libvpx-vp9, ffv1, ...")
    group.add_argument("--crf", type=float, help="quality, lower is better (default: 14 for x264)")
    group.add_argument("--preset", help="encoder preset")
    group.add_argument("--pix-fmt", help="pixel format (default: 4:2:0, 10 bit for deeper sources)")
    group.add_argument("--bitrate", help="target bit rate instead of --crf, such as 8M")
    group = parser.add_argument_group("how the network runs")
    group.add_argument("--device", help="auto (default), cpu, cuda, cuda:1, mps")
    group.add_argument(
        "--precision",
        help="auto (default: timed), fp32, bf16, fp16, int8 "
        "(x86 CPUs: about twice as fast as fp32)",
    )
    group.add_argument("--propagation", help="lookahead (default), whole (a shot in one piece), "
        "exact (as whole, in the memory of chunks)")  # fmt: skip
    group.add_argument("--memory", metavar="SIZE",
        help="what the program may take, such as 4GiB (default: most of what is free)")  # fmt: skip
    group.add_argument("--chunk", type=int,
        help="frames rendered at a time (default: 32, or what fits the memory)")  # fmt: skip
    group.add_argument("--lookahead", type=int, help="frames seen beyond the chunk (default 16)")
    group.add_argument("--tile", type=int, metavar="PIXELS",
        help="restore in tiles of such a side (default: only if it must be)")  # fmt: skip
    group.add_argument("--plan", action="store_true",
        help="say what memory, time and room it will take, and stop")  # fmt: skip
    group.add_argument("--scene-cuts", choices=("on", "off"), help="restart at cuts (default on)")
    add("--json", action="store_true", help="progress and report as JSON lines on standard output")
    add("--quiet", action="store_true", help="no progress, no report")
    add("--debug", action="store_true", help="show tracebacks")
    add("--version", action="version", version=f"vrestore {__version__}")
    return parser


def run(args: argparse.Namespace) -> int:
    """The one call."""
    inputs = [*args.inputs, *args.more]
    if not inputs:
        raise UsageError("no input; try: vrestore clip.mp4")
    options = read_options(args)
    from vrestore.ends import look
    from vrestore.jobs.batch import make_folder, note_damage, restore_all
    from vrestore.restore import restore

    output = Path(args.output) if args.output else None
    is_folder = (args.output or "").endswith((os.sep, os.altsep or os.sep))
    show = choose_display(args)
    if args.plan and len(inputs) > 1:
        raise UsageError("--plan is for one film at a time")
    try:
        if len(inputs) > 1 or (is_folder and not inputs[0].is_dir() and not args.plan):
            if output and not is_folder and output.suffix and not output.is_dir():
                raise UsageError(
                    f"{output}: several inputs go into a folder; write {output}{os.sep}"
                )
            if any(path.exists() for path in inputs):
                fetch_weights(options, show)
            outcomes = restore_all(inputs, output, options, show.progress, show.ended)
            show.summary(outcomes)
            failed = [outcome for outcome in outcomes if outcome.failed(options)]
            alone = len(inputs) == 1 and failed
            return failed[0].exit_code if alone else int(bool(failed))
        if output and is_folder and not args.plan:
            make_folder(output)
        look(inputs[0], options)  # what is not there needs no weights
        fetch_weights(options, show)
        if args.plan:
            from vrestore.plan import plan

            into = is_folder and not inputs[0].is_dir()
            show.planned(plan(inputs[0], output, options, into_folder=into))
            return 0
        report = restore(inputs[0], output, options=options, progress=show.progress)
        note_damage(report)
        show.report(report)
    finally:
        show.close()
    if report.damage and not options.allow_truncated:
        raise InputError(
            f"{report.damage}; {of(report.frames, 'frame')} restored into {report.target}; "
            "re-run with --allow-truncated to accept that"
        )
    return 0


def fetch_weights(options: RestoreOptions, show: Silence) -> None:
    """What the run needs and this machine has not, in the user's sight."""
    from vrestore.shelf import at_hand

    if options.weights is None:
        at_hand(options.model, offline=options.offline, display=show)


def models_parser() -> argparse.ArgumentParser:
    """Of ``vrestore models``; a film of that name is ./models."""
    parser = Parser(prog="vrestore models", description="The named models, and their weights.")
    add = parser.add_argument
    add("action", nargs="?", choices=("list", "show", "get", "path"), default="list",
        help="list all (default), show one, fetch its weights, print where they lie")  # fmt: skip
    add("name", nargs="?", metavar="NAME", help="a name, or the published file's")
    add("--offline", action="store_true", help="fetch nothing: only look whether it is whole")
    add("--json", action="store_true", help="one JSON object a line")
    add("--quiet", action="store_true", help="no progress")
    add("--debug", action="store_true", help="show tracebacks")
    return parser


def run_models(args: argparse.Namespace) -> int:
    """The one call."""
    from vrestore import shelf

    if (args.name is None) != (args.action == "list"):
        count = "no name" if args.action == "list" else "1 name, such as basicvsr"
        raise UsageError(f"models {args.action} takes {count}")
    if args.action == "list":
        shelf.list_models(args.json)
    elif args.action == "show":
        shelf.show(args.name, args.json)
    else:
        if args.action == "get":
            shelf.get(args.name, offline=args.offline, display=choose_display(args))
        shelf.path_of(args.name, args.json)
    return 0


def explain_parser() -> argparse.ArgumentParser:
    """Of ``vrestore explain``."""
    parser = Parser(
        prog="vrestore explain",
        description="Draws which pixels of which frames a place of the output was made from "
        "(local attribution maps, arXiv 2011.11036).",
    )
    add = parser.add_argument
    add("input", type=Path, metavar="INPUT", help="a film, or a folder of pictures")
    add("--frame", type=int, required=True, metavar="N", help="the frame's number, from 0")
    add("--at", required=True, metavar="X,Y", help="the place, in pixels of the input")
    add("-o", "--output", type=Path, metavar="PNG", help="(default: NAME_explained.png beside it)")
    add("-n", "--model", default="basicvsr", metavar="NAME", help="as of vrestore")
    add("--weights", type=Path, metavar="FILE", help="a checkpoint instead of the model's own")
    add("--reach", type=int, metavar="FRAMES", help="frames looked at on each side (default 7)")
    add("--offline", action="store_true", help="fetch no weights")
    add("--overwrite", action="store_true", help="replace the picture if it exists")
    add("--json", action="store_true", help="the shares as JSON")
    add("--quiet", action="store_true", help="print no shares")
    add("--debug", action="store_true", help="show tracebacks")
    return parser


def run_explain(args: argparse.Namespace) -> int:
    """The one call."""
    words = args.at.split(",")
    if len(words) != 2 or not all(w.strip().isdecimal() and len(w) < 10 for w in words):
        raise UsageError(f"--at {args.at}: give the place as X,Y, such as --at 120,80")
    if args.frame < 0 or (args.reach or 0) < 0:
        raise UsageError("--frame and --reach must not be negative")
    from vrestore import explain
    from vrestore.models.catalogue import load_model

    whole = args.input.resolve()
    name = whole.name if whole.is_dir() else whole.stem
    target = args.output or whole.with_name(f"{name}_explained.png")
    explain.check_target(target, overwrite=args.overwrite)
    reach = explain.REACH_FRAMES if args.reach is None else args.reach
    place = explain.look_at(args.input, args.frame, int(words[0]), int(words[1]), reach)
    show = choose_display(args)
    options = RestoreOptions(model=args.model, weights=args.weights, offline=args.offline)
    fetch_weights(options, show)
    network = load_model(args.model, args.weights, offline=args.offline)
    found = explain.explain(
        place, network, stepped=lambda done: show.explaining(done, explain.STEPS)
    )
    explain.save(found.strip, target)
    show.explained(found.shares, target)
    return 0


def evaluate_parser() -> argparse.ArgumentParser:
    """Of ``vrestore evaluate``."""
    from vrestore.evaluate.flags import add_flags

    parser = Parser(
        prog="vrestore evaluate",
        description="Scores a model on a benchmark as the field does: its clips, frames, crop, "
        "channel and averages, the published figure beside ours.",
    )
    add_flags(parser)
    parser.add_argument("--json", action="store_true", help="progress and result as JSON lines")
    parser.add_argument("--quiet", action="store_true", help="no progress, no table")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    return parser


def run_evaluate(args: argparse.Namespace) -> int:
    """The one call."""
    from vrestore.evaluate.flags import options_of, request_of
    from vrestore.evaluate.request import fulfil, look_over

    options, request = options_of(args), request_of(args)
    clips = look_over(request)  # what is not there needs no weights
    show = choose_display(args)
    try:
        fetch_weights(options, show)
        show.evaluated(fulfil(request, clips, options, show.progress))
    finally:
        show.close()
    return 0


def choose_display(args: argparse.Namespace) -> Silence:
    """Who tells the user: a bar only where there is a terminal to draw it on."""
    from vrestore import progress

    if args.json:
        return progress.JsonLines()
    if args.quiet:
        return progress.Silence()
    return progress.Bar() if sys.stderr.isatty() else progress.PlainLines()


def read_options(args: argparse.Namespace) -> RestoreOptions:
    """The defaults, then the TOML, then the flags."""
    options = RestoreOptions()
    if args.config:
        from vrestore.settings import read_toml

        options = read_toml(args.config, RestoreOptions)
    given = {
        field.name: getattr(args, field.name)
        for field in dataclasses.fields(RestoreOptions)
        if getattr(args, field.name) is not None
    }
    if "scene_cuts" in given:
        given["scene_cuts"] = given["scene_cuts"] == "on"
    return options.but(given, "command line")


def complain(error: VrestoreError, as_json: bool) -> None:
    """One clear message, where the caller looks for it."""
    from vrestore import progress

    (progress.JsonLines() if as_json else progress.Silence()).error(error)


def _interrupt(*_: object) -> None:
    """A polite kill, or a terminal that closes, ends like Ctrl-C: nothing half-written, no child
    left. What tidies up is not interrupted again."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    raise KeyboardInterrupt
