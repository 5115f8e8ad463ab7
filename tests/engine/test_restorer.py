import numpy as np
import pytest
import torch
from networks import moving_clip, small_basicvsr, small_edvr

from vrestore import Restorer, load_model
from vrestore.engine.precision import InPrecision, choose_precision
from vrestore.errors import UsageError


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
