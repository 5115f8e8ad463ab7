"""The weights in the package: they beat bicubic, and look-ahead loses next to nothing of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from films import film, shared
from safetensors import safe_open
from torch.nn import functional as F

from vrestore import Restorer, load_model
from vrestore.engine.costs import costs
from vrestore.evaluate.compression import compress
from vrestore.evaluate.footage import Footage, frames_of
from vrestore.evaluate.metrics import luma, psnr, to_8bit
from vrestore.models import frbasicvsr
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.catalogue import find
from vrestore.models.resize import imresize
from vrestore.train.camera import gentle_pair
from vrestore.train.footage import read_frames
from vrestore.train.reduction import shrink

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "flower.mp4"


@pytest.fixture(scope="module")
def net():
    return load_model("basicvsr")


def y_psnr(y, hr):
    return psnr(luma(to_8bit(y)), luma(hr), crop=4).mean().item()


def gain(net, hr):
    lr = shrink(hr).float() / 255
    out = torch.stack(list(Restorer(net, precision="fp32", device="cpu").stream(lr)))
    return y_psnr(out, hr) - y_psnr(imresize(lr, 4), hr)


def test_the_file_is_small_enough_to_ship_and_says_its_licence():
    path = find("basicvsr").path
    assert path.stat().st_size <= 4 * 2**20
    with safe_open(path, "pt") as file:
        assert file.metadata()["licence"] == "Apache-2.0"
    assert path.with_suffix(".md").exists()


def test_it_beats_bicubic_on_the_example(net):
    hr = read_frames(EXAMPLE)[:6, :, :136, :240]
    assert gain(net, hr) > 0.5


def test_its_flow_follows_the_motion(net):
    """A network that ignores its neighbours beats bicubic, too; this one must not be such."""
    picture = read_frames(EXAMPLE)[0, :, :136, :240]
    error, still = 0.0, 0.0
    for seed in range(8):
        pair, motion = gentle_pair(np.random.default_rng(seed), (picture,), 64, 4.0)
        ref, supp = pair.float() / 255
        with torch.no_grad():
            flow = net.spynet(ref[None], supp[None])[0]
        inner = (..., slice(8, -8), slice(8, -8))
        error += (flow - motion)[inner].norm(dim=0).mean().item()
        still += motion[inner].norm(dim=0).mean().item()
    assert error < 0.15 * still
    with torch.no_grad():
        resting = net.spynet(ref[None], ref[None])[0][inner]
    # A bias blurs what is propagated, at every step: 0.5 where trunks were to learn before they
    # could read what is warped; 0.2 since it learned beside trunks that could.
    assert resting.norm(dim=0).mean() < 0.25


@pytest.mark.parametrize(("clip", "least"), [("coffee", 3.0), ("face", 2.0), ("dog", 0.5)])
def test_it_beats_bicubic_on_real_footage(net, clip, least):
    assert gain(net, read_frames(shared(f"media/val/{clip}.mp4"))[:7]) > least


def test_lookahead_costs_less_the_further_it_looks(net):
    """Against the whole shot, on a real clip: the curve falls, and 8 frames are near enough."""
    hr = read_frames(shared("media/val/bedroom.mp4"))[:20, :, 60:188, 100:260]
    lr = shrink(hr).float() / 255

    def restored(**how):
        return torch.stack(list(Restorer(net, precision="fp32", device="cpu", **how).stream(lr)))

    whole = restored(propagation="whole")
    losses = []
    for lookahead in (0, 2, 8):
        chunked = restored(chunk=4, lookahead=lookahead)
        losses.append((chunked - whole).square().mean().item())
    assert losses[0] > losses[1] > losses[2]
    assert y_psnr(whole, hr) - y_psnr(restored(chunk=4, lookahead=8), hr) < 0.05


@pytest.fixture(scope="module")
def real():
    return load_model("basicvsr-real")


def test_all_shipped_files_say_their_licence():
    for name in ("basicvsr", "basicvsr-real", "restore", "edvr", "iconvsr"):
        path = find(name).path
        with safe_open(path, "pt") as file:
            assert file.metadata()["licence"] == "Apache-2.0"
        assert path.with_suffix(".md").exists()
        assert path.stat().st_size <= 6 * 2**20
    assert sum(f.stat().st_size for f in path.parent.iterdir()) <= 16 * 2**20


def test_the_real_one_takes_noise_away_that_the_clean_one_enlarges(net, real):
    """A still picture under noise that changes: what still changes in the output is noise."""
    still = read_frames(EXAMPLE)[:1, :, :96, :160].float() / 255
    generator = torch.Generator().manual_seed(0)

    def flicker(x):
        return (x[2:-1] - x[1:-2]).square().mean().sqrt().item()

    for channels, most in ((1, 0.5), (3, 0.6)):  # grey noise, and of every colour by itself
        noise = torch.randn(6, channels, *still.shape[2:], generator=generator)
        noisy = ((still + 0.02 * noise) * 255).round().clamp(0, 255) / 255
        with torch.no_grad():
            assert flicker(real(noisy)) < most * flicker(imresize(noisy, 4))
            assert flicker(real(noisy)) < 0.5 * flicker(net(noisy))


def test_the_real_one_keeps_the_colours(real):
    """Means of large areas: a cast would be seen at once."""
    frames = shrink(read_frames(EXAMPLE)[:4]).float() / 255
    out = torch.stack(list(Restorer(real, precision="fp32", device="cpu").stream(frames)))
    cast = out.mean((0, 2, 3)) - frames.mean((0, 2, 3))
    assert cast.abs().max() < 0.02


@pytest.fixture(scope="module")
def cleaner():
    return load_model("restore")


def example():
    return read_frames(EXAMPLE)[:6, :, :96, :160]


def test_the_cleaner_takes_noise_away_and_leaves_alone_what_is_clean(cleaner):
    clean = example()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for sigma, least in ((10, 5.0), (15, 6.0)):
            noisy = (clean + sigma * noise).round().clamp(0, 255)
            before, after = (y_psnr(x, clean) for x in (noisy / 255, cleaner(noisy / 255)))
            assert after - before > least
        assert y_psnr(cleaner(clean / 255), clean) > 42


def test_the_neighbours_help_the_cleaner(cleaner):
    clean = example()
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    noisy = (clean + 10 * noise).round().clamp(0, 255) / 255
    with torch.no_grad():
        alone = torch.cat([cleaner(frame[None]) for frame in noisy])
        assert y_psnr(cleaner(noisy), clean) > y_psnr(alone, clean) + 0.5


def test_the_cleaner_undoes_some_of_what_a_codec_did(cleaner):
    clean = read_frames(shared("media/val/bedroom.mp4"))[:10, :, 40:168, 100:292].contiguous()
    spoilt = compress(clean, "mpeg2video", qscale=14)
    with torch.no_grad():
        after = y_psnr(cleaner(spoilt.float() / 255), clean)
    assert after - y_psnr(spoilt.float() / 255, clean) > 0.3


def test_the_cleaner_keeps_the_colours(cleaner):
    frames = example().float() / 255
    with torch.no_grad():
        cast = cleaner(frames).mean((0, 2, 3)) - frames.mean((0, 2, 3))
    assert cast.abs().max() < 0.005


def test_it_takes_twelve_per_cent_of_the_published_networks_multiplications(net):
    """11.9%, as its card says."""
    ours, published = (costs(n, 180, 320) for n in (net, BasicVSR(64, 30)))
    assert 0.115 < ours.work(None, 0, 15) / published.work(None, 0, 15) <= 0.12


@pytest.fixture(scope="module")
def windows():
    return load_model("edvr")


def test_the_windowed_one_beats_bicubic_on_the_example(windows):
    hr = read_frames(EXAMPLE)[:6, :, :136, :240]
    assert gain(windows, hr) > 0.5


@pytest.mark.parametrize(("clip", "least"), [("coffee", 3.5), ("face", 1.8), ("dog", 0.6)])
def test_the_windowed_one_beats_bicubic_on_real_footage(windows, clip, least):
    assert gain(windows, read_frames(shared(f"media/val/{clip}.mp4"))[:7]) > least


def test_the_neighbours_in_a_window_help(windows):
    hr = read_frames(shared("media/val/laptop.mp4"))[:7, :, :200, :320].contiguous()
    lr = shrink(hr).float() / 255
    with torch.no_grad():
        alone = torch.cat([windows.fuse([windows.features(frame[None])] * 5) for frame in lr])
    assert gain(windows, hr) > y_psnr(alone, hr) - y_psnr(imresize(lr, 4), hr) + 0.15


@pytest.fixture(scope="module")
def refilled():
    return load_model("iconvsr")


def test_the_refilled_one_beats_bicubic_on_the_example(refilled):
    hr = read_frames(EXAMPLE)[:6, :, :136, :240]
    assert gain(refilled, hr) > 0.5


@pytest.mark.parametrize(("clip", "least"), [("coffee", 3.2), ("face", 1.8), ("dog", 0.5)])
def test_the_refilled_one_beats_bicubic_on_real_footage(refilled, clip, least):
    assert gain(refilled, read_frames(shared(f"media/val/{clip}.mp4"))[:7]) > least


@pytest.mark.parametrize("chart", ["testsrc2", "smptebars"])
@pytest.mark.parametrize("name", ["basicvsr", "basicvsr-real", "restore", "iconvsr"])
def test_a_test_chart_stays_one(name, chart, tmp_path):
    """States grew by half at each step on such edges, until the picture was noise."""
    source = film(tmp_path / "chart.mkv", 20, "160x90", source=chart, sound=False)
    clip = torch.stack([rgb for _, rgb in frames_of(Footage(source))])
    net = load_model(name)
    with torch.no_grad():
        out = net(clip).clamp(0, 1)
    wrong = (F.avg_pool2d(out, net.scale) - clip).square().mean((1, 2, 3))
    assert wrong.max() < 10 ** (-24 / 10)  # 24 dB


def test_natural_states_are_as_they_were():
    """What is bounded is far beyond them, and below that every bit stays."""
    state = torch.randn(2, 8, 6, 5).clamp(-frbasicvsr.LARGEST, frbasicvsr.LARGEST)
    assert torch.equal(frbasicvsr.bounded(state), state)
    large = frbasicvsr.bounded(1e4 * state)
    assert large.abs().max() <= 1.001 * frbasicvsr.LARGEST
    net, states = load_model("basicvsr"), []
    lr = shrink(read_frames(shared("media/val/laptop.mp4"))[:16]).float() / 255
    advance = net.advance
    net.advance = lambda *args: states.append(advance(*args)) or states[-1]
    with torch.no_grad():
        net(lr)
    assert max(s.abs().max() for s in states) < 0.7 * frbasicvsr.LARGEST


@pytest.mark.parametrize("name", ["basicvsr", "iconvsr"])
def test_what_goes_round_does_not_grow(name):
    """On the clip where the states of an IconVSR grew a thousandfold every second frame."""
    net = load_model(name)
    lr = shrink(read_frames(shared("media/val/road.mp4"))).float() / 255
    there_and_back = torch.cat((lr, lr.flip(0)))
    states, advance = [], net.advance

    def watched(*args):
        out = advance(*args)
        states.append(out.abs().max().item())
        return out

    net.advance = watched
    with torch.no_grad():
        net(there_and_back)
    assert max(states) < 3 * max(states[:8])
