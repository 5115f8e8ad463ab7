"""A benchmark's clips on disk: found, paired frame by frame, and refused where one is missing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vrestore.errors import InputError, UsageError
from vrestore.evaluate.footage import Footage, size_of
from vrestore.evaluate.protocols import Protocol
from vrestore.video.command import CONTAINERS
from vrestore.video.picture_codec import png_size
from vrestore.video.pictures import is_picture, list_pictures


@dataclass(frozen=True)
class Clip:
    """``lq`` None: its input is made from the truth. ``truth`` None: there is none."""

    name: str
    lq: Footage | None
    truth: Footage | None

    @property
    def first(self) -> int:
        """The number of the first frame, as the file names have it, else 0."""
        sides = [side.first for side in (self.lq, self.truth) if side]
        return next((first for first in sides if first is not None), 0)


def find_clips(
    protocol: Protocol, lq: Path | None, truth: Path | None, chosen: Sequence[str] = ()
) -> tuple[Clip, ...]:
    """The protocol's clips, or the ``chosen`` ones, in ``lq`` and ``truth``, each checked.

    A folder holds a folder of pictures, or a film, for each clip; one clip alone may be given by
    itself, on both sides under any name. Raises InputError with the file's name for a clip, a
    picture or a frame that is missing or too many; UsageError for a chosen clip that the protocol
    does not have.
    """
    sides = [side for side in (lq, truth) if side is not None]
    places = [_places(protocol, side, chosen) for side in sides]
    if len(sides) == 2 and [[side] for side in sides] == [[*found.values()] for found in places]:
        places[0] = dict(zip(places[1], places[0].values(), strict=True))  # however called
    _same_clips(sides, places)
    counts = {name: count for naming in protocol.namings for name, count in naming.items()}
    clips = []
    for name in places[0]:
        frames = counts.get(name, protocol.clip_frames)
        low = footage_of(places[0][name], protocol, frames) if lq else None
        high = footage_of(places[-1][name], protocol, frames, low) if truth else None
        if low and high:
            _same_frames(low, high, protocol)
        clips.append(Clip(name, low, high))
    return tuple(clips)


def check_alike(clips: Sequence[Clip]) -> None:
    """Raises InputError for a PNG of another size than the first of its clip, by their headers.

    A side's two lengths may be swapped: Exif may turn it. What is no PNG is looked at when it is
    read.
    """
    for clip in clips:
        for side in (clip.lq, clip.truth):
            pictures = [*side.pictures.values()] if side else []
            sizes = [(path, size) for path in pictures if (size := png_size(path))]
            for path, (width, height) in sizes:
                first, (wide, high) = sizes[0]
                if {width, height} != {wide, high}:
                    raise InputError(
                        f"{path}: {width}x{height}, but {first.name} is {wide}x{high}; the frames "
                        "of a clip have one size"
                    )


def check_sizes(clips: Sequence[Clip], scale: int) -> None:
    """Raises InputError where a truth is not ``scale`` times as large as its input.

    What an input cannot show of a truth whose sides do not divide by ``scale`` may be there.
    """
    for clip in clips:
        if not (clip.lq and clip.truth):
            continue
        (width, height), (wide, high) = size_of(clip.lq), size_of(clip.truth)
        if (width, height) != (wide // scale, high // scale):
            where = clip.truth.name_of(next(iter(clip.truth.pictures), 0))
            raise InputError(
                f"{where}: {wide}x{high}, but {scale} times its input {clip.lq.path} "
                f"({width}x{height}) is {width * scale}x{height * scale}"
            )


def chosen_clips(text: str) -> tuple[str, ...]:
    """``000,011``, or a file with a name at the beginning of each line, as the sets' lists are."""
    path = Path(text)
    if not path.is_file():
        return tuple(name.strip() for name in text.split(",") if name.strip())
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is no list of clips: {error}") from error
    return tuple(line.split()[0] for line in lines if line.strip())


def footage_of(
    path: Path, protocol: Protocol, frames: int | None = None, lq: Footage | None = None
) -> Footage:
    """A clip's folder of pictures, film or single picture; ``frames`` that it must have.

    Of the truth of ``lq`` the judged frames are enough; an input is made of every frame. InputError
    names the picture that is missing, or one too many.
    """
    if not path.is_dir() and not is_picture(path):
        return Footage(path)
    pictures = list_pictures(path) if path.is_dir() else [path]
    folder = path if path.is_dir() else path.parent
    names = [picture.name for picture in pictures]
    numbers = numbered(names, folder, protocol)
    if numbers is None:
        if frames is not None and len(pictures) != frames:
            raise InputError(f"{folder}: {len(pictures)} pictures, {protocol.title} has {frames}")
        return Footage(path, dict(enumerate(pictures)))
    first = min(numbers) if protocol.first is None else protocol.first
    if protocol.first is None and frames is not None and len(numbers) < frames:
        first = max(0, max(numbers) + 1 - frames)  # the first one may be what is missing
        if lq and lq.first is not None:
            first = lq.first
    if not (lq and set(numbers) == {first + i for i in protocol.judged or ()}):
        check_numbers(numbers, names, folder, first, frames or len(numbers))
    return Footage(path, {n - first: pictures[k] for n, k in sorted(numbers.items())}, first)


def numbered(names: Sequence[str], folder: Path, protocol: Protocol) -> dict[int, int] | None:
    """Frame number -> place in ``names``; None where names have no number that tells them apart.

    Raises InputError for a name that the protocol's pictures do not have, and for two of one frame.
    """
    stems = [Path(name).stem for name in names]
    frames: dict[str, str] = {}
    for name, stem in zip(names, stems, strict=True):
        frame = re.sub(r"\d+", lambda number: str(int(number[0])), stem)  # 1.png is 0001.png
        if frame in frames:
            raise InputError(
                f"{folder / name}: frame {stem} is there twice, the other is {frames[frame]}; "
                "move one elsewhere"
            )
        frames[frame] = name
    if protocol.picture is not None:
        form = re.compile(re.sub(r"%(0(\d))?d", _digits, protocol.picture))
        for name, stem in zip(names, stems, strict=True):
            if not form.fullmatch(stem):
                like = protocol.picture % (protocol.first or 0) + Path(name).suffix
                raise InputError(
                    f"{folder / name}: no frame of {protocol.title} is called so; they are "
                    f"named like {like}: move it elsewhere"
                )
        return {int(re.sub(r"\D", "", stem)): place for place, stem in enumerate(stems)}
    groups = [re.findall(r"\d+", stem) for stem in stems]
    columns = list(zip(*groups, strict=True)) if len({len(g) for g in groups}) == 1 else []
    for column in reversed(columns):  # the last number that tells all of them apart
        if len(set(map(int, column))) == len(names):
            return {int(number): place for place, number in enumerate(column)}
    return None


def check_numbers(
    numbers: Mapping[int, int], names: Sequence[str], folder: Path, first: int, count: int
) -> None:
    """``count`` frames from number ``first``; InputError names what is missing or one too many."""
    expected = range(first, first + count)
    span = f"the clip has {count} frames, {_called(first, numbers, names)} to "
    span += _called(expected[-1], numbers, names)
    for number in expected:
        if number not in numbers:
            raise InputError(f"{folder / _called(number, numbers, names)}: is missing; {span}")
    for number, place in numbers.items():
        if number not in expected:
            raise InputError(f"{folder / names[place]}: is one too many; {span}")


def _called(number: int, numbers: Mapping[int, int], names: Sequence[str]) -> str:
    """What the frame of that number is called, or would be: as its neighbours are."""
    if number in numbers:
        return names[numbers[number]]
    known, place = next(iter(numbers.items()))
    stem, suffix = Path(names[place]).stem, Path(names[place]).suffix
    *_, found = (m for m in re.finditer(r"\d+", stem) if int(m[0]) == known)
    return f"{stem[: found.start()]}{number:0{len(found[0])}d}{stem[found.end() :]}{suffix}"


def _digits(found: re.Match[str]) -> str:
    """A printf form as a regular expression: ``%08d`` has eight digits, ``%d`` any."""
    return rf"\d{{{found[2]}}}" if found[2] else r"\d+"


def _places(protocol: Protocol, folder: Path, chosen: Sequence[str]) -> dict[str, Path]:
    """Where in the folder each clip lies, by name."""
    if not folder.exists():
        raise InputError(f"{folder}: is not there")
    naming = _naming(protocol, folder, chosen)
    if naming:
        places = {}
        for name in naming:
            place = _clip_at(folder, name)
            if place is None:
                of_all = "" if chosen else f"; {protocol.title} has {', '.join(naming)}"
                raise InputError(f"{folder / name}: the clip is missing{of_all}")
            places[name] = place
        return places
    places = {}
    for name, place in _clips_under(folder):
        _refuse_second(places.get(name), place)
        places[name] = place
    if not places:
        raise InputError(f"{folder}: no folder of pictures and no film in it")
    if not protocol.is_whole(places):
        known = " or ".join(map(str, protocol.clip_counts))
        raise InputError(
            f"{folder}: {len(places)} clips, {protocol.title} has {known}; "
            "give all, or name those to score with --clips"
        )
    return places


def _naming(protocol: Protocol, folder: Path, chosen: Sequence[str]) -> Sequence[str]:
    """The clips' names where they are laid down or chosen; nothing: whatever is there.

    Of two namings the later one, where any of its clips is there: the names of the former are in a
    regrouped REDS as well, and mean clips to train on.
    """
    if not protocol.namings:
        return chosen
    found = [n for n in protocol.namings if any(_clip_at(folder, name) for name in n)]
    naming = found[-1] if found else protocol.namings[0]
    known = naming if found else {name for naming in protocol.namings for name in naming}
    for name in chosen:
        if name not in known:
            raise UsageError(f"--clips {name}: {protocol.title} has no such clip in {folder}")
    return chosen or [*naming]


def _clip_at(folder: Path, name: str) -> Path | None:
    """The clip's folder of pictures, or its film."""
    found, beside = None, (folder / name).parent
    for entry in sorted(os.listdir(beside)) if beside.is_dir() else ():
        stem, suffix = os.path.splitext(entry)
        if entry == Path(name).name or (stem == Path(name).name and suffix.lower() in CONTAINERS):
            _refuse_second(found, beside / entry)
            found = beside / entry
    return found


def _refuse_second(found: Path | None, place: Path) -> None:
    """Raises InputError where a clip of that name was found already."""
    if found is not None:
        raise InputError(f"{place}: is a clip of the same name as {found}; move one elsewhere")


def _clips_under(
    folder: Path, prefix: str = "", above: Sequence[Path] = ()
) -> Iterator[tuple[str, Path]]:
    """Every folder that holds pictures, every film; names are paths from
    ``folder`` on. Folders that hold nothing of all this count too: a clip may be missing there.
    ``above``: where it lies, so that a link back leads nowhere."""
    if not folder.is_dir():
        yield folder.stem, folder
        return
    entries = sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    picture = next((entry for entry in entries if is_picture(entry)), None)
    if picture:
        refuse_clips_beside(picture)
    if picture or (prefix and not any(map(_is_folder_or_film, entries))):
        yield prefix.rstrip("/") or folder.resolve().name, folder
        return
    above = (*above, folder.resolve())
    for entry in entries:
        if entry.is_dir() and entry.resolve() not in above:
            yield from _clips_under(entry, f"{prefix}{entry.name}/", above)
        elif entry.suffix.lower() in CONTAINERS:
            yield prefix + entry.stem, entry


def refuse_clips_beside(picture: Path) -> None:
    """Raises InputError where films, or folders with pictures, lie beside a picture."""
    for entry in sorted(picture.parent.iterdir()):
        if entry.name.startswith(".") or not _is_folder_or_film(entry):
            continue
        inside = (Path(name) for *_, names in os.walk(entry) for name in names)
        if not entry.is_dir() or any(is_picture(p) and p.name[0] != "." for p in inside):
            raise InputError(
                f"{picture}: lies beside {entry}; a folder holds one clip's pictures, or clips: "
                "move one of the two elsewhere"
            )


def _is_folder_or_film(entry: Path) -> bool:
    return entry.is_dir() or entry.suffix.lower() in CONTAINERS


def _same_clips(sides: Sequence[Path], places: Sequence[Mapping[str, Path]]) -> None:
    """Raises InputError for a clip that only one side has."""
    for here, there, folder in zip(places, reversed(places), reversed(sides), strict=True):
        for name, place in here.items():
            if name not in there:
                raise InputError(
                    f"{folder / name}: the clip is missing, which is in {place}; "
                    "--clips names those to score"
                )


def _same_frames(lq: Footage, truth: Footage, protocol: Protocol) -> None:
    """Raises InputError for a frame that only one side has."""
    if not (lq.pictures and truth.pictures):
        return  # a film's frames are counted when it is read
    if lq.path.is_file() and truth.path.is_file():
        return  # two pictures, named one by one
    if None in (lq.first, truth.first):
        _same_stems(lq, truth)
    if None not in (lq.first, truth.first) and lq.first != truth.first:
        for one, other in ((lq, truth), (truth, lq)):
            if _numbers(one) > _numbers(other):
                raise InputError(f"{one.pictures[0]}: has no counterpart in {other.path}")
        raise InputError(
            f"{truth.name_of(min(truth.pictures))}: numbered from {truth.first}, its input "
            f"{lq.path} from {lq.first}; give both the same numbers"
        )
    judged = protocol.judged_of(len(lq.pictures))
    needed = judged if set(truth.pictures) == set(judged) else lq.pictures
    for index in needed:
        if index not in truth.pictures:
            raise InputError(f"{lq.pictures[index]}: has no counterpart in {truth.path}")
    for index, path in truth.pictures.items():
        if index not in lq.pictures:
            raise InputError(f"{path}: has no counterpart in {lq.path}")


def _numbers(side: Footage) -> set[int]:
    """Those in the names of its pictures."""
    return {(side.first or 0) + index for index in side.pictures}


def _same_stems(lq: Footage, truth: Footage) -> None:
    """Raises InputError for a picture whose name, which has no number, the other side lacks."""
    for here, there in ((lq, truth), (truth, lq)):
        stems = {path.stem for path in there.pictures.values()}
        for path in here.pictures.values():
            if path.stem not in stems:
                raise InputError(
                    f"{path}: has no counterpart in {there.path}; names that do not number the "
                    "frames must be the same on both sides"
                )
