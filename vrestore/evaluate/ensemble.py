"""Self-ensembles: the same clip restored in several guises, and the mean of all.

Each takes what restores a clip and gives what restores it better. A mean of whole clips cannot be
had from a stream: the results that wait for their counterparts lie on disk as float32, one clip of
them (``mirrored``: two), without a name. Memory stays that of one run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch import Tensor

from vrestore.engine.exact import Again
from vrestore.engine.spool import Spool

Clip = Again[Tensor]  # frames (3, H, W), to be read in any order, again and again
Run = Callable[[Clip], Iterator[Tensor]]

# Published order (mmagic's spatial ensemble): as it is, columns turned round, rows, both; then
# these four transposed.
EIGHT = tuple(
    (rows, columns, transposed)
    for transposed in (False, True)
    for rows, columns in ((False, False), (False, True), (True, False), (True, True))
)


def eightfold(run: Run) -> Run:
    """The mean of the eight ways to flip and transpose a picture (x8); eight times the work."""

    def restored(clip: Clip) -> Iterator[Tensor]:
        sums: Spool | None = None
        try:
            for nth, way in enumerate(EIGHT):
                more = Spool() if nth < len(EIGHT) - 1 else None
                outs = run(Again(clip, lambda x, way=way: turned(x, *way)))  # type: ignore[misc]
                for index, out in enumerate(outs):
                    upright = turned_back(out, *way)
                    total = upright if sums is None else sums[index][0].to(out.device) + upright
                    if more is None:
                        yield total / len(EIGHT)
                    else:
                        more.append((total,))
                if sums is not None:
                    sums.close()
                sums = more
        finally:
            if sums is not None:
                sums.close()

    return restored


def both_ways(run: Run) -> Run:
    """The mean of the clip's result and that of the clip played backwards; twice the work."""

    def restored(clip: Clip) -> Iterator[Tensor]:
        last = len(clip) - 1
        with Spool() as backwards:
            for out in run(Again(range(last, -1, -1), clip.__getitem__)):
                backwards.append((out,))
            for index, out in enumerate(run(clip)):
                yield (out + backwards[last - index][0].to(out.device)) / 2

    return restored


def mirrored(run: Run) -> Run:
    """The clip and then its reverse as one sequence; the mean of each frame's two results.

    BasicVSR's way on Vimeo-90K (its sec. 4): of 7 frames 14, and frame 3 is the mean of outputs 3
    and 10. Twice the work.
    """

    def restored(clip: Clip) -> Iterator[Tensor]:
        count = len(clip)
        there_and_back = [*range(count), *range(count - 1, -1, -1)]
        with Spool() as there, Spool() as means:
            for place, out in enumerate(run(Again(there_and_back, clip.__getitem__))):
                if place < count:
                    there.append((out,))
                else:
                    means.append(((there[2 * count - 1 - place][0].to(out.device) + out) / 2,))
            for index in range(count - 1, -1, -1):
                yield means[index][0]

    return restored


def turned(x: Tensor, rows: bool, columns: bool, transposed: bool) -> Tensor:
    """``(..., H, W)`` flipped along its rows, its columns, then transposed."""
    axes = [axis for axis, flip in ((-2, rows), (-1, columns)) if flip]
    x = x.flip(axes) if axes else x
    return x.mT.contiguous() if transposed else x


def turned_back(x: Tensor, rows: bool, columns: bool, transposed: bool) -> Tensor:
    """What ``turned`` was given."""
    return turned(x.mT if transposed else x, rows, columns, False)
