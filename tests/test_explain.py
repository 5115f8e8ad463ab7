"""``vrestore explain``: the strip, the shares, and what is refused."""

import json
import sys

import numpy as np
import pytest
import torch
from films import ffmpeg, film, raw

from vrestore import progress
from vrestore.cli import main
from vrestore.explain import BAR_PX, GAP_PX, STEPS, ZOOM, look_at, write


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "clip.mp4", 5, "40x32")
    (tmp_path / "clip.png").write_bytes(b"mine")
    return tmp_path


def test_the_strip_shows_every_frame_and_the_shares_add_up(here, capsys):
    words = ["explain", "clip.mp4", "--frame", "1", "--at", "20,10", "--reach", "1"]
    assert main([*words, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["shares"]) == ["0", "1", "2"]
    assert sum(told["shares"].values()) == pytest.approx(1, abs=1e-5)
    assert max(told["shares"], key=told["shares"].get) == "1"
    picture = raw(here / "clip_explained.png", "rgb24").reshape(-1, 3 * 40 * ZOOM + 2 * GAP_PX, 3)
    red = picture[: 32 * ZOOM].astype(int)
    hot = ((red[..., 0] - red[..., 1]) > 40).nonzero()
    middle = 40 * ZOOM + GAP_PX  # the second of three frames
    assert abs(np.median(hot[0]) / ZOOM - 10) < 4
    assert abs((np.median(hot[1]) - middle) / ZOOM - 20) < 4
    assert main(words) == 6
    assert "exists; give --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "-n", "bicubic"]) == 0
    assert "frame      1  100.0%" in capsys.readouterr().out


def test_while_it_takes_its_time_it_says_how_far_it_is(here, capsys, monkeypatch):
    words = ["explain", "clip.mp4", "--frame", "1", "--at", "20,10", "--reach", "0"]
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", -1.0)
    assert main([*words, "-n", "bicubic", "-o", "a.png"]) == 0
    lines = [f"explaining: step {done} of {STEPS}" for done in range(1, STEPS + 1)]
    assert capsys.readouterr().err.splitlines() == lines
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main([*words, "-n", "bicubic", "-o", "b.png"]) == 0
    told = capsys.readouterr()
    assert f"{STEPS}/{STEPS}" in told.err
    assert told.err.endswith("\n")
    assert told.out.startswith("frame      1")
    assert main([*words, "-n", "bicubic", "-o", "c.png", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--frame", "9", "--at", "1,1"], 3, "has no frame 9; it has frames 0 to"),
        (["--frame", "0", "--at", "40,0"], 2, "outside its 40x32 pixels"),
        (["--frame", "0", "--at", "4"], 2, "give the place as X,Y"),
        (["--frame", "0", "--at", f"{'9' * 5000},4"], 2, "give the place as X,Y"),
        (["--frame", "-1", "--at", "4,4"], 2, "must not be negative"),
        (["--frame", "0", "--at", "4,4", "-o", "none/x.png"], 6, "there is no folder none"),
        (["--frame", "0", "--at", "4,4", "-o", "x.gif"], 2, "is a PNG"),
        (["--frame", "0", "--at", "4,4", "-o", "clip.png"], 6, "clip.png exists"),
        (["--at", "4,4"], 2, "--frame"),
    ],
)
def test_what_cannot_be_explained_is_said(here, capsys, words, code, message):
    assert main(["explain", "clip.mp4", *words, "-n", "bicubic", "--reach", "0"]) == code
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in here.iterdir()) == ["clip.mp4", "clip.png"]


def test_a_place_without_edges_has_no_answer_and_that_is_said(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    ffmpeg("-f", "lavfi", "-i", "color=gray:s=40x32:r=25:d=0.12", "-c:v", "ffv1", "flat.mkv")
    words = ["--frame", "1", "--at", "9,9", "--reach", "0", "-n", "bicubic"]
    assert main(["explain", "flat.mkv", *words]) == 0
    assert "has no edges to explain" in caplog.text


def test_frames_are_numbered_in_the_strip(here):
    words = ["--at", "20,10", "--reach", "1", "-n", "bicubic", "-o"]
    for frame in (1, 3):
        assert main(["explain", "clip.mp4", "--frame", str(frame), *words, f"{frame}.png"]) == 0
    width = 3 * 40 * ZOOM + 2 * GAP_PX
    one, three = (raw(here / f"{n}.png", "rgb24").reshape(-1, width, 3) for n in (1, 3))
    below = slice(32 * ZOOM + BAR_PX - 10, 32 * ZOOM + BAR_PX)
    numbers = [picture[below, 40 * ZOOM - 16 : 40 * ZOOM] for picture in (one, three)]
    hash_sign = [picture[:, :6] for picture in numbers]
    assert np.array_equal(*hash_sign)
    assert (hash_sign[0] == 0).any()
    assert not np.array_equal(*numbers)  # 0 and 2


def test_nothing_beyond_a_cut_is_looked_at(tmp_path):
    source = tmp_path / "cut.mkv"
    ffmpeg(
        "-f", "lavfi", "-i", "testsrc2=s=96x72:r=25:d=0.24", "-f", "lavfi", "-i",
        "mandelbrot=s=96x72:r=25", "-filter_complex",
        "[1]trim=end_frame=6,setpts=PTS-STARTPTS[b];[0][b]concat", "-c:v", "ffv1", source,
    )  # fmt: skip
    before, after = look_at(source, 4, 90, 2), look_at(source, 7, 2, 70, reach=2)
    assert (before.first, len(before.clip), before.asked) == (0, 6, 4)
    assert (before.row, before.column) == (2, 90 - 32)
    assert (after.first, len(after.clip), after.asked) == (6, 4, 1)
    assert (after.row, after.column) == (70 - 8, 2)
    assert before.clip.shape[1:] == (3, 64, 64)


def test_a_folder_of_pictures_is_explained_beside_itself(tmp_path, monkeypatch):
    film(tmp_path / "clip.mp4", 3, "40x32")
    source, pictures = tmp_path / "clip.mp4", tmp_path / "a.b"
    assert main([str(source), "-n", "identity", "-o", str(pictures / "%d.png")]) == 0
    monkeypatch.chdir(pictures)
    assert main(["explain", ".", "--frame", "1", "--at", "1,1", "-n", "bicubic"]) == 0
    assert (tmp_path / "a.b_explained.png").is_file()


def test_figures_are_written_as_far_as_there_is_room():
    picture = torch.full((3, 12, 20), 255, dtype=torch.uint8)
    write(picture, "18%", 0, 0)
    assert (picture[0, :10, :6] == 0).any()
    assert (picture[0, :10, 6:8] == 255).all()
