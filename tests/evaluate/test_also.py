"""Measures beside PSNR and SSIM, in a run over made clips."""

import dataclasses
import gc
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from benchmark_sets import moving, of_few, write_clip, write_set

from vrestore import Restorer, load_model
from vrestore.errors import ModelError, UsageError
from vrestore.evaluate import also
from vrestore.evaluate.consistency import warping_error
from vrestore.evaluate.figures import Figure
from vrestore.evaluate.footage import code_values
from vrestore.evaluate.metrics import to_8bit
from vrestore.evaluate.niqe import niqe
from vrestore.evaluate.plots import plot_frames
from vrestore.evaluate.protocols import find
from vrestore.evaluate.run import Scoring, evaluate
from vrestore.evaluate.sets import find_clips
from vrestore.evaluate.table import FrameScores, Scores, frames_file, mean
from vrestore.evaluate.vmaf import vmaf
from vrestore.evaluate.vmaf_frames import VmafOfFrames
from vrestore.models.resize import imresize
from vrestore.video.decode import Decoder
from vrestore.video.picture_codec import png
from vrestore.video.probe import probe

CUSTOM = find("custom")
CPU = torch.device("cpu")


def scored(lq, gt, names, protocol=CUSTOM, model="bicubic", **scoring):
    clips = find_clips(protocol, lq, gt)
    restorer = Restorer(load_model(model), precision="fp32", device="cpu")
    return evaluate(clips, protocol, restorer, Scoring(also=names, **scoring), model=model)


def column(clip, name):
    return [getattr(frame.scores, name) for frame in clip.frames]


def enlarged(clip):
    return to_8bit(imresize(clip, 4))


@pytest.fixture
def opencv(monkeypatch):
    """Grey is green; the flow's x is the change of the first pixel, its y a hundredth of it."""
    module = ModuleType("cv2")

    def flow(a, b, _, **how):
        change = float(b[24, 24]) - float(a[24, 24])
        return np.full((*a.shape, 2), (change, change / 100), np.float32)

    module.COLOR_RGB2GRAY = 7
    module.cvtColor = lambda picture, code: np.ascontiguousarray(picture[..., 1])
    module.calcOpticalFlowFarneback = flow
    monkeypatch.setitem(sys.modules, "cv2", module)


@pytest.fixture
def lpips(monkeypatch):
    """In place of LPIPS: the mean absolute difference, in codes."""

    def load(device, *, offline=False):
        return lambda a, b: (a - b).abs().mean()

    monkeypatch.setattr(also, "load_lpips", load)


@pytest.fixture
def libvmaf():
    try:
        return also.ffmpeg_with_libvmaf()
    except UsageError:
        pytest.skip("no ffmpeg here has libvmaf")


def still(frames, height, width):
    return moving(1, height, width).expand(frames, -1, -1, -1)


def flickering(clip, codes=20):
    return clip + codes / 255 * (torch.arange(len(clip)) % 2).view(-1, 1, 1, 1)


def write_both(root, truth):
    """``root/lq/a`` and ``root/gt/a``: the truth and its BI."""
    small = imresize(truth.double(), 0.25)
    return write_clip(root / "lq" / "a", small).parent, write_clip(root / "gt" / "a", truth).parent


@pytest.mark.usefixtures("opencv")
def test_a_still_film_moves_in_no_measure_and_flicker_raises_the_warping_error(tmp_path):
    clip = still(7, 64, 64)
    lq, gt = write_both(tmp_path, clip)
    found = scored(lq, gt, ("tof", "warping")).mean
    assert found.tof == 0
    assert found.warping < 1e-4  # a learned flow of equal pictures is not quite nil
    unrest = write_clip(tmp_path / "unrest" / "a", imresize(flickering(clip).double(), 0.25))
    found = scored(unrest.parent, gt, ("tof", "warping")).mean
    assert found.warping == pytest.approx((20 / 255) ** 2, rel=0.05)
    assert found.tof == pytest.approx(20, rel=0.05)


@pytest.mark.usefixtures("opencv", "lpips")
def test_frames_that_a_measure_leaves_out_have_empty_cells_and_do_not_count(tmp_path):
    lq, gt = write_both(tmp_path, flickering(moving(8, 64, 64), 9))
    found = scored(lq, gt, ("tof", "tlp", "lpips", "warping"))
    (clip,) = found.clips
    scores = [False] * 3 + [True] * 3 + [False] * 2
    for name in ("tof", "tlp"):
        assert [value is not None for value in column(clip, name)] == scores
        known = [value for value in column(clip, name) if value is not None]
        assert getattr(clip.mean, name) == pytest.approx(sum(known) / 3)
    assert [value is not None for value in column(clip, "warping")] == [False] + [True] * 7
    assert None not in column(clip, "lpips")
    head, *rows = frames_file(found, Path("a.csv")).splitlines()
    place = head.split(",").index("tof")
    assert [bool(row.split(",")[place]) for row in rows] == scores
    told = found.as_dict()["clips"][0]["frames"]
    assert ["tof" in frame for frame in told] == scores


@pytest.mark.usefixtures("opencv", "lpips")
def test_values_are_those_of_a_straight_computation(tmp_path):
    """Truth and result of one clip, each measure by its formula."""
    truth = flickering(moving(7, 72, 96), 11)
    truth = code_values(truth).float() / 255
    lq, gt = write_both(tmp_path, truth)
    small = code_values(imresize(truth.double(), 0.25)).float() / 255
    ours, true = enlarged(small), to_8bit(truth)
    (clip,) = scored(lq, gt, ("tof", "tlp", "lpips"), crop=5).clips
    inner = (..., slice(5, -5), slice(5, -5))
    for frame, a, b in zip(clip.frames, ours, true, strict=True):
        assert frame.scores.lpips == pytest.approx(float((a[inner] - b[inner]).abs().mean()))
    for t in (3, 4):
        change = [float((x[t] - x[t - 1])[1, 24, 24]) for x in (true, ours)]
        length = abs(change[0] - change[1]) * (1 + 1e-4) ** 0.5
        assert clip.frames[t].scores.tof == pytest.approx(length, abs=1e-4)
        window = (..., slice(20, 52), slice(16, 80))
        change = [float((x[t] - x[t - 1])[window].abs().mean()) for x in (true, ours)]
        expected = 100 * abs(change[0] - change[1])
        assert clip.frames[t].scores.tlp == pytest.approx(expected, abs=0.01)


@pytest.mark.usefixtures("lpips")
def test_clips_weigh_the_same_and_the_mean_over_all_frames_is_told_beside(tmp_path):
    lq, gt = write_set(tmp_path, {"a": 6, "b": 9}, size=(48, 48))
    found = scored(lq, gt, ("tlp",))
    a, b = ([x for x in column(clip, "tlp") if x is not None] for clip in found.clips)
    assert (len(a), len(b)) == (1, 4)
    assert found.mean.tlp == pytest.approx((a[0] + sum(b) / 4) / 2)
    everywhere = sum(a + b) / 5
    assert abs(everywhere - found.mean.tlp) > 1e-3
    assert found.as_dict()["mean_over_frames"]["tlp"] == pytest.approx(everywhere)


def test_niqe_and_warping_need_no_truth(tmp_path, monkeypatch):
    """The flow is then found in the enlarged input."""
    seen = []

    def flow(a, b):
        seen.append((a, b))
        return torch.zeros(2, *a.shape[1:])

    monkeypatch.setattr(also, "flow_of_basicvsr", lambda device: flow)
    clip = code_values(flickering(moving(3, 48, 64))).float() / 255
    lq = write_clip(tmp_path / "lq" / "a", clip).parent
    found = scored(lq, None, ("niqe", "warping"))
    (rows,) = (clip.frames for clip in found.clips)
    assert [row.scores.psnr_y for row in rows] == [None] * 3
    assert rows[1].scores.niqe == pytest.approx(niqe(enlarged(clip[1])), abs=1e-3)
    assert rows[0].scores.warping is None
    assert len(seen) == 4
    larger = [imresize(frame, 4).clamp(0, 1) * 255 for frame in clip]
    torch.testing.assert_close(seen[2], (larger[1], larger[2]))
    still_flow = ((enlarged(clip[2]) - enlarged(clip[1])) / 255).square().mean()
    assert rows[2].scores.warping == pytest.approx(float(still_flow), rel=1e-5)
    assert found.flow_between == "enlarged input"
    assert "between enlarged input frames; published figures have FlowNet2's" in found.lines()[-2]
    seen.clear()
    truth = write_clip(tmp_path / "gt" / "a", imresize(clip.double(), 4)).parent
    assert scored(lq, truth, ("warping",)).flow_between == "true"
    assert torch.equal(seen[0][0], to_8bit(code_values(imresize(clip[0].double(), 4)) / 255))


def test_where_single_frames_are_judged_niqe_is_of_those_and_warping_of_all(tmp_path):
    """VideoLQ's 0, 50 and 99, in short."""
    lq = write_clip(tmp_path / "lq" / "000", still(7, 24, 48)).parent
    protocol = dataclasses.replace(find("videolq"), clip_counts=(), judged=(0, 3, 6))
    found = scored(lq, None, ("warping",), protocol)
    (clip,) = found.clips
    numbers = [row.number for row in clip.frames if row.scores.niqe is not None]
    assert numbers == [row.number for row in clip.frames if row.judged] == [0, 3, 6]
    assert [row.scores.warping is not None for row in clip.frames] == [False] + [True] * 6
    assert found.judged == 3
    assert found.lines()[3].split()[:2] == ["000", "3"]


def test_a_plot_is_of_the_judged_frames_alone(tmp_path):
    pytest.importorskip("matplotlib")
    lq, gt = write_set(tmp_path, {"00001/0266": 7}, "im%d", 1)
    found = scored(lq, gt, ("warping",), of_few("vimeo90k-t"))
    assert [(row.number, row.judged) for row in found.clips[0].frames] == [
        (2, False), (3, False), (4, True), (5, False), (6, False), (7, False)
    ]  # fmt: skip
    assert found.flow_between == "enlarged input"
    plot_frames(found, tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000


def test_a_picture_without_detail_has_no_niqe_and_ends_no_run(tmp_path):
    clip = moving(3, 24, 48)
    clip[1] = 0
    lq = write_clip(tmp_path / "lq" / "a", clip).parent
    found = scored(lq, None, ("niqe",))
    assert [x is None for x in column(found.clips[0], "niqe")] == [False, True, False]
    assert found.mean.niqe > 0


def test_without_psnr_no_published_one_is_put_beside(tmp_path):
    lq = write_clip(tmp_path / "lq" / "a", moving(2, 24, 48)).parent
    reds4 = dataclasses.replace(find("reds4"), namings=())
    found = scored(lq, None, ("niqe",), reds4)
    assert found.published is None  # who knows what made the input
    given = dataclasses.replace(found, published=Figure("a table", psnr=30.0, ssim=0.9))
    assert not any(line.startswith(("published", "difference")) for line in given.lines())


@pytest.mark.usefixtures("opencv", "lpips")
def test_memory_does_not_grow_with_a_clip(tmp_path):
    """Large frames alive when each of the network's outputs is there: of 8 and of 24 as many."""
    most = []
    for frames in (8, 24):
        root = tmp_path / str(frames)
        lq, gt = write_both(root, moving(frames, 52, 60))
        held = []

        def count(_, held=held):
            tensors = (x for x in gc.get_objects() if issubclass(type(x), torch.Tensor))
            held.append(sum(x.shape[-2:] == (52, 60) for x in tensors))

        clips = find_clips(CUSTOM, lq, gt)
        restorer = Restorer(load_model("bicubic"), precision="fp32", device="cpu")
        names = ("tof", "tlp", "lpips", "warping")
        evaluate(clips, CUSTOM, restorer, Scoring(also=names), model="bicubic", progress=count)
        assert len(held) == frames
        most.append(max(held))
    assert most[0] == most[1]


def test_vmaf_is_that_of_both_films_and_nothing_of_them_is_left(tmp_path, monkeypatch, libvmaf):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    stored = []

    def noting(restored, truth):
        for film in (restored, truth):
            frames = [np.stack(frame.planes) for frame in Decoder(probe(film))]
            stored.append(torch.from_numpy(np.stack(frames)))
        return vmaf(restored, truth)

    monkeypatch.setattr("vrestore.evaluate.vmaf_frames.vmaf", noting)
    truth = code_values(moving(5, 96, 128)).float() / 255
    lq, gt = write_both(tmp_path, truth)
    (clip,) = scored(lq, gt, ("vmaf",)).clips
    small = code_values(imresize(truth.double(), 0.25)).float() / 255
    assert (stored[0] - enlarged(small)).abs().max() <= 1  # float32 decides ties
    assert torch.equal(stored[1], code_values(truth))
    perfect = scored(gt, gt, ("vmaf",), model="identity").clips[0]
    assert min(column(perfect, "vmaf")) > 95
    assert max(column(clip, "vmaf")) + 5 < min(column(perfect, "vmaf"))
    assert list((tmp_path / "tmp").iterdir()) == []
    with pytest.raises(KeyboardInterrupt), VmafOfFrames() as films:
        films.add(torch.zeros(3, 96, 128), torch.zeros(3, 96, 128))
        assert len(list((tmp_path / "tmp").iterdir())) >= 1
        raise KeyboardInterrupt
    assert list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "hint"),
    [("niqe,tov", "tov: there is no such measure; did you mean tof"),
     ("lpisp", "did you mean lpips"), ("warp", "did you mean warping"),
     ("xyz", "choose of niqe, tof, tlp, lpips, dists, warping, vmaf")],
)  # fmt: skip
def test_an_unknown_measure_is_refused_with_the_nearest(text, hint):
    with pytest.raises(UsageError, match=hint):
        also.chosen(text)


def test_measures_are_taken_once_in_the_order_in_which_they_are_asked_for():
    assert also.chosen(" tof, NIQE,tof,") == ("tof", "niqe")
    assert also.chosen("") == ()


def test_what_these_clips_cannot_have_is_told_before_a_run(tmp_path):
    lq, gt = write_set(tmp_path, {"a": 6, "b": 5})
    both, alone = find_clips(CUSTOM, lq, gt), find_clips(CUSTOM, lq, None)
    also.check(("niqe", "warping"), CUSTOM, alone)
    also.check(("lpips", "warping", "vmaf"), CUSTOM, both)
    for name in ("tof", "tlp", "lpips", "dists", "vmaf"):
        with pytest.raises(UsageError, match=r"compares with the truth.* niqe and warping"):
            also.check((name,), CUSTOM, alone)
    for name in ("tof", "tlp"):
        with pytest.raises(UsageError, match=r"^b: --also .* 6 at least, not 5"):
            also.check((name,), CUSTOM, both)
    with pytest.raises(UsageError, match="NTIRE 2021 video super-resolution judges single frames"):
        also.check(("vmaf",), find("ntire21-vsr"), both)


@pytest.mark.parametrize(
    ("name", "least"), [("tof", (48, 48)), ("tlp", (48, 48)), ("niqe", (96, 192))]
)
def test_a_picture_too_small_for_a_measure_is_told_before_a_run(name, least, tmp_path):
    for short, crop in ((0, 0), (1, 0), (0, 1)):
        folder = tmp_path / f"{short}{crop}" / "gt" / "a"
        folder.mkdir(parents=True)
        height, width = (side - short for side in least)
        for k in range(9):
            (folder / f"{k:08}.png").write_bytes(png(np.zeros((3, height, width), np.uint8)))
        clips = find_clips(CUSTOM, None, folder.parent, ())
        if short or (crop and name == "niqe"):
            with pytest.raises(UsageError, match=f"a: --also {name}: "):
                also.check((name,), CUSTOM, clips, crop)
        else:
            also.check((name,), CUSTOM, clips, crop)


def test_what_is_not_installed_is_told_when_measures_are_loaded(monkeypatch):
    also.load(("niqe", "warping"), CPU)
    for package, name, wanted in (
        ("cv2", "tof", "opencv-python-headless"),
        ("torchvision", "tlp", "torchvision"),
        ("torchvision", "dists", "torchvision"),
    ):
        monkeypatch.setitem(sys.modules, package, None)
        with pytest.raises(UsageError, match=f"pip install {wanted}"):
            also.load((name,), CPU)
    monkeypatch.setattr("vrestore.evaluate.vmaf.ffmpeg_binaries", lambda: ["/bin/true"])
    with pytest.raises(UsageError, match="built with libvmaf"):
        also.load(("vmaf",), CPU)


def test_offline_nothing_is_fetched_for_lpips(monkeypatch, tmp_path):
    made = []
    for package in ("torchvision", "lpips"):
        module = ModuleType(package)
        module.LPIPS = lambda **how: made.append(how)
        monkeypatch.setitem(sys.modules, package, module)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ModelError, match=r"cannot be had \(--offline fetches nothing\)"):
        also.load(("lpips",), CPU, offline=True)
    assert made == []


def test_the_mean_is_over_what_was_scored():
    scores = [Scores(psnr_y=30.0), Scores(psnr_y=40.0, warping=0.1), Scores(warping=0.3)]
    assert mean(scores) == Scores(psnr_y=35.0, warping=pytest.approx(0.2))
    assert mean([Scores(), Scores()]) == mean([]) == Scores()
    assert FrameScores(0, Scores()).judged


def test_the_flow_that_ships_follows_a_moving_picture():
    """Warped along it, a slide of one pixel a frame leaves a tenth of what standing still does."""
    clip = to_8bit(moving(4, 96, 128))
    errors = []
    for flow in (also.flow_of_basicvsr(CPU), lambda a, b: torch.zeros(2, *a.shape[1:])):
        measure = warping_error(flow)
        for frame in clip:
            measure.add(frame, frame)
        errors.append(mean([Scores(warping=x) for x in measure.end().values()]).warping)
    assert errors[0] < 0.1 * errors[1]
