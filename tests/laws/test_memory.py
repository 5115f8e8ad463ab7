"""Law 4: peak memory does not depend on length."""

import gc
import itertools
import subprocess
import sys
import weakref

import torch
from films import film
from networks import moving_clip, small_basicvsr

import vrestore
from vrestore import Restorer


def test_a_long_shot_holds_no_more_frames_than_a_short_one():
    """Counted, not weighed: how many of the source's frames are alive at once."""

    def most_alive(frames):
        alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
        most = 0

        def source():
            nonlocal most
            for frame in moving_clip(8):
                for _ in range(frames // 8):
                    copy = frame.clone()
                    alive.add(copy)
                    yield copy
                    del copy
                    most = max(most, len(alive))

        restorer = Restorer(small_basicvsr(), chunk=4, lookahead=4, precision="fp32", device="cpu")
        assert sum(1 for _ in restorer.stream(source())) == frames
        return most

    assert most_alive(160) == most_alive(40) <= 4 + 4 + 4 + 2  # a chunk, ahead, behind


def test_a_long_film_leaves_no_more_behind_than_a_short_one(tmp_path):
    """Python objects that the road still holds when it is at frame n do not grow with n."""

    def objects(frames):
        source = film(tmp_path / f"{frames}.mkv", frames, "16x16", sound=False)
        counts = []

        def count(progress):
            if progress.frames in (frames // 2, frames - 10):
                gc.collect()
                counts.append(len(gc.get_objects()))

        vrestore.restore(
            source, tmp_path / f"{frames}out.mkv", model="identity", device="cpu", progress=count
        )
        return counts

    objects(40)
    middle, end = objects(400)
    assert end - middle < 100


def test_a_report_says_what_a_film_did_not_get_and_only_its_own(tmp_path):
    """One restorer for two films: the first runs out of memory once."""
    net, calls = small_basicvsr(), itertools.count()
    advance = net.advance

    def starving(*args):
        if next(calls) == 0:
            raise MemoryError
        return advance(*args)

    net.advance = starving
    restorer = Restorer(net, precision="fp32", device="cpu", chunk=16, lookahead=8)
    source = film(tmp_path / "a.mkv", 9, "16x16", sound=False)
    first, second = (
        vrestore.restore(source, tmp_path / n, restorer=restorer) for n in ("b.mkv", "c.mkv")
    )
    assert any(note.startswith("out of memory: going on with") for note in first.notes)
    assert not any("out of memory" in note for note in second.notes)
    assert first.frames == second.frames == 9


def test_a_film_is_restored_without_torch_s_compiler(tmp_path):
    """Sixty megabytes and half a second that nothing on the road needs."""
    source = film(tmp_path / "in.mkv", 3, "32x16", sound=False)
    run = (
        "import sys, vrestore; "
        "vrestore.restore(*sys.argv[1:], model='basicvsr', device='cpu', precision='fp32'); "
        "print(*{'sympy', 'torch.fx.experimental.symbolic_shapes'} & {*sys.modules})"
    )
    command = [sys.executable, "-c", run, str(source), str(tmp_path / "out.mkv")]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, found.stdout.strip()) == (0, ""), found.stderr
