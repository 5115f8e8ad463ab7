"""The whole shot's result, bit for bit, in bounded memory, from a shot that can be read again.

::

    chunks      |--------|--------|--------|--------|
    sweep 1              <~~~~~~~~ the first pass, backward: its states are kept at chunk edges only
    sweep 2     ~~~~~~~> the second pass, forward; in each chunk the first is run again from its
                edge, for what the second reads of it
    ...
    the last    render, chunk by chunk, from all passes run again inside the chunk

n passes cost (n + 1) / 2 times as much as with the whole shot in memory. What is held: the features
of one chunk; at the T / K edges the states of every pass that is run again wait, in a file where
there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from vrestore.engine.kept import HERE, Keep, Kept, Places, as_it_is, brought, in_memory, together
from vrestore.engine.precision import InPrecision
from vrestore.engine.propagation import Moment, Trail, flow_to
from vrestore.models.temporal import Features, Pass, RecurrentNetwork, Seen, neighbours

R = TypeVar("R")


@runtime_checkable
class Indexed(Protocol):
    """What has a length and can be read at any place, again and again."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class Again(Generic[R]):
    """A sequence of which every item is made anew each time that it is read; none is held."""

    def __init__(self, source: Indexed, make: Callable[[Any], R]) -> None:
        self._source = source
        self._make = make

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> R:
        return self._make(self._source[index])

    def __iter__(self) -> Iterator[R]:
        return map(self.__getitem__, range(len(self)))


@dataclass(frozen=True)
class _Chunk:
    """Frames ``start`` to ``stop`` of the shot, encoded; the flow out at ``stop`` as well."""

    moments: list[Moment]
    beyond: Moment | None  # the frame after the last one


def propagate_exactly(
    run: InPrecision,
    net: RecurrentNetwork,
    shot: Again[Tensor],
    chunk: int,
    places: Places = HERE,
    at_edges: Keep = in_memory,
    already: int = 0,
) -> Iterator[Tensor]:
    """Restore one shot: ``(N, 3, H, W)`` frames in, ``(N, 3, sH, sW)`` out, one for one, in order.

    Equal to ``net`` on the whole shot bit for bit, in the same precision, whatever the ``chunk``.
    ``places``: where the states of a chunk, and its frames, wait to be read; ``at_edges``: where
    those at the chunks' edges do. ``already``: how many frames are restored and do not come again.
    """
    if not len(shot):
        return
    found = run.survey(shot)
    starts = range(0, len(shot), chunk)
    edges: dict[str, dict[int, Callable[[], Trail]]] = {pass_.name: {} for pass_ in net.passes}

    def encoded(start: int) -> _Chunk:
        indices = range(start, min(start + chunk, len(shot)))
        return _encoded(run, net, shot, indices, found, places.frames)

    def features_of(part: _Chunk, start: int, passes: Sequence[Pass]) -> list[dict[str, Kept]]:
        features: list[dict[str, Kept]] = [{} for _ in part.moments]
        for pass_ in passes:
            trail = edges[pass_.name][start]()
            for _ in _steps(run, pass_, part, trail, features, places, places.states):
                pass
        return features

    for number, pass_ in enumerate(net.passes):
        trail = Trail()
        renders = number + 1 == len(net.passes) and pass_.step > 0
        earlier = net.passes[:number] if renders else _read_by(pass_, net.passes[:number])
        for start in starts if pass_.step > 0 else reversed(starts):
            if not renders:
                edges[pass_.name][start] = _kept(trail, pass_, at_edges)
            part = encoded(start)
            features = features_of(part, start, earlier)
            for i in _steps(run, pass_, part, trail, features, places, as_it_is):
                if renders and start + i >= already:
                    places.make_room()
                    yield run.render(part.moments[i].x(), brought(features[i]))
                features[i] = {}
            del part, features  # before the next are made
    if net.passes[-1].step < 0:
        for start in starts:
            if start + chunk <= already:
                continue
            part = encoded(start)
            features = features_of(part, start, net.passes)
            for i, (moment, feature) in enumerate(zip(part.moments, features, strict=True), start):
                if i >= already:
                    places.make_room()
                    yield run.render(moment.x(), brought(feature))
            del part, features


def _steps(
    run: InPrecision,
    pass_: Pass,
    part: _Chunk,
    trail: Trail,
    features: list[dict[str, Kept]],
    places: Places,
    keep: Keep,
) -> Iterator[int]:
    """One pass over one chunk: ``trail`` is moved on, the features of the frames are added to.

    Each frame's place in the chunk, when the pass has been there.
    """
    moments = part.moments
    for i in range(len(moments)) if pass_.step > 0 else reversed(range(len(moments))):
        flow = flow_to(pass_.step, moments, i, part.beyond)
        seen = [features[i][name]() for name in pass_.reads]
        places.make_room()
        features[i][pass_.name] = trail.advance(run, pass_, moments[i].x(), flow, seen, keep)
        yield i


def _kept(trail: Trail, pass_: Pass, keep: Keep) -> Callable[[], Trail]:
    """What a pass goes on from: the nearest flow comes with the next frame."""
    states, flows = together(trail.states, keep), together(trail.flows[: pass_.order - 1], keep)
    return lambda: Trail([*states()], [*flows()])


def _read_by(pass_: Pass, earlier: Sequence[Pass]) -> list[Pass]:
    """Those of the earlier passes that this one reads, directly or through others; in order."""
    names = set(pass_.reads)
    for other in reversed(earlier):
        if other.name in names:
            names.update(other.reads)
    return [other for other in earlier if other.name in names]


def _encoded(
    run: InPrecision,
    net: RecurrentNetwork,
    shot: Again[Tensor],
    indices: range,
    found: int,
    keep: Keep,
) -> _Chunk:
    """The chunk's frames and the flows between them, and those to the frames next to it."""
    last = len(shot) - 1
    frames: dict[int, Tensor] = {}  # each read once, though windows overlap

    def encoded(index: int) -> Features:
        around = neighbours(index, net.context, net.context, net.border, last)
        for i in around:
            if i not in frames:
                frames[i] = shot[i]
        for i in [i for i in frames if i not in around and i < index - net.context]:
            del frames[i]
        seen = Seen(tuple(frames[i] for i in around), index, index == last, found)
        return run.encode(seen)

    moments: list[Moment] = []
    before = encoded(indices.start - 1) if indices.start else None
    for index in indices:
        x = encoded(index)
        moments.append(Moment(x, keep, run.flow(before, x) if before else None))
        before = x
    assert before is not None
    if indices.stop > last:
        return _Chunk(moments, None)
    x = encoded(indices.stop)
    return _Chunk(moments, Moment(x, keep, run.flow(before, x)))
