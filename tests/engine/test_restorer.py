import itertools

import numpy as np
import pytest
import torch
from networks import moving_clip, small_basicvsr, small_edvr

from vrestore import Restorer, load_model
from vrestore.engine.precision import InPrecision, choose_precision
from vrestore.errors import ModelError, OutOfMemory, UsageError
from vrestore.models.temporal import FrameNetwork


def test_frames_come_out_in_the_restorers_scale_unclamped():
    net = load_model("bicubic")
    bright = torch.full((1, 3, 6, 8), 1.2)
    (out,) = Restorer(net, device="cpu").stream(bright)
    assert out.shape == (3, 24, 32)
    assert out.max() > 1.19


def test_identity_changes_nothing():
    clip = moving_clip(3) * 1.5 - 0.2
    out = torch.stack(list(Restorer(load_model("identity"), device="cpu").stream(clip)))
    assert torch.equal(out, clip)


def test_half_precision_stays_near_float32_and_comes_back_as_float32():
    net, clip = small_basicvsr(), moving_clip(4)
    full = torch.stack(list(Restorer(net, precision="fp32", device="cpu").stream(clip)))
    half = torch.stack(list(Restorer(net, precision="bf16", device="cpu").stream(clip)))
    assert half.dtype == torch.float32
    error = (half - full).abs().max()
    assert 0 < error < 0.05 * full.std() + 0.02


def test_auto_keeps_networks_without_parameters_exact():
    net = load_model("identity")
    assert choose_precision("auto", net, torch.device("cpu")) == "fp32"


def test_auto_takes_what_is_fast_here(monkeypatch):
    from vrestore.engine import precision

    net = small_basicvsr()
    for slow, expected in [(torch.bfloat16, "fp32"), (torch.float32, "bf16")]:
        monkeypatch.setattr(
            precision, "_seconds", lambda n, d, dtype, slow=slow: 5.0 if dtype is slow else 1.0
        )
        assert choose_precision("auto", net, torch.device("cpu")) == expected


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_what_is_timed_makes_frames_of_one_size(scale):
    from vrestore.engine import precision

    seen = []

    class Scaled(FrameNetwork):
        def forward(self, x):
            seen.append(x.shape[2:])
            return x

    net = Scaled()
    net.scale = scale
    precision._seconds(net, torch.device("cpu"), torch.float32)
    assert [(scale * h, scale * w) for h, w in seen] == [(256, 256)]


@pytest.mark.parametrize(
    ("how", "word"),
    [
        ({"propagation": "sideways"}, "sideways"),
        ({"precision": "fp8"}, "fp8"),
        ({"device": "abacus"}, "abacus"),
        ({"chunk": 0}, "chunk"),
        ({"lookahead": -1}, "lookahead"),
    ],
)
def test_what_is_unknown_is_named(how, word):
    with pytest.raises(UsageError, match=word):
        Restorer(small_basicvsr(), **{"precision": "fp32", "device": "cpu"} | how)


@pytest.mark.parametrize(
    "frame",
    [
        torch.rand(8, 8, 3),
        torch.rand(1, 3, 8, 8),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        np.zeros((3, 8, 8), np.float32),
    ],
    ids=["channels last", "a clip", "bytes", "numpy"],
)
def test_a_frame_of_another_form_is_refused(frame):
    for net in (load_model("bicubic"), small_basicvsr(), small_edvr()):
        with pytest.raises(UsageError, match=r"a frame is (a tensor )?\(3, H, W\)"):
            list(Restorer(net, precision="fp32", device="cpu").stream([frame]))


def test_no_gradient_is_kept_and_grad_mode_does_not_leak_through_the_generator():
    net = small_basicvsr().requires_grad_(True)
    stream = Restorer(net, precision="bf16", device="cpu").stream(moving_clip(3))
    out = next(stream)
    assert not out.requires_grad
    assert torch.is_grad_enabled()
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize(
    ("spoiled", "said"),
    [
        (lambda out: out * float("nan"), "no number"),
        (lambda out: out * 0 + 0.5, "empty picture"),
        (lambda out: out + 0.02, "dB from float32"),
    ],
)
def test_a_precision_that_fails_on_the_first_frames_is_given_up(spoiled, said, caplog, monkeypatch):
    net, clip = small_basicvsr(), moving_clip(7)
    truth = torch.stack(list(Restorer(net, precision="fp32", device="cpu").stream(clip)))
    render = InPrecision.render

    def failing(self, *args):
        out = render(self, *args)
        return out if self.precision == "fp32" else spoiled(out)

    monkeypatch.setattr(InPrecision, "render", failing)
    for frames in (clip, iter(clip)):
        caplog.clear()
        restorer = Restorer(net, precision="bf16", device="cpu")
        assert torch.equal(torch.stack(list(restorer.stream(frames))), truth)
        assert restorer.precision == "fp32"
        (message,) = caplog.messages
        assert said in message
        assert message.endswith("going on in fp32")


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("at", [0, 3, 5], ids=["first", "middle", "last"])
def test_what_is_no_number_ends_the_run(bad, at):
    class Spoiled(FrameNetwork):
        scale = 1
        done = 0

        def forward(self, x):
            self.done += 1
            return torch.where(x == x.amax(), bad, x) if self.done == at + 1 else x

    restorer = Restorer(Spoiled(), precision="fp32", device="cpu")
    seen = []
    with pytest.raises(ModelError, match=rf"frame {at} of a shot .* no number, in fp32; the weig"):
        seen.extend(restorer.stream(moving_clip(6, 8, 8)))
    assert len(seen) == at + 1


def test_a_flat_beginning_proves_nothing(monkeypatch):
    """A film that fades in from black is tried again where there is something to see."""
    from vrestore.engine import restorer as module

    tries = []
    difference = module.difference
    monkeypatch.setattr(module, "difference", lambda *ab: tries.append(1) or difference(*ab))
    restorer = Restorer(small_basicvsr(), precision="bf16", device="cpu")
    list(restorer.stream(torch.zeros(3, 3, 20, 24)))
    list(restorer.stream(moving_clip(3)))
    list(restorer.stream(moving_clip(3)))
    assert len(tries) == 2


def test_a_source_that_runs_out_of_memory_itself_does_not_end_the_shot_early():
    """Its generator is dead: what would come again is only the frames before."""

    def source():
        yield from moving_clip(3, 140, 150)
        raise MemoryError

    restorer = Restorer(small_basicvsr(), precision="fp32", device="cpu", chunk=4, lookahead=4)
    with pytest.raises(OutOfMemory):
        list(restorer.stream(source()))


def test_a_film_that_is_short_of_memory_is_told_once_for_all_its_shots(caplog):
    net, clip = small_basicvsr(), moving_clip(9, 8, 8)
    advance, calls = net.advance, itertools.count()

    def starving(*args):
        if next(calls) == 0:
            raise MemoryError
        return advance(*args)

    net.advance = starving
    restorer = Restorer(net, precision="fp32", device="cpu", chunk=16, lookahead=8)
    for _ in range(3):
        assert len(list(restorer.stream(clip))) == 9
    assert [m.partition("with ")[2] for m in caplog.messages] == ["--chunk 8 --lookahead 8"]
    assert restorer.choice.lengths(8, 8).chunk == 8


def test_frames_that_are_restored_alone_are_tiled_one_at_a_time():
    """No more than one whole output is held, however long chunks are."""
    restorer = Restorer(load_model("bicubic"), device="cpu", tile=96)
    taken = []
    frames = (taken.append(1) or frame for frame in moving_clip(12, 100, 120))
    next(restorer.stream(frames))
    assert len(taken) <= 2


def test_tiles_of_a_whole_shot_are_refused():
    with pytest.raises(UsageError, match="tiles are for propagation lookahead"):
        Restorer(small_basicvsr(), propagation="exact", tile=128)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("propagation", ["lookahead", "whole", "exact"])
def test_a_frame_of_another_size_is_refused_by_its_sizes(propagation, precision):
    how = {"precision": precision, "propagation": propagation}
    restorer = Restorer(small_basicvsr(), device="cpu", **how)
    frames = [torch.rand(3, 16, 24), torch.rand(3, 16, 24), torch.rand(3, 16, 20)]
    with pytest.raises(UsageError, match="20x16 in a shot of 24x16"):
        list(restorer.stream(iter(frames)))
