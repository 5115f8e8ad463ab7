"""The command: what it accepts, how it ends, what it leaves behind."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from films import ffmpeg, film, seconds_of, shared

from vrestore.cli import SPINS, main
from vrestore.ends import open_reader
from vrestore.errors import UsageError
from vrestore.report import Progress
from vrestore.restore import restore


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments):
    return main([*map(str, arguments), "--device", "cpu"])


def test_a_film_and_nothing_else_is_enough(here, capsys):
    film(here / "clip.mp4", 3)
    assert run("clip.mp4", "-n", "bicubic") == 0
    assert len(seconds_of(here / "clip_restored.mp4")) == 3
    assert "3 frames, 64x48 -> 256x192" in capsys.readouterr().out


def test_options_for_films_are_said_to_be_unused_for_pictures(here, capsys):
    film(here / "clip.mp4", 2)
    assert run("clip.mp4", "-n", "identity", "-o", "p/%02d.png", "--crf", "20") == 0
    assert "crf: for films only; the pictures' own format was used" in capsys.readouterr().out
    assert run("clip.mp4", "-n", "identity", "-o", "q/%02d.png") == 0
    assert "for films only" not in capsys.readouterr().out


def test_a_film_of_pictures_has_the_rate_that_is_asked_for(here, capsys):
    (here / "frames").mkdir()
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24", "-frames:v", 4, here / "frames" / "%03d.png")
    assert run("frames", "-n", "identity", "-o", "plain.mkv") == 0
    assert "25 a second; --fps" in capsys.readouterr().out
    assert seconds_of(here / "plain.mkv")[:4] == pytest.approx([0, 0.04, 0.08, 0.12])
    for rate, step in (("24000/1001", 1001 / 24000), ("23.976", 1001 / 24000), ("60", 1 / 60)):
        assert run("frames", "-n", "identity", "-o", "out.mp4", "--fps", rate, "--overwrite") == 0
        assert "--fps" not in capsys.readouterr().out
        assert seconds_of(here / "out.mp4") == pytest.approx([i * step for i in range(4)], abs=1e-9)
    assert run("frames", "-n", "identity", "-o", "big", "--fps", "60") == 0
    assert "fps: for films only" in capsys.readouterr().out


def test_what_does_not_count_its_frames_has_a_total_all_the_same(here, capsys):
    film(here / "clip.mkv", 24)
    for part, total in (([], 24), (["--start", "0.5"], 12), (["--end", ".25"], 6)):
        assert run("clip.mkv", "-n", "identity", "--json", "--overwrite", *part) == 0
        events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert events[0]["total"] == pytest.approx(total, abs=1)
        assert events[0]["seconds_left"] is not None
        assert events[-2]["frames"] == events[-2]["total"] == events[-1]["frames"]


def test_the_time_left_counts_what_the_network_has_begun(here):
    """The first frame of a chunk comes when most of the chunk is done: alone it tells nothing."""
    assert Progress(Path("a"), 1, 18, 33.0, begun=17).seconds_left == pytest.approx(10.2)
    assert Progress(Path("a"), 18, 18, 40.0).seconds_left == 0
    film(here / "clip.mkv", 12, "32x24")
    seen = []
    how = {"device": "cpu", "chunk": 4, "lookahead": 3}
    restore("clip.mkv", "out.mkv", model="basicvsr", progress=seen.append, **how)
    begun = [(now.frames, now.frames + now.begun) for now in seen]
    assert begun == [(k, min(4 * ((k + 3) // 4) + 3 + 1, 12)) for k in range(1, 13)]


@pytest.mark.parametrize(
    "words",
    [["--codec", "libx999"], ["--preset", "nope"], ["--bitrate", "8Q"], ["--codec", "dvvideo"]],
)
def test_what_ffmpeg_does_not_take_is_told_before_the_first_frame(here, words):
    film(here / "clip.mp4", 2)
    options = {
        word.removeprefix("--"): value for word, value in zip(words[::2], words[1::2], strict=True)
    }
    frames = []
    with pytest.raises(UsageError):
        restore("clip.mp4", "out.mkv", model="identity", progress=frames.append, **options)
    assert frames == []


def test_the_short_names_of_real_esrgan_work(here):
    film(here / "clip.mp4", 2)
    assert run("-i", "clip.mp4", "-o", "out.mkv", "-n", "bicubic", "-s", "2") == 0
    assert len(seconds_of(here / "out.mkv")) == 2


def test_json_lines_tell_progress_and_the_whole_report(here, capsys):
    film(here / "clip.mp4", 5)
    assert run("clip.mp4", "-n", "identity", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["event"] == "progress"
    assert [e for e in events if e["event"] == "progress"][-1]["frames"] == 5
    report = events[-1]
    assert report["event"] == "report"
    assert report["frames"] == 5
    assert report["guessed"]
    assert any("aac" in copied for copied in report["copied"])


def test_several_inputs_survive_a_bad_one_and_are_not_done_twice(here, capsys):
    film(here / "a.mp4", 3)
    film(here / "c.mp4", 3)
    (here / "b.mp4").write_bytes(b"this is no film" * 100)
    assert run("a.mp4", "b.mp4", "c.mp4", "-o", "OUT/", "-n", "identity") == 1
    out, err = capsys.readouterr()
    assert "2 restored" in out
    assert "1 failed" in out
    assert "b.mp4" in err
    first = (here / "OUT" / "a.mp4").stat().st_mtime_ns
    assert run("a.mp4", "c.mp4", "-o", "OUT/", "-n", "identity") == 0
    assert "2 skipped" in capsys.readouterr().out
    assert (here / "OUT" / "a.mp4").stat().st_mtime_ns == first
    assert sorted(p.name for p in (here / "OUT").iterdir()) == ["a.mp4", "c.mp4"]


def test_one_film_into_a_folder_that_is_not_there_yet(here, capsys):
    film(here / "clip.mp4", 2)
    assert run("clip.mp4", "-n", "identity", "-o", "NEW/") == 0
    assert len(seconds_of(here / "NEW" / "clip.mp4")) == 2
    assert run("clip.mp4", "-n", "identity", "-o", "NEW/") == 0
    assert "skipped" in capsys.readouterr().out
    assert run("missing.mp4", "-n", "identity", "-o", "NEW/") == 3


def test_a_damaged_film_is_damaged_in_every_later_run(here, capsys):
    film(here / "a.mp4", 3)
    source = shared("fixtures/truncated.mp4")
    for _ in range(2):
        assert run("a.mp4", source, "-n", "identity", "-o", "OUT") == 1
        out = capsys.readouterr().out
        assert "1 damaged" in out
        assert "1 frame not decodable" in out
    assert "1 skipped" in out
    assert run("a.mp4", source, "-n", "identity", "-o", "OUT", "--allow-truncated") == 0
    (here / "truncated.mp4").write_bytes((here / "a.mp4").read_bytes())
    assert run("truncated.mp4", "-n", "identity", "-o", "OUT/", "--overwrite") == 0
    assert sorted(p.name for p in (here / "OUT").iterdir()) == ["a.mp4", "truncated.mp4"]


def test_a_film_alone_and_many_write_the_same_note_of_damage(here):
    whole = film(here / "a.mkv", 200, "64x48", sound=False).read_bytes()
    film(here / "b.mkv", 2)
    (here / "OUT").mkdir()
    many = ("a.mkv", "b.mkv", "-n", "identity", "-o", "OUT/")
    (here / "a.mkv").write_bytes(whole[: len(whole) * 9 // 10])
    assert run("a.mkv", "-n", "identity", "-o", "OUT/a.mkv") == 3
    assert run(*many) == 1
    (here / "a.mkv").write_bytes(whole)
    assert run("a.mkv", "-n", "identity", "-o", "OUT/a.mkv", "--overwrite") == 0
    assert run(*many) == 0
    assert sorted(p.name for p in (here / "OUT").iterdir()) == ["a.mkv", "b.mkv"]


@pytest.mark.parametrize(
    ("given", "spins"),
    [({}, SPINS), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "none")],
)
def test_threads_do_not_spin_for_long_before_torch_is_loaded(given, spins):
    program = (
        "import os, sys; from vrestore.cli import main; assert 'torch' not in sys.modules; "
        "main(['models', 'nonsense']); print(os.environ.get('GOMP_SPINCOUNT', 'none'))"
    )
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    environment = {k: v for k, v in os.environ.items() if k not in names} | given
    ran = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True
    )
    assert ran.stdout.strip() == spins


def test_another_file_of_the_name_is_no_finished_result(here, capsys):
    for name in "abcd":
        film(here / f"{name}.mkv", 3, sound=False)
    names = [f"{name}.mkv" for name in "abcd"]
    assert run(*names, "-n", "bicubic", "-o", "OUT/") == 0
    (here / "OUT" / "a.mkv").write_bytes(b"")
    shutil.copy(here / "b.mkv", here / "OUT" / "b.mkv")
    (here / "d.mkv").unlink()  # restored, and moved elsewhere: nothing to compare with
    capsys.readouterr()
    assert run(*names, "-n", "bicubic", "-o", "OUT/") == 1
    told = capsys.readouterr()
    assert "2 skipped, 2 failed" in told.out
    assert (
        "a.mkv: is there, but is not what a.mkv becomes: it cannot be read" in told.out + told.err
    )
    assert "it has 64x48 pixels, not 256x192" in told.out + told.err
    assert (here / "OUT" / "a.mkv").read_bytes() == b""
    assert run(*names[:3], "-n", "bicubic", "-o", "OUT/", "--overwrite") == 0


def test_results_beside_their_films_are_not_restored_again(here):
    film(here / "a.mp4", 2)
    film(here / "b.mp4", 2)
    everything = [f"{stem}{end}.mp4" for stem in "ab" for end in ("", "_restored")]
    assert run("a.mp4", "b.mp4", "-n", "identity") == 0
    assert run(*everything, "-n", "identity") == 0
    assert sorted(p.name for p in here.iterdir()) == everything


def test_a_part_is_counted_as_a_part(here, capsys):
    film(here / "clip.mp4", 24)
    (here / "part.toml").write_text('start = 0.5\nend = "0:00.75"\nmodel = "identity"\n')
    assert run("clip.mp4", "--config", "part.toml", "--json") == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert events[0]["total"] == events[-1]["frames"] == len(seconds_of(here / "clip_restored.mp4"))
    assert run("clip.mp4", "-n", "identity", "--end", "0.04", "-o", "still.png") == 0


def test_a_name_that_is_not_text_and_one_that_is_long(here):
    film(here / "plain.mp4", 2)
    for name in (os.fsdecode(b"bad\xff.mp4"), "n" * 246 + ".mp4"):
        shutil.copy(here / "plain.mp4", here / name)
        command = [sys.executable, "-m", "vrestore", name, "-n", "identity", "-o", "out/"]
        done = subprocess.run([*command, "--json"], capture_output=True, cwd=here)
        assert done.returncode == 0, done.stderr
        assert len(seconds_of(here / "out" / name)) == 2


@pytest.mark.parametrize(
    "name", ["with space.mp4", "it's.mp4", 'q"uote.mp4', "100%d.mp4", "🎬 été.mp4", "a:b.mp4"]
)
def test_odd_names_work(here, name):
    film(here / "plain.mp4", 2)
    (here / "plain.mp4").rename(here / name)
    assert run(name, "-n", "identity", "-o", "out " + name) == 0
    assert len(seconds_of(here / ("out " + name))) == 2


def test_a_leading_dash_works_behind_two_dashes(here, capsys):
    film(here / "plain.mp4", 2)
    (here / "plain.mp4").rename(here / "-n.mp4")
    assert main(["-n", "identity", "--device", "cpu", "--", "-n.mp4"]) == 0
    (here / "-n.mp4").rename(here / "-dash.mp4")
    capsys.readouterr()
    assert run("-dash.mp4", "-n", "identity") == 2
    assert "./-dash.mp4" in capsys.readouterr().err
    assert len(seconds_of(here / "-n_restored.mp4")) == 2


def bad_inputs(here: Path) -> dict[str, Path]:
    (here / "empty.mp4").touch()
    (here / "garbage.mp4").write_bytes(os.urandom(20_000))
    (here / "folder").mkdir()
    (here / "folder" / "notes.txt").write_text("no pictures here")
    ffmpeg("-f", "lavfi", "-i", "sine", "-t", "0.2", here / "sound.m4a")
    return {p.name: p for p in here.iterdir()} | {"missing.mp4": here / "missing.mp4"}


def test_bad_input_ends_in_one_clear_message_and_exit_code_3(here, capsys):
    for name, path in bad_inputs(here).items():
        assert run(path, "-n", "identity", "-o", here / "out.mp4") == 3, name
        out, err = capsys.readouterr()
        assert name in err
        assert len(err.strip().splitlines()) == 1, err
        assert "Traceback" not in err + out
        assert not (here / "out.mp4").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["clip.mp4", "-n", "basicvsrr"], 4, ["basicvsrr", "basicvsr"]),
        (["clip.mp4", "--weights", "clip.mp4"], 4, ["clip.mp4"]),
        (["clip.mp4", "--weights", "nowhere.pth"], 4, ["nowhere.pth"]),
        (["clip.mp4", "-n", "identity", "-o", "no/such/folder/out.mp4"], 6, ["no/such/folder"]),
        (["clip.mp4", "-n", "identity", "-o", "out.xyz"], 2, ["xyz"]),
        (["clip.mp4", "-n", "identity", "-o", "clip.mp4", "--overwrite"], 2, ["clip.mp4"]),
        (["clip.mp4", "--start", "soon"], 2, ["soon"]),
        (["clip.mp4", "--fps", "24"], 2, ["clip.mp4", "--fps is for pictures"]),
        (["clip.mp4", "--fps", "0"], 2, ["'0'", "24000/1001"]),
        (["clip.mp4", "--fps", "24/0"], 2, ["'24/0'"]),
        (["clip.mp4", "-n", "identity", "--codec", "rawvideo"], 2, ["rawvideo", "mp4"]),
        (["clip.mp4", "--start", "5", "--end", "3"], 2, ["end"]),
        (["clip.mp4", "--crf", "9", "--bitrate", "1M"], 2, ["crf", "bitrate"]),
        (["clip.mp4", "--nonsense"], 2, ["nonsense"]),
        (["clip.mp4", "-n", "identity", "--codec", "libx999"], 2, ["libx999"]),
        (["clip.mp4", "-n", "identity", "--preset", "nope"], 2, ["nope"]),
        (["clip.mp4", "-n", "identity", "--bitrate", "8Q"], 2, ["8Q"]),
        (["clip.mp4", "-n", "identity", "--start", "1e400"], 2, ["1e400"]),
        (["clip.mp4", "-n", "identity", "-s", "0.001"], 2, ["64x48", "0.001"]),
        (["clip.mp4", "clip.mp4", "-n", "nope", "-o", "OUT/"], 4, ["nope"]),
        (["clip.mp4", "clip.mp4", "-n", "identity", "-o", "one.mp4"], 2, ["one.mp4/"]),
        (["clip.mp4", "-n", "identity", "-o", "x" * 300 + ".mp4"], 6, ["too long"]),
        ([], 2, ["input"]),
    ],
)
def test_each_mistake_is_told_with_its_exit_code(here, capsys, arguments, code, words):
    film(here / "clip.mp4", 2)
    assert run(*arguments) == code
    err = capsys.readouterr().err
    for word in words:
        assert word in err
    assert "Traceback" not in err
    assert [p.name for p in here.iterdir()] == ["clip.mp4"]


def test_an_existing_output_is_refused_with_code_6(here, capsys):
    film(here / "clip.mp4", 2)
    shutil.copy(here / "clip.mp4", here / "out.mp4")
    assert run("clip.mp4", "-n", "identity", "-o", "out.mp4") == 6
    assert "--overwrite" in capsys.readouterr().err


def test_a_damaged_film_is_restored_as_far_as_it_goes(here, capsys):
    source = shared("fixtures/truncated.mp4")
    assert run(source, "-n", "identity", "-o", "out.mp4") == 3
    assert "49 frames restored" in capsys.readouterr().err
    assert len(seconds_of(here / "out.mp4")) == 49
    assert run(source, "-n", "identity", "-o", "out2.mp4", "--allow-truncated") == 0


def test_a_film_cut_short_says_how_much_was_lost(here, capsys):
    film(here / "whole.mkv", 48, "160x120", options=("-g", "6"))
    data = (here / "whole.mkv").read_bytes()
    (here / "half.mkv").write_bytes(data[: len(data) // 2])
    assert run("half.mkv", "-n", "identity", "-o", "out.mkv") == 3
    err = capsys.readouterr().err
    restored = len(seconds_of(here / "out.mkv"))
    assert 5 < restored < 48
    assert f"{restored} frames restored" in err


def test_odd_and_tiny_sizes_work(here):
    for width, height in ((65, 49), (3, 2), (1, 1)):
        options = ("-vf", f"scale={width}:{height}", "-c:v", "ffv1", "-pix_fmt", "yuv444p")
        film(here / "clip.mkv", 2, options=options)
        for model, larger in (("bicubic", 16), ("identity", 1)):
            target = f"{model}{width}.mkv"
            assert run("clip.mkv", "-n", model, "-o", target) == 0
            samples = ffmpeg("-i", here / target, "-f", "rawvideo", "-pix_fmt", "gray", "-")
            assert len(samples) == 2 * larger * width * height


def test_pictures_in_and_out(here):
    (here / "frames").mkdir()
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=32x24", "-frames:v", 3, here / "frames" / "%03d.png")
    assert run("frames", "-n", "bicubic", "-o", "big") == 0
    assert sorted(p.name for p in (here / "big").iterdir()) == ["001.png", "002.png", "003.png"]
    assert run("frames/001.png", "-n", "bicubic") == 0
    beside = here / "frames" / "001_restored.png"
    assert run("frames", "-n", "identity", "-o", "film.mkv") == 0
    assert len(seconds_of(here / "film.mkv")) == 3
    larger = beside.rename(here / "frames" / "004.png")
    assert run("frames", "-n", "identity", "-o", "other.mkv") == 3
    larger.unlink()
    for wrong in ("film.wmv", "film.gif", "film.txt"):
        assert run("frames", "-n", "identity", "-o", wrong) == 2
        assert not (here / wrong).exists()
    assert run("frames", "-n", "identity", "-o", "folder.v2/") == 0
    assert len(list((here / "folder.v2").iterdir())) == 3
    assert run("film.mkv", "-n", "identity", "-o", "tiffs/%04d.tif") == 0
    assert sorted(p.name for p in (here / "tiffs").iterdir()) == [
        "0000.tif",
        "0001.tif",
        "0002.tif",
    ]


def test_options_from_a_file_are_checked_and_flags_win(here, capsys):
    film(here / "clip.mp4", 2)
    (here / "good.toml").write_text('model = "identity"\ncodec = "ffv1"\n')
    assert run("clip.mp4", "--config", "good.toml", "-o", "out.mkv", "--codec", "libx264") == 0
    (here / "bad.toml").write_text('modle = "identity"\n')
    assert run("clip.mp4", "--config", "bad.toml") == 2
    assert "model" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_leaves_no_output_and_no_child(here, kind):
    film(here / "clip.mkv", 1200, "320x240", options=("-c:v", "mpeg4", "-q:v", "9"))
    command = [sys.executable, "-m", "vrestore", "clip.mkv", "-n", "bicubic", "-o", "out.mp4"]
    process = subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, cwd=here)
    assert process.stdout is not None
    process.stdout.readline()  # the first frame is done
    children = subprocess.run(
        ["ps", "--ppid", str(process.pid), "-o", "pid="], capture_output=True, text=True
    ).stdout.split()
    process.send_signal(kind)
    process.send_signal(kind)  # an impatient user's second
    last = process.communicate()[0].splitlines()[-1]
    assert process.wait(60) == 130
    assert json.loads(last)["exit_code"] == 130
    assert children
    time.sleep(0.2)
    alive = [c for c in children if Path(f"/proc/{c}/exe").exists()]
    assert alive == []
    assert [p.name for p in here.iterdir()] == ["clip.mkv"]


def test_help_names_every_option(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    for flag in ("--model", "--start", "--scene-cuts", "--codec", "--overwrite", "--json"):
        assert flag in text


def test_naming_the_package_costs_nothing():
    """No torch, no PyAV before they are needed: this is what keeps --help instant."""
    code = (
        "import sys, vrestore, vrestore.cli; vrestore.cli.build_parser().format_help();"
        "sys.exit(any(m in sys.modules for m in ('torch', 'av', 'numpy', 'tqdm')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("first", ["vrestore.restore", "vrestore.jobs.batch", "vrestore.cli"])
def test_restore_is_the_function_whatever_was_imported_before(first):
    code = f"import {first}, vrestore; vrestore.restore.__call__; vrestore.restore('missing.mp4')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "missing.mp4: there is no such file" in done.stderr


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (MemoryError(), 5, "--chunk"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes"), 5, "--chunk"),
        (torch.OutOfMemoryError("CUDA"), 5, "--chunk"),
        (
            ZeroDivisionError("by\nzero"),
            1,
            "ZeroDivisionError: by zero; this is a fault in vrestore",
        ),
    ],
)
def test_what_nobody_foresaw_is_told_without_a_traceback(
    here, capsys, monkeypatch, error, code, words
):
    film(here / "a.mp4", 2)
    film(here / "b.mp4", 2)

    def breaks(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["vrestore.restore"], "picture_of", breaks)
        assert run("a.mp4", "-n", "identity") == code
        told = capsys.readouterr().err
        assert words in told
        assert "Traceback" not in told
        with pytest.raises(type(error)):
            run("a.mp4", "-n", "identity", "--debug")
    opened = []

    def breaks_once(info, options):
        opened.append(info.path)
        if len(opened) == 1:
            raise error
        return open_reader(info, options)

    monkeypatch.setattr(sys.modules["vrestore.restore"], "open_reader", breaks_once)
    assert run("a.mp4", "b.mp4", "-o", "OUT", "-n", "identity") == 1
    assert [p.name for p in (here / "OUT").iterdir()] == ["b.mp4"]


def test_python_takes_times_and_paths_as_people_write_them(here):
    film(here / "clip.mp4", 24)
    report = restore("clip.mp4", "out.mkv", model="identity", start="0:00.5", device="cpu")
    assert report.frames == 12
    with pytest.raises(UsageError, match="crf: must be float"):
        restore("clip.mp4", "b.mkv", model="identity", crf="14")
    with pytest.raises(UsageError, match="did you mean 'model'"):
        restore("clip.mp4", "b.mkv", modell="identity")
