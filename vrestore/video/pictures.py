"""Folders of pictures, and single ones, as films: through FFmpeg's codecs, never by its file names.

A picture's bytes are read and written by Python and only coded by FFmpeg. So a name may hold what
it likes (``%d``, a leading dash, a colon), and what a file is called does not decide what it holds.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Generator, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from vrestore.errors import InputError, OutputError, UsageError
from vrestore.video.frame import Frame, PixelFormat, Plane, VideoInfo, Written
from vrestore.video.order import natural
from vrestore.video.partial import partial_name
from vrestore.video.picture_codec import coding_for, decode_picture

PICTURES_A_SECOND: Final = Fraction(25)  # where nothing else is asked for
PICTURE_SUFFIXES: Final = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".webp", ".bmp"})
_NUMBER: Final = r"%((?:0\d+)?)d"


def is_picture(path: Path) -> bool:
    """Whether the name is a picture's. The file need not exist."""
    return path.suffix.lower() in PICTURE_SUFFIXES


def list_pictures(folder: Path) -> list[Path]:
    """The pictures right inside ``folder``, numbers in their names in order of size (2 before 10).

    Hidden files are left out (macOS keeps ``._NAME.png`` beside NAME.png, and it is no picture),
    and ``NAME_restored`` beside NAME, which an earlier run over that picture left. Raises
    InputError for a folder that cannot be read or holds none.
    """
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    except OSError as error:
        raise InputError(f"{folder}: cannot be read: {error.strerror}") from error
    pictures = [entry for entry in entries if is_picture(entry) and entry.is_file()]
    sources = {f"{picture.stem}_restored" for picture in pictures}
    pictures = [picture for picture in pictures if picture.stem not in sources]
    if not pictures:
        names = sorted(entry.name for entry in entries)
        found = f"{len(names)} others, {', '.join(names[:3])} among them" if names else "nothing"
        wanted = " ".join(sorted(PICTURE_SUFFIXES))
        raise InputError(
            f"{folder}: no picture in it ({wanted}); found: {found}; films are given one by one: "
            f"{folder}/*"
        )
    return sorted(pictures, key=natural)


def probe_pictures(path: Path, rate: Fraction = PICTURES_A_SECOND) -> VideoInfo:
    """The facts of a folder of pictures or a single one, all from the first.

    ``rate``: pictures a second. Raises InputError where there is none or the first is unreadable.
    """
    pictures = _pictures_of(path)
    first = decode_picture(pictures[0])
    height, width = first.planes[0].shape
    return VideoInfo(
        path=path,
        container="pictures",
        stream_index=0,
        codec=first.codec,
        width=width,
        height=height,
        native_format=first.native_format,
        pixel_format=first.pixel_format,
        colour=first.colour,
        time_base=1 / rate,
        average_rate=rate,
        frame_count=len(pictures),
        duration=len(pictures) / rate,
        start_pts=0,
        sample_aspect=Fraction(1),
        display_matrix=None,  # Exif's orientation is obeyed in decoding
        interlaced=False,
        has_alpha=first.has_alpha,
        streams=(),
    )


class PictureReader:
    """The pictures of ``probe_pictures``' info as frames, pts 0, 1, 2...; can be iterated again.

    Raises InputError, with the file's name, for a picture that is unreadable, of another size than
    the first, or stored in another way. But grey ones among RGB ones become RGB.
    """

    damage: Final = None  # a picture that is damaged is an error: no other can stand in for it

    def __init__(self, info: VideoInfo) -> None:
        self.info: Final = info
        self.pictures: Final = _pictures_of(info.path)

    def __len__(self) -> int:
        return len(self.pictures)

    def __iter__(self) -> Generator[Frame]:
        for pts, path in enumerate(self.pictures):
            yield Frame(self._planes(path), pts, 1)

    def _planes(self, path: Path) -> tuple[Plane, ...]:
        picture, info = decode_picture(path), self.info
        height, width = picture.planes[0].shape
        if (width, height) != (info.width, info.height):
            raise InputError(
                f"{path}: {width}x{height}, but {self.pictures[0].name} is "
                f"{info.width}x{info.height}. Pictures of one film have one size: "
                "put the others in a folder of their own."
            )
        if (picture.pixel_format, picture.colour) == (info.pixel_format, info.colour):
            return picture.planes
        wanted = info.pixel_format
        if wanted.family == "rgb" and picture.pixel_format == PixelFormat("gray", wanted.depth):
            return picture.planes * 3
        raise InputError(
            f"{path}: stored as {picture.native_format}, but {self.pictures[0].name} as "
            f"{info.native_format}. Pictures of one film are stored in one way: convert them."
        )


class PictureWriter:
    """Frames to numbered or named pictures in a folder, or one frame to one picture.

    ``path``: a picture's name, or else a folder's. ``source``: the film that the frames come from;
    a grey one gives grey pictures, one of more than 8 bits gives 16-bit PNG and TIFF.
    ``names``: the pictures' file names in order, all of one kind. None: as PNG under the names of
    the source's pictures; for a film 00000000.png and on, or what ``folder/%06d.tif`` says.

    Nothing is under its final name before ``close``, and then all of it. A folder that exists (it
    may be a mount, a link, the current one) stays: the pictures grow in a hidden one inside it.
    With ``overwrite``, those of the same names are replaced and everything else stays. Raises
    UsageError for names that cannot be (no format of ours, twice the same, the input itself),
    OutputError for what exists already or cannot be written.
    """

    child_bytes: Final = 0  # no other process holds anything

    def __init__(
        self,
        path: Path,
        source: VideoInfo,
        names: Sequence[str] | None = None,
        *,
        overwrite: bool = False,
    ) -> None:
        numbered = _is_pattern(path, source)
        self._pattern: Final = path.name if numbered else "%08d.png"
        self.path: Final = path.parent if numbered else path
        self._single: Final = is_picture(self.path) and not self.path.is_dir()
        if self._single:
            names = [path.name]
        elif names is None and source.container == "pictures" and not numbered:
            names = [f"{picture.stem}.png" for picture in _pictures_of(source.path)]
        self._names: Final = names
        self._overwrite: Final = overwrite
        self._source: Final = source
        self._written: list[str] = []
        self._open = True
        _refuse_impossible_names(names or [self._pattern])
        if self._single and (source.frame_count or 1) > 1:
            raise UsageError(
                f"{path}: one picture cannot hold {source.frame_count} frames; name a folder"
            )
        _refuse_input(self.path, source, self._single)
        self._taken_by: Final = _numbers(self._pattern) if numbered else re.compile("[^.].*")
        if not overwrite and (taken := _taken(self.path, self._taken_by)):
            raise OutputError(f"{taken}: exists already; use --overwrite, or choose another output")
        self._coding: Final = coding_for(names[0] if names else self._pattern, source)
        self.pixel_format: Final = self._coding.pixel_format
        self.colour: Final = self._coding.colour
        self._partial: Final = self._partial_path()
        if self._single and not self.path.parent.is_dir():
            raise OutputError(f"{self.path}: there is no folder {self.path.parent}")
        if not self._single:
            _make_folder(self._partial)

    def write(self, frame: Frame) -> None:
        """One picture to disk, its planes in ``pixel_format``; its pts is of no weight."""
        count = len(self._written)
        if self._names is not None and count >= len(self._names):
            raise OutputError(f"{self.path}: more frames than the {count} pictures named for them")
        name = _numbered(self._pattern, count) if self._names is None else self._names[count]
        partial = self._partial if self._single else self._partial / name
        encoded = self._coding.encode(frame.planes)
        try:
            partial.write_bytes(encoded)
        except OSError as error:
            raise OutputError(f"{partial}: cannot be written: {error.strerror}") from error
        self._written.append(name)

    def close(self) -> Written:
        """Give what was written its final name. Raises OutputError where frames are missing."""
        report = Written(
            self.path,
            len(self._written),
            dropped=tuple(
                f"#{stream.index} {stream.kind} {stream.codec or '(no codec)'}: pictures hold none"
                for stream in self._source.streams
                if stream.index != self._source.stream_index
            ),
            notes=tuple(_losses(self._source)),
        )
        if not self._open:
            return report
        named = len(self._names) if self._names is not None else 1
        if len(self._written) < named:
            self.abort()
            raise OutputError(f"{self.path}: {len(self._written)} frames came, not {named}")
        self._open = False
        if not self._overwrite and (taken := _taken(self.path, self._taken_by)):
            raise OutputError(f"{taken}: was made by another meanwhile; see {self._partial}")
        try:
            if self._single:
                self._partial.replace(self.path)
            elif self._partial.parent == self.path.absolute():
                for name in self._written:
                    (self._partial / name).replace(self.path / name)
                self._partial.rmdir()
            else:
                self._partial.rename(self.path)
        except OSError as error:
            raise OutputError(
                f"{self.path}: cannot be made: {error.strerror}; what is done is in {self._partial}"
            ) from error
        return report

    def abort(self) -> None:
        """Leave nothing behind. After ``close``, nothing is left to do."""
        if not self._open:
            return
        self._open = False
        if self._single:
            with contextlib.suppress(OSError):  # why it cannot be is being told already
                self._partial.unlink(missing_ok=True)
        else:
            shutil.rmtree(self._partial, ignore_errors=True)

    def _partial_path(self) -> Path:
        """Inside a folder that exists, else beside the final name."""
        final = self.path.absolute()
        inside = not self._single and final.is_dir()
        return (final if inside else final.parent) / partial_name(final)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def _pictures_of(path: Path) -> list[Path]:
    return list_pictures(path) if path.is_dir() else [path]


def _refuse_impossible_names(names: Sequence[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if Path(name).name != name:
            raise UsageError(f"{name!r} is no plain file name")
        if not is_picture(Path(name)):
            raise UsageError(f"{name}: pictures are {' '.join(sorted(PICTURE_SUFFIXES))}")
        if name.casefold() in seen:
            raise UsageError(f"{name}: two pictures would have this name")
        seen.add(name.casefold())
    if len({Path(name).suffix.lower() for name in names}) > 1:
        raise UsageError("the pictures of one folder are written in one format")


def _refuse_input(path: Path, source: VideoInfo, single: bool) -> None:
    if not path.exists() or not source.path.exists():
        return
    inside = source.path.is_dir() and single and path.parent.samefile(source.path)
    if path.samefile(source.path) or inside:
        raise UsageError(f"{path}: is the input itself; name another output")


def _taken(path: Path, names: re.Pattern[str]) -> Path | None:
    """What is in the way there: the file itself, or in a folder an entry of such a name."""
    try:
        if not path.is_dir():
            return path if path.exists() else None
        return min((entry for entry in path.iterdir() if names.fullmatch(entry.name)), default=None)
    except OSError as error:
        raise OutputError(f"{path}: cannot be looked into: {error.strerror}") from error


def _losses(source: VideoInfo) -> list[str]:
    """What pictures cannot have of the film that they come from."""
    notes = []
    if source.has_alpha:
        notes.append("the alpha plane is left out")
    if source.interlaced:
        notes.append("the source is interlaced; its pictures hold both fields")
    if source.display_matrix is not None:
        notes.append("the film asks to be turned when shown; its pictures are as they were stored")
    if source.sample_aspect != 1:
        aspect = source.sample_aspect
        notes.append(
            f"samples are {aspect.numerator}:{aspect.denominator}, not square; no picture says so"
        )
    if source.colour.transfer in ("smpte2084", "arib-std-b67"):
        notes.append(f"HDR: the {source.colour.transfer} curve is kept, but pictures do not say so")
    return notes


def _is_pattern(path: Path, source: VideoInfo) -> bool:
    """Whether ``path`` is a name for many, like ``%06d.png``; a single picture may be called so."""
    return (
        is_picture(path)
        and (source.container != "pictures" or (source.frame_count or 1) > 1)
        and len(re.findall(_NUMBER, path.name)) == 1
    )


def _numbers(pattern: str) -> re.Pattern[str]:
    """The names that ``pattern`` gives."""
    before, _, after = re.split(_NUMBER, pattern, maxsplit=1)
    return re.compile(re.escape(before) + r"\d+" + re.escape(after))


def _numbered(pattern: str, number: int) -> str:
    return re.sub(_NUMBER, lambda found: format(number, f"{found[1]}d"), pattern)


def _make_folder(folder: Path) -> None:
    """An empty one; what a killed run left under its name goes."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir()
    except OSError as error:
        raise OutputError(f"{folder}: cannot be made: {error.strerror}") from error
