"""Functions run on tensors without values: what is alive at once in them, what they multiply.

Torch's own rules for such tensors load its compiler, 70 MiB, with the first sum that is asked for.
Where memory is counted in hundreds of them that is no small part: what loads it has rules here,
and all else torch's.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

_aten = torch.ops.aten
LONG = torch.int64
COMPARISONS = frozenset({"eq", "ne", "lt", "le", "gt", "ge"})


@dataclass(frozen=True)
class Measured:
    """What a function gave, the most bytes of new tensors alive at once in it, and its
    multiplications."""

    result: Any
    most: int
    multiplications: int


def measured(run: Callable[[], Any]) -> Measured:
    """Run it, and see what it took."""
    with torch.no_grad(), Alive() as alive:
        result = run()
    return Measured(result, alive.most, alive.flops // 2)


def bytes_of(tensors: Any) -> int:
    """Of all the tensors, each storage once."""
    leaves = [leaf for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)]
    storages = {leaf.untyped_storage()._cdata: leaf.untyped_storage().nbytes() for leaf in leaves}
    return sum(storages.values())


class Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the storages that are made under it, as long as a tensor uses them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = self.flops = 0
        self._users: dict[int, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Torch asks: to keep its compiler out of here it would load it."""
        return False

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = {
            leaf.untyped_storage()._cdata
            for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)
        }  # fmt: skip
        out = made(func, args, kwargs or {})
        if func.overloadpacket in flop_registry:
            count = flop_registry[func.overloadpacket]
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._count(leaf, given)
        self.most = max(self.most, self.now)
        return out

    def _count(self, tensor: Tensor, given: set[int]) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in given and key not in self._users:
            return  # it was there before
        if key not in self._users:
            self._users[key] = 0
            self.now += size
        self._users[key] += 1
        weakref.finalize(tensor, self._forget, key, size).atexit = False

    def _forget(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self.now -= size


def made(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What ``func`` makes, by our rule where there is one for what has no values."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ghostly = str(kwargs.get("device")) == "meta" or (given and all(x.is_meta for x in given))
    rule = RULES.get(func.overloadpacket)
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = pointwise
    out = rule(func, args, kwargs) if rule is not None and ghostly else None
    return func(*args, **kwargs) if out is None else out


def pointwise(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Value by value: as large as the largest, and laid out as that; None: not so simple."""
    if func._schema.is_mutable:
        return args[0]  # type: ignore[no-any-return]
    if kwargs.keys() & {"memory_format", "dtype", "out", "rounding_mode"}:
        return None
    tensors = [leaf for leaf in args if isinstance(leaf, Tensor)]
    shape = np.broadcast_shapes(*(x.shape for x in tensors))  # torch's loads sympy, 40 MiB
    like = next((x for x in tensors if x.shape == shape), None)
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors))
    if not dtype.is_floating_point or like is None:
        return None
    if func.overloadpacket.__name__ in COMPARISONS:
        dtype = torch.bool
    return _empty(shape, dtype, like)


def arange(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """``end``; or ``start, end, step``."""
    dtype = kwargs.get("dtype")
    if dtype is None:
        return None
    start, end, step = (0, *args, 1) if len(args) == 1 else (*args, 1)[:3]
    return torch.empty_strided((math.ceil((end - start) / step),), (1,), dtype=dtype, device="meta")


def cat(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Tensors beside each other along one dimension."""
    tensors, dim = args[0], (*args, 0)[1]
    shape = list(tensors[0].shape)
    shape[dim] = sum(x.shape[dim] for x in tensors)
    return _empty(shape, reduce(torch.promote_types, (x.dtype for x in tensors)), tensors[0])


def stack(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Tensors beside each other along a new dimension."""
    tensors, dim = args[0], (*args, 0)[1]
    shape = list(tensors[0].shape)
    shape.insert(dim % (len(shape) + 1), len(tensors))
    dtype = reduce(torch.promote_types, (x.dtype for x in tensors))
    return torch.empty(shape, dtype=dtype, device="meta")


def sampled(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """``(N, C, H, W)`` at the places of a grid ``(N, h, w, 2)``."""
    x, grid = args[:2]
    return torch.empty((*x.shape[:2], *grid.shape[1:3]), dtype=x.dtype, device="meta")


def convolution(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """``(N, C, H, W)`` by weights ``(D, C, k, l)``; None: the transposed one."""
    x, weight, _, stride, padding, dilation, transposed = args[:7]
    if transposed:
        return None
    size = _windows(x.shape[2:], weight.shape[2:], stride, padding, dilation)
    last = torch.channels_last
    ordered = next((t for t in (x, weight) if t.is_contiguous(memory_format=last)), x)
    return _empty((x.shape[0], weight.shape[0], *size), x.dtype, ordered)


def pooled(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """``(N, C, H, W)``: a value of each window; of the largest ones, where they are as well."""
    x, window, *rest = args
    stride, padding = [*rest, *([[], [0, 0]][len(rest) :])][:2]
    size = _windows(x.shape[2:], window, stride or window, padding, [1, 1])
    out = _empty((*x.shape[:2], *size), x.dtype, x)
    return out if func.overloadpacket is _aten.avg_pool2d else (out, _empty(out.shape, LONG, out))


def shuffled(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Channels to places, or places to channels."""
    x, side = args
    n, c, h, w = x.shape
    if func.overloadpacket is _aten.pixel_shuffle:
        return _empty((n, c // side**2, h * side, w * side), x.dtype, x)
    return _empty((n, c * side**2, h // side, w // side), x.dtype, x)


def padded(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """``(N, C, H, W)`` with so much at its left, right, top and bottom."""
    x, (left, right, top, bottom) = args
    n, c, h, w = x.shape
    return _empty((n, c, h + top + bottom, w + left + right), x.dtype, x)


def repeated(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """So many times along each of the last dimensions."""
    x, times = args
    sides = (1,) * (len(times) - x.dim()) + tuple(x.shape)
    shape = [side * count for side, count in zip(sides, times, strict=True)]
    return torch.empty(shape, dtype=x.dtype, device="meta")


def alike(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """As large as another."""
    return _empty(args[0].shape, kwargs.get("dtype") or args[0].dtype, args[0])


def folded(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor | None:
    """Sums, largest or least values along some dimensions."""
    x, dims, keep = (*args, False)[:3]
    if kwargs or not dims:
        return None
    along = {dim % x.dim() for dim in dims}
    kept = [1 if dim in along else side for dim, side in enumerate(x.shape)]
    out = _empty(kept, x.dtype, x)
    return out if keep else out.squeeze(tuple(along))


def product(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """Of matrices, or of as many pairs of them."""
    a, b = args
    return torch.empty((*a.shape[:-1], b.shape[-1]), dtype=a.dtype, device="meta")


def _windows(
    size: Sequence[int],
    window: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> list[int]:
    """How many places a window has along each side."""
    sides = zip(size, window, stride, padding, dilation, strict=True)
    return [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides]


def resized(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Tensor:
    """``(N, C, H, W)`` to ``(h, w)``."""
    x, size = args[:2]
    return _empty((*x.shape[:2], *size), x.dtype, x)


def _empty(shape: Sequence[int], dtype: torch.dtype, like: Tensor) -> Tensor:
    """A tensor without values, dense, its dimensions in the order that they have in ``like``.

    Not ``empty_like``, which loads the compiler too.
    """
    strides, stride = [0] * len(shape), 1
    for dim in sorted(range(len(shape)), key=lambda dim: (like.stride()[dim], -dim)):
        strides[dim] = stride
        stride *= shape[dim]
    return torch.empty_strided(shape, strides, dtype=dtype, device="meta")


Rule = Callable[[Any, Sequence[Any], Mapping[str, Any]], Any]
RULES: dict[Any, Rule] = {
    _aten.amax: folded,
    _aten.amin: folded,
    _aten.arange: arange,
    _aten.avg_pool2d: pooled,
    _aten.bmm: product,
    _aten.cat: cat,
    _aten.convolution: convolution,
    _aten.flip: alike,
    _aten.grid_sampler_2d: sampled,
    _aten.max_pool2d_with_indices: pooled,
    _aten.mm: product,
    _aten.pixel_shuffle: shuffled,
    _aten.pixel_unshuffle: shuffled,
    _aten.reflection_pad2d: padded,
    _aten.repeat: repeated,
    _aten.replication_pad2d: padded,
    _aten.stack: stack,
    _aten.sum: folded,
    _aten.upsample_bilinear2d: resized,
    _aten.upsample_nearest2d: resized,
    _aten.zeros_like: alike,
}
