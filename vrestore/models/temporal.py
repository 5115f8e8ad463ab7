"""The ways in which a network sees time.

A ``FrameNetwork`` sees one frame. A ``RecurrentNetwork`` carries features from frame to frame; it
declares its passes and gives four small functions, and owns no loop over time but the one below,
which is the figure of the paper. The engine runs the same four functions over endless streams, so
"streamed equals whole" can be tested.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn


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


class FrameNetwork(nn.Module):
    """One frame in, one frame out: ``(N, 3, H, W) -> (N, 3, scale*H, scale*W)``."""

    scale: int


class RecurrentNetwork(nn.Module, ABC):
    """Features propagated along the shot in declared passes, then one frame rendered from them.

    All four functions take batches ``(N, ...)`` of frames *of one time*, never several times in
    one batch, so that a value cannot depend on how many frames happen to be at hand.
    """

    scale: int
    passes: tuple[Pass, ...]

    @abstractmethod
    def encode(self, frame: Tensor) -> Tensor:
        """The per-frame input of the passes: ``(N, 3, H, W) -> (N, C, H', W')``."""

    @abstractmethod
    def flow(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Optical flow between neighbouring frames, a before b: ``(a -> b, b -> a)``.

        Each ``(N, 2, H', W')`` in pixels, channel 0 = x; ``a -> b`` says where in b each pixel of
        a is found. Both directions come from one call so that the batch form is always the same.
        """

    @abstractmethod
    def advance(
        self,
        pass_: Pass,
        x: Tensor,
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
    def render(self, frame: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """The output frame ``(N, 3, scale*H, scale*W)`` from the features of all passes."""

    def forward(self, clip: Tensor) -> Tensor:
        """A whole shot: ``(T, 3, H, W)`` or ``(N, T, 3, H, W)`` in, the same form out, enlarged."""
        frames = clip.unsqueeze(0).unbind(1) if clip.dim() == 4 else clip.unbind(1)
        encoded = [self.encode(frame) for frame in frames]
        flows = [self.flow(a, b) for a, b in pairwise(frames)]
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
        out = torch.stack([self.render(f, x) for f, x in zip(frames, features, strict=True)], 1)
        return out[0] if clip.dim() == 4 else out


Network = FrameNetwork | RecurrentNetwork
