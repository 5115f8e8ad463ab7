"""Several films, one after the other: the model loaded once, a bad one never stops the rest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vrestore.ends import look, target_for
from vrestore.errors import InputError, OutputError, UsageError, VrestoreError, told
from vrestore.options import RestoreOptions
from vrestore.report import ProgressCallback, Report
from vrestore.restore import load_restorer, restore
from vrestore.video.partial import fitting


@dataclass(frozen=True)
class Outcome:
    """How one film ended: ``report`` where it was restored, ``error`` where it was not,
    neither where a finished output was there already. ``damage``: what is missing from it, now
    or when it was made."""

    source: Path
    target: Path
    report: Report | None = None
    error: VrestoreError | None = None
    damage: str | None = None

    def failed(self, options: RestoreOptions) -> bool:
        """Not restored, or not whole where that was not accepted."""
        return self.error is not None or bool(self.damage and not options.allow_truncated)

    @property
    def exit_code(self) -> int:
        """That of the film by itself."""
        return self.error.exit_code if self.error else InputError.exit_code if self.damage else 0


def restore_all(
    sources: Sequence[Path],
    folder: Path | None,
    options: RestoreOptions,
    progress: ProgressCallback | None = None,
    ended: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Restore every source into ``folder`` (None: beside each); finished ones are skipped.

    An output under its final name is complete and verified, so that its being there, of the right
    size, is enough; another file of that name is an error. What a damaged film lacks is written
    down beside its output (``damage_note``), for the runs to come. Results of an earlier run among
    the sources are passed over. ``ended`` is called after each.
    UsageError: two sources would get the same output.
    """
    aims = {source: target_for(source, folder, folder=folder is not None) for source in sources}
    mine = set(aims.values()) if folder is None else set()
    aims = {source: target for source, target in aims.items() if source not in mine}
    taken: dict[Path, Path] = {}
    for source, target in aims.items():
        if target in taken:
            raise UsageError(f"{taken[target]} and {source} would both become {target}; rename one")
        taken[target] = source
    restorer = load_restorer(options)
    if folder is not None:
        make_folder(folder)
    outcomes = []
    for source, target in aims.items():
        note = damage_note(target)
        try:
            if target.exists() and not options.overwrite and not same_file(source, target):
                check_finished(source, target, options.scale or restorer.scale)
                damage = note.read_text("utf-8").strip() if note.exists() else None
                outcome = Outcome(source, target, damage=damage)
            else:
                report = restore(
                    source, target, options=options, progress=progress, restorer=restorer
                )
                note_damage(report)
                outcome = Outcome(source, target, report, damage=report.damage)
        except Exception as error:  # whatever it was, it is not the next film's
            outcome = Outcome(source, target, error=told(error))
        outcomes.append(outcome)
        if ended:
            ended(outcome)
    return outcomes


def check_finished(source: Path, target: Path, scale: float) -> None:
    """OutputError where ``target`` cannot be what became of ``source``, enlarged ``scale`` times.

    A source that is no longer there, or cannot be read any more, is not compared.
    """
    wrong = None
    try:
        made = look(target, RestoreOptions())
    except InputError as error:
        wrong = f"it cannot be read ({error})"
    else:
        with suppress(InputError):
            info = look(source, RestoreOptions())
            width, height = round(info.width * scale), round(info.height * scale)
            if (width, height) != (made.width, made.height):
                wrong = f"it has {made.width}x{made.height} pixels, not {width}x{height}"
    if wrong:
        raise OutputError(
            f"{target}: is there, but is not what {source.name} becomes: {wrong}; delete it, or "
            "give --overwrite"
        )


def damage_note(target: Path) -> Path:
    """Where it is written what a result lacks of its film."""
    return target.with_name(fitting(target.name, ".damage.txt"))


def note_damage(report: Report) -> None:
    """Write it down beside the result; where there is none, what an earlier run wrote goes."""
    note = damage_note(report.target)
    if report.damage:
        note.write_text(report.damage + "\n", "utf-8", errors="backslashreplace")
    else:
        note.unlink(missing_ok=True)


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
