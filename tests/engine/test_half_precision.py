import copy

import pytest
import torch
from networks import (
    moving_clip,
    small_basicvsr,
    small_basicvsrpp,
    small_edvr,
    small_iconvsr,
    small_realbasicvsr,
)

from vrestore.engine import precision
from vrestore.engine.restorer import Restorer
from vrestore.models.temporal import FrameNetwork

SMALL = (small_basicvsr, small_basicvsrpp, small_iconvsr, small_realbasicvsr, small_edvr)


@pytest.mark.parametrize("make", SMALL)
def test_weights_rounded_once_give_what_autocast_gives(make, monkeypatch):
    net, clip = make(), moving_clip(6, 66, 70)

    def restored():
        restorer = Restorer(copy.deepcopy(net), precision="bf16", device="cpu")
        restorer._tried = True
        return torch.stack(list(restorer.stream(clip)))

    once = restored()
    monkeypatch.setattr(precision, "rounded_weights", lambda net, dtype: net)
    assert torch.equal(once, restored())


def test_only_convolutions_outside_the_flow_are_rounded():
    net = small_basicvsr()
    rounded = precision.rounded_weights(net, torch.bfloat16)
    for name, value in rounded.state_dict().items():
        exact = name.startswith("spynet.")
        assert value.dtype == (torch.float32 if exact else torch.bfloat16), name
    assert all(p.dtype == torch.float32 for p in net.parameters())


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
