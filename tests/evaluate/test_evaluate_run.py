"""A model over a benchmark, against what is computed by hand of the same frames."""

import dataclasses

import numpy as np
import pytest
import torch
from benchmark_sets import moving, of_few, write_clip, write_set
from films import film
from golden import shared_file
from networks import small_basicvsr

from vrestore import Restorer, load_model
from vrestore.errors import InputError, UsageError
from vrestore.evaluate.degradations import bd, bd_duf, bi
from vrestore.evaluate.footage import code_values, frames_of
from vrestore.evaluate.inputs import made_by, write_reduced
from vrestore.evaluate.metrics import to_8bit
from vrestore.evaluate.niqe import niqe
from vrestore.evaluate.protocols import find
from vrestore.evaluate.run import Scoring, compared, evaluate
from vrestore.evaluate.sets import check_sizes, find_clips
from vrestore.evaluate.table import mean
from vrestore.models.resize import imresize
from vrestore.models.temporal import WindowNetwork
from vrestore.train.footage import read_frames
from vrestore.video.picture_codec import png

CUSTOM = find("custom")


def restorer(net, propagation="exact"):
    return Restorer(net, precision="fp32", device="cpu", propagation=propagation)


def scored(protocol, lq, gt, net=None, scoring=None, model="bicubic", **rest):
    clips = find_clips(protocol, lq, gt)
    run = restorer(net or load_model("bicubic"))
    return evaluate(clips, protocol, run, scoring or Scoring(), model=model, **rest)


def numpy_psnr(a, b):
    return 10 * np.log10(255.0**2 / np.mean((a - b) ** 2))


def numpy_luma(rgb):
    r, g, b = rgb / 255
    return 65.481 * r + 128.553 * g + 24.966 * b + 16


def stored(folder):
    """All pictures of a folder, read by FFmpeg alone: (T, 3, H, W), float64 in 0..255."""
    import av

    pictures = []
    for path in sorted(folder.iterdir()):
        with av.open(str(path)) as container:
            pictures.append(next(container.decode(video=0)).to_ndarray(format="rgb24"))
    return np.stack(pictures).transpose(0, 3, 1, 2).astype(float)


def test_psnr_of_bicubic_is_that_of_a_straight_computation(tmp_path):
    lq, gt = write_set(tmp_path, {"a": 3, "b": 2})
    found = scored(CUSTOM, lq, gt)
    of_clips = []
    for clip in found.clips:
        truth, small = stored(gt / clip.name), stored(lq / clip.name)
        out = imresize(torch.from_numpy(small), 4).numpy().round().clip(0, 255)
        rgb = [numpy_psnr(a, b) for a, b in zip(out, truth, strict=True)]
        y = [numpy_psnr(numpy_luma(a), numpy_luma(b)) for a, b in zip(out, truth, strict=True)]
        assert [f.scores.psnr_rgb for f in clip.frames] == pytest.approx(rgb, abs=2e-3)
        assert [f.scores.psnr_y for f in clip.frames] == pytest.approx(y, abs=2e-3)
        of_clips.append(np.mean(y))
    assert found.mean.psnr_y == pytest.approx(np.mean(of_clips), abs=2e-3)


def test_each_clip_weighs_the_same_whatever_its_length(tmp_path):
    found = scored(CUSTOM, *write_set(tmp_path, {"a": 1, "b": 5}))
    a, b = (clip.mean.psnr_rgb for clip in found.clips)
    assert found.mean.psnr_rgb == pytest.approx((a + b) / 2)
    frames = mean([frame.scores for clip in found.clips for frame in clip.frames]).psnr_rgb
    assert abs(found.mean.psnr_rgb - frames) > 0.01


def test_outputs_are_rounded_unless_it_is_asked_otherwise():
    truth = torch.full((3, 16, 16), 100 / 255)
    out = truth + 0.4 / 255
    assert compared(out, truth, 0).psnr_rgb == float("inf")
    kept = compared(out, truth, 0, rounded=False)
    assert kept.psnr_rgb == pytest.approx(10 * np.log10(255**2 / 0.16), abs=1e-3)
    bright = torch.full((3, 16, 16), 1.5)
    assert compared(bright, torch.ones(3, 16, 16), 0, rounded=False).psnr_rgb == float("inf")


def test_the_crop_is_cut_at_each_side_of_both():
    truth = moving(1, 40, 40)[0]
    out = truth.clone()
    out[:, :8] = 0
    assert compared(out, truth, 8).psnr_y == float("inf")
    assert compared(out, truth, 7).psnr_y < 40


def test_the_vimeo_number_is_that_of_the_mean_of_outputs_3_and_10(tmp_path):
    lq, gt = write_set(tmp_path, {"00001/0266": 7}, "im%d", 1)
    protocol = of_few("vimeo90k-t")
    found = scored(protocol, lq, gt, small_basicvsr(), Scoring(rounded=False), "mine")
    clip = torch.from_numpy(stored(lq / "00001/0266")).float() / 255
    with torch.no_grad():
        out = small_basicvsr()(torch.cat((clip, clip.flip(0))))
    truth = torch.from_numpy(stored(gt / "00001/0266"))[3].float() / 255
    ((frame,),) = [clip.frames for clip in found.clips]
    assert frame.number == 4
    for other in (out[3], out[10], (out[2] + out[11]) / 2):
        assert abs(frame.scores.psnr_y - compared(other, truth, 0, rounded=False).psnr_y) > 1e-4
    by_hand = compared((out[3] + out[10]) / 2, truth, 0, rounded=False)
    assert frame.scores.psnr_y == pytest.approx(by_hand.psnr_y, abs=1e-6)
    assert "each clip with its reverse" in found.how


def test_a_window_network_sees_the_septuplet_once(tmp_path):
    values = torch.arange(7.0).view(7, 1, 1, 1) / 255
    write_clip(tmp_path / "lq" / "00001" / "0266", values.expand(-1, 3, 4, 4), "im%d", 1)
    write_clip(tmp_path / "gt" / "00001" / "0266", values.expand(-1, 3, 16, 16), "im%d", 1)
    net = Windows(7)
    scored(of_few("vimeo90k-t"), tmp_path / "lq", tmp_path / "gt", net, model="mine")
    assert net.seen[3] == [0, 1, 2, 3, 4, 5, 6]
    assert len(net.seen) == 7


class Windows(WindowNetwork):
    """Enlarges, and writes down which frames each window was made of, told by their values."""

    scale = 4
    border = "circle"  # no protocol's

    def __init__(self, size):
        super().__init__()
        self.before = self.after = size // 2
        self.seen = []

    def features(self, frame):
        return (frame,)

    def fuse(self, window):
        self.seen.append([round(x[0].mean().item() * 255) for x in window])
        return torch.nn.functional.interpolate(window[self.before][0], scale_factor=4.0)


# shared/reference/evaluation.md, 2, of 100 frames; spmcs is TDAN's, ntire-deblur EDVR's
TABLE = [
    ("vid4", 5, {0: "4 3 0 1 2", 1: "4 0 1 2 3", 98: "96 97 98 99 95", 99: "97 98 99 96 95"}),
    ("udm10", 7, {0: "6 5 4 0 1 2 3", 2: "6 0 1 2 3 4 5", 97: "94 95 96 97 98 99 93",
                  99: "96 97 98 99 95 94 93"}),
    ("ntire-deblur", 5, {0: "0 0 0 1 2", 1: "0 0 1 2 3", 99: "97 98 99 99 99"}),
    ("spmcs", 5, {0: "2 1 0 1 2", 1: "1 0 1 2 3", 98: "96 97 98 99 98", 99: "97 98 99 98 97"}),
    ("custom", 5, {0: "3 4 0 1 2", 99: "97 98 99 95 96"}),  # the network's own
]  # fmt: skip


@pytest.mark.parametrize(("name", "size", "table"), TABLE, ids=[row[0] for row in TABLE])
def test_windows_at_a_clips_ends_are_the_protocols(tmp_path, name, size, table):
    values = torch.arange(100.0).view(100, 1, 1, 1) / 255
    lq = write_clip(tmp_path / "lq" / "walk", values.expand(-1, 3, 4, 4))
    gt = write_clip(tmp_path / "gt" / "walk", values.expand(-1, 3, 16, 16))
    protocol = dataclasses.replace(
        find(name), namings=(), clip_counts=(), picture=None, scale=4, crop=0, judged=(0,)
    )
    net = Windows(size)
    scored(protocol, lq.parent, gt.parent, net, model="mine")
    for centre, expected in table.items():
        assert net.seen[centre] == [int(i) for i in expected.split()]


def test_inputs_made_in_memory_are_those_that_are_written(tmp_path):
    _, gt = write_set(tmp_path, {"a": 3}, size=(18, 27))  # no multiple of 4: cut right and bottom
    in_memory = scored(CUSTOM, None, gt, scoring=Scoring(make_lq="bd"))
    write_reduced(find_clips(CUSTOM, None, gt), tmp_path / "bd", "bd", 4)
    written = scored(CUSTOM, tmp_path / "bd", gt, scoring=Scoring(make_lq="bd"))
    assert written.mean == in_memory.mean
    assert written.made_by == in_memory.made_by == "bd"


@pytest.mark.parametrize("how", [bi, bd, bd_duf])
def test_what_made_an_input_is_told_by_comparing(how):
    truth = moving(1, 64, 96)[0]
    lq = code_values(how(truth, 4)).float() / 255
    assert made_by(lq, truth, 4) == how.__name__
    noisy = lq + 0.05 * torch.randn(lq.shape, generator=torch.Generator().manual_seed(0))
    assert made_by(noisy, truth, 4) is None
    flat = torch.full((3, 64, 96), 0.2)
    assert made_by(how(flat, 4), flat, 4) is None


def test_the_published_figure_follows_the_input_that_is_found(tmp_path):
    lq, gt = write_set(tmp_path, {"calendar": 2}, size=(64, 96))
    vid4 = dataclasses.replace(find("vid4"), namings=())
    found = scored(vid4, lq, gt)
    assert (found.made_by, found.published.psnr) == ("bi", 23.78)
    of_bd = scored(vid4, None, gt, scoring=Scoring(make_lq="bd"))
    assert of_bd.published.psnr == 21.80


def test_beside_input_of_unknown_making_stands_no_published_figure(tmp_path):
    lq, gt = write_set(tmp_path, {"calendar": 2}, size=(64, 96))
    (lq / "calendar").rename(tmp_path / "clean")
    noise = torch.randint(-9, 10, (2, 3, 16, 24), generator=torch.Generator().manual_seed(0))
    clean = torch.from_numpy(stored(tmp_path / "clean")) / 255
    write_clip(lq / "calendar", (clean + noise / 255).clamp(0, 1).float())
    found = scored(dataclasses.replace(find("vid4"), namings=()), lq, gt)
    assert found.published is None
    assert "input: of unknown making: not BI (MATLAB bicubic), which published" in found.lines()[1]


def test_videolq_is_scored_by_niqe_on_three_frames(tmp_path):
    clip = moving(100, 40, 60)
    write_clip(tmp_path / "lq" / "000", clip)
    protocol = dataclasses.replace(find("videolq"), clip_counts=())
    found = scored(protocol, tmp_path / "lq", None)
    frames = found.clips[0].frames
    assert [frame.number for frame in frames] == [0, 50, 99]
    expected = niqe(to_8bit(imresize(clip[50], 4)))
    assert frames[1].scores.niqe == pytest.approx(expected, abs=1e-2)
    assert frames[1].scores.psnr_y is None
    assert len(clip) == found.clips[0].restored


def test_a_truth_film_of_another_length_is_named(tmp_path):
    lossless = ("-c:v", "ffv1", "-pix_fmt", "yuv444p")
    (tmp_path / "gt").mkdir()
    truth = film(tmp_path / "gt" / "a.mkv", 5, "32x32", options=lossless)
    (clip,) = find_clips(CUSTOM, None, truth)
    write_reduced([clip], tmp_path / "lq", "bi", 4)
    whole = scored(CUSTOM, tmp_path / "lq", tmp_path / "gt")
    assert [frame.number for frame in whole.clips[0].frames] == [0, 1, 2, 3, 4]
    assert whole.mean.psnr_y > 10
    for frames in (4, 6):
        film(truth, frames, "32x32", options=lossless)
        with pytest.raises(InputError, match=rf"a.mkv: {frames} frames, but its input has 5"):
            scored(CUSTOM, tmp_path / "lq", tmp_path / "gt")


def test_an_input_film_of_another_length_is_named(tmp_path):
    lossless = ("-c:v", "ffv1", "-pix_fmt", "yuv444p")
    for frames in (4, 6):
        small = film(tmp_path / "small.mkv", frames, "16x16", options=lossless)
        gt = write_clip(tmp_path / f"gt{frames}", moving(5, 64, 64))
        with pytest.raises(InputError, match=rf"small.mkv: {frames} frames, but its truth has 5"):
            scored(CUSTOM, small, gt)


def test_films_score_as_their_pictures_do(tmp_path):
    lossless = ("-c:v", "ffv1", "-pix_fmt", "yuv444p")
    truth = film(tmp_path / "a.mkv", 4, "32x32", options=lossless)
    (clip,) = find_clips(CUSTOM, None, truth)
    write_clip(tmp_path / "gt", torch.stack([rgb for _, rgb in frames_of(clip.truth)]))
    make = Scoring(make_lq="bi")
    of_film = scored(CUSTOM, None, truth, scoring=make).mean
    assert of_film == scored(CUSTOM, None, tmp_path / "gt", scoring=make).mean


def test_a_model_of_another_scale_is_refused(tmp_path):
    lq, gt = write_set(tmp_path, {"calendar": 1})
    vid4 = dataclasses.replace(find("vid4"), namings=())
    with pytest.raises(UsageError, match="Vid4 is x4, identity is x1"):
        scored(vid4, lq, gt, load_model("identity"), model="identity")
    with pytest.raises(UsageError, match="the model does not enlarge"):
        scored(CUSTOM, None, gt, load_model("identity"), Scoring(make_lq="bi"))


def test_self_ensembles_are_composed_and_named(tmp_path):
    lq, gt = write_set(tmp_path, {"a": 3})
    both = Scoring(eightfold=True, both_ways=True)
    seen = []
    found = scored(CUSTOM, lq, gt, small_basicvsr(), both, "mine", progress=seen.append)
    assert found.how[1:] == ("self-ensemble x8", "mean with the reversed clip")
    assert (seen[-1].frames, seen[-1].total) == (48, 48)
    assert found.clips[0].restored == 3
    plain = scored(CUSTOM, lq, gt, small_basicvsr(), model="mine")
    assert abs(plain.mean.psnr_y - found.mean.psnr_y) > 1e-3


def test_frames_are_scored_while_the_clip_streams(tmp_path):
    """No truth is read before its frame is there, no output waits for the next."""
    lq, gt = write_set(tmp_path, {"a": 40})
    (gt / "a" / "00000030.png").write_bytes(b"no picture")
    seen = []
    with pytest.raises(InputError, match=r"00000030.png: no PNG"):
        scored(CUSTOM, lq, gt, progress=seen.append)
    assert len(seen) == 31


def test_the_shipped_weights_gain_on_a_real_clip_what_their_card_promises():
    clip = shared_file("media/val/bedroom.mp4")
    make = Scoring(make_lq="bi", crop=4)
    ours = scored(CUSTOM, None, clip, load_model("basicvsr"), make, "basicvsr").mean
    bicubic = scored(CUSTOM, None, clip, scoring=make).mean
    assert bicubic.psnr_y == pytest.approx(29.56, abs=0.01)  # shared/media/val/README.md
    assert ours.psnr_y - bicubic.psnr_y > 2.0  # its card
    assert ours.ssim_y > bicubic.ssim_y + 0.03


def test_what_an_input_cannot_show_of_its_truth_is_left_out(tmp_path):
    """62x38 is made 15x9, as tools do; the truth on disk stays 62x38."""
    clip = moving(2, 38, 62)
    gt = write_clip(tmp_path / "gt" / "a", clip).parent
    lq = write_clip(tmp_path / "lq" / "a", imresize(clip[..., :36, :60], 1 / 4)).parent
    made = scored(CUSTOM, None, gt, scoring=Scoring(make_lq="bi"))
    given = scored(CUSTOM, lq, gt)
    assert given.mean == made.mean
    check_sizes(find_clips(CUSTOM, lq, gt), 4)


@pytest.mark.parametrize(("how", "make"), [("bi", bi), ("bd", bd)])
def test_inputs_that_are_made_have_the_codes_of_float64(tmp_path, how, make):
    """Of half a million samples float32 has some five another way."""
    folder = tmp_path / "gt" / "clip"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0).integers(0, 256, (2, 3, 1200, 1200), dtype=np.uint8)
    for number, picture in enumerate(noise):
        (folder / f"{number:08d}.png").write_bytes(png(picture))
    write_reduced(find_clips(CUSTOM, None, tmp_path / "gt"), tmp_path / "lq", how, 4)
    made = [read_frames(path)[0] for path in sorted((tmp_path / "lq" / "clip").iterdir())]
    exact = make(torch.from_numpy(noise).double() / 255, 4) * 255
    assert torch.equal(torch.stack(made), (exact + 0.5).floor().clamp(0, 255).to(torch.uint8))
