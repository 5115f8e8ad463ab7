"""Packs for challenge servers: which pictures, their names, the readme, and no half ones."""

import time
import zipfile

import pytest
import torch
from benchmark_sets import moving, write_set

from vrestore.errors import OutputError, UsageError
from vrestore.evaluate.flags import every
from vrestore.evaluate.footage import code_values
from vrestore.evaluate.protocols import find
from vrestore.evaluate.sets import find_clips
from vrestore.evaluate.submission import Pack, PackForm, readme
from vrestore.video.picture_codec import decode_picture

CPU = torch.device("cpu")


def packed(target, form, judged=range(9, 100, 10), frames=20, clips=("000", "001")):
    pictures = moving(frames, 16, 16)
    with Pack(target, form) as pack:
        for clip in clips:
            for index, picture in enumerate(pictures):
                pack.add(clip, index, index, picture, index in judged)
        pack.close(1.234, CPU)
    return zipfile.ZipFile(target).namelist()


def test_the_zip_holds_the_judged_frames_flat_and_the_readme(tmp_path):
    names = packed(tmp_path / "submit.zip", PackForm(note="BasicVSR"))
    assert names == [
        "000_00000009.png", "000_00000019.png", "001_00000009.png", "001_00000019.png",
        "readme.txt",
    ]  # fmt: skip
    with zipfile.ZipFile(tmp_path / "submit.zip") as file:
        assert file.testzip() is None
        assert file.read("readme.txt").decode() == (
            "runtime per frame [s] : 1.23\n"
            "CPU[1] / GPU[0] : 1\n"
            "Extra Data [1] / No Extra Data [0] : 0\n"
            "Other description : BasicVSR\n"
        )
        file.extract("001_00000019.png", tmp_path)
    planes = decode_picture(tmp_path / "001_00000019.png").planes
    expected = code_values(moving(20, 16, 16)[19])
    assert torch.equal(torch.stack([torch.from_numpy(p) for p in planes]), expected)


def test_the_readme_tells_the_device_and_the_data():
    lines = readme(10.4321, False, PackForm(extra_data=True)).splitlines()
    assert lines[:3] == [
        "runtime per frame [s] : 10.43",
        "CPU[1] / GPU[0] : 0",
        "Extra Data [1] / No Extra Data [0] : 1",
    ]


def test_other_frames_and_folders_can_be_asked_for(tmp_path):
    form = PackForm(every("0:15"), "{clip}/{frame:03d}.png")
    assert packed(tmp_path / "a.zip", form)[:-1] == [
        "000/000.png", "000/015.png", "001/000.png", "001/015.png",
    ]  # fmt: skip


def test_the_same_pictures_give_the_same_bytes(tmp_path):
    packed(tmp_path / "a.zip", PackForm())
    packed(tmp_path / "b.zip", PackForm())
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        assert {entry.date_time for entry in file.infolist()} == {(1980, 1, 1, 0, 0, 0)}


def test_a_pack_that_was_not_closed_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), Pack(tmp_path / "a.zip", PackForm()) as pack:
        pack.add("000", 9, 9, moving(1, 16, 16)[0], True)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_pack_that_is_there_is_not_replaced_unasked(tmp_path):
    packed(tmp_path / "a.zip", PackForm())
    with pytest.raises(OutputError, match=r"a.zip: exists already"):
        Pack(tmp_path / "a.zip", PackForm())
    with Pack(tmp_path / "a.zip", PackForm(), overwrite=True) as pack:
        pack.add("000", 9, 9, moving(1, 16, 16)[0], True)
        pack.close(1, CPU)
    with zipfile.ZipFile(tmp_path / "a.zip") as file:
        assert file.namelist() == ["000_00000009.png", "readme.txt"]


@pytest.mark.parametrize("names", ["{clip", "{shot}.png", "{frame}.jpg", "../{frame}.png", "{0}"])
def test_a_form_that_gives_no_names_is_refused_at_once(tmp_path, names):
    with pytest.raises(UsageError, match="--submit-names"):
        Pack(tmp_path / "a.zip", PackForm(names=names))
    assert list(tmp_path.iterdir()) == []


def test_two_pictures_of_one_name_are_refused(tmp_path):
    with pytest.raises(UsageError, match=r"two pictures would be called 00000009.png"):
        packed(tmp_path / "a.zip", PackForm(names="{frame:08d}.png"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["9", ":", "a:10", "9:0", "-1:10"])
def test_frames_are_asked_for_as_first_and_step(text):
    with pytest.raises(UsageError, match="FIRST:STEP"):
        every(text)


def test_a_form_is_seen_to_without_going_through_its_frames(tmp_path):
    """``0:1`` names two thousand million of them."""
    lq, _ = write_set(tmp_path, {"a": 3})
    clips = find_clips(find("custom"), lq, None)
    start = time.process_time()
    PackForm(frames=every("0:1")).check(clips)
    with pytest.raises(UsageError, match="begin with 3, and the longest clip has 3 frames"):
        PackForm(frames=every("3:1")).check(clips)
    assert time.process_time() - start < 5
    with pytest.raises(UsageError, match=r"called a\.png; put \{frame\} into it"):
        PackForm(names="{clip}.png").check(clips)


def test_what_is_fast_has_a_runtime_too():
    assert readme(0.28, True, PackForm()).splitlines()[0] == "runtime per frame [s] : 0.28"
    assert readme(0.0028, True, PackForm()).splitlines()[0] == "runtime per frame [s] : 0.0028"


def test_a_pack_of_nothing_is_refused(tmp_path):
    with (
        pytest.raises(UsageError, match="submit-frames"),
        Pack(tmp_path / "a.zip", PackForm()) as pack,
    ):
        pack.close(1, CPU)
    assert list(tmp_path.iterdir()) == []
