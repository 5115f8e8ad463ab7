"""Where the ffmpeg program is, and how old it is."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress

from vrestore.errors import OutputError

_NOT_FOUND = (
    "no ffmpeg program: there is none on PATH, and the Python package imageio-ffmpeg brings none. "
    "Install one with `pip install imageio-ffmpeg`, or ffmpeg itself from your system's packages."
)


def ffmpeg_binary() -> str:
    """The ffmpeg to run: the one on PATH, else the one in the imageio-ffmpeg wheel.

    Raises OutputError where there is neither.
    """
    found = next(_found(), None)
    if found is None:
        raise OutputError(_NOT_FOUND)
    return found


def ffmpeg_binaries() -> list[str]:
    """All that there are, in that order; OutputError where there is none."""
    return list(dict.fromkeys((ffmpeg_binary(), *_found())))


def _found() -> Iterator[str]:
    on_path = shutil.which("ffmpeg")
    if on_path is not None:
        yield on_path
    with suppress(ImportError, RuntimeError, OSError):
        import imageio_ffmpeg

        yield str(imageio_ffmpeg.get_ffmpeg_exe())


def ffmpeg_version(binary: str) -> int:
    """The major version of ``binary``; a build from FFmpeg's master branch counts as 99.

    Raises OutputError where the program does not run or does not say.
    """
    try:
        reply = subprocess.run(
            [binary, "-version"], capture_output=True, text=True, errors="replace", timeout=60
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise OutputError(f"{binary} does not run ({error}). {_NOT_FOUND}") from error
    stated = re.match(r"ffmpeg version n?(\d+)\.", reply.stdout)
    if stated:
        return int(stated.group(1))
    if reply.returncode == 0 and re.match(r"ffmpeg version (N-|git)", reply.stdout):
        return 99
    raise OutputError(f"{binary} does not state its version. {_NOT_FOUND}")
