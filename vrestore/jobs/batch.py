"""Several films, one after the other: the model loaded once, a bad one never stops the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vrestore.ends import target_for
from vrestore.errors import OutputError, UsageError, VrestoreError, told
from vrestore.options import RestoreOptions
from vrestore.report import ProgressCallback, Report
from vrestore.restore import load_restorer, restore


@dataclass(frozen=True)
class Outcome:
    """How one film ended: ``report`` where it was restored, ``error`` where it was not,
    neither where a finished output was there already."""

    source: Path
    target: Path
    report: Report | None = None
    error: VrestoreError | None = None

    def failed(self, options: RestoreOptions) -> bool:
        """Not restored, or not whole where that was not accepted."""
        damaged = self.report is not None and self.report.damage is not None
        return self.error is not None or (damaged and not options.allow_truncated)


def restore_all(
    sources: Sequence[Path],
    folder: Path | None,
    options: RestoreOptions,
    progress: ProgressCallback | None = None,
    ended: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Restore every source into ``folder`` (None: beside each); finished ones are skipped.

    An output under its final name is complete and verified, so that its being there is enough.
    ``ended`` is called after each. UsageError: two sources would get the same output.
    """
    targets = [target_for(source, folder, folder=folder is not None) for source in sources]
    for i, target in enumerate(targets):
        if target in targets[:i]:
            other = sources[targets.index(target)]
            raise UsageError(f"{other} and {sources[i]} would both become {target}; rename one")
    if folder is not None:
        make_folder(folder)
    restorer = load_restorer(options)
    outcomes = []
    for source, target in zip(sources, targets, strict=True):
        outcome = Outcome(source, target)
        if options.overwrite or not target.exists() or same_file(source, target):
            try:
                report = restore(
                    source, target, options=options, progress=progress, restorer=restorer
                )
                outcome = Outcome(source, target, report=report)
            except Exception as error:  # whatever it was, it is not the next film's
                outcome = Outcome(source, target, error=told(error))
        outcomes.append(outcome)
        if ended:
            ended(outcome)
    return outcomes


def same_file(source: Path, target: Path) -> bool:
    """Whether the output would be its own input: not a finished one, but a mistake to be told."""
    return source.exists() and source.samefile(target)


def make_folder(folder: Path) -> None:
    """The output folder; OutputError where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{folder}: cannot be made ({error.strerror}); choose another -o"
        ) from error
