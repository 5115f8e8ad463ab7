"""The two ends of the road: which reader and which writer a path asks for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

from vrestore.errors import UsageError
from vrestore.options import RestoreOptions
from vrestore.video.decode import Decoder
from vrestore.video.encode import CONTAINERS, Encoder, EncodeSettings
from vrestore.video.frame import VideoInfo
from vrestore.video.hwaccel import check_device, device_for
from vrestore.video.pictures import (
    PICTURE_SUFFIXES,
    PICTURES_A_SECOND,
    PictureReader,
    PictureWriter,
    is_picture,
    list_pictures,
    probe_pictures,
)
from vrestore.video.probe import probe


def look(source: Path, options: RestoreOptions) -> VideoInfo:
    """What is in a film, a folder of pictures or a picture; InputError where there is nothing."""
    if source.is_dir() or is_picture(source):
        return probe_pictures(source, options.fps or PICTURES_A_SECOND)
    if options.fps is not None:
        raise UsageError(f"{source}: a film has its own times; --fps is for pictures")
    return probe(source)


def open_reader(info: VideoInfo, options: RestoreOptions) -> Decoder | PictureReader:
    """An iterable of ``Frame``s, in the order in which they are shown; UsageError where the device
    that was asked for is not there."""
    check_device(options.hwaccel)
    if info.container == "pictures":
        if options.start is not None or options.end is not None:
            raise UsageError(f"{info.path}: pictures have no time; leave --start and --end out")
        return PictureReader(info)
    device = device_for(info, options.hwaccel)
    return Decoder(info, start=options.start, end=options.end, device=device)


def open_writer(
    info: VideoInfo, target: Path, width: int, height: int, options: RestoreOptions
) -> Encoder | PictureWriter:
    """A context manager with ``write(frame)`` and ``close()``, for a film or for pictures."""
    if wants_pictures(info, target):
        info = replace(info, frame_count=frames_expected(info, options))
        return PictureWriter(target, info, names_of(info, target), overwrite=options.overwrite)
    settings = EncodeSettings(
        codec=options.codec,
        crf=options.crf,
        preset=options.preset,
        pix_fmt=options.pix_fmt,
        bitrate=options.bitrate,
        nvenc=options.hwaccel in ("auto", "cuda"),
    )
    return Encoder(
        target,
        info,
        width,
        height,
        settings,
        overwrite=options.overwrite,
        start=options.start,
        end=options.end,
    )


def notes(info: VideoInfo, target: Path, options: RestoreOptions) -> tuple[str, ...]:
    """What was not used of the options, or decided without one, between films and pictures."""
    if not wants_pictures(info, target):
        if info.container != "pictures" or options.fps is not None:
            return ()
        return (f"pictures have no times: {PICTURES_A_SECOND} a second; --fps says another rate",)
    names = ("codec", "crf", "preset", "pix_fmt", "bitrate", "fps")
    given = ", ".join(name for name in names if getattr(options, name) is not None)
    return (f"{given}: for films only; the pictures' own format was used",) if given else ()


def frames_expected(info: VideoInfo, options: RestoreOptions) -> int | None:
    """How many frames will come: what the container says, else about (duration and mean rate)."""
    last = info.frame_count
    if last is None and info.duration is not None and info.average_rate is not None:
        last = round(info.duration * info.average_rate)
    if options.start is None and options.end is None:
        return last
    if info.average_rate is None:
        return None
    if options.end is not None:
        before_end = math.ceil(options.end * info.average_rate)
        last = before_end if last is None else min(last, before_end)
    if last is None:
        return None
    return max(last - math.ceil((options.start or 0) * info.average_rate), 0) or None


def wants_pictures(info: VideoInfo, target: Path) -> bool:
    """A picture's name, a ``%08d.png`` pattern, or a folder where the source was pictures.

    What has an ending is no folder's name, except where there is such a folder.
    """
    if target.suffix.lower() in PICTURE_SUFFIXES:
        return True
    return info.container == "pictures" and (target.is_dir() or not target.suffix)


def names_of(info: VideoInfo, target: Path) -> list[str] | None:
    """The source's own names for a folder of pictures made from one; None: the writer numbers."""
    if not info.path.is_dir() or is_picture(target):
        return None
    names = [picture.name for picture in list_pictures(info.path)]
    return names if len({Path(name).suffix.lower() for name in names}) == 1 else None


def target_for(source: Path, target: Path | None, folder: bool = False) -> Path:
    """Where the result goes.

    None: beside the source as ``NAME_restored``. A folder (it exists, or ``folder``): there, under
    the source's name. The container is the source's where it can be written, else mkv.
    """
    if source.is_dir():
        name, suffix = source.resolve().name, ""
    else:
        name, suffix = source.stem, source.suffix.lower()
        if suffix not in CONTAINERS and not is_picture(source):
            suffix = ".mp4" if suffix == ".gif" else ".mkv"
    if target is None:
        beside = source.resolve() if source.is_dir() else source
        return beside.with_name(f"{name}_restored{suffix}")
    into = folder or (target.is_dir() and not source.is_dir())
    return target / f"{name}{suffix}" if into else target
