"""The ffmpeg command that writes a film: which codec, which samples, which options."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import ffmpeg

from vrestore.errors import UsageError
from vrestore.video.along import MOV_FAMILY, Company
from vrestore.video.frame import Colour, PixelFormat, VideoInfo
from vrestore.video.pixels import layout_of, planar_name
from vrestore.video.probe import matrix_by_size

# Suffix of the output -> FFmpeg's muxer.
CONTAINERS = {
    ".mp4": "mp4",
    ".m4v": "mp4",
    ".mov": "mov",
    ".mkv": "matroska",
    ".webm": "webm",
    ".avi": "avi",
    ".ts": "mpegts",
    ".m2ts": "mpegts",
}
# Constant rate factors that are visually lossless; a codec that is not here has no such option.
_WORST_CRF = dict.fromkeys(("libx264", "libx264rgb", "libx265", "h264_nvenc", "hevc_nvenc"), 51)
_CRF = {
    "libx264": 14.0,
    "libx264rgb": 14.0,
    "libx265": 16.0,
    "libvpx": 8.0,
    "libvpx-vp9": 18.0,
    "libaom-av1": 18.0,
    "libsvtav1": 18.0,
}
# A quarter less time than medium, x264's own; as many bytes; 0.03 to 0.3 dB less of 44 to 48.
_PRESET = {"libx264": "faster"}
_CQ = {"h264_nvenc": 16.0, "hevc_nvenc": 18.0, "av1_nvenc": 20.0}  # NVENC's crf
NVENC = {"libx264": "h264_nvenc"}  # what stands in for a default codec
NVENC_FORMATS = ("yuv420p", "yuv444p")  # what it holds of the default's; ffmpeg converts others
_QSCALE = {"mpeg4": 2, "mpeg2video": 2, "mjpeg": 2, "libxvid": 2}
_LOSSLESS = frozenset({"ffv1", "ffvhuff", "huffyuv", "utvideo", "rawvideo"})
_EIGHT_BIT = frozenset(
    {"libvpx", "mpeg4", "mpeg2video", "mjpeg", "libxvid", "libtheora", "h264_nvenc"}
)
_OWN_FORMAT = {
    "libx264rgb": "rgb24",
    "mjpeg": "yuvj420p",
    "prores": "yuv422p10le",
    "prores_aw": "yuv422p10le",
    "prores_ks": "yuv422p10le",
}
_NEEDS_EVEN = ("libx264", "libx265", "h264_", "hevc_")
# Ticks per second of all streams, where the muxer allows but one.
_TICKS = {"matroska": 1000, "webm": 1000, "mpegts": 90000}
# Facts of the source's coding that would be lies about ours (Matroska statistics and the like).
_STALE_TAGS = ("encoder", "rotate", "alpha_mode", "duration", "_statistics", "bps", "number_of_")
_QUIET = ("-hide_banner", "-loglevel", "error", "-nostdin", "-y")
_ALL_CODECS = -2  # FFmpeg 5 calls FLAC and Opus in MP4 experimental
# ffmpeg-python cannot take names that are not UTF-8: the real ones are put in afterwards.
_SOURCE, _TARGET = "source", "target"


@dataclass(frozen=True)
class EncodeSettings:
    """How pictures are coded, in ffmpeg's words; None = chosen.

    ``codec``: libvpx-vp9 for .webm, else libx264. ``crf``: visually lossless for the codec.
    ``pix_fmt``: 4:2:0 in 8 bits, or 10 where the source has more; the source's own for lossless
    codecs. ``bitrate``: as "8M", instead of a crf. ``nvenc``: by a GPU's encoder where no codec is
    named and it takes the rest.
    """

    codec: str | None = None
    crf: float | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    bitrate: str | None = None
    nvenc: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What was decided: ``pixel_format`` and ``colour`` go into the pipe, as ``pipe_format``; the
    codec stores ``coded_format``, the same values."""

    muxer: str
    codec: str
    pixel_format: PixelFormat
    pipe_format: str
    coded_format: str
    colour: Colour
    notes: tuple[str, ...] = ()


def plan(suffix: str, source: VideoInfo, width: int, height: int, settings: EncodeSettings) -> Plan:
    """Codec, samples and colour of the output. Raises UsageError for what contradicts itself."""
    muxer = CONTAINERS.get(suffix.lower())
    if muxer is None:
        good = " ".join(name.removeprefix(".") for name in CONTAINERS)
        raise UsageError(f"films are not written as {suffix or 'nothing'}; use one of: {good}")
    codec = settings.codec or _default_codec(muxer, settings)
    if settings.crf is not None and codec not in _CRF and codec not in _CQ:
        raise UsageError(f"{codec} has no crf; leave it out, or give a bitrate")
    if settings.crf is not None and not 0 <= settings.crf <= _WORST_CRF.get(codec, 63):
        raise UsageError(f"{codec}'s crf is 0 to {_WORST_CRF.get(codec, 63)}, not {settings.crf:g}")
    if settings.crf is not None and settings.bitrate is not None:
        raise UsageError("crf and bitrate contradict each other; give one of them")
    notes: list[str] = []
    coded = settings.pix_fmt or _default_format(codec, source)
    layout = layout_of(coded)
    if layout is None:
        raise UsageError(f"there is no pixel format {coded} that vrestore can write; try yuv420p")
    fmt = layout.fmt
    odd = (fmt.sub_x and width % (1 << fmt.sub_x)) or (fmt.sub_y and height % (1 << fmt.sub_y))
    if odd and codec.startswith(_NEEDS_EVEN):
        if settings.pix_fmt:
            raise UsageError(
                f"{codec} cannot hold {width}x{height} as {coded}: its sizes are even; "
                "leave pix_fmt out, or take yuv444p"
            )
        fmt = replace(fmt, sub_x=0, sub_y=0)
        notes.append(f"{width}x{height} is odd: stored as {planar_name(fmt)}, not {coded}")
        coded = planar_name(fmt)
    pipe = planar_name(fmt)
    colour = _output_colour(source.colour, fmt, height, coded)
    if codec == "ffv1" and coded == "gbrp":
        coded = "bgr0"  # FFmpeg 5's FFV1 takes 8-bit R, G, B packed only
    stored = source.pixel_format
    less = width >> fmt.sub_x < source.width >> stored.sub_x
    less = less or height >> fmt.sub_y < source.height >> stored.sub_y
    if fmt.family == "yuv" and stored.family != "gray" and less and not settings.pix_fmt:
        keeps = planar_name(replace(fmt, sub_x=stored.sub_x, sub_y=stored.sub_y))
        notes.append(f"{coded} holds less chroma than the source; --pix-fmt {keeps} keeps it")
    notes += _losses(source, colour)
    return Plan(muxer, codec, fmt, pipe, coded, colour, tuple(notes))


def _default_codec(muxer: str, settings: EncodeSettings) -> str:
    """H.264, except where the container cannot hold it or, in AVI, gives it wrong times."""
    wishes = (settings.crf, settings.preset, settings.bitrate)
    if muxer == "avi" and all(wish is None for wish in wishes):
        return "mjpeg"
    return "libvpx-vp9" if muxer == "webm" else "libx264"


def _default_format(codec: str, source: VideoInfo) -> str:
    if codec in _LOSSLESS:
        return planar_name(source.pixel_format)
    if codec in _OWN_FORMAT:
        return _OWN_FORMAT[codec]
    deep = source.pixel_format.depth > 8 and codec not in _EIGHT_BIT
    if deep and codec in _CQ:
        return "p010le"
    return "yuv420p10le" if deep else "yuv420p"


def _output_colour(colour: Colour, fmt: PixelFormat, height: int, coded: str) -> Colour:
    """The source's, as far as it fits the stored samples."""
    if fmt.family == "rgb":
        return colour if colour.matrix == "gbr" else replace(colour, matrix="gbr", full_range=True)
    if colour.matrix == "gbr":
        colour = replace(colour, matrix=matrix_by_size(height, None), full_range=False)
    if coded.startswith("yuvj"):  # JFIF 1.02: readers take JPEG for this whatever is said
        return replace(colour, matrix="bt470bg", full_range=True, siting="center")
    return colour


def _losses(source: VideoInfo, colour: Colour) -> list[str]:
    """What the output cannot have of the source's pictures."""
    notes = []
    if source.has_alpha:
        notes.append("the alpha plane is left out")
    if source.interlaced:
        notes.append("the source is interlaced; its frames are written as progressive ones")
    if colour.transfer in ("smpte2084", "arib-std-b67"):
        notes.append(
            f"HDR: the {colour.transfer} curve is kept, mastering and Dolby Vision metadata are not"
        )
    return notes


def arguments(
    binary: str,
    version: int,
    partial: Path,
    source: VideoInfo,
    planned: Plan,
    along: Company,
    settings: EncodeSettings,
    *,
    last_duration: int,
    covers: Path,
    shift: int = 0,
    window: tuple[Fraction, Fraction | None] | None = None,
) -> list[str]:
    """The whole command line.

    ``last_duration``: ticks that the last frame is shown, 0 = unknown. ``covers``: the folder with
    the files of ``along.covers``. ``shift``: ticks that the
    pictures' times were moved down by; all else follows. ``window``: the source's seconds that are
    kept of all else, None = all.
    """
    said = {**_colour_options(planned), **_turn(source, planned, version)}
    pictures = ffmpeg.input("pipe:0", f="nut", **said)
    film: Any = None
    if source.streams:
        part = _window_options(source, shift, window) if window else {}
        film = ffmpeg.input(_SOURCE, **part)
    streams = [film[str(one.index)] if one else pictures["v:0"] for one in along.streams]
    # ffmpeg-python numbers the inputs in the order in which the streams name them, and leaves out
    # one that lends its tags and chapters only.
    film_input = 0 if along.streams[0] is not None else 1
    alone = along.streams == (None,)
    video = along.streams.index(None)
    kept: dict[str, str] = {}
    if window:
        moved = shift * source.time_base
        for kind in ("audio", "subtitle"):
            kept[kind] = _window_filter(kind, planned.muxer, version, window, moved)
    options: dict[str, object] = {
        "copyts": None,
        "fps_mode" if version > 5 else "vsync": "passthrough",
        "avoid_negative_ts": "disabled",
        "max_muxing_queue_size": 9999,
        **_video_options(video, source, planned, settings),
        **_ending(video, source, planned, version, last_duration),
        **_rider_options(along, kept, mended=version < 6 and planned.muxer in ("matroska", "webm")),
        **_muxer_options(source, planned, along),
    }
    if film is not None:
        options["map_metadata"] = film_input
        options["map_chapters"] = -1 if window else film_input
        for place, one in enumerate(along.streams):
            index = one.index if one else source.stream_index
            options[f"map_metadata:s:{place}"] = f"{film_input}:s:{index}"
        for place, language in along.languages:
            options[f"metadata:s:{place}"] = f"language={language}"
    options["f"] = planned.muxer
    compiled = ffmpeg.output(*streams, _TARGET, **options).compile(binary)
    if film is not None and alone:
        place = compiled.index("pipe:0") + 1
        compiled[place:place] = ["-i", _SOURCE]
    names = {_SOURCE: f"file:{source.path.absolute()}", _TARGET: f"file:{partial.absolute()}"}
    compiled = [names.get(word, word) for word in compiled]
    stale = [tag for tag in along.tags if tag.lower().startswith(_STALE_TAGS)]
    emptied = [part for tag in stale for part in (f"-metadata:s:{video}", f"{tag}=")]
    attached: list[str] = []
    for place, cover in enumerate(along.covers, start=len(along.streams)):
        attached += ["-attach", str(covers / cover.name)]
        attached += [f"-metadata:s:{place}", f"mimetype={cover.mimetype}"]
    return [binary, *_QUIET, *compiled[1:-1], *emptied, *attached, compiled[-1]]


def trial_arguments(
    binary: str,
    source: VideoInfo,
    planned: Plan,
    width: int,
    height: int,
    settings: EncodeSettings,
) -> list[str]:
    """A blank picture coded as the film's will be; the file's name is to be added."""
    rate = source.average_rate or 25
    blank = f"color=size={width}x{height}:rate={rate},format=yuv444p"  # 4:2:0 would be made even
    options: dict[str, object] = {**_video_options(0, source, planned, settings), "frames:v": 1}
    if planned.muxer in MOV_FAMILY:
        options |= {"strict": _ALL_CODECS, "video_track_timescale": source.time_base.denominator}
    picture = ffmpeg.input(blank, f="lavfi")
    compiled = ffmpeg.output(picture, _TARGET, **options, f=planned.muxer).compile(binary)
    return [binary, *_QUIET, *compiled[1:-1]]


def _colour_options(planned: Plan) -> dict[str, str]:
    """Said of the pipe and of the output alike: where they differ, FFmpeg 7 and later convert."""
    colour = planned.colour
    options = {
        "colorspace": "rgb" if colour.matrix == "gbr" else colour.matrix,
        "color_range": "pc" if colour.full_range else "tv",
        "color_primaries": colour.primaries,
        "color_trc": colour.transfer,
    }
    if planned.pixel_format.sub_x or planned.pixel_format.sub_y:
        options["chroma_sample_location"] = colour.siting
    return {name: value for name, value in options.items() if value is not None}


def _video_options(
    place: int, source: VideoInfo, planned: Plan, settings: EncodeSettings
) -> dict[str, object]:
    """How the pictures are coded, at ``place`` among the output's streams."""
    codec = planned.codec
    time_base, aspect = source.time_base, source.sample_aspect
    if planned.muxer == "avi" and source.average_rate:
        time_base = 1 / source.average_rate  # AVI counts frames; finer ticks would be padded
    options: dict[str, object] = {
        f"c:{place}": codec,
        f"pix_fmt:{place}": planned.coded_format,
        f"enc_time_base:{place}": f"{time_base.numerator}/{time_base.denominator}",
        f"filter:{place}": f"setsar={aspect.numerator}/{aspect.denominator}:max=65535",
        **{f"{name}:{place}": value for name, value in _colour_options(planned).items()},
    }
    if settings.bitrate is not None:
        options[f"b:{place}"] = settings.bitrate
    elif codec in _CRF:
        crf = settings.crf if settings.crf is not None else _CRF[codec]
        options[f"crf:{place}"] = f"{crf:g}"
        if codec.startswith(("libvpx", "libaom")):
            options[f"b:{place}"] = "0" if codec != "libvpx" else "100M"
    elif codec in _CQ:  # unasked, NVENC would aim at 2 Mbit a second
        cq = settings.crf if settings.crf is not None else _CQ[codec]
        options |= {f"rc:{place}": "vbr", f"cq:{place}": f"{cq:g}", f"b:{place}": "0"}
    elif codec in _QSCALE:
        options[f"q:{place}"] = _QSCALE[codec]
    preset = settings.preset or _PRESET.get(codec)
    if preset is not None:
        options[f"preset:{place}"] = preset
    if codec == "libvpx-vp9":
        options[f"row-mt:{place}"] = 1
    if codec == "libx265":
        options[f"x265-params:{place}"] = "log-level=error"
        if planned.muxer in MOV_FAMILY:
            options[f"tag:{place}"] = "hvc1"  # what Apple's players look for
    if planned.muxer == "avi":
        options[f"bf:{place}"] = 0  # AVI stores no presentation times
    return options


def _ending(
    place: int, source: VideoInfo, planned: Plan, version: int, last_duration: int
) -> dict[str, object]:
    """How long the last frame is shown, which ends the film and which NUT cannot say.

    Frames before it are shown until the next one's time stamp, whatever is said here of all.
    """
    if last_duration <= 0 or planned.muxer == "avi":
        return {}
    # FFmpeg 5 filters packets in the muxer's ticks, later ones in the encoder's.
    ticks = _TICKS.get(planned.muxer) if version < 6 else None
    if ticks:
        last_duration = max(round(last_duration * source.time_base * ticks), 1)
    return {f"bsf:{place}": f"setts=pts=PTS:dts=DTS:duration={last_duration}"}


def _rider_options(
    along: Company, window_filters: dict[str, str], *, mended: bool
) -> dict[str, object]:
    """How all the other streams come along; ``window_filters`` keep a part of each kind.

    ``mended``: FFmpeg 5's Matroska writer forgets Opus's pre-skip (RFC 7845, 4.2) when it copies,
    and its reader then takes it off: the sound would be too early by it.
    """
    options: dict[str, object] = {}
    for place, one in enumerate(along.streams):
        if one is None:
            options[f"disposition:{place}"] = along.disposition
            continue
        options[f"c:{place}"] = one.codec
        if one.kind == "cover":
            options[f"disposition:{place}"] = "attached_pic"
            continue
        filters = [window_filters[one.kind]] if one.kind in window_filters else []
        if mended and one.codec == "copy" and one.skip_ms:
            filters.append(f"setts=ts=TS+{one.skip_ms}")
        if filters:
            options[f"bsf:{place}"] = ",".join(filters)
    return options


def _window_filter(
    kind: str,
    muxer: str,
    version: int,
    window: tuple[Fraction, Fraction | None],
    moved: Fraction,
) -> str:
    """A bitstream filter that keeps packets within ``window``, after all was ``moved`` down.

    -ss and -to cut copied streams at a key frame, and differently by version; this is exact. A
    subtitle that is on screen when the window opens or closes is shown within it.
    """
    # FFmpeg 5 filters packets in the muxer's ticks, and says another ``tb``.
    ticks = _TICKS.get(muxer) if version < 6 else None
    scale, unit = (ticks, "") if ticks else (1_000_000, "*tb*1000000")
    begin, end = (None if t is None else math.ceil((t - moved) * scale) for t in window)
    outside = f"lt(pts{unit},{begin})"
    if kind == "subtitle":
        outside += f"*lte((pts+duration){unit},{begin})"
    if end is not None:
        outside += f"+gte(pts{unit},{end})"
    kept = f"noise=drop='{outside}'"
    if kind == "subtitle":
        per_tick = "" if ticks else "/1000000/TB"
        until = "PTS+DURATION" if end is None else f"min(PTS+DURATION,{end}{per_tick})"
        shown = f"{until}-max(PTS,{begin}{per_tick})"
        kept += f",setts=ts='max(TS,{begin}{per_tick})':duration='max({shown},0)'"
    return kept


def _window_options(
    source: VideoInfo, shift: int, window: tuple[Fraction, Fraction | None]
) -> dict[str, object]:
    """Read the film from a second before the window to one behind it, moved with the pictures."""
    begin, end = window
    options: dict[str, object] = {"itsoffset": _seconds(-shift * source.time_base)}
    if begin > 1:
        options |= {"seek_timestamp": 1, "ss": _seconds(begin - 1)}
    if end is not None:
        options["to"] = _seconds(end + 1)
    return options


def _muxer_options(source: VideoInfo, planned: Plan, along: Company) -> dict[str, object]:
    if planned.muxer in MOV_FAMILY:
        options: dict[str, object] = {
            "strict": _ALL_CODECS,
            "video_track_timescale": source.time_base.denominator,
            "movie_timescale": along.movie_timescale,
        }
        if along.apple_tags:
            options["movflags"] = "+use_metadata_tags"  # place, camera, ... as QuickTime keys
        return options
    if planned.muxer == "mpegts":
        return {"mpegts_copyts": 1, "muxdelay": 0, "muxpreload": 0}
    return {}


def _seconds(time: Fraction) -> str:
    """To the microsecond, which is FFmpeg's own grain."""
    return f"{round(time * 1_000_000) / 1_000_000:.6f}"


# (a, b, c, d) of the display matrix, in units -> counter-clockwise degrees; libavutil/display.h.
_TURNS = {(1, 0, 0, 1): 0, (0, -1, 1, 0): 90, (-1, 0, 0, -1): 180, (0, 1, -1, 0): -90}


def _turn(source: VideoInfo, planned: Plan, version: int) -> dict[str, object]:
    """Rotation and mirror as ffmpeg's options; MP4 and MOV get the exact matrix afterwards.

    Raises UsageError where the container cannot hold it: a film on its side is no result.
    """
    matrix = source.display_matrix
    if matrix is None or planned.muxer in MOV_FAMILY:
        return {}
    a, b, c, d = (matrix[i] / 65536 for i in (0, 1, 3, 4))
    mirrored = a * d - b * c < 0
    unmirrored = (-a, b, -c, d) if mirrored else (a, b, c, d)
    turn = _TURNS.get(
        (int(unmirrored[0]), int(unmirrored[1]), int(unmirrored[2]), int(unmirrored[3]))
    )
    if (turn, mirrored) == (0, False):
        return {}
    if planned.muxer != "matroska" or version < 7 or turn is None:
        newer = ", or let ffmpeg 7 or later write it" if planned.muxer == "matroska" else ""
        raise UsageError(
            f"{source.path}: the film is rotated or mirrored for display, which {planned.muxer} as "
            f"written by ffmpeg {version} cannot say; write .mp4 or .mov{newer}"
        )
    options: dict[str, object] = {"noautorotate": None, "display_rotation": turn}
    if mirrored:
        options["display_hflip"] = None
    return options
