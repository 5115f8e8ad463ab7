"""Clips on disk: how they are found and paired, and how what is wrong with them is named."""

import shutil
from pathlib import Path

import pytest
import torch
from benchmark_sets import moving, of_few, write_clip, write_set
from films import film
from hypothesis import given
from hypothesis import strategies as st

from vrestore.errors import InputError, UsageError
from vrestore.evaluate.footage import code_values, frames_of
from vrestore.evaluate.inputs import write_reduced
from vrestore.evaluate.protocols import find
from vrestore.evaluate.sets import (
    check_numbers,
    check_sizes,
    chosen_clips,
    find_clips,
    footage_of,
    numbered,
)

CUSTOM, REDS4 = find("custom"), find("reds4")
REDS4_FOLDER = Path("000")
FOLDER_NAMES = [f"{i:08d}.png" for i in range(100)]


@pytest.fixture
def pair(tmp_path):
    """Two clips of 3 and 4 frames: their LQ and their GT folder."""
    return write_set(tmp_path, {"a": 3, "b": 4})


def check(names, count):
    numbers = numbered(names, REDS4_FOLDER, REDS4)
    check_numbers(numbers, names, REDS4_FOLDER, 0, count)


def test_frames_are_paired_by_number_and_clips_by_name(pair):
    clips = find_clips(CUSTOM, *pair)
    assert [clip.name for clip in clips] == ["a", "b"]
    assert [clip.lq.count for clip in clips] == [3, 4]
    for clip in clips:
        for index, path in clip.lq.pictures.items():
            assert clip.truth.pictures[index].name == path.name
        assert clip.first == 0


@given(missing=st.integers(0, 99))
def test_whichever_frame_is_missing_is_named(missing):
    names = [name for name in FOLDER_NAMES if name != f"{missing:08d}.png"]
    with pytest.raises(InputError, match=rf"{missing:08d}.png: is missing; the clip has 100"):
        check(names, 100)


def test_a_clip_of_the_protocols_length_passes():
    check(FOLDER_NAMES, 100)


def test_a_frame_too_many_is_named():
    names = [*FOLDER_NAMES, "00000100.png"]
    with pytest.raises(InputError, match=r"000/00000100.png: is one too many"):
        check(names, 100)


def test_a_picture_of_another_name_is_named():
    with pytest.raises(InputError, match=r"000/thumb1.png: no frame of REDS4 is called so"):
        numbered([*FOLDER_NAMES, "thumb1.png"], REDS4_FOLDER, REDS4)
    with pytest.raises(InputError, match=r"1.png: .* named like 00000000.png"):
        numbered(["1.png"], REDS4_FOLDER, REDS4)


def test_a_frame_that_is_there_twice_is_named():
    with pytest.raises(InputError, match=r"000/00000007.jpg: frame 00000007 is there twice"):
        numbered([*FOLDER_NAMES, "00000007.jpg"], REDS4_FOLDER, REDS4)


def test_two_pictures_of_one_frame_are_not_two_frames(tmp_path):
    """Else as many as the input has, one of them twice and another missing, would be a clip."""
    lq = write_clip(tmp_path / "lq", moving(4, 16, 16), "%04d", 1)
    gt = write_clip(tmp_path / "gt", moving(4, 64, 64), "%04d", 1)
    (gt / "0004.png").rename(gt / "0001.bmp")
    with pytest.raises(InputError, match=r"gt/0001.png: frame 0001 is .* the other is 0001.bmp"):
        find_clips(CUSTOM, lq, gt)
    (gt / "0001.bmp").rename(gt / "1.png")
    with pytest.raises(InputError, match=r"gt/1.png: frame 1 is .* the other is 0001.png"):
        find_clips(CUSTOM, lq, gt)


def test_a_gap_is_found_where_the_protocol_lays_no_names_down(tmp_path):
    folder = write_clip(tmp_path / "walk", moving(5, 16, 16), "Frame %03d", 1)
    assert footage_of(folder, CUSTOM).first == 1
    (folder / "Frame 003.png").unlink()
    with pytest.raises(InputError, match=r"walk/Frame 003.png: is missing; the clip has 4 frames"):
        footage_of(folder, CUSTOM)


def test_numbers_are_those_that_change_from_frame_to_frame():
    names = ["take2_9_x4.png", "take2_10_x4.png", "take2_11_x4.png"]
    assert numbered(names, REDS4_FOLDER, CUSTOM) == {9: 0, 10: 1, 11: 2}
    assert numbered(["left.png", "right.png"], REDS4_FOLDER, CUSTOM) is None
    assert numbered(["a1.png", "b1.png"], REDS4_FOLDER, CUSTOM) is None


def test_vid4s_clips_must_have_their_lengths(tmp_path):
    folder = write_clip(tmp_path / "city", moving(3, 16, 16), "%03d")
    with pytest.raises(InputError, match=r"city/003.png: is missing; the clip has 34 frames"):
        footage_of(folder, find("vid4"), 34)


@pytest.mark.parametrize("first", [0, 1])
def test_the_first_frame_is_missing_by_its_own_name(tmp_path, first):
    """Whatever the clips are numbered from, and whichever side, or the one side, lacks it."""
    lq = write_clip(tmp_path / "lq" / "city", moving(34, 16, 16), "%03d", first)
    gt = write_clip(tmp_path / "gt" / "city", moving(34, 64, 64), "%03d", first)
    vid4, name = find("vid4"), f"{first:03d}.png"
    lost = (gt / name).rename(tmp_path / name)
    for inputs in (lq.parent, None):
        with pytest.raises(InputError, match=rf"gt/city/{name}: is missing; the clip has 34"):
            find_clips(vid4, inputs, gt.parent, ["city"])
    with pytest.raises(InputError, match=rf"lq/city/{name}: has no counterpart in .*gt/city"):
        find_clips(CUSTOM, lq.parent, gt.parent)
    lost.rename(gt / name)
    (lq / name).unlink()
    with pytest.raises(InputError, match=rf"lq/city/{name}: is missing; the clip has 34"):
        find_clips(vid4, lq.parent, gt.parent, ["city"])
    with pytest.raises(InputError, match=rf"gt/city/{name}: has no counterpart in .*lq/city"):
        find_clips(CUSTOM, lq.parent, gt.parent)


def test_a_missing_clip_is_named(tmp_path, pair):
    with pytest.raises(InputError, match=r"lq/000: the clip is missing; REDS4 has 000, 011, 015"):
        find_clips(REDS4, *pair)
    lq, gt = pair
    shutil.rmtree(gt / "b")
    with pytest.raises(InputError, match=r"gt/b: the clip is missing, which is in .*lq/b"):
        find_clips(CUSTOM, lq, gt)
    assert [clip.name for clip in find_clips(CUSTOM, lq, gt, ["a"])] == ["a"]
    with pytest.raises(InputError, match=r"nowhere: is not there"):
        find_clips(CUSTOM, lq, tmp_path / "nowhere")


def test_two_clips_are_one_only_where_both_are_given_by_themselves(pair):
    lq, gt = pair
    (alone,) = find_clips(CUSTOM, lq / "a", gt / "a")
    assert alone.name == "a"
    shutil.copytree(gt / "a", gt / "c")
    assert find_clips(CUSTOM, lq / "a", gt / "c")[0].truth.path == gt / "c"
    for place in (lq / "b", gt / "a", gt / "b"):
        shutil.rmtree(place)
    with pytest.raises(InputError, match=r"gt/a: the clip is missing, which is in .*lq/a"):
        find_clips(CUSTOM, lq, gt)


def test_a_frame_that_only_one_side_has_is_named(pair):
    lq, gt = pair
    (gt / "b" / "00000003.png").unlink()
    with pytest.raises(InputError, match=r"lq/b/00000003.png: has no counterpart in .*gt/b"):
        find_clips(CUSTOM, lq, gt)
    (lq / "b" / "00000003.png").unlink()
    (lq / "b" / "00000002.png").unlink()
    with pytest.raises(InputError, match=r"gt/b/00000002.png: has no counterpart in .*lq/b"):
        find_clips(CUSTOM, lq, gt)


def test_frames_without_numbers_are_paired_by_name(tmp_path):
    lq = write_clip(tmp_path / "lq", moving(4, 16, 16))
    gt = write_clip(tmp_path / "gt", moving(4, 64, 64))
    for i, name in enumerate("abcd"):
        (lq / f"{i:08d}.png").rename(lq / f"{name}.png")
        (gt / f"{i:08d}.png").rename(gt / f"{name}.bmp")
    (clip,) = find_clips(CUSTOM, lq, gt)
    assert [path.stem for path in clip.truth.pictures.values()] == [*"abcd"]
    (alone,) = find_clips(CUSTOM, lq / "a.png", gt / "b.bmp")
    assert alone.truth.pictures == {0: gt / "b.bmp"}
    (lq / "b.png").unlink()
    (gt / "c.bmp").unlink()
    with pytest.raises(InputError, match=r"lq/c.png: has no counterpart in .*gt"):
        find_clips(CUSTOM, lq, gt)
    (lq / "c.png").unlink()
    with pytest.raises(InputError, match=r"gt/b.bmp: has no counterpart in .*lq"):
        find_clips(CUSTOM, lq, gt)


def test_two_numberings_of_one_clip_are_refused(tmp_path):
    lq = write_clip(tmp_path / "lq", moving(3, 16, 16), first=0)
    gt = write_clip(tmp_path / "gt", moving(3, 64, 64), first=1)
    with pytest.raises(InputError, match=r"gt/00000001.png: numbered from 1, its input"):
        find_clips(CUSTOM, lq, gt)


def test_a_truth_of_another_size_is_named(pair):
    clips = find_clips(CUSTOM, *pair)
    check_sizes(clips, 4)
    with pytest.raises(InputError, match=r"gt/a/00000000.png: 24x16, but 2 times .* is 12x8"):
        check_sizes(clips, 2)


def test_a_frame_of_another_size_than_its_clips_is_named(tmp_path):
    folder = write_clip(tmp_path / "a", moving(2, 16, 16))
    write_clip(tmp_path / "b", moving(3, 16, 20))
    shutil.copy(tmp_path / "b" / "00000002.png", folder)
    with pytest.raises(InputError, match=r"a/00000002.png: 20x16, but 00000000.png is 16x16"):
        list(frames_of(footage_of(folder, CUSTOM)))


def test_the_number_of_clips_is_the_protocols(tmp_path):
    lq, gt = write_set(tmp_path, dict.fromkeys("abc", 2), "%04d")
    with pytest.raises(InputError, match=r"lq: 3 clips, UDM10 has 10; .*--clips"):
        find_clips(find("udm10"), lq, gt)
    assert len(find_clips(find("udm10"), lq, gt, "abc")) == 3


def test_vimeos_clips_lie_two_deep_and_its_truth_may_be_the_middle_frame_alone(tmp_path):
    lq, gt = write_set(tmp_path, {"00001/0266": 7, "00002/0003": 7}, "im%d", 1)
    (whole, _) = find_clips(of_few("vimeo90k-t"), lq, gt)
    for i in (1, 2, 3, 5, 6, 7):
        (gt / "00001/0266" / f"im{i}.png").unlink()
    first, second = find_clips(of_few("vimeo90k-t"), lq, gt)
    assert (first.name, second.name) == ("00001/0266", "00002/0003")
    assert first.truth.pictures == {3: gt / "00001/0266/im4.png"}
    assert whole.truth.pictures[3] == first.truth.pictures[3]
    (gt / "00002/0003/im2.png").unlink()
    with pytest.raises(InputError, match=r"im2.png: is missing; the clip has 7 frames"):
        find_clips(of_few("vimeo90k-t"), lq, gt)
    for i in (1, 2, 3, 5, 6, 7):
        (lq / "00001/0266" / f"im{i}.png").unlink()
    with pytest.raises(InputError, match=r"lq/00001/0266/im1.png: is missing"):
        find_clips(of_few("vimeo90k-t"), lq, gt)


def test_an_input_is_made_of_every_frame_not_of_the_judged_ones(tmp_path):
    lq, gt = write_set(tmp_path, {"00001/0266": 7}, "im%d", 1)
    write_clip(tmp_path / "nines" / "000", moving(100, 8, 8))
    for i in (1, 2, 3, 5, 6, 7):
        (gt / "00001/0266" / f"im{i}.png").unlink()
    for i in set(range(100)) - set(range(9, 100, 10)):
        (tmp_path / "nines" / "000" / f"{i:08d}.png").unlink()
    find_clips(of_few("vimeo90k-t"), lq, gt)
    with pytest.raises(InputError, match=r"0266/im1.png: is missing; the clip has 7 frames"):
        find_clips(of_few("vimeo90k-t"), None, gt)
    with pytest.raises(InputError, match=r"000/00000000.png: is missing; the clip has 100 frames"):
        find_clips(find("ntire21-vsr"), None, tmp_path / "nines", ["000"])


def test_either_naming_of_the_validation_clips_will_do(tmp_path):
    clip = write_clip(tmp_path / "lq" / "240", moving(1, 16, 16))
    for number in range(241, 270):
        (clip.parent / f"{number}").symlink_to(clip)
    with pytest.raises(InputError, match=r"lq/240/00000001.png: is missing"):
        find_clips(find("reds-val"), tmp_path / "lq", None)


@pytest.mark.parametrize("name", ["reds-val", "ntire21-vsr", "ntire-deblur"])
def test_of_a_regrouped_reds_the_validation_clips_are_taken(tmp_path, name):
    """240 to 269 beside the clips to train on, which have the validation clips' first names."""
    pool = write_clip(tmp_path / "pool", moving(100, 8, 8))
    lq = tmp_path / "lq"
    lq.mkdir()
    for number in range(270):
        (lq / f"{number:03d}").symlink_to(pool)
    clips = find_clips(find(name), lq, None)
    assert [clip.name for clip in clips] == [f"{number}" for number in range(240, 270)]
    assert [clip.name for clip in find_clips(REDS4, lq, None)] == ["000", "011", "015", "020"]
    with pytest.raises(UsageError, match=r"--clips 000: .* has no such clip in .*lq"):
        find_clips(find(name), lq, None, ["000"])
    (lq / "269").unlink()
    with pytest.raises(InputError, match="lq/269: the clip is missing"):
        find_clips(find(name), lq, None)


def test_clips_are_chosen_by_name_or_by_a_sets_own_list(tmp_path, pair):
    assert chosen_clips("000, 011") == ("000", "011")
    assert chosen_clips("") == ()
    listed = tmp_path / "meta_info.txt"
    listed.write_text("00001/0266 7 (256,448,3)\n00001/0268 7 (256,448,3)\n\n")
    assert chosen_clips(str(listed)) == ("00001/0266", "00001/0268")
    with pytest.raises(UsageError, match="--clips 001: REDS4 has no such clip"):
        find_clips(REDS4, *pair, ["001"])


def test_a_film_may_stand_for_a_clips_pictures(tmp_path):
    (tmp_path / "gt").mkdir()
    film(tmp_path / "gt" / "walk.mkv", 5, "32x32", options=("-c:v", "ffv1"))
    (clip,) = find_clips(CUSTOM, None, tmp_path / "gt")
    assert (clip.name, clip.truth.count) == ("walk", None)
    assert [index for index, _ in frames_of(clip.truth)] == [0, 1, 2, 3, 4]
    assert [index for index, _ in frames_of(clip.truth, [1, 4])] == [1, 4]
    with pytest.raises(InputError, match=r"walk.mkv: 5 frames, but its input has 6"):
        list(frames_of(clip.truth, None, 6))
    (alone,) = find_clips(CUSTOM, tmp_path / "gt" / "walk.mkv", tmp_path / "gt")
    assert alone.name == "walk"


def test_two_clips_of_one_name_are_both_named(tmp_path, pair):
    """Two films, or a film beside a folder, whether the clips are chosen or not."""
    lq, _ = pair
    films = tmp_path / "films"
    films.mkdir()
    film(films / "b.mkv", 2, "16x16")
    for folder, second in ((films, films / "b.avi"), (lq, lq / "b.mkv")):
        shutil.copy(films / "b.mkv", second)
        for chosen in ((), ("b",)):
            with pytest.raises(InputError, match=r"b.mkv: is a clip of the same name as .*/b"):
                find_clips(CUSTOM, folder, None, chosen)


def test_a_link_back_is_not_followed(pair):
    for side in pair:
        (side / "loop").symlink_to(f"../{side.name}")
        (side / "c").symlink_to("a")
    assert [clip.name for clip in find_clips(CUSTOM, *pair)] == ["a", "b", "c"]


def test_a_picture_beside_clips_does_not_hide_them(pair):
    lq, gt = pair
    (lq / "a" / "notes").mkdir()
    for side in pair:
        shutil.copy(side / "a" / "00000000.png", side / "preview.png")
    with pytest.raises(InputError, match=r"lq/preview.png: lies beside .*lq/a; a folder holds one"):
        find_clips(CUSTOM, lq, gt)
    (lq / "preview.png").unlink()
    (gt / "preview.png").rename(gt / "a" / "preview.png")
    film(gt / "a" / "preview.mp4", 2, "16x16")
    with pytest.raises(InputError, match=r"a/00000000.png: lies beside .*a/preview.mp4"):
        find_clips(CUSTOM, lq, gt)


def test_a_folder_without_pictures_among_clips_is_named(pair):
    lq, gt = pair
    for side in pair:
        (side / "c").mkdir()
    with pytest.raises(InputError, match=r"lq/c: no picture in it .* found: nothing"):
        find_clips(CUSTOM, lq, gt)
    with pytest.raises(InputError, match=r"gt/c: no picture in it"):
        find_clips(CUSTOM, None, gt)


def test_a_films_suffix_may_be_in_capitals(tmp_path):
    place = film(tmp_path / "b.mkv", 2, "16x16").rename(tmp_path / "b.MKV")
    for chosen in ((), ("b",)):
        assert find_clips(CUSTOM, tmp_path, None, chosen)[0].lq.path == place


def test_a_film_that_breaks_off_is_not_scored(tmp_path):
    whole = film(tmp_path / "whole.mkv", 12, "64x48", options=("-c:v", "ffv1"))
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (clip,) = find_clips(CUSTOM, None, cut)
    with pytest.raises(InputError, match=r"must be whole"):
        list(frames_of(clip.truth))


def test_inputs_are_written_whole_or_not_at_all(tmp_path, pair):
    _, gt = pair
    clips = find_clips(CUSTOM, None, gt)
    made = tmp_path / "made"
    write_reduced(clips, made, "bi", 4)
    for clip in find_clips(CUSTOM, made, pair[0]):
        for (_, ours), (_, theirs) in zip(frames_of(clip.lq), frames_of(clip.truth), strict=True):
            assert torch.equal(code_values(ours), code_values(theirs))
    (gt / "b" / "00000002.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"b/00000002.png"):
        write_reduced(clips, tmp_path / "again", "bi", 4)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["gt", "lq", "made"]
