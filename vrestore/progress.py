"""How a run is shown: a bar on a terminal, plain lines in a log, JSON lines to a program."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from vrestore.errors import VrestoreError
from vrestore.report import Progress, Report

if TYPE_CHECKING:
    from pathlib import Path

    from vrestore.evaluate.table import Evaluation
    from vrestore.jobs.batch import Outcome
    from vrestore.models.entry import Entry
    from vrestore.plan import Plan

SECONDS_BETWEEN_LINES = 5.0


class Silence:
    """Shows nothing but errors, which go to standard error."""

    def progress(self, now: Progress) -> None:
        """Called after each frame."""

    def ended(self, outcome: Outcome) -> None:
        """Called after each of several films."""
        if outcome.error:
            self.error(outcome.error)

    def report(self, report: Report) -> None:
        """Called when a film is done."""

    def fetching(self, entry: Entry) -> None:
        """Called before weights are fetched; their licence is always shown."""
        print(f"{entry.name}: {entry.licence}", file=sys.stderr, flush=True)

    def fetched(self, done: int, total: int | None) -> None:
        """Called while weights are fetched, with bytes."""

    def planned(self, plan: Plan) -> None:
        """Called when it is known what a film will take."""

    def explaining(self, done: int, total: int) -> None:
        """Called while that is being found out, with steps."""

    def explained(self, shares: Mapping[int, float], target: Path) -> None:
        """Called when it is known what an output was made from."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """Called when a model has been scored on a set."""

    def error(self, error: VrestoreError) -> None:
        """Called when a film, or the command, has failed."""
        print(f"vrestore: {error}", file=sys.stderr)

    def summary(self, outcomes: Sequence[Outcome]) -> None:
        """Called when several films are done."""

    def close(self) -> None:
        """Called once, however the run ended."""


class PlainLines(Silence):
    """A line every few seconds on standard error, the report on standard output."""

    def __init__(self) -> None:
        self.last = float("-inf")

    def fetched(self, done: int, total: int | None) -> None:
        if time.monotonic() - self.last > SECONDS_BETWEEN_LINES or done == total:
            self.last = time.monotonic()
            of = "" if total is None else f" of {total / 1e6:.1f}"
            print(f"weights: {done / 1e6:.1f}{of} MB", file=sys.stderr, flush=True)

    def progress(self, now: Progress) -> None:
        if time.monotonic() - self.last < SECONDS_BETWEEN_LINES and now.frames != now.total:
            return
        self.last = time.monotonic()
        left = "" if now.seconds_left is None else f", {now.seconds_left:.0f} s left"
        of = "" if now.total is None else f"/{now.total}"
        line = f"{now.source.name}: frame {now.frames}{of}, {now.fps:.2f} frames/s{left}"
        print(line, file=sys.stderr, flush=True)

    def ended(self, outcome: Outcome) -> None:
        super().ended(outcome)
        if outcome.report:
            self.report(outcome.report)
        elif not outcome.error:
            print(f"{outcome.target}: finished before, skipped")
            if outcome.damage:
                print(f"  damaged: {outcome.damage}")

    def report(self, report: Report) -> None:
        self.last = float("-inf")
        print("\n".join(report.lines()), flush=True)

    def planned(self, plan: Plan) -> None:
        print("\n".join(plan.lines()), flush=True)

    def explaining(self, done: int, total: int) -> None:
        if time.monotonic() - self.last > SECONDS_BETWEEN_LINES:
            self.last = time.monotonic()
            print(f"explaining: step {done} of {total}", file=sys.stderr, flush=True)

    def explained(self, shares: Mapping[int, float], target: Path) -> None:
        for number, share in shares.items():
            print(f"frame {number:6d}  {share:6.1%}  {'#' * round(60 * share)}")
        print(target, flush=True)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.last = float("-inf")
        print("\n".join(evaluation.lines()), flush=True)

    def summary(self, outcomes: Sequence[Outcome]) -> None:
        print(", ".join(f"{n} {word}" for word, n in count(outcomes).items()))


class Bar(PlainLines):
    """tqdm's bar: frames, frames a second, time left."""

    bar: tqdm[Any] | None = None

    def fetched(self, done: int, total: int | None) -> None:
        if self.bar is None:
            self.bar = tqdm(total=total, unit="B", unit_scale=True, desc="weights")
        self.bar.update(done - self.bar.n)

    def progress(self, now: Progress) -> None:
        if self.bar is None:
            self.bar = tqdm(total=now.total, unit="frame", desc=now.source.name, dynamic_ncols=True)
        self.bar.update(now.frames - self.bar.n)

    def explaining(self, done: int, total: int) -> None:
        if self.bar is None:
            self.bar = tqdm(total=total, unit="step", desc="explaining", dynamic_ncols=True)
        self.bar.update(done - self.bar.n)

    def explained(self, shares: Mapping[int, float], target: Path) -> None:
        self.close()
        super().explained(shares, target)

    def ended(self, outcome: Outcome) -> None:
        self.close()
        super().ended(outcome)

    def report(self, report: Report) -> None:
        self.close()
        super().report(report)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.close()
        super().evaluated(evaluation)

    def error(self, error: VrestoreError) -> None:
        self.close()
        super().error(error)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


class JsonLines(Silence):
    """One JSON object a line on standard output; ``event`` says which."""

    def __init__(self) -> None:
        self.last = float("-inf")

    def fetching(self, entry: Entry) -> None:
        self.write("fetching", model=entry.name, licence=entry.licence)

    def fetched(self, done: int, total: int | None) -> None:
        if time.monotonic() - self.last > 0.5 or done == total:
            self.last = time.monotonic()
            self.write("fetched", bytes=done, total=total)

    def progress(self, now: Progress) -> None:
        if time.monotonic() - self.last < 0.5 and now.frames != now.total:
            return
        self.last = time.monotonic()
        self.write(
            "progress",
            source=str(now.source),
            frames=now.frames,
            total=now.total,
            fps=round(now.fps, 3),
            seconds_left=None if now.seconds_left is None else round(now.seconds_left, 1),
        )

    def ended(self, outcome: Outcome) -> None:
        if outcome.error:
            self.write(
                "error",
                source=str(outcome.source),
                message=str(outcome.error),
                exit_code=outcome.error.exit_code,
            )
        elif outcome.report:
            self.report(outcome.report)
        else:
            self.write(
                "skipped",
                source=str(outcome.source),
                target=str(outcome.target),
                damage=outcome.damage,
            )

    def report(self, report: Report) -> None:
        self.write("report", **report.as_dict())

    def planned(self, plan: Plan) -> None:
        self.write("plan", **plan.as_dict())

    def explained(self, shares: Mapping[int, float], target: Path) -> None:
        rounded = {str(number): round(share, 6) for number, share in shares.items()}
        self.write("explained", target=str(target), shares=rounded)

    def evaluated(self, evaluation: Evaluation) -> None:
        self.write("evaluated", **evaluation.as_dict())

    def error(self, error: VrestoreError) -> None:
        self.write("error", message=str(error), exit_code=error.exit_code)

    def summary(self, outcomes: Sequence[Outcome]) -> None:
        self.write("summary", **count(outcomes))

    def write(self, event: str, **values: Any) -> None:
        """One line, flushed, so that a reader at the other end of a pipe sees it now."""
        print(json.dumps({"event": event, **values}), flush=True)


def count(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """How many were restored whole, skipped as finished, and failed; and how many of all that are
    there now are damaged (as far as their films go)."""
    return {
        "restored": sum(1 for o in outcomes if o.report and not o.damage),
        "damaged": sum(1 for o in outcomes if o.damage),
        "skipped": sum(1 for o in outcomes if not (o.report or o.error or o.damage)),
        "failed": sum(1 for o in outcomes if o.error),
    }
