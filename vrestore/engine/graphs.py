"""A step of a network as one launch: CUDA graphs, recorded once for each form of its inputs.

A frame of BasicVSR is some 400 small kernels, and a GPU of today is done with each before Python
has asked for the next. Recorded, a step is asked for once. It is the same arithmetic; but frames of
a recorded BasicVSR++ were not the unrecorded one's bit for bit on an H200, and why is not known.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

log = logging.getLogger("vrestore")

P = ParamSpec("P")
R = TypeVar("R")

SEEN_FIRST = 3  # calls of one form before it is recorded: it may not come again, and cuDNN chooses
FORMS = 64  # no more are recorded: each holds its inputs
NEAR = 0.02  # of the largest value: what half precision may differ by

Form = tuple[object, ...]


@dataclass(frozen=True)
class Recording:
    """A graph, the tensors that it reads and what it leaves behind."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    result: Any

    def play(self, tensors: list[Tensor]) -> Any:
        """Run it on other values; what it gives is a copy, since the next run writes over it."""
        for mine, given in zip(self.inputs, tensors, strict=True):
            mine.copy_(given)
        self.graph.replay()
        return tree_map_only(Tensor, torch.clone, self.result)


class Recorder:
    """Calls functions of tensors on one CUDA device, from recordings as soon as there are any.

    The functions must do the same for arguments of one form: shapes, types, layouts, and whatever
    is no tensor. One that cannot be recorded (it asks the device for a value, say), or whose first
    replay is not near its own values, is called as it is, for ever.
    """

    def __init__(self) -> None:
        self._calls: dict[Form, int] = {}
        self._recordings: dict[Form, Recording] = {}
        self._unfit: set[object] = set()
        self._pool: Any = None  # of memory: what is between two kernels serves all recordings

    def __call__(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """``function(*args, **kwargs)``, without gradients."""
        name = getattr(function, "__qualname__", None)
        if name is None or name in self._unfit:
            return function(*args, **kwargs)
        leaves, tree = tree_flatten((args, kwargs))
        form = form_of(name, leaves, tree)
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        if form not in self._recordings:
            self._calls[form] = self._calls.get(form, 0) + 1
            if self._calls[form] <= SEEN_FIRST or len(self._recordings) == FORMS:
                return function(*args, **kwargs)
            plain = function(*args, **kwargs)
            try:
                recording = self._record(function, leaves, tree)
            except RuntimeError as error:
                log.debug("%s is not recorded: %s", name, error)
                self._unfit.add(name)
                return plain
            if not near(recording.play(tensors), plain):
                log.warning("%s: a CUDA graph of it gives other values; slower without", name)
                self._unfit.add(name)
                return plain
            self._recordings[form] = recording
            return plain
        result: R = self._recordings[form].play(tensors)
        return result

    def _record(self, function: Callable[..., Any], leaves: list[Any], tree: TreeSpec) -> Recording:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        mine = [_like(leaf) if isinstance(leaf, Tensor) else leaf for leaf in leaves]
        args, kwargs = tree_unflatten(mine, tree)
        graph = torch.cuda.CUDAGraph()
        with (
            torch.no_grad(),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            result = function(*args, **kwargs)
        return Recording(graph, tuple(leaf for leaf in mine if isinstance(leaf, Tensor)), result)


def near(found: Any, wanted: Any) -> bool:
    """Whether all tensors of one are those of the other within ``NEAR``."""
    pairs = zip(tree_flatten(found)[0], tree_flatten(wanted)[0], strict=True)
    return all(
        (a.float() - b.float()).abs().max() <= NEAR * b.float().abs().max()
        for a, b in pairs
        if isinstance(b, Tensor) and b.numel()
    )


def _like(tensor: Tensor) -> Tensor:
    """The same values in the same layout, elsewhere."""
    return torch.empty_strided(
        tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device
    ).copy_(tensor)


def form_of(name: str, leaves: list[Any], tree: TreeSpec) -> Form:
    """All that decides which kernels run: of tensors their form, of the rest the value."""
    kinds: list[object] = [name, tree]
    for leaf in leaves:
        if isinstance(leaf, Tensor):
            kinds.append((tuple(leaf.shape), leaf.stride(), leaf.dtype, leaf.device))
        else:
            kinds.append((type(leaf), leaf))
    return tuple(kinds)
