"""What killed runs leave: their own machine's next run deletes it, and nothing else."""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vrestore.video.partial import clear_abandoned, partial_name

MakeClip = Callable[..., Path]
RUN = "import sys; from vrestore.cli import main; sys.exit(main(sys.argv[1:]))"


def gone() -> int:
    """The number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        pass
    return process.pid


def of_process(path: Path, pid: int) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "getpid", lambda: pid)
        return path.with_name(partial_name(path))


@pytest.mark.parametrize("kind", ["film.mkv", "a" * 251 + ".mp4"])
def test_only_what_nobody_will_finish_is_deleted(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    abandoned = of_process(path, gone())
    abandoned.touch()
    machine, number = abandoned.name.split(".part-")[1].split(path.suffix)[0].rsplit("-", 1)
    assert machine
    other_machine = abandoned.name.replace(f"{machine}-{number}", f"x-{number}")
    kept = [
        of_process(path, os.getpid()),  # still running
        of_process(path.with_stem("b" + path.stem[:5]), int(number)),  # of another film
        tmp_path / other_machine,
        tmp_path / f"{path.stem[:5]}.part-{number}{path.suffix}",  # a user's
    ]
    for one in kept:
        one.touch()
    clear_abandoned(path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)


def test_pictures_that_a_run_could_not_name_stay(tmp_path: Path) -> None:
    """It has said where they are."""
    kept = of_process(tmp_path / "pictures", gone())
    kept.mkdir()
    (kept / "00000000.png").touch()
    clear_abandoned(tmp_path / "pictures")
    assert list(kept.iterdir())


def test_machines_without_a_name_have_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "node", lambda: "")
    assert partial_name(Path("out.mp4")) == f".out.part-here-{os.getpid()}.mp4"
    monkeypatch.setattr(platform, "node", lambda: "../ä é")
    assert partial_name(Path("out.mp4")) == f".out.part-here-{os.getpid()}.mp4"


@pytest.mark.skipif(os.name != "posix", reason="processes are not asked for elsewhere")
def test_a_run_killed_at_night_leaves_nothing_after_the_next(
    make_clip: MakeClip, tmp_path: Path
) -> None:
    film = make_clip("in.mp4", "-f", "lavfi", "-i", "testsrc2=size=64x48:rate=25:duration=4")
    flags = ["--model", "bicubic", "--codec", "libx264", "--device", "cpu"]
    command = [sys.executable, "-c", RUN, str(film), "-o", str(tmp_path / "out.mp4"), *flags]
    night = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (left := list(tmp_path.glob(".out.part-*"))) and time.monotonic() < until:
        time.sleep(0.01)
    night.send_signal(signal.SIGKILL)
    night.wait()
    assert left
    assert left[0].exists()
    subprocess.run(command, check=True, timeout=120, capture_output=True)
    assert [path.name for path in tmp_path.iterdir() if "out" in path.name] == ["out.mp4"]
