"""NTIRE submission packs: a zip of pictures and readme.txt, nothing in folders."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from vrestore.errors import OutputError, UsageError
from vrestore.evaluate.footage import code_values
from vrestore.evaluate.sets import Clip
from vrestore.video.partial import partial_name
from vrestore.video.picture_codec import png

FLAT = "{clip}_{frame:08d}.png"  # CCC_FFFFFFFF.png, as REDS tracks store it
DRAWN_UP = (1980, 1, 1, 0, 0, 0)  # the zip's least date: the same pictures give the same bytes


@dataclass(frozen=True)
class PackForm:
    """What a server asks for. ``frames``: which, by index from 0, rising; None: the judged ones.
    ``names``: of the pictures, with ``{clip}`` and ``{frame}``, the number that the input's file
    has; a slash in it makes folders. ``note`` and ``extra_data`` go into the readme."""

    frames: Sequence[int] | None = None
    names: str = FLAT
    note: str = ""
    extra_data: bool = False

    def check(self, clips: Sequence[Clip]) -> None:
        """Before the run: UsageError where names would come twice, or no frame would come at all.

        Films say only at their end how many frames they have.
        """
        seen: dict[str, str] = {}
        for clip in clips:
            name = self.name_of(clip.name, clip.first)
            if name == self.name_of(clip.name, clip.first + 1):
                raise UsageError(
                    f"--submit-names {self.names}: every frame of clip {clip.name} would be "
                    f"called {name}; put {{frame}} into it"
                )
            if name in seen:
                raise UsageError(
                    f"--submit-names {self.names}: clips {seen[name]} and {clip.name} would both "
                    f"have a picture {name}; put {{clip}} into it"
                )
            seen[name] = clip.name
        counts = [side.count for clip in clips for side in (clip.lq or clip.truth,) if side]
        least = self.frames[0] if self.frames else 0
        if all(count is not None and least >= count for count in counts):
            raise UsageError(
                f"--submit-frames: begin with {least}, and the longest clip has "
                f"{max(count or 0 for count in counts)} frames, from 0 on"
            )

    def name_of(self, clip: str, frame: int) -> str:
        """A picture's name in the zip. Raises UsageError where ``names`` is no such form."""
        flat = clip if "/" in self.names else clip.replace("/", "_")
        try:
            name = self.names.format(clip=flat, frame=frame)
        except (LookupError, ValueError, AttributeError) as error:
            raise UsageError(
                f"--submit-names {self.names}: is no form of names; write such as {FLAT}"
            ) from error
        if not name.endswith(".png") or ".." in name or name.startswith("/"):
            raise UsageError(f"--submit-names {self.names}: gives {name}, which is no PNG's name")
        return name


class Pack:
    """A zip that grows under a partial name and appears when ``close`` has written the readme.

    Raises OutputError for one that exists already (unless ``overwrite``) or cannot be written.
    """

    def __init__(self, target: Path, form: PackForm, *, overwrite: bool = False) -> None:
        form.name_of("clip", 0)
        if target.exists() and not overwrite:
            raise OutputError(f"{target}: exists already; use --overwrite, or name another")
        self._target, self._form = target, form
        self._growing = target.absolute().with_name(partial_name(target))
        self._names: set[str] = set()
        try:
            self._zip = zipfile.ZipFile(self._growing, "w", zipfile.ZIP_STORED)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written: {error.strerror}") from error

    def add(self, clip: str, number: int, index: int, picture: Tensor, judged: bool) -> None:
        """A restored frame, ``(3, H, W)`` in 0..1, if it is one of those that are asked for.

        ``judged``: whether it is one by which the protocol judges. UsageError where another has had
        its name.
        """
        wanted = self._form.frames
        if not (judged if wanted is None else index in wanted):
            return
        name = self._form.name_of(clip, number)
        if name in self._names:
            raise UsageError(
                f"--submit-names {self._form.names}: two pictures would be called {name}"
            )
        self._names.add(name)
        self._write(name, png(code_values(picture).cpu().numpy()))

    def close(self, seconds_per_frame: float, device: torch.device) -> Path:
        """Write the readme, and give the zip its name. UsageError where no picture came."""
        if not self._names:
            raise UsageError(f"{self._target}: no frame was one of --submit-frames; not written")
        text = readme(seconds_per_frame, device.type == "cpu", self._form)
        self._write("readme.txt", text.encode())
        try:
            self._zip.close()
            self._growing.replace(self._target)
        except OSError as error:
            raise OutputError(f"{self._target}: cannot be written: {error.strerror}") from error
        return self._target

    def _write(self, name: str, content: bytes) -> None:
        try:
            self._zip.writestr(zipfile.ZipInfo(name, DRAWN_UP), content)
        except OSError as error:
            raise OutputError(f"{self._target}: cannot be written: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with suppress(OSError):  # what could not be written was told already
            self._zip.close()
            self._growing.unlink(missing_ok=True)


def readme(seconds_per_frame: float, on_cpu: bool, form: PackForm) -> str:
    """The four lines that many editions ask for (NTIRE 2019 and on)."""
    slow = seconds_per_frame > 0.1  # else two digits that say something
    return "".join(
        f"{field} : {value}\n"
        for field, value in (
            ("runtime per frame [s]", format(seconds_per_frame, ".2f" if slow else ".2g")),
            ("CPU[1] / GPU[0]", int(on_cpu)),
            ("Extra Data [1] / No Extra Data [0]", int(form.extra_data)),
            ("Other description", form.note),
        )
    )
