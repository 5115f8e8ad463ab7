"""A cleaner and the frame-recurrent BasicVSR that sees its output, as one network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from films import film
from networks import (
    SMALL_FLOW,
    moving_clip,
    small_frbasicvsr,
    small_frbasicvsr_same_size,
    small_frrealbasicvsr,
)
from torch import nn

from vrestore import Restorer, restore
from vrestore.engine.costs import costs
from vrestore.engine.spool import Spool
from vrestore.errors import ModelError
from vrestore.models.checkpoint import load_network, save_network
from vrestore.models.frbasicvsr import FRBasicVSR
from vrestore.models.frrealbasicvsr import FRRealBasicVSR
from vrestore.options import RestoreOptions


def apart(net: FRRealBasicVSR) -> tuple[FRBasicVSR, FRBasicVSR]:
    """The cleaner, and a plain network with the weights of all the rest."""
    rest = small_frbasicvsr()
    own = {k: v for k, v in net.state_dict().items() if not k.startswith("cleaner.")}
    rest.load_state_dict(own)
    return net.cleaner, rest


def test_it_enlarges_what_its_cleaner_leaves() -> None:
    net, clip = small_frrealbasicvsr(), moving_clip(5)
    cleaner, rest = apart(net)
    assert torch.equal(net(clip), rest(cleaner(clip)))
    assert not torch.equal(net(clip), rest(clip))
    assert torch.equal(net(clip[None])[0], net(clip))


@pytest.mark.parametrize("tile", [None, 96])
def test_streamed_it_is_one_restorer_fed_by_another(tile: int | None) -> None:
    net, clip = small_frrealbasicvsr(), moving_clip(6, 120, 104)
    how = {"precision": "fp32", "device": "cpu", "chunk": 3, "lookahead": 2, "tile": tile}
    frames = iter(clip)
    for part in apart(net):
        frames = Restorer(part, **how).stream(frames)  # type: ignore[arg-type]
    streamed = list(Restorer(net, **how).stream(clip))  # type: ignore[arg-type]
    assert torch.equal(torch.stack(streamed), torch.stack(list(frames)))


def test_both_are_parted_alike_where_memory_is_short() -> None:
    net = small_frrealbasicvsr()
    restorer = Restorer(net, precision="fp32", device="cpu", memory=1)
    list(restorer.stream(moving_clip(2)))
    assert restorer._first is not None
    lengths = restorer.choice.lengths(20, 24)
    assert lengths.chunk == 4
    assert restorer._first.choice.lengths(20, 24) == lengths
    assert restorer._first.choice.told is restorer.choice.told
    assert len([told for told in restorer.choice.told if "--memory" in told]) == 1


def test_what_it_takes_is_what_both_take() -> None:
    net = small_frrealbasicvsr()
    cleaner, rest = (costs(part, 20, 24) for part in apart(net))
    both = costs(net, 20, 24)
    assert both.work(8, 4, 40) == cleaner.work(8, 4, 40) + rest.work(8, 4, 40)
    for chunk in (4, 8):
        held = both.bytes(chunk, 2) - both.most
        assert held == sum(c.bytes(chunk, 2) - c.most for c in (cleaner, rest))
    assert both.most == max(cleaner.most, rest.most)


def test_it_is_known_by_its_weights(tmp_path: Path) -> None:
    net, clip = small_frrealbasicvsr(), moving_clip(3)
    save_network(net, tmp_path / "net.safetensors", {})
    loaded = load_network(tmp_path / "net.safetensors")
    assert type(loaded) is FRRealBasicVSR
    assert torch.equal(loaded(clip), net(clip))


@pytest.mark.parametrize("hr_in", [False, True])
def test_a_cleaner_that_enlarges_and_an_enlarger_that_does_not_are_refused(
    tmp_path: Path, hr_in: bool
) -> None:
    net: nn.Module = FRRealBasicVSR(8, 1, cleaner_feat=8, **SMALL_FLOW)
    if hr_in:
        net = small_frbasicvsr_same_size()
    net.cleaner = small_frbasicvsr_same_size() if hr_in else small_frbasicvsr()
    save_network(net, tmp_path / "net.safetensors", {})
    with pytest.raises(ModelError, match="sizes cannot be read off cleaner"):
        load_network(tmp_path / "net.safetensors")


def test_what_the_cleaner_leaves_is_kept_where_the_output_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames that are read again: /tmp is often memory, or small."""
    made: list[Path | None] = []
    real = Spool.__init__

    def noted(self: Spool, folder: Path | None = None) -> None:
        made.append(folder)
        real(self, folder)

    monkeypatch.setattr(Spool, "__init__", noted)
    source = film(tmp_path / "a.mkv", 3, "32x24", sound=False)
    options = RestoreOptions(model="basicvsr-real", propagation="exact", device="cpu")
    restore(source, tmp_path / "out.mkv", options=options)
    assert made == [tmp_path, tmp_path]  # as stored, and cleaned
