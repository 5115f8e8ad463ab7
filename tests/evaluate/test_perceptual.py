"""Stand-ins for the extras; the real packages where they and their weights are at hand."""

import sys
from pathlib import Path
from types import ModuleType
from urllib.error import URLError

import pytest
import torch

from vrestore.errors import ModelError, UsageError
from vrestore.evaluate.perceptual import ALEXNET, VGG16, load_dists, load_lpips


class MeanDistance(torch.nn.Module):
    """In place of both networks: remembers what it was shown."""

    def __init__(self, **how):
        super().__init__()
        self.how, self.shown = how, []
        self.alpha = torch.nn.Parameter(torch.zeros(1))
        self.beta = torch.nn.Parameter(torch.zeros(1))

    def forward(self, a, b):
        self.shown += [a, b]
        return (a - b).abs().mean().reshape(1, 1, 1, 1)


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Stand-ins for torchvision, lpips and DISTS_pytorch; the networks that were made."""
    made = []

    def make(**how):
        made.append(MeanDistance(**how))
        return made[-1]

    for name, maker in (("torchvision", None), ("lpips", "LPIPS"), ("DISTS_pytorch", "DISTS")):
        module = ModuleType(name)
        module.__file__ = str(tmp_path / "__init__.py")
        if maker:
            setattr(module, maker, make)
        monkeypatch.setitem(sys.modules, name, module)
    learned = {"alpha": torch.full((1,), 3.0), "beta": torch.full((1,), 4.0)}
    torch.save(learned, tmp_path / "weights.pt")
    return made


def test_lpips_is_of_alexnet_and_sees_pictures_in_minus_one_to_one(packages):
    distance = load_lpips()
    a, b = torch.zeros(3, 32, 40, dtype=torch.uint8), torch.full((3, 32, 40), 255.0)
    assert distance(a, b).item() == 2
    (net,) = packages
    assert net.how == {"net": "alex", "version": "0.1", "verbose": False}
    assert [float(x.mean()) for x in net.shown] == [-1, 1]
    assert not any(p.requires_grad for p in net.parameters())


def test_dists_sees_pictures_in_0_to_1_and_has_its_own_weights(packages):
    distance = load_dists()
    assert distance(torch.zeros(3, 8, 8), torch.full((3, 8, 8), 255.0)).item() == 1
    (net,) = packages
    assert [float(x.mean()) for x in net.shown] == [0, 1]
    assert (net.alpha.item(), net.beta.item()) == (3, 4)


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("load", [load_lpips, load_dists])
def test_every_picture_has_its_own_distance(load):
    a = torch.zeros(2, 3, 3, 32, 32)
    b = torch.arange(6.0).reshape(2, 3, 1, 1, 1).expand_as(a)
    found = load()(a, b)
    torch.testing.assert_close(found / found[0, 1], torch.arange(6.0).reshape(2, 3))


@pytest.mark.usefixtures("packages")
def test_pictures_that_cannot_be_compared_are_refused_in_one_sentence():
    distance = load_lpips()
    for a, b in (
        ((3, 32, 32), (3, 32, 33)),
        ((1, 32, 32), (1, 32, 32)),
        ((3, 30, 64), (3, 30, 64)),
    ):
        with pytest.raises(UsageError, match="cannot compare"):
            distance(torch.zeros(a), torch.zeros(b))


@pytest.mark.usefixtures("packages")
@pytest.mark.parametrize("absent", ["torchvision", "lpips"])
def test_a_package_that_is_not_installed_is_named(monkeypatch, absent):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(UsageError, match=rf"package {absent}: pip install {absent}"):
        load_lpips()
    monkeypatch.setitem(sys.modules, "DISTS_pytorch", None)
    with pytest.raises(UsageError, match=r"DISTS needs .* pip install "):
        load_dists()


@pytest.mark.usefixtures("packages")
def test_a_torchvision_for_another_torch_is_told(monkeypatch, tmp_path):
    (tmp_path / "torchvision.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision")
    for load in (load_lpips, load_dists):
        with pytest.raises(UsageError, match=r"does not fit torch .*nms does not exist"):
            load()


@pytest.mark.parametrize(
    ("load", "package", "maker", "weights"),
    [(load_lpips, "lpips", "LPIPS", ALEXNET), (load_dists, "DISTS_pytorch", "DISTS", VGG16)],
)
@pytest.mark.parametrize(
    "failure", [URLError("no route to host"), RuntimeError("invalid hash value"), EOFError()]
)
@pytest.mark.usefixtures("packages")
def test_weights_that_cannot_be_had_are_named_with_their_place(
    monkeypatch, load, package, maker, weights, failure
):
    def fail(**_):
        raise failure

    monkeypatch.setattr(sys.modules[package], maker, fail)
    with pytest.raises(ModelError) as told:
        load()
    said = str(told.value)
    assert f"https://download.pytorch.org/models/{weights}" in said
    assert str(Path(torch.hub.get_dir()) / "checkpoints") in said
    assert str(failure) in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("load", "package", "weights"),
    [(load_lpips, "lpips", ALEXNET), (load_dists, "DISTS_pytorch", VGG16)],
)
def test_the_real_distances_are_nil_for_equal_pictures_and_grow_with_noise(load, package, weights):
    pytest.importorskip(package, reason=f"{package} is not installed")
    if not (Path(torch.hub.get_dir()) / "checkpoints" / weights).exists():
        pytest.skip(f"{weights} is not here")
    distance = load()
    g = torch.Generator().manual_seed(0)
    clean = torch.rand(2, 3, 64, 64, generator=g) * 200 + 20
    noise = torch.randn(2, 3, 64, 64, generator=g)
    none, little, much = (distance(clean, clean + s * noise) for s in (0, 4, 16))
    assert none.abs().max() < 1e-5
    assert (none < little).all()
    assert (little < much).all()
