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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice

import torch
from torch import Tensor

from vrestore.engine.kept import Keep, Kept, Places, as_it_is, brought, together
from vrestore.engine.lengths import Parting, shorter
from vrestore.engine.memory import give_back_freed_memory
from vrestore.engine.precision import InPrecision, Pair
from vrestore.engine.windows import windows
from vrestore.errors import is_out_of_memory
from vrestore.models.temporal import Features, Pass, RecurrentNetwork, Seen


class Moment:
    """One frame of the window, encoded, and ``pair``, its flows: (frame before -> this, back).

    Both wait as ``keep`` has it, and are had by asking.
    """

    def __init__(self, x: Features, keep: Keep, pair: Iterable[Tensor] | None = None) -> None:
        self.x = together(x, keep)
        self.pair: Callable[[], tuple[Tensor, ...]] | None = None
        if pair is not None:
            self.keep_pair(pair, keep)

    def keep_pair(self, pair: Iterable[Tensor], keep: Keep) -> None:
        """The flows are known now."""
        self.pair = together(pair, keep)

    def keep_in(self, keep: Keep) -> None:
        """Where all of it is, from now on."""
        self.x = together(self.x(), keep)
        if self.pair is not None:
            self.pair = together(self.pair(), keep)


def flow_to(
    step: int, moments: list[Moment], i: int, beyond: Moment | None = None
) -> Tensor | None:
    """From frame ``i`` to the one that a pass comes from; None: it begins here.

    ``beyond``: what comes after the last one.
    """
    moment = moments[i] if step > 0 else moments[i + 1] if i + 1 < len(moments) else beyond
    if moment is None or moment.pair is None:
        return None
    return moment.pair()[1 if step > 0 else 0]


@dataclass
class Trail:
    """What a pass remembers: past states, nearest first, and the flows towards them."""

    states: list[Tensor] = field(default_factory=list)
    flows: list[Tensor] = field(default_factory=list)

    def copy(self) -> Trail:
        return Trail(list(self.states), list(self.flows))

    def advance(
        self,
        run: InPrecision,
        pass_: Pass,
        x: Features,
        flow: Tensor | None,
        read: list[Tensor],
        keep: Keep = as_it_is,
    ) -> Kept:
        """One step; ``flow`` leads from this frame to the one of the nearest state.

        ``keep``: where the new state is, for the steps that follow as well.
        """
        if self.states and flow is not None:
            self.flows = [flow, *self.flows][: pass_.order]
        kept = keep(run.advance(pass_, x, self.states, self.flows, read))
        self.states = [kept(), *self.states][: pass_.order]
        return kept


def propagate(
    run: InPrecision,
    net: RecurrentNetwork,
    frames: Iterable[Tensor],
    parting: Parting,
    found: int | None = None,
    first: int = 0,
) -> Iterator[Tensor]:
    """Restore one shot: ``(N, 3, H, W)`` frames in, ``(N, 3, sH, sW)`` out, one for one, in order.

    ``chunk`` frames are rendered at a time, None = the whole shot. At most ``chunk + lookahead``
    frames, with their flows and features, are held, and the network's ``context`` of frames more; a
    flow is computed once. Where memory runs out, the ``parting`` is shortened and the same frames
    are tried again: nothing is lost. What still does not fit is raised. ``found``: what ``survey``
    found; None: the first ``reach`` frames are surveyed here. ``first``: the number of the first
    frame in its shot, where those before it are restored already.
    """
    if found is None:
        found, frames = _surveyed(run, frames, parting.lengths.reach)
    stream = _seen(net, frames, found, first)
    window: list[Moment] = []
    carried = {p.name: Trail() for p in net.passes if p.step > 0}
    newest: Features | None = None
    lacking: list[Pair] = []  # the newest of the window, each with the frame before it
    waiting: Seen | None = None
    ended = on_disk = False
    rendered = 0  # of the window's first frames, before memory ran out
    while True:
        lengths = parting.lengths  # a tile beside this one may have run out of memory
        places = parting.places(lengths)
        if lengths.on_disk and not on_disk:
            on_disk = True
            for moment in window:
                moment.keep_in(places.frames)
        reach = lengths.reach
        if waiting is None and not ended and (reach is None or len(window) < reach):
            waiting = next(stream, None)
            ended = waiting is None
        if waiting is None and not window:
            return
        try:
            if waiting is not None and (reach is None or len(window) < reach):
                x = run.encode(waiting)
                window.append(Moment(x, places.frames))
                if newest is not None:
                    lacking.append((newest, x))
                newest, waiting = x, None
                del x
                if on_disk:
                    _find_flows(run, window, lacking, 1, places.frames)
                continue
            _find_flows(run, window, lacking, lengths.chunk, places.frames)
            give_back_freed_memory(run.device)
            moved_on: dict[str, Trail] = {}
            count = min(lengths.chunk or len(window), len(window))
            restored = _rendered(
                run, net, window[:reach], count, carried, moved_on, rendered, places
            )
            for out in restored:
                rendered += 1
                yield out
                del out
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error) or shorter(lengths, parting.to_disk()) is None:
                raise
        else:
            carried, rendered = moved_on, rendered - count
            del window[:count], restored
            give_back_freed_memory(run.device)
            continue
        # Only here, behind the handler, has the error let go of what it held.
        parting.shorten()
        if run.device.type == "cuda":
            torch.cuda.empty_cache()


def _surveyed(
    run: InPrecision, frames: Iterable[Tensor], reach: int | None
) -> tuple[int, Iterator[Tensor]]:
    """What ``survey`` finds on the first ``reach`` frames, held at once; and all of the frames."""
    stream = iter(frames)
    first = list(islice(stream, reach))
    found = run.survey(first) if first else 0
    return found, chain(handed_over(first), stream)


def _seen(
    net: RecurrentNetwork, frames: Iterable[Tensor], found: int, first: int
) -> Iterator[Seen]:
    """What frames are encoded from."""
    for w in windows(frames, net.context, net.context, net.border):
        yield Seen(w.items, first + w.index, w.last, found)


def handed_over(frames: list[Tensor]) -> Iterator[Tensor]:
    """The frames one by one, each held no longer."""
    frames.reverse()
    while frames:
        yield frames.pop()


def _find_flows(
    run: InPrecision, window: list[Moment], lacking: list[Pair], most: int | None, keep: Keep
) -> None:
    """Those of all frames that came since the last chunk: on a GPU they are found together."""
    pairs = run.flows(lacking, most)
    for moment, pair in zip(window[len(window) - len(pairs) :], pairs, strict=True):
        moment.keep_pair(pair, keep)
    lacking.clear()


def _rendered(
    run: InPrecision,
    net: RecurrentNetwork,
    window: list[Moment],
    count: int,
    carried: dict[str, Trail],
    moved_on: dict[str, Trail],
    already: int,
    places: Places,
) -> Iterator[Tensor]:
    """The window's first ``count`` frames restored, but for those that ``already`` were.

    ``carried`` holds the forward passes' memory before the window; ``moved_on`` is filled with
    theirs after ``count`` frames. ``places``: where states wait to be rendered.
    """
    features: list[dict[str, Kept]] = [{} for _ in window]
    passes = net.passes
    # A frame is rendered as soon as a last forward pass has reached it: less is held.
    renders = passes[-1] if passes[-1].step > 0 else None
    for pass_ in passes if renders is None else passes[:-1]:
        # Only what a later pass reads ahead of the chunk is kept, and run, ahead of the chunk.
        reach = len(window) if net.read_ahead(pass_) else count
        if pass_.step < 0:
            trail, order = Trail(), reversed(range(len(window)))
        else:
            trail, order = carried[pass_.name].copy(), iter(range(reach))
        for i in order:
            how = places.states if i < reach else as_it_is
            places.make_room()
            kept = _step(run, pass_, window, i, trail, features[i], how)
            if i < reach:
                features[i][pass_.name] = kept
            del kept
            if pass_.step > 0 and i == count - 1:
                moved_on[pass_.name] = trail.copy()
    if renders is not None:
        trail = carried[renders.name].copy()
    give_back_freed_memory(run.device)
    for i in range(count):
        if renders is not None:
            places.make_room()
            features[i][renders.name] = _step(run, renders, window, i, trail, features[i])
        if i >= already:
            places.make_room()
            yield run.render(window[i].x(), brought(features[i]))
        features[i] = {}
    if renders is not None:
        moved_on[renders.name] = trail


def _step(
    run: InPrecision,
    pass_: Pass,
    window: list[Moment],
    i: int,
    trail: Trail,
    features: dict[str, Kept],
    keep: Keep = as_it_is,
) -> Kept:
    """One pass goes one frame further, to frame ``i``."""
    flow = flow_to(pass_.step, window, i)
    seen = [features[name]() for name in pass_.reads]
    return trail.advance(run, pass_, window[i].x(), flow, seen, keep)
