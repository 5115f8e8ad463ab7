"""Where the ffmpeg program is, and how old it is."""

from __future__ import annotations

import re
import shutil
import subprocess

from vrestore.errors import OutputError

_NOT_FOUND = (
    "no ffmpeg program: there is none on PATH, and the Python package imageio-ffmpeg brings none. "
    "Install one with `pip install imageio-ffmpeg`, or ffmpeg itself from your system's packages."
)


def ffmpeg_binary() -> str:
    """The ffmpeg to run: the one on PATH, else the one in the imageio-ffmpeg wheel.

    Raises OutputError where there is neither.
    """
    on_path = shutil.which("ffmpeg")
    if on_path is not None:
        return on_path
    try:
        import imageio_ffmpeg

        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError, OSError) as error:
        raise OutputError(_NOT_FOUND) from error


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
