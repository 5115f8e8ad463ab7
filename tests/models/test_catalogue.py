"""The table of named models."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vrestore.engine.restorer import Restorer
from vrestore.errors import ModelError
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.catalogue import CATALOGUE, find, load_model
from vrestore.models.checkpoint import save_network
from vrestore.models.spynet import SPyNet


def test_names_are_unique_and_found() -> None:
    assert len({entry.name for entry in CATALOGUE}) == len(CATALOGUE)
    for entry in CATALOGUE:
        assert find(entry.name) is entry


@pytest.mark.parametrize("entry", CATALOGUE, ids=lambda entry: entry.name)
def test_every_entry_whose_weights_are_here_builds_what_it_says(entry) -> None:  # type: ignore[no-untyped-def]
    if not entry.is_here:
        pytest.skip("its weights are not on this machine")
    net = load_model(entry.name)
    assert net.scale == entry.scale
    assert sum(p.numel() for p in net.parameters()) == entry.parameters
    assert not net.training
    (out,) = Restorer(net, device="cpu", precision="fp32").stream(torch.rand(1, 3, 8, 10))
    assert out.shape == (3, 8 * entry.scale, 10 * entry.scale)


def test_identity_gives_the_very_same_values() -> None:
    x = torch.rand(2, 3, 5, 7) * 3 - 1
    assert torch.equal(load_model("identity")(x), x)


@pytest.mark.parametrize("name", ["bicubik", "Bicubic", "bicubc"])
def test_an_unknown_name_is_told_the_nearest_and_all(name: str) -> None:
    with pytest.raises(ModelError, match=r"did you mean bicubic\? `vrestore models`"):
        load_model(name)


def test_a_name_like_no_other_is_told_all() -> None:
    with pytest.raises(ModelError, match=r"^zzz/q\.pth: no model .* file\. `vrestore models`"):
        load_model("zzz/q.pth")


def test_a_path_to_a_checkpoint_is_a_model(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    for net in (load_model(str(path)), load_model("basicvsr", weights=path)):
        assert isinstance(net, BasicVSR)
        assert net.num_feat == 8


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    save_network(SPyNet(2, 3, (4,)), tmp_path / "flow.safetensors", {})
    with pytest.raises(ModelError, match="holds a SPyNet alone"):
        load_model("basicvsr", weights=tmp_path / "flow.safetensors")


def test_weights_for_a_model_without_any_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="bicubic takes no weights"):
        load_model("bicubic", weights=checkpoint(tmp_path))


def test_two_checkpoints_at_once_are_refused(tmp_path: Path) -> None:
    path = checkpoint(tmp_path)
    with pytest.raises(ModelError, match="give one of them"):
        load_model(str(path), weights=path)


def test_the_table_is_read_without_importing_torch() -> None:
    code = "import sys, vrestore.models.catalogue as c; c.find('basicvsr'); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "numpy", "safetensors"} & set(out.stdout.split())


def checkpoint(folder: Path) -> Path:
    path = folder / "compact.safetensors"
    save_network(BasicVSR(8, 1, 8, 2, 3, (4,)), path, {"trained": "not at all"})
    return path
