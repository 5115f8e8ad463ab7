"""What is in a film: the streams of its file, and the frozen facts of the one to restore.

What the stream does not say is decided here and nowhere else.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.logging
from av.codec.hwaccel import HWAccel
from av.sidedata.sidedata import Type as SideDataType

from vrestore.errors import InputError, UsageError
from vrestore.settings import parse_time
from vrestore.video.frame import Colour, StreamInfo, VideoInfo
from vrestore.video.pixels import Layout, layout_of

# ITU-T H.273, tables 2 to 4, in FFmpeg's names; a code that is not here says nothing.
_MATRICES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    9: "bt2020nc",
}
_UNUSABLE_MATRICES = {
    8: "ycgco",
    10: "bt2020c",
    11: "smpte2085",
    12: "chroma-derived-nc",
    13: "chroma-derived-c",
    14: "ictcp",
    15: "ipt-c2",
    16: "ycgco-re",
    17: "ycgco-ro",
}
_TRANSFERS = {
    1: "bt709",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
_PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "jedec-p22",
}
_SITINGS = ("left", "center", "topleft", "top", "bottomleft", "bottom")
_FULL, _LIMITED = 2, 1  # AVCOL_RANGE_JPEG, AVCOL_RANGE_MPEG

# Containers that keep the order of storage only. What libavformat makes of it for H.264 is late by
# a frame and, with B-frames, out of order; the times of storage, sorted, are those of display.
STORAGE_TIMES_ONLY = frozenset({"avi"})
_MAX_FRUITLESS_PACKETS = 1000  # then the stream counts as undecodable


def probe(path: Path) -> VideoInfo:
    """The facts of the film at ``path``: of its first video stream that is not a cover picture.

    Decodes one frame. Raises InputError where there is no file, no media, no video stream, or
    nothing in it that can be decoded.
    """
    with open_film(path) as container:
        stream = _film_stream(container, path)
        picture = first_picture(container, stream, path)
        layout = layout_of(picture.format.name)
        if layout is None:
            raise InputError(
                f"{path}: video stream {stream.index} is stored as {picture.format.name}, which "
                "vrestore cannot unpack; convert it first: ffmpeg -i IN -pix_fmt yuv444p -c:v ffv1 "
                "OUT.mkv"
            )
        context = stream.codec_context
        start = picture.pts if picture.pts is not None else stream.start_time
        return VideoInfo(
            path=path,
            container=container.format.name,
            stream_index=stream.index,
            codec=context.codec.canonical_name,
            width=picture.width,
            height=picture.height,
            native_format=picture.format.name,
            pixel_format=layout.fmt,
            colour=_colour(container, stream, picture, layout, path),
            time_base=_time_base(stream),
            average_rate=stream.average_rate or None,
            frame_count=stream.frames or None,
            duration=_duration(container, stream),
            start_pts=start,
            sample_aspect=stream.sample_aspect_ratio or Fraction(1),
            display_matrix=_display_matrix(picture),
            interlaced=bool(picture.interlaced_frame),
            has_alpha=layout.has_alpha or stream.metadata.get("alpha_mode") == "1",
            streams=tuple(_stream_info(one) for one in container.streams),
        )


@contextmanager
def open_film(path: Path, device: HWAccel | None = None) -> Iterator[av.container.InputContainer]:
    """The file as a PyAV container, whatever characters are in its name; closed afterwards.

    Its streams are decoded by ``device``, None = in software.
    Raises InputError where there is no such file or FFmpeg finds no media in it.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder, not a film; name a file in it")
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file; check the name") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    if path.is_file() and size == 0:
        raise InputError(f"{path}: is empty (0 bytes); copy or download it again")
    try:
        # "file:" keeps FFmpeg from reading a protocol out of "a:b.mp4" or an option out of "-a";
        # pattern_type keeps its picture reader from expanding "%d" and "*".
        container = av.open(
            f"file:{path}",
            options={"pattern_type": "none"},
            metadata_errors="replace",
            hwaccel=device,
        )
    except PermissionError as error:
        raise InputError(f"{path}: may not be read; check its permissions") from error
    except (av.FFmpegError, OSError, ValueError) as error:
        raise InputError(
            f"{path}: is not a film that FFmpeg can open ({_reason(error)}); check that the file "
            "is complete: `ffprobe FILE` should list its streams"
        ) from error
    try:
        yield container
    finally:
        container.close()


def is_cover(stream: av.stream.Stream) -> bool:
    """Whether a stream is a picture about the film (a cover, thumbnails), not the film."""
    covers = av.stream.Disposition.attached_pic | av.stream.Disposition.timed_thumbnails
    return stream.type == "video" and bool(stream.disposition & covers)


def _film_stream(container: av.container.InputContainer, path: Path) -> av.VideoStream:
    films = [stream for stream in container.streams.video if not is_cover(stream)]
    if films:
        if films[0].codec_context is None:
            raise InputError(
                f"{path}: video stream {films[0].index} is in a codec that FFmpeg does not know; "
                "convert the film with the program that made it"
            )
        return films[0]
    kinds = ", ".join(f"#{stream.index} {stream.type}" for stream in container.streams)
    if container.streams.video:
        raise InputError(
            f"{path}: holds no film: its only video streams are cover pictures ({kinds})"
        )
    raise InputError(f"{path}: holds no video stream ({kinds or 'no streams at all'})")


def first_picture(
    container: av.container.InputContainer, stream: av.VideoStream, path: Path
) -> av.VideoFrame:
    """The first frame that can be decoded."""
    reason = "the stream is empty"
    fruitless = 0
    first_stored: int | None = None
    try:
        for packet in container.demux(stream):
            first_stored = packet.dts if first_stored is None else first_stored
            try:
                pictures = stream.decode(packet)
            except av.FFmpegError as error:
                pictures, reason = [], _reason(error)
            for picture in pictures:
                if container.format.name in STORAGE_TIMES_ONLY:
                    picture.pts = first_stored
                return picture
            fruitless += 1
            if fruitless > _MAX_FRUITLESS_PACKETS:
                break
    except (av.FFmpegError, ValueError) as error:
        reason = _reason(error)
    raise InputError(
        f"{path}: no frame of video stream {stream.index} ({stream.codec_context.name}) can be "
        f"decoded ({reason}); the file is damaged or its codec is not supported"
    )


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def _time_base(stream: av.VideoStream) -> Fraction:
    assert stream.time_base is not None
    return stream.time_base


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> Fraction | None:
    """Seconds, of the stream if it says so, else of the longest of all."""
    if stream.duration:
        return stream.duration * _time_base(stream)
    with suppress(UsageError):  # Matroska has no other place for it than a tag
        return parse_time(stream.metadata.get("DURATION", ""))
    return Fraction(container.duration, av.time_base) if container.duration else None


def _stream_info(stream: av.stream.Stream) -> StreamInfo:
    context = stream.codec_context
    codec = context.codec.canonical_name if context is not None else None
    return StreamInfo(stream.index, "cover" if is_cover(stream) else stream.type, codec)


def _display_matrix(picture: av.VideoFrame) -> tuple[int, ...] | None:
    """The nine fixed-point entries; libavutil/display.h, native byte order."""
    try:
        stored: Any = picture.side_data
        data = stored[SideDataType.DISPLAYMATRIX]
    except (KeyError, ValueError):  # PyAV raises ValueError for side data newer than itself
        return None
    return struct.unpack("=9i", bytes(data))


def _colour(
    container: av.container.InputContainer,
    stream: av.VideoStream,
    picture: av.VideoFrame,
    layout: Layout,
    path: Path,
) -> Colour:
    """What the stream says of its code values, and the decisions where it is silent."""
    guessed: list[str] = []
    context = stream.codec_context
    code = int(picture.colorspace)
    full_by_name = picture.format.name.startswith("yuvj")
    if layout.fmt.family == "rgb":
        matrix, full_range = "gbr", int(picture.color_range) != _LIMITED
    elif layout.fmt.family == "yuv" and (code in _UNUSABLE_MATRICES or code == 0):
        name = _UNUSABLE_MATRICES.get(code, "gbr")
        raise InputError(
            f"{path}: the colour matrix {name} of {picture.format.name} is not supported; convert "
            "it first: ffmpeg -i IN -vf scale=out_color_matrix=bt709 -c:v ffv1 OUT.mkv"
        )
    else:
        if code in _MATRICES and code != 0:  # PNG calls its grey pictures RGB
            matrix = _MATRICES[code]
        else:
            matrix = matrix_by_size(picture.height, stream.average_rate)
            guessed.append("matrix")
        full_range = full_by_name or int(picture.color_range) == _FULL
        if not full_by_name and int(picture.color_range) not in (_FULL, _LIMITED):
            guessed.append("range")
    siting = "left"
    if layout.fmt.sub_x or layout.fmt.sub_y:
        stated = _stated_siting(container, stream.index)
        if stated is None:
            # JPEG puts chroma in the middle of its luma samples (JFIF 1.02); MPEG-2 and whatever
            # came after on the left, full range or not (H.264, E.2.1).
            siting = "center" if context.name == "mjpeg" else "left"
            guessed.append("siting")
        else:
            siting = stated
    return Colour(
        matrix=matrix,
        full_range=full_range,
        siting=siting,
        transfer=_TRANSFERS.get(int(picture.color_trc)),
        primaries=_PRIMARIES.get(int(picture.color_primaries)),
        guessed=tuple(guessed),
    )


def matrix_by_size(height: int, rate: Fraction | None) -> str:
    """The matrix of video that does not say: BT.709 from 720 lines up, BT.601 below.

    BT.601's two names share their numbers; "bt470bg" stands for its 625-line (PAL) form.
    """
    if height >= 720:
        return "bt709"
    return "bt470bg" if height in (576, 288) and rate in (25, 50) else "smpte170m"


def _stated_siting(container: av.container.InputContainer, index: int) -> str | None:
    """Where chroma lies, read off libavformat's own description: PyAV has no name for the field,
    and FFmpeg prints it in verbose descriptions only."""
    before = av.logging.get_level()
    av.logging.set_libav_level(av.logging.VERBOSE)
    av.logging.set_level(av.logging.VERBOSE)
    try:
        text: str = container.dumps_format()  # type: ignore[attr-defined]
    finally:
        av.logging.set_libav_level(av.logging.INFO)
        av.logging.set_level(before)
    line = re.search(rf"^\s*Stream #0:{index}\D.*: Video: .*$", text, re.MULTILINE)
    inside = re.search(r"\bp?\w+\(([^()]*)\), \d+x\d+", line.group()) if line else None
    words = inside.group(1).split(", ") if inside else []
    return next((word for word in words if word in _SITINGS), None)
