"""What is said beforehand of a film, against the film."""

import json
from dataclasses import replace

import pytest
from films import film, raw

from vrestore import plan as planning
from vrestore.cli import main
from vrestore.engine.costs import costs
from vrestore.engine.lengths import Lengths, need
from vrestore.errors import UsageError
from vrestore.models.catalogue import load_model
from vrestore.options import RestoreOptions
from vrestore.plan import plan
from vrestore.settings import parse_size


def test_a_plan_says_what_it_takes_and_writes_nothing(tmp_path, capsys):
    source = film(tmp_path / "a.mkv", 40, "64x48")
    before = sorted(tmp_path.iterdir())
    assert main([str(source), "--model", "basicvsr", "--plan", "--json", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert sorted(tmp_path.iterdir()) == before
    assert found["event"] == "plan"
    assert found["frames"] == 40
    assert found["output_size"] == [256, 192]
    assert (found["chunk"], found["lookahead"], found["tile"]) == (32, 16, None)
    assert 100 << 20 < found["memory_bytes"] < 4 << 30
    assert 50 << 20 < found["encoder_bytes"] < 1 << 30
    assert found["seconds"] > found["seconds_per_frame"] > 0
    assert found["output_bytes"] > 1000
    assert found["spool_bytes"] == 0


def test_a_plan_for_a_folder_that_is_to_be_made_counts_the_encoder_too(tmp_path, capsys):
    source = film(tmp_path / "a.mkv", 20, "64x48")
    asked = [str(source), "--model", "identity", "--plan", "--json", "--device", "cpu"]
    found = []
    for where in ([], ["-o", f"{tmp_path / 'new'}/"]):
        assert main([*asked, *where]) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert found[1]["target"] == str(tmp_path / "new" / "a.mkv")
    assert found[0]["encoder_bytes"] == found[1]["encoder_bytes"] > 50 << 20
    assert [path.name for path in tmp_path.iterdir()] == ["a.mkv"]


def test_a_plan_of_exact_counts_the_edges_of_chunks_where_they_will_be(
    tmp_path, monkeypatch, capsys
):
    source = film(tmp_path / "a.mkv", 60, "64x48", sound=False)
    asked = [str(source), "--propagation", "exact", "--chunk", "4", "--plan", "--json"]
    edges, found = 15 * 48 * 48 * 64 * 4, []
    for room in (edges, edges - 1):
        monkeypatch.setattr(
            "vrestore.engine.choice.room_in", lambda folder, room=room: room * folder.is_dir()
        )
        assert main([*asked, "--device", "cpu", "--precision", "fp32"]) == 0
        found.append(json.loads(capsys.readouterr().out.splitlines()[-1]))
    stored = 60 * 64 * 48 * 3 // 2
    assert [plan["spool_bytes"] - stored for plan in found] == [edges, 0]
    assert found[1]["memory_bytes"] - found[0]["memory_bytes"] > edges // 2


def test_a_plan_is_told_in_words(tmp_path, capsys):
    source = film(tmp_path / "a.mkv", 20, "64x48", sound=False)
    assert main([str(source), "--model", "identity", "--plan", "--device", "cpu"]) == 0
    told = capsys.readouterr().out
    for word in ("20 frames", "64x48", "memory: about", "time: about", "room: about"):
        assert word in told


def test_a_plan_tells_of_states_on_disk_and_the_run_has_them_there(tmp_path, monkeypatch, capsys):
    """Where the cap allows no chunk of 32 in memory; the film is the same, and nothing is left."""
    source = film(tmp_path / "a.mkv", 20, "64x48", sound=False)
    plain, capped = tmp_path / "plain.mkv", tmp_path / "capped.mkv"
    how = ["--precision", "fp32", "--device", "cpu", "--codec", "ffv1"]
    assert main([str(source), *how, "-o", str(plain)]) == 0
    short = []

    def at_hand(*how):
        short.append(need(load_model("basicvsr"), 48, 64, Lengths(32, 16, on_disk=True)))
        return short[-1]

    monkeypatch.setattr("vrestore.engine.choice.at_hand", at_hand)
    monkeypatch.setattr("vrestore.engine.lengths.PLENTY", 1 << 40)
    monkeypatch.setattr(
        "vrestore.engine.choice.room_in", lambda folder: 1 << 40 if folder.is_dir() else 0
    )
    for target in (str(capped), f"{tmp_path / 'new'}/"):  # a folder that is to be made as well
        assert main([str(source), *how, "-o", target, "--plan"]) == 0
        told = capsys.readouterr().out
        assert "chunks of 32, 16 ahead, what waits on disk" in told
        assert " MiB meanwhile" in told
    assert main([str(source), *how, "-o", str(capped)]) == 0
    assert short
    assert (raw(plain, "gbrp") == raw(capped, "gbrp")).all()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.mkv", "capped.mkv", "plain.mkv"]


@pytest.mark.parametrize(
    ("took", "each"),
    [
        ((9.0, 1.0, 2.2), 0.1),  # what is done once is in the first alone
        ((5.0, 3.0, 2.8), 0.2),  # the machine had other work in between: a frame takes time yet
    ],
)
def test_a_frame_costs_what_more_of_them_take_longer(tmp_path, monkeypatch, took, each):
    source = film(tmp_path / "a.mkv", 60, "64x48", sound=False)
    real, seconds = planning.sample, iter(took)

    def sample(*args):  # as many frames as asked for, whatever its times are rounded to
        report, size = real(*args)
        return replace(report, seconds=next(seconds), frames=args[-1]), size

    monkeypatch.setattr(planning, "sample", sample)
    found = plan(source, None, RestoreOptions(model="bicubic", device="cpu"))
    assert found.seconds_per_frame == pytest.approx(each)
    assert found.seconds == pytest.approx(took[0] + 58 * each)


def test_the_planned_size_is_near_the_one_that_comes(tmp_path):
    source = film(tmp_path / "a.mkv", 60, "64x48", sound=False)
    options = RestoreOptions(model="bicubic", device="cpu")
    planned = plan(source, tmp_path / "out.mkv", options)
    assert main([str(source), "-o", str(tmp_path / "out.mkv"), "--model", "bicubic"]) == 0
    assert 0.5 < planned.output_bytes / (tmp_path / "out.mkv").stat().st_size < 2


@pytest.mark.parametrize(
    ("model", "stored", "bytes_a_pixel"),
    [
        ("basicvsr", "yuv420p", 1.5),
        ("basicvsr", "yuv422p10le", 4),
        ("basicvsr-real", "yuv420p", 1.5 + 12),
    ],
)
def test_a_part_and_frames_that_are_read_again_are_planned_as_such(
    tmp_path, monkeypatch, model, stored, bytes_a_pixel
):
    form = ("-c:v", "ffv1", "-pix_fmt", stored)
    source = film(tmp_path / "a.mkv", 60, "64x48", sound=False, options=form)
    options = RestoreOptions(
        model=model, device="cpu", precision="fp32", propagation="exact", end=1
    )
    monkeypatch.setattr("vrestore.engine.choice.room_in", lambda folder: 1 << 40)
    found = plan(source, None, options)
    assert found.frames == 24
    edges = costs(load_model(model), 48, 64).edges(1)
    assert found.spool_bytes == 64 * 48 * bytes_a_pixel * 24 + edges


ENDS = ("a.mkv -o x/%08d.png", "p -o g", "p -o g/", "p/0001.png", "p -o b.mp4", "a.mkv -o new/")


@pytest.mark.parametrize("ends", ENDS)
def test_pictures_are_planned_as_films_are_and_nothing_is_left(tmp_path, monkeypatch, capsys, ends):
    monkeypatch.chdir(tmp_path)
    source = film(tmp_path / "a.mkv", 5, "64x48", sound=False)
    assert main([str(source), "-o", "p/%04d.png", "--model", "identity", "--quiet"]) == 0
    before = sorted(tmp_path.rglob("*"))
    assert main([*ends.split(), "--plan", "--model", "identity", "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["frames"] == (1 if "0001" in ends else 5)
    assert found["output_bytes"] > 100
    assert sorted(tmp_path.rglob("*")) == before


def test_a_short_film_is_planned_with_the_frames_that_it_has(tmp_path):
    options = RestoreOptions(device="cpu", precision="fp32")
    sizes = [
        plan(film(tmp_path / f"{n}.mkv", n, "192x128", sound=False), None, options).memory_bytes
        for n in (4, 60)
    ]
    assert sizes[0] < sizes[1] - (10 << 20)


def test_a_plan_refuses_what_the_run_would(tmp_path, capsys):
    source = film(tmp_path / "a.mkv", 5, "64x48", sound=False)
    for target, word in (("a.mkv", "is being read"), ("no/b.mkv", "make it first"), ("b.png", "5")):
        assert main([str(source), "-o", str(tmp_path / target), "--plan"]) != 0
        assert word in capsys.readouterr().err


def test_one_film_is_planned_at_a_time(tmp_path, capsys):
    assert main(["a.mp4", "b.mp4", "--plan"]) == 2
    assert "one film at a time" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GiB", 4 << 30), ("4G", 4 << 30), ("1.5 gb", 3 << 29), ("500MiB", 500 << 20), ("77", 77)],
)
def test_sizes_as_people_write_them(text, size):
    assert parse_size(text) == size
    assert RestoreOptions().but({"memory": text}, "here").memory == size


@pytest.mark.parametrize("text", ["", "GiB", "-4G", "0", "4 apples", "1e3", "٤G"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(UsageError, match="is not a size"):
        parse_size(text)
