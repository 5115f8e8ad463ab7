"""LPIPS and DISTS: distances as the eye sees them, by their authors' packages.

Both see through networks that learned on ImageNet; torchvision fetches those weights once (AlexNet
233 MB, VGG16 528 MB) and torch.hub keeps them.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from vrestore.errors import ModelError, UsageError

Distance = Callable[[Tensor, Tensor], Tensor]

ALEXNET, VGG16 = "alexnet-owt-7be5be79.pth", "vgg16-397923af.pth"  # as torchvision names them
ALEXNET_LEAST_PX = 31  # what its convolution of 11 and two poolings leave a pixel of


def load_lpips(device: torch.device | str = "cpu", *, offline: bool = False) -> Distance:
    """LPIPS through AlexNet, version 0.1: what the tables, and TecoGAN's tLP, mean by it.

    Zhang et al., CVPR 2018. The function takes two ``(..., 3, H, W)``, R'G'B' in 0..255, and
    returns ``(...)``, 0 for equal pictures; each side has 31 pixels at least. UsageError where a
    package is missing, ModelError where the weights cannot be had, or are not here and must not be
    fetched (``offline``).
    """
    _need_torchvision("LPIPS")
    try:
        import lpips
    except ImportError as error:
        raise _not_installed("LPIPS", "lpips") from error

    def make() -> nn.Module:
        net: nn.Module = lpips.LPIPS(net="alex", version="0.1", verbose=False)
        return net

    net = _loaded(make, device, "LPIPS", ALEXNET, offline)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return net(a / 127.5 - 1, b / 127.5 - 1)  # type: ignore[no-any-return]

    return _of_each(distance, device, ALEXNET_LEAST_PX)


def load_dists(device: torch.device | str = "cpu", *, offline: bool = False) -> Distance:
    """DISTS: likeness of structure and of texture, less of which is better.

    Ding et al., IEEE TPAMI 2020 (arXiv 2004.07728). Pictures are compared in the size they have;
    the authors' own experiments reduce the shorter side to 256 first. Arguments, result and errors
    as of `load_lpips`, of any size.
    """
    _need_torchvision("DISTS")
    try:
        import DISTS_pytorch
    except ImportError as error:
        raise _not_installed("DISTS", "DISTS-pytorch") from error

    def make() -> nn.Module:
        # The package seeks its own weights under sys.prefix, where not every installer puts them.
        net: nn.Module = DISTS_pytorch.DISTS(load_weights=False)
        file = Path(DISTS_pytorch.__file__).with_name("weights.pt")
        learned = torch.load(file, "cpu", weights_only=True)
        for part in ("alpha", "beta"):
            net.get_parameter(part).data = learned[part]
        return net

    net = _loaded(make, device, "DISTS", VGG16, offline)

    def distance(a: Tensor, b: Tensor) -> Tensor:
        return net(a / 255, b / 255)  # type: ignore[no-any-return]

    return _of_each(distance, device, 1)


def _of_each(distance: Distance, device: torch.device | str, least_px: int) -> Distance:
    """``distance`` of ``(1, 3, H, W)`` in float32, one pair of pictures after the other."""

    @torch.no_grad()
    def score(a: Tensor, b: Tensor) -> Tensor:
        if a.shape != b.shape or a.dim() < 3 or a.shape[-3] != 3 or min(a.shape[-2:]) < least_px:
            raise UsageError(
                f"cannot compare {tuple(a.shape)} with {tuple(b.shape)}: both must be "
                f"(..., 3, H, W) of one shape, {least_px} pixels at least on each side"
            )
        pairs = zip(a[None].flatten(0, -4), b[None].flatten(0, -4), strict=True)
        scores = [
            distance(x[None].to(device).float(), y[None].to(device).float()).reshape(())
            for x, y in pairs
        ]
        return torch.stack(scores).reshape(a.shape[:-3])

    return score


def _loaded(
    make: Callable[[], nn.Module],
    device: torch.device | str,
    name: str,
    weights: str,
    offline: bool,
) -> nn.Module:
    place = Path(torch.hub.get_dir()) / "checkpoints"
    try:
        if offline and not (place / weights).exists():
            raise OSError("--offline fetches nothing")
        with warnings.catch_warnings():
            # The packages speak to torchvision as of old: it warns, and does what they ask.
            warnings.simplefilter("ignore")
            return make().to(device).eval().requires_grad_(False)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(
            f"{name} needs torchvision's {weights}, which cannot be had ({why}). Fetch "
            f"https://download.pytorch.org/models/{weights} and put it into "
            f"{place}"
        ) from error


def _need_torchvision(name: str) -> None:
    try:
        import torchvision  # noqa: F401
    except ImportError as error:
        raise _not_installed(name, "torchvision") from error
    except RuntimeError as error:  # built for another torch: its operators do not register
        raise UsageError(
            f"{name} needs torchvision, and the one installed does not fit torch "
            f"{torch.__version__} ({error}); install both from the same source"
        ) from error


def _not_installed(name: str, package: str) -> UsageError:
    return UsageError(f"{name} needs the package {package}: pip install {package}")
