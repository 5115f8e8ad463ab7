"""The ways in which a network sees time.

A ``FrameNetwork`` sees one frame, a ``WindowNetwork`` a frame and its neighbours. A
``RecurrentNetwork`` carries features from frame to frame; it declares its passes and gives four
small functions, and owns no loop over time but the one below, which is the figure of the paper. The
engine runs the same functions over endless streams, so "streamed equals whole" can be tested.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

Features = tuple[Tensor, ...]
Border = Literal["reflection_circle", "replicate", "reflection", "circle", "padded_reflection"]


class FrameNetwork(nn.Module):
    """One frame in, one frame out: ``(N, 3, H, W) -> (N, 3, scale*H, scale*W)``."""

    scale: int


class WindowNetwork(nn.Module, ABC):
    """A frame restored from itself, ``before`` frames before it and ``after`` after it.

    Features of a frame do not depend on the window, so a stream needs them once.
    """

    scale: int
    before: int
    after: int
    border: Border  # which frames stand in for those before the first and after the last

    @abstractmethod
    def features(self, frame: Tensor) -> Features:
        """All that is computed of one frame alone: ``(N, 3, H, W)`` -> any tensors."""

    @abstractmethod
    def fuse(self, window: Sequence[Features]) -> Tensor:
        """The middle frame ``(N, 3, scale*H, scale*W)`` from the features of ``before + 1 + after``
        frames in their order."""

    def forward(self, window: Tensor) -> Tensor:
        """``(N, before + 1 + after, 3, H, W)`` -> the restored middle frame."""
        return self.fuse([self.features(frame) for frame in window.unbind(1)])


def neighbours(
    index: int, before: int, after: int, border: Border, last: int | None = None
) -> list[int]:
    """The frames of the window round frame ``index``; those outside the shot are replaced.

    As the field's data sets do it (BasicSR's ``generate_frame_indices``); ``padded_reflection`` is
    IconVSR's, which pads the shot once and then cuts windows. ``last``: the shot's last frame; None
    while it is not known, with ``before + 1 + after`` frames there and the window inside. A shot
    that is too short for a circle is reflected to and fro.
    """
    reach = before + after
    if last is not None and last < reach and border not in ("replicate", "reflection"):
        border = "reflection"
    out = []
    for i in range(index - before, index + after + 1):
        over = 0 if last is None else max(0, i - last)
        under = max(0, -i)
        if not over and not under:
            out.append(i)
        elif border == "replicate":
            out.append(0 if under else i - over)
        elif border == "reflection":
            out.append(_to_and_fro(i, last))
        elif border == "circle":
            out.append(i + reach + 1 if under else i - reach - 1)
        elif border == "reflection_circle":
            out.append(index + after + under if under else index - before - over)
        else:
            out.append(after + under if under else i - over - before - over)
    return out


def _to_and_fro(i: int, last: int | None) -> int:
    """``i`` mirrored at 0 and at ``last`` as often as it takes."""
    if last is None:
        return abs(i)
    if last == 0:
        return 0
    i %= 2 * last
    return min(i, 2 * last - i)


@dataclass(frozen=True)
class Pass:
    """One propagation of features through the shot.

    ``step`` is -1 (last frame to first) or +1. ``reads`` names earlier passes whose features of
    the same frame this pass uses (coupled propagation). ``order`` is how many past states, and
    flows towards them, ``advance`` is given.
    """

    name: str
    step: int
    reads: tuple[str, ...] = ()
    order: int = 1


@dataclass(frozen=True)
class Seen:
    """What ``RecurrentNetwork.encode`` sees.

    ``frames``: ``context`` before, the frame itself, ``context`` after. ``index`` counts from the
    shot's first frame. ``shot``: what ``survey`` found.
    """

    frames: tuple[Tensor, ...]
    index: int
    last: bool
    shot: int

    @property
    def frame(self) -> Tensor:
        """The frame itself."""
        return self.frames[len(self.frames) // 2]


class RecurrentNetwork(nn.Module, ABC):
    """Features propagated along the shot in declared passes, then one frame rendered from them.

    All functions take batches ``(N, ...)`` of frames *of one time*, never several times in one
    batch, so that a value cannot depend on how many frames happen to be at hand. Under look-ahead
    on a GPU, ``flow`` alone is given several: there a value may depend on that by its rounding.
    """

    scale: int
    passes: tuple[Pass, ...]
    context: int = 0  # frames on each side that ``encode`` sees
    border: Border = "replicate"  # what stands in for those beyond the shot's ends
    period: int = 1  # ``encode`` does more for one of so many frames: what it takes is their mean

    @property
    def first(self) -> RecurrentNetwork | None:
        """The network of scale 1 whose output this one sees in place of the shot; mostly none."""
        return None

    def survey(self, frames: Iterable[Tensor]) -> int:
        """Once per shot, from the frames at hand: what ``encode`` must do alike to all of them.

        They can be gone through more than once, and are not to be held.
        """
        return 0

    @abstractmethod
    def encode(self, seen: Seen) -> Features:
        """The per-frame input of flow, passes and rendering."""

    @abstractmethod
    def flow(self, a: Features, b: Features) -> tuple[Tensor, Tensor]:
        """Optical flow between neighbouring frames, a before b: ``(a -> b, b -> a)``.

        Each ``(N, 2, H', W')`` in pixels, channel 0 = x; ``a -> b`` says where in b each pixel of
        a is found. Both directions come from one call so that the batch form is always the same.
        """

    @abstractmethod
    def advance(
        self,
        pass_: Pass,
        x: Features,
        states: Sequence[Tensor],
        flows: Sequence[Tensor],
        read: Sequence[Tensor],
    ) -> Tensor:
        """One step of one pass.

        ``x``: the encoded frame. ``states``: up to ``pass_.order`` past states, nearest first,
        none at the pass's first frame. ``flows[k]``: from this frame to the next one on the way
        to ``states[k]`` (from the frame of ``states[k-1]`` to that of ``states[k]``).
        ``read``: features of this frame from the passes named in ``pass_.reads``.
        """

    @abstractmethod
    def render(self, x: Features, features: Mapping[str, Tensor]) -> Tensor:
        """The output frame ``(N, 3, scale*H, scale*W)`` from the features of all passes."""

    def read_ahead(self, pass_: Pass) -> bool:
        """Whether a later backward pass reads this one, directly or through a forward pass."""
        later = self.passes[self.passes.index(pass_) + 1 :]
        readers = [p for p in later if pass_.name in p.reads]
        return any(p.step < 0 or self.read_ahead(p) for p in readers)

    def forward(self, clip: Tensor) -> Tensor:
        """A whole shot: ``(T, 3, H, W)`` or ``(N, T, 3, H, W)`` in, the same form out, restored."""
        if not clip.shape[-4]:
            raise ValueError("a clip of no frames")
        if self.first is not None:
            clip = self.first(clip)
        frames = clip.unsqueeze(0).unbind(1) if clip.dim() == 4 else clip.unbind(1)
        shot, last = self.survey(frames), len(frames) - 1
        encoded = []
        for i in range(len(frames)):
            around = neighbours(i, self.context, self.context, self.border, last)
            encoded.append(self.encode(Seen(tuple(frames[k] for k in around), i, i == last, shot)))
        flows = [self.flow(a, b) for a, b in pairwise(encoded)]
        features: list[dict[str, Tensor]] = [{} for _ in frames]
        for pass_ in self.passes:
            states: list[Tensor] = []
            towards: list[Tensor] = []
            order = range(len(frames)) if pass_.step > 0 else reversed(range(len(frames)))
            for i in order:
                if states:
                    towards.insert(0, flows[i - 1][1] if pass_.step > 0 else flows[i][0])
                read = [features[i][name] for name in pass_.reads]
                state = self.advance(pass_, encoded[i], states, towards[: pass_.order], read)
                features[i][pass_.name] = state
                states = [state, *states][: pass_.order]
        out = torch.stack([self.render(x, f) for x, f in zip(encoded, features, strict=True)], 1)
        return out[0] if clip.dim() == 4 else out


Network = FrameNetwork | WindowNetwork | RecurrentNetwork
