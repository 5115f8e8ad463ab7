"""Bidirectional propagation over an endless shot in bounded memory.

::

    shot      . . . . . . . . . . . . . . . . .
    window          [------ chunk ------|-- lookahead --]
    forward   ~~~~~> carried on from the chunk before
    backward        <~~~~~~~~~~~~~~~~~~~~~~~~~~~ starts from nothing, lookahead frames ahead
    render          [------ chunk ------]

With the whole shot as one chunk the backward passes start at its true end, and the result is
``net(clip)`` bit for bit. As ``lookahead`` grows, the chunked result approaches that one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from torch import Tensor

from vrestore.engine.precision import InPrecision
from vrestore.models.temporal import Pass


@dataclass(frozen=True)
class _Moment:
    """One frame of the window. ``pair``: flows (frame before -> this, this -> frame before)."""

    frame: Tensor
    x: Tensor
    pair: tuple[Tensor, Tensor] | None


@dataclass
class _Trail:
    """What a pass remembers: past states, nearest first, and the flows towards them."""

    states: list[Tensor] = field(default_factory=list)
    flows: list[Tensor] = field(default_factory=list)

    def copy(self) -> _Trail:
        return _Trail(list(self.states), list(self.flows))

    def advance(
        self, net: InPrecision, pass_: Pass, x: Tensor, flow: Tensor | None, read: list[Tensor]
    ) -> Tensor:
        """One step; ``flow`` leads from this frame to the one of the nearest state."""
        if self.states and flow is not None:
            self.flows = [flow, *self.flows][: pass_.order]
        state = net.advance(pass_, x, self.states, self.flows, read)
        self.states = [state, *self.states][: pass_.order]
        return state


def propagate(
    net: InPrecision,
    passes: tuple[Pass, ...],
    frames: Iterable[Tensor],
    chunk: int | None,
    lookahead: int,
) -> Iterator[Tensor]:
    """Restore one shot: ``(N, 3, H, W)`` frames in, ``(N, 3, sH, sW)`` out, one for one, in order.

    ``chunk`` frames are rendered at a time, None = the whole shot. At most ``chunk + lookahead``
    frames, with their flows and features, are held; a flow is computed once.
    """
    stream = iter(frames)
    window: list[_Moment] = []
    carried = {p.name: _Trail() for p in passes if p.step > 0}
    newest: Tensor | None = None
    ended = False
    while True:
        while not ended and (chunk is None or len(window) < chunk + lookahead):
            frame = next(stream, None)
            if frame is None:
                ended = True
                break
            pair = None if newest is None else net.flow(newest, frame)
            window.append(_Moment(frame, net.encode(frame), pair))
            newest = frame
        if not window:
            return
        count = len(window) if chunk is None else min(chunk, len(window))
        features = _run_passes(net, passes, window, count, carried)
        for i in range(count):
            yield net.render(window[i].frame, features[i])
            features[i] = {}
        del features, window[:count]


def _run_passes(
    net: InPrecision,
    passes: tuple[Pass, ...],
    window: list[_Moment],
    count: int,
    carried: dict[str, _Trail],
) -> list[dict[str, Tensor]]:
    """The features of the first ``count`` frames of the window, from all passes in their order.

    ``carried`` holds the forward passes' memory before the window and is moved on by ``count``.
    """
    features: list[dict[str, Tensor]] = [{} for _ in window]
    for pass_ in passes:
        # Only what a later pass reads ahead of the chunk is kept, and run, ahead of the chunk.
        reach = len(window) if _read_ahead(pass_, passes) else count
        if pass_.step < 0:
            trail, order = _Trail(), reversed(range(len(window)))
        else:
            trail, order = carried[pass_.name].copy(), iter(range(reach))
        for i in order:
            pair = window[i].pair if pass_.step > 0 else None
            flow = pair[1] if pair else None
            if pass_.step < 0 and i + 1 < len(window):
                ahead = window[i + 1].pair
                flow = ahead[0] if ahead else None
            read = [features[i][name] for name in pass_.reads]
            state = trail.advance(net, pass_, window[i].x, flow, read)
            if i < reach:
                features[i][pass_.name] = state
            if pass_.step > 0 and i == count - 1:
                carried[pass_.name] = trail.copy()
    return features[:count]


def _read_ahead(pass_: Pass, passes: tuple[Pass, ...]) -> bool:
    """Whether a later backward pass reads this one, directly or through a forward pass."""
    later = passes[passes.index(pass_) + 1 :]
    readers = [p for p in later if pass_.name in p.reads]
    return any(p.step < 0 or _read_ahead(p, passes) for p in readers)
