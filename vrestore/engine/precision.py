"""In which arithmetic a network runs: float32, or less where that is faster and holds."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

from vrestore.engine.graphs import Recorder
from vrestore.errors import ModelError, UsageError
from vrestore.models import gpu_steps
from vrestore.models.int8 import in_int8, int8_is_possible
from vrestore.models.temporal import (
    Features,
    FrameNetwork,
    Network,
    Pass,
    RecurrentNetwork,
    Seen,
    WindowNetwork,
)

P = ParamSpec("P")
R = TypeVar("R")

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = (*DTYPES, "int8")
WORTH_IT = 1.25  # half precision must be this many times faster before ``auto`` takes it
NEAR_DB = 45.0  # from float32: less can be seen to drift
TRIED_OUTPUT_PX = 256  # side of the frames that are timed
ROUNDS = 3  # by turns, so that what else the machine does strikes all alike
# Of all pairs whose flow is found in one call, both ways. The widest layers of the published flow
# network then hold 0.8 GB in float32.
FLOW_BATCH_PX = 1 << 21

Pair = tuple[Features, Features]


class InPrecision:
    """A network seen through one precision: its convolutions; flow and coordinates are float32.

    No gradients are kept, and no context stays open between calls: the callers are generators.
    """

    def __init__(self, net: Network, device: torch.device, precision: str) -> None:
        self.given = net
        self.device = device
        self.precision = precision
        self.dtype = DTYPES.get(precision, torch.float32)
        if precision == "int8":
            net = in_int8(net)
        elif self.dtype != torch.float32:
            net = rounded_weights(net, self.dtype)
            if device.type == "cuda":
                gpu_steps.align_tail(net)
        self.net = net
        self._recorder = Recorder() if device.type == "cuda" else None
        self._gathers = device.type == "cuda"

    def _call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        lower = self.dtype != torch.float32
        # No cache of rounded weights: they are rounded already, and a recording could not hold one.
        with (
            torch.no_grad(),
            torch.autocast(self.device.type, self.dtype, enabled=lower, cache_enabled=False),
            self._float32(),
        ):
            return function(*args, **kwargs)

    def _float32(self) -> AbstractContextManager[None]:
        """On a GPU, float32 that was asked for has all its bits: convolutions without TF32."""
        if self.device.type != "cuda":
            return nullcontext()
        return torch.backends.cudnn.flags(enabled=True, allow_tf32=self.precision != "fp32")

    def _step(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """What comes again and again with tensors of one form: on a GPU it is one launch."""
        recorder = self._recorder
        if recorder is None:
            return self._call(function, *args, **kwargs)
        return self._call(lambda: recorder(function, *args, **kwargs))

    def frame(self, x: Tensor) -> Tensor:
        """``FrameNetwork.forward``, back in float32."""
        assert isinstance(self.net, FrameNetwork)
        out: Tensor = self._step(self.net.forward, x)
        return out.float()

    def features(self, frame: Tensor) -> Features:
        """``WindowNetwork.features``."""
        assert isinstance(self.net, WindowNetwork)
        return self._step(self.net.features, frame)

    def fuse(self, window: Sequence[Features]) -> Tensor:
        """``WindowNetwork.fuse``, back in float32."""
        assert isinstance(self.net, WindowNetwork)
        return self._step(self.net.fuse, window).float()

    def survey(self, frames: Iterable[Tensor]) -> int:
        """``RecurrentNetwork.survey``."""
        assert isinstance(self.net, RecurrentNetwork)
        return self._call(self.net.survey, frames)

    def encode(self, seen: Seen) -> Features:
        """``RecurrentNetwork.encode``."""
        assert isinstance(self.net, RecurrentNetwork)
        return self._call(self.net.encode, seen)

    def flow(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        """``RecurrentNetwork.flow``, in float32: half precision holds no part of a pixel far out.

        What it is added up from, the residues of each level, may come in half precision: 0.01 px.
        """
        assert isinstance(self.net, RecurrentNetwork)
        there, back = self._step(self.net.flow, a, b)
        return there.float(), back.float()

    def flows(self, pairs: Sequence[Pair], most: int | None) -> list[tuple[Tensor, Tensor]]:
        """``flow`` of each pair, in order; on a GPU of up to ``most`` pairs in one call.

        One pair fills a GPU at the finest level only. Together they are what they are one by one
        to within rounding, since other kernels may run. ``most`` None, and other devices: one by
        one, the same bits however many there are.
        """
        at_once = self._pairs_at_once(pairs, most or 1)
        if at_once == 1:
            return [self.flow(a, b) for a, b in pairs]
        found: list[tuple[Tensor, Tensor]] = []
        calls = -(-len(pairs) // at_once)
        for k in range(calls):  # of nearly one size: a form that comes again is recorded
            part = pairs[len(pairs) * k // calls : len(pairs) * (k + 1) // calls]
            a, b = (_together(side) for side in zip(*part, strict=True))
            both = [flow.chunk(len(part)) for flow in self.flow(a, b)]
            found += zip(*both, strict=True)
        return found

    def _pairs_at_once(self, pairs: Sequence[Pair], most: int) -> int:
        if not self._gathers or not pairs:
            return 1
        # The smallest of what is encoded is what flow is found in, or as large.
        pair_px = 2 * min(x[:, 0].numel() for x in pairs[0][0])
        return max(1, min(most, FLOW_BATCH_PX // pair_px))

    def advance(
        self,
        pass_: Pass,
        x: Features,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        """``RecurrentNetwork.advance``."""
        assert isinstance(self.net, RecurrentNetwork)
        return self._step(self.net.advance, pass_, x, states, flows, read)

    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        """``RecurrentNetwork.render``, back in float32."""
        assert isinstance(self.net, RecurrentNetwork)
        return self._step(self.net.render, x, features).float()


def _together(frames: Sequence[Features]) -> Features:
    """Several frames as one batch: of what all of them have (key frames have more)."""
    return tuple(torch.cat(tensors) for tensors in zip(*frames, strict=False))


def rounded_weights(net: Network, dtype: torch.dtype) -> Network:
    """A copy whose convolutions hold what autocast would round for every call, the same values."""
    out = copy.deepcopy(net)
    for module in out.modules():
        if isinstance(module, nn.Conv2d):
            module.to(dtype)
    return out


def choose_precision(name: str, net: Network, device: torch.device) -> str:
    """``fp32``, ``bf16``, ``fp16`` or ``int8``; ``auto`` times the first three on the network.

    A network without parameters has nothing to gain and stays exact. UsageError: unknown name, or
    ``int8`` where there is none.
    """
    if name == "int8" and (device.type != "cpu" or not int8_is_possible()):
        raise UsageError(f"precision int8 is for x86 CPUs, not for {device}; choose another")
    if name in PRECISIONS:
        return name
    if name != "auto":
        raise UsageError(f"precision {name!r} is unknown; choose auto, {', '.join(PRECISIONS)}")
    if not any(True for _ in net.parameters()):
        return "fp32"
    candidates = ["fp32", "fp16", "bf16"] if device.type == "cuda" else ["fp32", "bf16"]
    seconds = dict.fromkeys(candidates, float("inf"))
    for c in candidates:
        _seconds(net, device, DTYPES[c])  # to warm up
    for _ in range(ROUNDS):
        for c in candidates:
            seconds[c] = min(seconds[c], _seconds(net, device, DTYPES[c]))
    fastest = min(seconds, key=seconds.__getitem__)
    return fastest if seconds["fp32"] > WORTH_IT * seconds[fastest] else "fp32"


def difference(truth: Tensor, found: Tensor) -> str | None:
    """What is wrong with frames, nominal 0..1, in a precision below float32's ``truth``."""
    if not found.isfinite().all():
        return "gives what is no number"
    if found.std() == 0 and truth.std() > 0:
        return "gives an empty picture"
    error = (found.clamp(0, 1) - truth.clamp(0, 1)).square().mean()
    psnr = -10 * error.log10().item()
    return None if psnr >= NEAR_DB else f"is {psnr:.0f} dB from float32, less than {NEAR_DB:g}"


class Numbers:
    """Whether what comes out are numbers; ModelError one frame later, or at the end.

    By then a GPU has added up a frame without being waited for.
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._count = 0

    def add(self, out: Tensor, run: InPrecision) -> None:
        """One frame more."""
        total = out.sum()
        self.check(run)
        self._total = total
        self._count += 1

    def check(self, run: InPrecision) -> None:
        """The newest."""
        if self._total is None or self._total.isfinite():
            return
        hint = "" if run.precision == "fp32" else "try --precision fp32; else "
        raise ModelError(
            f"frame {self._count - 1} of a shot comes out as what is no number, in "
            f"{run.precision}; {hint}the weights are damaged, or not for footage like this: take "
            "another model"
        )


def _seconds(net: Network, device: torch.device, dtype: torch.dtype) -> float:
    """How long two small frames take, or one window of them.

    Small of what comes out: a network of scale 1 has few places at work in an x4 one's input.
    """
    count = net.before + 1 + net.after if isinstance(net, WindowNetwork) else 2
    side = TRIED_OUTPUT_PX // net.scale
    g = torch.Generator().manual_seed(0)
    clip = torch.rand(1, count, 3, side, side, generator=g).to(device)
    if isinstance(net, FrameNetwork):
        clip = clip[0]
    lower = dtype != torch.float32
    start = time.perf_counter()
    with torch.no_grad(), torch.autocast(device.type, dtype, enabled=lower):
        net(clip)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
