"""What a network takes on frames of a size: bytes, and multiplications.

Nothing is computed to know that: the network's functions run on tensors without values, of the very
size; what is alive at once is added up, and what they would multiply.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from vrestore.engine.ghosts import bytes_of, measured
from vrestore.engine.precision import rounded_weights
from vrestore.models.temporal import FrameNetwork, Network, RecurrentNetwork, Seen, WindowNetwork


@dataclass(frozen=True)
class PassCosts:
    """One pass: its direction; whether it runs ahead of the chunk, and is read there; the bytes of
    its state and of a flow, how many of them are carried on, whether a state of every frame is
    kept; multiplications of a step."""

    step: int
    runs_ahead: bool
    read_ahead: bool
    state: int
    flow: int
    order: int
    kept: bool
    work: int


@dataclass(frozen=True)
class Costs:
    """What a network takes on frames of one size.

    Bytes: ``moment``, a frame with its flows; ``window``, the features of a sliding window;
    ``most``, the most at once inside a step; ``entering``, in what comes before the passes, flows
    too; ``out``, an output frame. Multiplications of a frame: ``entry``, what comes before the
    passes; ``last``, what comes after them.
    """

    moment: int
    window: int
    entering: int
    most: int
    out: int
    entry: int
    last: int
    passes: tuple[PassCosts, ...] = ()

    def bytes(self, chunk: int, lookahead: int, waste: float = 1.0, on_disk: bool = False) -> int:
        """The most that is alive at once, with ``chunk`` frames rendered at a time.

        States that are kept come when all frames have entered. ``waste``: of the heap, as a factor;
        these states lie outside it (``kept.apart``), and ``on_disk`` none but those of the frame
        that is rendered.
        """
        held = self.entered(chunk + lookahead, on_disk) + self.carried + self.out
        kept = self.kept(1, 0) if on_disk else self.kept(chunk, lookahead)
        return max(round(waste * (held + self.entering)), kept + round(waste * (held + self.most)))

    def entered(self, frames: int, on_disk: bool) -> int:
        """Of so many with their flows; ``on_disk`` but for a pair that a step is on its way in."""
        return min(frames, 2 if on_disk else frames) * self.moment

    def kept(self, chunk: int, lookahead: int) -> int:
        """Of the states that wait to be rendered."""
        frames = chunk + lookahead
        return sum(p.state * (frames if p.read_ahead else chunk) for p in self.passes if p.kept)

    def edges(self, count: int) -> int:
        """Of ``exact``: the states at so many chunk edges, of every pass that is run again."""
        edge = (p.state * p.order + p.flow * (p.order - 1) for p in self.passes if p.kept)
        return count * sum(edge)

    @property
    def carried(self) -> int:
        """Of it, what goes from frame to frame and from chunk to chunk.

        A backward pass begins anew in every chunk.
        """
        return self.window + sum(p.state * p.order * (1 + (p.step > 0)) for p in self.passes)

    def work(self, chunk: int | None, lookahead: int, shot: int, exact: bool = False) -> float:
        """Multiplications of one of a shot's ``shot`` frames; ``chunk`` None: whole."""
        if chunk is None or not self.passes:
            return float(self.entry + self.last + sum(p.work for p in self.passes))
        if exact:  # a pass runs for itself, and again below every pass after it
            n = len(self.passes)
            return n * self.entry + self.last + (n + 1) / 2 * sum(p.work for p in self.passes)
        reaches = (min(chunk + lookahead, shot - k) for k in range(0, shot, chunk))
        ahead = sum(reaches) / shot  # how often a pass that runs ahead sees a frame
        passes = sum(p.work * (ahead if p.runs_ahead else 1) for p in self.passes)
        return self.entry + self.last + passes


Size = tuple[int, int, torch.dtype]
_KNOWN: WeakKeyDictionary[Network, dict[Size, Costs]] = WeakKeyDictionary()


def costs(net: Network, height: int, width: int, dtype: torch.dtype = torch.float32) -> Costs:
    """What ``net`` takes on frames of ``(3, height, width)``; measured once.

    ``dtype``: of its convolutions and of what they make; frames and flow are float32.
    """
    known, size = _KNOWN.setdefault(net, {}), (height, width, dtype)
    if size not in known:
        with _Rounding():
            known[size] = _costs(net, *size)
    return known[size]


def _costs(net: Network, height: int, width: int, dtype: torch.dtype) -> Costs:
    ghost = copy.deepcopy(net).to("meta")
    if dtype != torch.float32:
        ghost = rounded_weights(ghost, dtype)
    frame = torch.empty(1, 3, height, width, device="meta")
    out = 3 * net.scale**2 * height * width * 4
    if isinstance(ghost, FrameNetwork):
        one = measured(lambda: ghost(frame))
        return Costs(0, 0, 0, one.most, out, one.multiplications, 0)
    if isinstance(ghost, WindowNetwork):
        one = measured(lambda: ghost.features(frame))
        window = [one.result] * (ghost.before + 1 + ghost.after)
        last = measured(lambda: ghost.fuse(window))
        held, work = len(window) * bytes_of(one.result), (one.multiplications, last.multiplications)
        return Costs(0, held, one.most, last.most, out, *work)
    own = _of_recurrent(ghost, frame, out)
    return own if ghost.first is None else _with(own, costs(ghost.first, height, width, dtype))


def _with(own: Costs, first: Costs) -> Costs:
    """Of two networks that run at once, the output of ``first`` being the other's input."""
    return Costs(
        moment=own.moment + first.moment,
        window=0,
        entering=max(own.entering, first.entering),
        most=max(own.most, first.most),
        out=own.out + first.out,
        entry=own.entry + first.entry,
        last=own.last + first.last,
        passes=first.passes + own.passes,
    )


def _of_recurrent(net: RecurrentNetwork, frame: Tensor, out: int) -> Costs:
    around = (frame,) * (2 * net.context + 1)
    kinds = [
        measured(partial(net.encode, Seen(around, index, False, 0))) for index in range(net.period)
    ]
    x = kinds[0].result
    flow = measured(lambda: net.flow(x, x))
    moments = [bytes_of((frame, kind.result, flow.result)) for kind in kinds]
    steps = []
    features: dict[str, Tensor] = {}
    passes = []
    for k, pass_ in enumerate(net.passes):
        read = [features[name] for name in pass_.reads]
        states: list[Tensor] = []
        for past in range(pass_.order + 1):  # a shot's first steps have fewer states behind them
            states = states[:1] * past
            towards = [flow.result[0]] * past
            steps.append(measured(partial(net.advance, pass_, x, states, towards, read)))
            states = [steps[-1].result]
        features[pass_.name] = states[0]
        last = k + 1 == len(net.passes)
        passes.append(
            PassCosts(
                step=pass_.step,
                runs_ahead=pass_.step < 0 or net.read_ahead(pass_),
                read_ahead=net.read_ahead(pass_),
                state=bytes_of(states[0]),
                flow=bytes_of(flow.result[0]),
                order=pass_.order,
                kept=not last or pass_.step < 0,
                work=steps[-1].multiplications,
            )
        )
    rendered = measured(lambda: net.render(x, features))
    return Costs(
        moment=sum(moments) // net.period,
        window=0,
        entering=max(step.most for step in (*kinds, flow)),
        most=max(step.most for step in (*steps, rendered)),
        out=out,
        entry=sum(k.multiplications for k in kinds) // net.period + flow.multiplications,
        last=rendered.multiplications,
        passes=tuple(passes),
    )


class _Rounding(TorchFunctionMode):
    """Convolutions round what they are given to the type of their weights, as under autocast."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.conv2d:
            x, weight, *rest = args
            args = (x.to(weight.dtype), weight, *rest)
        return func(*args, **(kwargs or {}))
