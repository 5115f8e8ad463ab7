"""``vrestore evaluate``: whole benchmarks of tiny pictures, the table, the files, the refusals."""

import csv
import json
import runpy
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
from benchmark_sets import moving, write_clip, write_set
from films import raw

from vrestore.cli import main
from vrestore.errors import OutputError

REDS4 = dict.fromkeys(("000", "011", "015", "020"), 100)
TOOLS = Path(__file__).resolve().parents[1] / "tools"


@pytest.fixture(scope="module")
def reds4(tmp_path_factory):
    """The whole set: 4 clips of 100 frames, 16x16 pixels."""
    return write_set(tmp_path_factory.mktemp("reds4"), REDS4, size=(16, 16))


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path, {"a": 3, "b": 4}, size=(32, 48))
    return tmp_path


def test_reds4_is_scored_in_full_with_the_published_figure_beside_it(reds4, capsys):
    lq, gt = map(str, reds4)
    words = ["evaluate", "--protocol", "reds4", "--lq", lq, "--gt", gt, "-n", "bicubic"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("REDS4, 4 clips: bicubic; 400 frames, cpu in fp32, rounded")
    assert lines[1] == "  judged in RGB, crop 0; input: BI (MATLAB bicubic)"
    table = {line.split()[0]: line.split()[1:] for line in lines[3:-1]}
    assert list(table) == ["000", "011", "015", "020", "mean", "published", "difference"]
    assert [row[0] for row in table.values()][:5] == ["100", "100", "100", "100", "400"]
    assert table["published"][:2] == ["26.1400", "0.7292"]
    ours, theirs = float(table["mean"][1]), float(table["difference"][0])
    assert theirs == pytest.approx(ours - 26.14, abs=1e-3)
    of_clips = [float(table[clip][1]) for clip in REDS4]
    assert ours == pytest.approx(sum(of_clips) / 4, abs=1e-4)
    assert lines[2].split("  ")[0] == "clip"


def test_a_reds4_with_a_frame_less_is_refused_before_anything_runs(reds4, tmp_path, capsys):
    lq, gt = reds4
    shorter = tmp_path / "lq"
    shorter.mkdir()
    for clip in REDS4:
        (shorter / clip).mkdir()
        for picture in (lq / clip).iterdir():
            if (clip, picture.name) != ("015", "00000042.png"):
                (shorter / clip / picture.name).symlink_to(picture)
    words = ["--lq", str(shorter), "--gt", str(gt), "-n", "bicubic"]
    assert main(["evaluate", "--protocol", "reds4", *words]) == 3
    said = capsys.readouterr()
    assert "lq/015/00000042.png: is missing; the clip has 100 frames" in said.err
    assert said.out == ""


@pytest.mark.parametrize("side", ["lq", "gt"])
def test_a_frame_of_another_size_is_told_of_before_anything_runs(here, capsys, monkeypatch, side):
    monkeypatch.setattr("vrestore.evaluate.request.load_restorer", no_weights)
    write_clip(here / "other", moving(1, 20, 28))
    shutil.copy(here / "other" / "00000000.png", here / side / "b" / "00000003.png")
    words = ["--lq", "lq", "--gt", "gt", "-n", "bicubic"]
    assert main(["evaluate", "--protocol", "custom", *words]) == 3
    assert f"{side}/b/00000003.png: 28x20, but 00000000.png is" in capsys.readouterr().err


def test_values_of_every_frame_go_into_csv_and_json(here, capsys):
    words = ["evaluate", "--protocol", "custom", "--lq", "lq", "--gt", "gt", "-n", "bicubic"]
    assert main([*words, "--out", "a.csv", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    with (here / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["clip"], row["frame"]) for row in rows[:4]] == [
        ("a", "0"), ("a", "1"), ("a", "2"), ("b", "0")
    ]  # fmt: skip
    assert main([*words, "--out", "a.json", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    written = json.loads((here / "a.json").read_text())
    assert told.pop("event") == "evaluated"
    assert [clip["mean"] for clip in written["clips"]] == [clip["mean"] for clip in told["clips"]]
    frames = [frame["psnr_y"] for clip in written["clips"] for frame in clip["frames"]]
    assert frames == pytest.approx([float(row["psnr_y"]) for row in rows])
    assert main([*words, "--out", "a.csv"]) == 6
    assert "a.csv: exists already" in capsys.readouterr().err
    assert main([*words, "--out", "a.csv", "--overwrite", "--quiet"]) == 0


def test_equal_pictures_are_infinitely_good_and_json_says_null(here, capsys):
    words = ["evaluate", "--protocol", "custom", "--lq", "gt", "--gt", "gt", "-n", "identity"]
    assert main(words) == 0
    assert "       inf     1.0000" in capsys.readouterr().out
    assert main([*words, "--json"]) == 0
    told = capsys.readouterr().out.splitlines()[-1]
    assert "Infinity" not in told
    assert json.loads(told)["mean"]["psnr_y"] is None


def test_inputs_are_made_and_kept_where_they_are_asked_for(here, capsys):
    words = ["evaluate", "--protocol", "custom", "--gt", "gt", "--make-lq", "bi", "-n", "bicubic"]
    assert main(words) == 0
    in_memory = capsys.readouterr().out.splitlines()[3:-1]
    assert main([*words, "--lq", "made"]) == 0
    assert capsys.readouterr().out.splitlines()[3:-1] == in_memory
    assert len(list((here / "made" / "b").iterdir())) == 4
    assert main([*words, "--lq", "made"]) == 2
    assert "--lq made exists" in capsys.readouterr().err


def test_a_submission_needs_no_truth_and_holds_every_tenth_frame(tmp_path, capsys):
    write_clip(tmp_path / "lq" / "007", moving(100, 8, 8))
    zip_ = tmp_path / "submit.zip"
    words = ["--lq", str(tmp_path / "lq"), "--clips", "007", "-n", "bicubic"]
    assert main(["evaluate", "--protocol", "ntire21-vsr", *words, "--submit", str(zip_)]) == 0
    assert "nothing scored" in capsys.readouterr().out
    names = zipfile.ZipFile(zip_).namelist()
    assert names[:2] == ["007_00000009.png", "007_00000019.png"]
    assert names[-2:] == ["007_00000099.png", "readme.txt"]
    assert len(names) == 11
    zipfile.ZipFile(zip_).extract(names[0], tmp_path)
    assert raw(tmp_path / names[0], "rgb24").size == 32 * 32 * 3


def test_plots_are_drawn_and_runs_of_other_sets_are_not_put_beside_each_other(here, capsys):
    pytest.importorskip("matplotlib")
    words = ["evaluate", "--protocol", "custom", "--gt", "gt", "-n", "bicubic", "--make-lq"]
    assert main([*words, "bi", "--out", "bi.json", "--quiet"]) == 0
    assert (
        main([*words, "bi", "--plot", "f.png", "--plot-cost", "c.png", "--beside", "bi.json"]) == 0
    )
    for name in ("f.png", "c.png"):
        assert len(set(raw(here / name, "gray").tolist())) > 20
    capsys.readouterr()
    assert main([*words, "bd", "--plot-cost", "d.png", "--beside", "bi.json"]) == 2
    said = capsys.readouterr().err
    assert "runs of one set, input and crop can be drawn together; bicubic was of protocol" in said
    (here / "other.json").write_text("[]")
    assert main([*words, "bi", "--plot-cost", "d.png", "--beside", "other.json"]) == 3
    assert "other.json: is no run's JSON" in capsys.readouterr().err


def test_what_cannot_be_drawn_or_packed_is_told_before_anything_runs(here, capsys, monkeypatch):
    pytest.importorskip("matplotlib")
    words = ["evaluate", "--protocol", "custom", "-n", "bicubic", "--lq", "lq"]
    assert main([*words, "--gt", "gt", "--out", "run.json", "--quiet"]) == 0
    run = json.loads((here / "run.json").read_text())
    of_other_frames = run | {"clips": run["clips"][:1]}
    (here / "one.json").write_text(json.dumps(of_other_frames))
    del run["channel"]
    (here / "old.json").write_text(json.dumps(run))
    monkeypatch.setattr("vrestore.evaluate.request.load_restorer", None)
    pack = ["--submit", "s.zip", "--submit-frames"]
    for more, message in [
        (["--gt", "gt", "--plot", "p.foo"], "p.foo: plots are drawn into"),
        (["--also", "warping", "--plot", "p.png"], "p.png: PSNR is drawn, which needs a truth"),
        (["--gt", "gt", "--plot-cost", "c.png", "--beside", "old.json"], "old.json: is no run's"),
        (
            ["--gt", "gt", "--plot-cost", "c.png", "--beside", "run.json", "--crop", "4"],
            "run.json: is of crop 0, this run of 4",
        ),
        (
            ["--gt", "gt", "--plot-cost", "c.png", "--beside", "run.json", "--unrounded"],
            "run.json: is of rounded True, this run of False",
        ),
        (
            ["--gt", "gt", "--plot-cost", "c.png", "--beside", "one.json"],
            "one.json: is not of the same clips: b",
        ),
        (["--gt", "gt", *pack, "200:10"], "begin with 200, and the longest clip has 4 frames"),
        (["--gt", "gt", *pack, "1:2", "--submit-names", "{frame:08d}.png"], "clips a and b would"),
    ]:
        assert main([*words, *more]) in (2, 3), more
        assert message in capsys.readouterr().err
    there = ["gt", "lq", "old.json", "one.json", "run.json"]
    assert sorted(p.name for p in here.iterdir()) == there


def test_scores_are_written_though_a_pack_or_a_plot_cannot_be(here, capsys, monkeypatch):
    def full(*_):
        raise OutputError("s.zip: cannot be written: No space left on device")

    monkeypatch.setattr("vrestore.evaluate.submission.Pack.close", full)
    words = ["--protocol", "custom", "-n", "bicubic", "--lq", "lq", "--gt", "gt"]
    assert main(["evaluate", *words, "--submit", "s.zip", "--out", "run.json"]) == 6
    assert "No space left" in capsys.readouterr().err
    assert len(json.loads((here / "run.json").read_text())["clips"]) == 2
    assert sorted(p.name for p in here.iterdir()) == ["gt", "lq", "run.json"]


def test_plots_without_matplotlib_name_the_package(here, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    words = ["--lq", "lq", "--gt", "gt", "-n", "bicubic", "--plot", "f.png"]
    assert main(["evaluate", "--protocol", "custom", *words]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--protocol", "redds4"], 2, "did you mean reds4"),
        (["--gt", "gt"], 2, "--protocol"),
        (["--protocol", "custom", "--gt", "gt"], 2, "no input; give --lq DIR"),
        (["--protocol", "custom", "--lq", "lq"], 2, "give --gt DIR"),
        (["--protocol", "custom", "--lq", "lq", "--also", "tof"], 2,
         "--also tof: tOF compares with the truth"),
        (["--protocol", "custom", "--lq", "lq", "--gt", "gt", "--also", "warpping"], 2,
         "did you mean warping"),
        (["--protocol", "custom", "--lq", "lq", "--gt", "gt", "--also", "tlp"], 2,
         "a: --also tlp: tLP compares neighbouring frames"),
        (["--protocol", "custom", "--lq", "lq", "--make-lq", "bi"], 2, "give that"),
        (["--protocol", "videolq", "--lq", "lq", "--gt", "gt"], 2, "VideoLQ has no truth"),
        (["--protocol", "vid4", "--lq", "lq", "--gt", "gt", "--crop", "4"], 2, "lays it down"),
        (["--protocol", "vid4", "--lq", "lq", "--gt", "gt"], 3, "lq/calendar: the clip is missing"),
        (["--protocol", "custom", "--lq", "lq", "--gt", "lq"], 3,
         "lq/a/00000000.png: 12x8, but 4 times its input lq/a (12x8) is 48x32"),
        (["--protocol", "custom", "--lq", "lq", "--gt", "gt", "--out", "a.txt"], 2, "a .csv or"),
        (["--protocol", "custom", "--lq", "lq", "--gt", "gt", "--out", "x/a.csv"], 6,
         "no folder x"),
        (["--protocol", "custom", "--lq", "lq", "--gt", "gt", "--beside", "a"], 2, "--plot-cost"),
        (["--protocol", "custom", "--lq", "lq", "--gt", "gt", "--submit", "a.zip",
          "--submit-frames", "9"], 2, "FIRST:STEP"),
        (["--protocol", "custom", "--lq", "lq", "--gt", "gt", "--crop", "99"], 2,
         "a, frame 0: cutting 99 pixels"),
        (["--protocol", "custom", "--lq", "lq", "--gt", "gt", "--crop", "12"], 2,
         "a, frame 0: SSIM's window"),
        (["--protocol", "custom", "--lq", "lq", "--also", "niqe"], 2, "a, frame 0: NIQE"),
        (["--protocol", "custom", "--lq", "lq", "--gt", "gt", "--crop", "-1"], 2, "--crop -1: pix"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_said(here, capsys, words, code, message):
    assert main(["evaluate", *words, "-n", "bicubic"]) == code
    assert message in capsys.readouterr().err
    assert sorted(p.name for p in here.iterdir()) == ["gt", "lq"]


def test_more_measures_are_columns_of_the_table_and_of_the_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path, {"a": 2, "b": 3}, size=(96, 192))
    words = ["evaluate", "--protocol", "custom", "--lq", "lq", "-n", "bicubic"]
    assert main([*words, "--gt", "gt", "--also", "warping,niqe", "--out", "a.csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[-2:] == ["NIQE", "warping"]
    table = {line.split()[0]: line.split()[1:] for line in lines[3:6]}
    for place in (-1, -2):
        a, b, mean = (float(table[name][place]) for name in ("a", "b", "mean"))
        assert mean == pytest.approx((a + b) / 2, abs=1e-4)
    assert "flow of the network that ships, between true frames" in lines[6]
    assert "FlowNet2" in lines[6]
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [bool(row["warping"]) for row in rows] == [False, True, False, True, True]
    assert all(row["niqe"] and row["psnr_y"] for row in rows)
    assert main([*words, "--also", "niqe,warping", "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["warping_flow_between"] == "enlarged input"
    assert set(told["mean"]) == {"niqe", "warping"}
    frames = [frame for clip in told["clips"] for frame in clip["frames"]]
    over_frames = told["mean_over_frames"]
    assert over_frames["niqe"] == pytest.approx(sum(f["niqe"] for f in frames) / 5)
    assert over_frames["niqe"] != pytest.approx(told["mean"]["niqe"], abs=1e-6)


@pytest.mark.parametrize(
    ("measures", "message"),
    [("tof", "OpenCV"), ("psnr,tof", "no such measure"), ("tlp", "LPIPS needs the package"),
     ("dists", "DISTS needs the package"), ("vmaf", "built with libvmaf")],
)  # fmt: skip
def test_what_a_measure_lacks_is_said_before_anything_runs(
    tmp_path, monkeypatch, capsys, measures, message
):
    for package in ("cv2", "torchvision", "lpips", "DISTS_pytorch"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr("vrestore.evaluate.vmaf.ffmpeg_binaries", lambda: ["/bin/true"])
    monkeypatch.setattr("vrestore.cli.fetch_weights", no_weights)
    monkeypatch.setattr("vrestore.evaluate.request.load_restorer", no_weights)
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path, {"a": 6}, size=(64, 64))
    words = ["--gt", "gt", "--make-lq", "bi", "--lq", "made", "-n", "bicubic"]
    words = ["evaluate", "--protocol", "custom", *words, "--also", measures, "--out", "a.csv"]
    assert main(words) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert said.out == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gt", "lq"]


def no_weights(*_):
    raise AssertionError("something ran")


@pytest.mark.parametrize(
    ("tool", "message"),
    [("evaluate_reds.py", "lq/000: the clip is missing; REDS4 has 000, 011, 015, 020"),
     ("evaluate_vid4.py", "lq/calendar: the clip is missing; Vid4 has calendar, city")],
)  # fmt: skip
def test_the_scripts_that_people_expect_are_their_protocols(
    here, capsys, monkeypatch, tool, message
):
    monkeypatch.setattr(sys, "argv", [tool, "--lq", "lq", "--gt", "gt"])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOLS / tool), run_name="__main__")
    assert end.value.code == 3
    assert message in capsys.readouterr().err


def test_a_part_of_a_set_is_not_held_against_the_figure_of_the_whole(reds4, capsys):
    lq, gt = map(str, reds4)
    words = ["evaluate", "--protocol", "reds4", "--lq", lq, "--gt", gt, "-n", "bicubic"]
    assert main([*words, "--clips", "000"]) == 0
    assert "published" not in capsys.readouterr().out
