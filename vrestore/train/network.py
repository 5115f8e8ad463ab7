"""The network of a run: by its name, from nothing or from a checkpoint, and how it learns."""

from __future__ import annotations

import difflib
import inspect
import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vrestore.errors import ModelError, UsageError
from vrestore.models.checkpoint import ARCHITECTURES, load_module
from vrestore.models.edvr import DCNv2Pack, EDVRFeatureExtractor, TSAFusion
from vrestore.models.frbasicvsr import FRBasicVSR
from vrestore.models.frrealbasicvsr import FRRealBasicVSR
from vrestore.models.iconvsr import IconVSR
from vrestore.models.layers import ResidualBlockNoBN
from vrestore.models.realbasicvsr import RealBasicVSR
from vrestore.models.spynet import SPyNet
from vrestore.models.temporal import (
    FrameNetwork,
    Network,
    RecurrentNetwork,
    WindowNetwork,
    neighbours,
)
from vrestore.train.config import Optimiser, TrainConfig

log = logging.getLogger("vrestore.train")

FILES = ("weights", "refill", "cleaner")  # keys of [network] that are no arguments, beside name


def build_network(section: Mapping[str, Any]) -> Network:
    """The network that ``[network]`` describes, as its constructor leaves it.

    ``name`` is its file's in ``vrestore/models`` (basicvsr where it is not given). UsageError for
    a name or an argument that is not known.
    """
    known = {
        entry.__module__.rpartition(".")[2]: entry
        for entry in ARCHITECTURES
        if isinstance(entry, type)
        and issubclass(entry, FrameNetwork | WindowNetwork | RecurrentNetwork)
    }
    name = section.get("name", "basicvsr")
    if name not in known:
        raise UsageError(f"[network]: unknown name {name!r}; known: {', '.join(sorted(known))}")
    arguments = {k: v for k, v in section.items() if k != "name" and k not in FILES}
    accepted = inspect.signature(known[name]).parameters
    for key in arguments.keys() - accepted.keys():
        near = difflib.get_close_matches(key, accepted, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(accepted)}"
        raise UsageError(f"[network]: {name} has no {key!r}; {hint}")
    try:
        return known[name](**arguments)
    except (TypeError, ValueError) as error:
        raise UsageError(f"[network]: {name} cannot be made: {error}") from error


def begin(net: Network, config: TrainConfig) -> tuple[str, ...]:
    """Give every weight its first value; the names of those that come from no file."""
    initialise(net)
    new = set(net.state_dict())
    spynet = flow_network(net)
    if "weights" in config.network:
        new &= set(take_weights(net, Path(config.network["weights"])))
    if "refill" in config.network:
        if not isinstance(net, IconVSR):
            raise UsageError("[network]: refill is a part of iconvsr alone")
        missing = take_weights(net.edvr, Path(config.network["refill"]))
        new -= {f"edvr.{key}" for key in net.edvr.state_dict() if key not in missing}
    if "cleaner" in config.network:
        if not isinstance(net, FRRealBasicVSR):
            raise UsageError("[network]: cleaner is a part of frrealbasicvsr alone")
        missing = take_weights(net.cleaner, Path(config.network["cleaner"]))
        new -= {f"cleaner.{key}" for key in net.cleaner.state_dict() if key not in missing}
    if config.flow is not None and config.flow.weights is not None and spynet is not None:
        missing = take_weights(spynet, config.flow.weights)
        if missing:
            raise ModelError(f"{config.flow.weights}: lacks {missing[0]} of the flow network")
        share_flow(net, new)
        new = {key for key in new if "spynet." not in key}
    taught = config.flow is not None and config.flow.tied_steps + config.flow.steps > 0
    if not taught and any("spynet." in key for key in new):
        raise UsageError(
            "[flow] is missing: give the steps of its warm-up, or weights of a flow network"
        )
    return tuple(sorted(new))


def take_weights(net: nn.Module, path: Path) -> tuple[str, ...]:
    """What ``net`` and the checkpoint have in common, into ``net``; the names of what it lacks.

    ModelError where they have nothing in common, or something of another size.
    """
    found, own = load_module(path).state_dict(), net.state_dict()
    common = {key: value for key, value in found.items() if key in own}
    for key, value in common.items():
        if value.shape != own[key].shape:
            raise ModelError(
                f"{path}: {key} is {tuple(value.shape)}, and {tuple(own[key].shape)} in the "
                "configuration; give [network] the sizes of the checkpoint"
            )
    if not common:
        raise ModelError(f"{path}: has nothing in common with {type(net).__name__}")
    net.load_state_dict(common, strict=False)
    new = tuple(key for key in own if key not in found)
    unused = [key for key in found if key not in own]
    log.info("%d of %d tensors from %s", len(common), len(own), path)
    if new:
        log.info("%d are new and initialised: %s ...", len(new), ", ".join(new[:3]))
    if unused:
        log.info("%d of the file have no place here: %s ...", len(unused), ", ".join(unused[:3]))
    return new


def initialise(net: nn.Module) -> None:
    """He initialisation, a tenth of it inside residual blocks (ESRGAN, sec. 3.1, after EDSR).

    What the constructor made zero (offsets that look straight ahead) stays zero. Where there is an
    EDVR, alignment hands features on, attention prefers no place, and nothing is painted at first:
    from random ones it had learned nothing after 250 steps. A frame-recurrent BasicVSR of the same
    size begins with the luma of a block as its first features: the pixels have to be found in 48
    mixed channels otherwise, and until then nothing is learned about them.
    """
    small = {m for b in net.modules() if isinstance(b, ResidualBlockNoBN) for m in b.modules()}
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.weight.any():
            nn.init.kaiming_normal_(module.weight, a=0.1)
            module.weight.data.mul_(0.1 if module in small else 1)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    aligns = any(isinstance(module, EDVRFeatureExtractor) for module in net.modules())
    for name, module in net.named_modules():
        if isinstance(module, DCNv2Pack):
            nn.init.kaiming_normal_(module.weight, a=0.1)
            own = torch.eye(len(module.weight))
            module.weight.data.mul_(0.1)[:, :, 1, 1] += own
            module.weight.data.mul_(2)  # its masks are halves at first
        if isinstance(module, TSAFusion):
            nn.init.zeros_(module.spatial_attn5.weight)
            nn.init.zeros_(module.spatial_attn_add2.weight)
        paints = name.endswith(("conv_last", "image_cleaning.1", "picture"))
        if isinstance(module, nn.Conv2d) and paints:
            module.weight.data.mul_(0 if aligns else 0.1)
        if isinstance(module, FRBasicVSR) and module.hr_in:
            for trunk in (module.backward_trunk, module.forward_trunk):
                _see_luma(trunk.main[0].weight.data, module.block_px**2)  # type: ignore[arg-type]
        if isinstance(module, SPyNet):
            for level in module.basic_module:
                level.basic_module[-1].weight.data.mul_(0.3)  # type: ignore[index, union-attr]


def _see_luma(weight: Tensor, pixels: int) -> None:
    """Let the first outputs be the luma of each of the pixels of a packed block."""
    first = weight[:pixels].mul_(0.1)
    of_block = first[:, : 3 * pixels, 1, 1].view(len(first), 3, pixels)
    for colour, share in enumerate((0.299, 0.587, 0.114)):
        of_block[:, colour] += share * torch.eye(pixels)[: len(first)]


class DroppedConv2d(nn.Conv2d):
    """A convolution before which, in training, whole channels are dropped (arXiv 2112.12089)."""

    dropout = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """``(N, C, H, W)``, as the convolution."""
        return super().forward(F.dropout2d(x, self.dropout, self.training))


def drop_before_last(net: nn.Module, share: float) -> None:
    """Put the dropout before ``conv_last``, which keeps its weights and their names.

    Not before a cleaner's, which need not be the last.
    """
    owners = [
        module
        for name, module in net.named_modules()
        if not name.startswith("cleaner")
        and isinstance(getattr(module, "conv_last", None), nn.Conv2d)
    ]
    if not owners:
        raise UsageError(f"dropout: a {type(net).__name__} has no conv_last to put it before")
    for owner in owners:
        last = owner.conv_last
        assert isinstance(last, nn.Conv2d)
        dropped = DroppedConv2d(last.in_channels, last.out_channels, 3, 1, 1)
        dropped.weight, dropped.bias, dropped.dropout = last.weight, last.bias, share
        owner.conv_last = dropped


def flow_network(net: nn.Module) -> SPyNet | None:
    """The flow network in it, if there is one; that of a cleaner is not meant."""
    return next((module for module in net.modules() if isinstance(module, SPyNet)), None)


def share_flow(net: nn.Module, new: Collection[str]) -> None:
    """What the flow network has learned, to that of a cleaner that no file knew."""
    known = flow_network(net)
    if isinstance(net, FRRealBasicVSR) and any(k.startswith("cleaner.spynet.") for k in new):
        assert known is not None
        net.cleaner.spynet.load_state_dict(known.state_dict())


def let_learn(net: nn.Module, step: int, o: Optimiser, new: Collection[str]) -> None:
    """Fix at a step what is not to learn yet; ``new``: what no loaded file knew."""
    for name, parameter in net.named_parameters():
        known = name.startswith(("edvr.", "cleaner.")) and name not in new
        guides = "spynet." in name or known
        rests = (guides and step < o.flow_fixed) or (step < o.new_alone and name not in new)
        parameter.requires_grad_(not rests)


def forward(net: Network, lq: Tensor) -> tuple[Tensor, Tensor | None]:
    """Clips ``(N, T, 3, h, w)`` -> restored ``(N, T', 3, H, W)``, and cleaned as ``lq`` or None.

    T' is T; of a window the one frame in its middle. RealBasicVSR is trained with one cleaning
    (sec. 4.1), which is all that its loss sees.
    """
    if isinstance(net, RealBasicVSR):
        flat = lq.flatten(0, 1)
        cleaned = (flat + net.image_cleaning(flat)).unflatten(0, lq.shape[:2])
        return net.basicvsr(cleaned), cleaned
    if isinstance(net, WindowNetwork):
        return net(lq).unsqueeze(1), None
    if isinstance(net, RecurrentNetwork):
        return net(lq), None
    return net(lq.flatten(0, 1)).unflatten(0, lq.shape[:2]), None


def middle(net: Network, frames: Tensor) -> Tensor:
    """Those of ``(N, T, ...)`` that ``forward`` restores.

    UsageError where a stage's frames are not a window's.
    """
    if not isinstance(net, WindowNetwork):
        return frames
    window = net.before + 1 + net.after
    if frames.shape[1] != window:
        raise UsageError(f"[[stage]]: this network sees {window} frames, not {frames.shape[1]}")
    return frames[:, net.before : net.before + 1]


@torch.no_grad()
def restored(net: Network, clip: Tensor) -> Tensor:
    """A whole clip ``(T, 3, h, w)`` -> ``(T, 3, H, W)``."""
    if not isinstance(net, WindowNetwork):
        out: Tensor = net(clip)
        return out
    features = [net.features(frame) for frame in clip.unsqueeze(1)]
    last = len(features) - 1
    windows = (neighbours(i, net.before, net.after, net.border, last) for i in range(last + 1))
    return torch.cat([net.fuse([features[k] for k in window]) for window in windows])
