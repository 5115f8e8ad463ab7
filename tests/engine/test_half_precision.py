import copy

import pytest
import torch
from networks import (
    moving_clip,
    small_basicvsr,
    small_basicvsrpp,
    small_edvr,
    small_frbasicvsr,
    small_frbasicvsr_same_size,
    small_frrealbasicvsr,
    small_iconvsr,
    small_realbasicvsr,
)

from vrestore.engine import precision
from vrestore.engine.restorer import Restorer
from vrestore.models import one_step
from vrestore.models.temporal import FrameNetwork, Seen

SMALL = (
    small_basicvsr,
    small_frbasicvsr_same_size,
    small_frrealbasicvsr,
    small_basicvsrpp,
    small_frbasicvsr,
    small_iconvsr,
    small_realbasicvsr,
    small_edvr,
)


@pytest.mark.parametrize("make", SMALL)
def test_weights_rounded_once_give_what_autocast_gives(make, monkeypatch):
    net, clip = make(), moving_clip(6, 66, 70)
    monkeypatch.setattr(one_step, "ONE_STEP", False)  # it rounds a sum once, autocast twice

    def restored():
        restorer = Restorer(copy.deepcopy(net), precision="bf16", device="cpu")
        restorer._tried = True
        return torch.stack(list(restorer.stream(clip)))

    once = restored()
    monkeypatch.setattr(precision, "rounded_weights", lambda net, dtype: net)
    assert torch.equal(once, restored())


def test_every_convolution_of_the_copy_is_rounded_and_none_of_the_network():
    net = small_basicvsr()
    rounded = precision.rounded_weights(net, torch.bfloat16)
    assert all(p.dtype == torch.bfloat16 for p in rounded.parameters())
    assert all(p.dtype == torch.float32 for p in net.parameters())


@pytest.mark.parametrize("make", SMALL[:-1])
def test_flow_is_float32_and_near_that_of_float32(make):
    net, clip = make(), moving_clip(2, 66, 70)
    flows = []
    for name in ("fp32", "bf16"):
        run = precision.InPrecision(net, torch.device("cpu"), name)
        seen = [Seen((frame[None],) * (2 * net.context + 1), 0, False, 0) for frame in clip]
        flows.append(run.flow(*map(run.encode, seen)))
    for exact, found in zip(*flows, strict=True):
        assert found.dtype == torch.float32
        # Not that of bfloat16 everywhere: of places it would hold no more than 1/4 px here.
        assert (found - exact).abs().mean() < 0.02 * exact.abs().mean() + 0.01


@pytest.mark.filterwarnings("ignore:CUDA is not available")
@pytest.mark.parametrize(("name", "tf32"), [("fp32", False), ("fp16", True)])
def test_float32_on_a_gpu_has_all_its_bits(name, tf32):
    seen = []

    class Looking(FrameNetwork):
        scale = 1

        def forward(self, x):
            seen.append(torch.backends.cudnn.allow_tf32)
            return x

    before = torch.backends.cudnn.allow_tf32
    precision.InPrecision(Looking(), torch.device("cuda"), name).frame(torch.rand(1, 3, 4, 4))
    assert seen == [tf32]
    assert torch.backends.cudnn.allow_tf32 == before
