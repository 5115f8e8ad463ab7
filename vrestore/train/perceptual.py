"""Pictures compared by what a network that knows objects sees in them."""

from __future__ import annotations

from collections.abc import Mapping

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.errors import ModelError, UsageError
from vrestore.train.config import Perceptual

CONVOLUTIONS = (2, 2, 4, 4, 4)  # of each size, VGG19 (Simonyan, Zisserman 2015, table 1, column E)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, which it was trained on


class PerceptualLoss(nn.Module):
    """Weighted L1 between features of VGG19 before their ReLU (ESRGAN, sec. 3.3).

    ``state``: its convolutions under torchvision's names, ``features.0.weight`` and on; widths are
    read off them. Nothing of it learns.
    """

    def __init__(self, state: Mapping[str, Tensor], layers: Mapping[str, float]) -> None:
        super().__init__()
        places = convolution_places()
        unknown = sorted(layers.keys() - places.keys())
        if unknown or not layers:
            known = ", ".join(places)
            raise UsageError(f"[perceptual] layers: {unknown or 'none'}; known are {known}")
        self.layers = dict(layers)
        self.deepest = max(places[name] for name in layers)
        self.convolutions = nn.ModuleDict()
        for name, place in places.items():
            if place <= self.deepest:
                self.convolutions[name] = _convolution(state, place)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1))
        self.requires_grad_(False)

    mean: Tensor
    std: Tensor

    @staticmethod
    def load(how: Perceptual) -> PerceptualLoss:
        """With the weights that the file holds; ModelError where it is none of VGG19's."""
        try:
            if how.weights.suffix == ".safetensors":
                state = safetensors.torch.load_file(how.weights)
            else:
                state = torch.load(how.weights, map_location="cpu", weights_only=True)
            return PerceptualLoss(state, how.layers)
        except UsageError:
            raise
        except Exception as error:  # the readers raise a dozen kinds
            reason = " ".join(str(error).split())[:120]
            raise ModelError(
                f"{how.weights}: no VGG19 of torchvision's ({reason}); [perceptual] weights asks "
                "for vgg19-dcbb9e9d.pth or the same tensors as safetensors"
            ) from error

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """Of pictures ``(N, 3, H, W)`` in 0..1: what each named layer gives before its ReLU."""
        x = (x - self.mean) / self.std
        found = {}
        for name, convolution in self.convolutions.items():
            if name.endswith("_1") and name != "conv1_1":
                x = F.max_pool2d(x, 2)
            x = convolution(x)
            if name in self.layers:
                found[name] = x
            x = F.relu(x)
        return found

    def forward(self, output: Tensor, truth: Tensor) -> Tensor:
        """Pictures ``(N, 3, H, W)`` in 0..1 -> one number."""
        with torch.no_grad():
            wanted = self.features(truth)
        seen = self.features(output)
        total = output.new_zeros(())
        for name, weight in self.layers.items():
            total = total + weight * F.l1_loss(seen[name], wanted[name])
        return total


def convolution_places() -> dict[str, int]:
    """``conv1_1`` -> 0 and on: where torchvision has each, with ReLUs and pools between."""
    places, at = {}, 0
    for size, count in enumerate(CONVOLUTIONS, start=1):
        for nth in range(1, count + 1):
            places[f"conv{size}_{nth}"] = at
            at += 2
        at += 1
    return places


def _convolution(state: Mapping[str, Tensor], place: int) -> nn.Conv2d:
    weight, bias = (state[f"features.{place}.{kind}"] for kind in ("weight", "bias"))
    convolution = nn.Conv2d(weight.shape[1], weight.shape[0], 3, 1, 1)
    convolution.load_state_dict({"weight": weight.float(), "bias": bias.float()})
    return convolution
