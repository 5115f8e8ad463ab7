"""The field's benchmarks: which clips, frames and channel, and which borders of windows."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from vrestore.errors import UsageError
from vrestore.models.temporal import Border

Channel = Literal["RGB", "Y"]
Degradation = Literal["bi", "bd"]

NINES = range(9, 100, 10)  # 9, 19, ... 99: what NTIRE's servers ask for


@dataclass(frozen=True)
class Protocol:
    """How one benchmark is scored; what is None, or empty, is not laid down or not known for sure.

    ``namings``: the clips' names with their frame counts, as each publication of the set names
    them. ``clip_counts``, ``clip_frames``: where the names are free; any of those counts is the
    whole set. ``picture``: the form of a frame's file name; ``first``: the number in the first one.
    ``judged``: which frames count, by
    index from 0; None: all. ``channel``: of the published tables. ``crop``: pixels cut at each
    side. ``border``: what stands in for frames beyond a clip's ends in a sliding window; None: what
    the network names. ``mirrored``: recurrent networks see the clip and then its reverse (BasicVSR,
    sec. 4). ``scale`` None: the network's. ``degradation``: what made the published input.
    """

    name: str
    title: str
    channel: Channel
    namings: tuple[Mapping[str, int], ...] = ()
    clip_counts: tuple[int, ...] = ()
    clip_frames: int | None = None
    picture: str | None = None
    first: int | None = None
    judged: Sequence[int] | None = None
    crop: int = 0
    border: Border | None = None
    mirrored: bool = False
    scale: int | None = 4
    degradation: Degradation | None = None
    has_truth: bool = True

    def is_whole(self, clips: Collection[str]) -> bool:
        """Whether these are all the clips of the set, as a published mean is over all of them."""
        if self.namings:
            return any(set(clips) == set(naming) for naming in self.namings)
        return len(clips) in (self.clip_counts or (len(clips),))

    def judged_of(self, frames: int) -> list[int]:
        """The indices of the frames that count, of a clip of ``frames``."""
        judged = range(frames) if self.judged is None else self.judged
        return [index for index in judged if index < frames]


REDS4 = dict.fromkeys(("000", "011", "015", "020"), 100)
REDS_VALIDATION = dict.fromkeys((f"{number:03d}" for number in range(30)), 100)
REDS_RENAMED = dict.fromkeys((f"{number:03d}" for number in range(240, 270)), 100)
VID4 = {"calendar": 41, "city": 34, "foliage": 49, "walk": 47}

PROTOCOLS: tuple[Protocol, ...] = (
    # Sharp input wants reflection_circle, blurred input replicate (EDVR's options): REDS has both,
    # and each network of EDVR names what it was published with.
    Protocol(
        name="reds4",
        title="REDS4",
        channel="RGB",
        namings=(REDS4,),
        picture="%08d",
        first=0,
        degradation="bi",
    ),
    Protocol(
        name="reds-val",
        title="REDS official validation",
        channel="RGB",
        namings=(REDS_VALIDATION, REDS_RENAMED),
        picture="%08d",
        first=0,
        degradation="bi",
    ),
    Protocol(
        name="vid4",
        title="Vid4",
        channel="Y",
        namings=(VID4,),
        border="reflection_circle",
        degradation="bi",
    ),
    # The list of its clips holds 7824 names, those of its three groups 7815.
    Protocol(
        name="vimeo90k-t",
        title="Vimeo-90K-T",
        channel="Y",
        clip_counts=(7824, 7815),
        clip_frames=7,
        picture="im%d",
        first=1,
        judged=(3,),
        border="reflection_circle",
        mirrored=True,
        degradation="bi",
    ),
    Protocol(
        name="udm10",
        title="UDM10",
        channel="Y",
        clip_counts=(10,),
        picture="%04d",
        border="reflection_circle",
        degradation="bd",
    ),
    Protocol(
        name="spmcs",
        title="SPMCS-30, as TDAN has it",
        channel="Y",
        clip_counts=(30,),
        crop=8,
        border="reflection",
        degradation="bi",
    ),
    # The frames are known of the validation servers; that the test phase asked for the same is not.
    Protocol(
        name="ntire21-vsr",
        title="NTIRE 2021 video super-resolution",
        channel="RGB",
        namings=(REDS_VALIDATION, REDS_RENAMED),
        picture="%08d",
        first=0,
        judged=NINES,
        border="reflection_circle",
        mirrored=True,
        degradation="bi",
    ),
    Protocol(
        name="ntire-deblur",
        title="NTIRE video deblurring (REDS)",
        channel="RGB",
        namings=(REDS_VALIDATION, REDS_RENAMED),
        picture="%08d",
        first=0,
        judged=NINES,
        border="replicate",
        scale=1,
    ),
    # At most 100 frames a clip: a shorter one is judged in those of the three that it has.
    Protocol(
        name="videolq",
        title="VideoLQ",
        channel="Y",
        clip_counts=(50,),
        picture="%08d",
        first=0,
        judged=(0, 50, 99),
        has_truth=False,
    ),
    Protocol(name="custom", title="custom", channel="Y", scale=None),
)


def find(name: str) -> Protocol:
    """The protocol of that name; UsageError names the nearest one."""
    names = [protocol.name for protocol in PROTOCOLS]
    if name in names:
        return PROTOCOLS[names.index(name)]
    near = difflib.get_close_matches(name.lower(), names, 1, 0.5)
    hint = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(names)}"
    raise UsageError(f"--protocol {name}: there is none of that name; {hint}")
