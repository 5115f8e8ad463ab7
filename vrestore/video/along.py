"""What travels along with the pictures: sound, subtitles, fonts, cover pictures, in their order."""

from __future__ import annotations

import contextlib
import math
import os
import subprocess
from dataclasses import dataclass, replace
from fractions import Fraction

import av
from av.stream import Disposition

from vrestore.video.frame import StreamInfo, VideoInfo
from vrestore.video.probe import open_film

_TRIAL_SECONDS = 120
MOV_FAMILY = ("mp4", "mov")
_COVER_FORMATS = ("mp4", "mov", "matroska")
# What FFmpeg's MPEG-TS muxer takes but writes as private data, so that nobody can play it.
_TS_CODECS = (
    *("aac", "aac_latm", "mp1", "mp2", "mp3", "ac3", "eac3", "dts", "truehd", "opus", "s302m"),
    *("h264", "hevc", "mpeg1video", "mpeg2video", "mpeg4", "vc1", "pcm_bluray"),
    *("dvb_subtitle", "dvb_teletext", "hdmv_pgs_subtitle"),
)
# Codec of a cover picture -> suffix and media type of the file.
_COVER_FILES = {
    "mjpeg": ("jpg", "image/jpeg"),
    "png": ("png", "image/png"),
    "gif": ("gif", "image/gif"),
    "bmp": ("bmp", "image/bmp"),
    "webp": ("webp", "image/webp"),
}
# FFmpeg finds Macintosh languages by these codes of ISO 639-2 only, and writes none for others.
_QUICKTIME_LANGUAGES = {
    **{"deu": "ger", "nld": "dut", "ell": "gre", "isl": "ice", "zho": "chi", "fre": "fra"},
    **{"swe": "sve", "hye": "arm", "kat": "geo", "ron": "rum", "slk": "slo", "ces": "cze"},
    **{"sqi": "alb", "fas": "per", "mya": "bur", "msa": "may", "eus": "baq", "cym": "wel"},
}
_SUBTITLE_ENCODERS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "srt", "webm": "webvtt"}
_AUDIO_ENCODERS = {"mp4": "aac", "mov": "aac", "webm": "libopus", "avi": "ac3", "mpegts": "aac"}
# Those that FFmpeg 5 knows, too.
_DISPOSITIONS = (
    *("default", "dub", "original", "comment", "lyrics", "karaoke", "forced", "captions"),
    *("hearing_impaired", "visual_impaired", "clean_effects", "descriptions", "metadata"),
    *("dependent", "still_image"),
)


@dataclass(frozen=True, slots=True)
class Passenger:
    """One stream of the output: the source's stream ``index``, through ``codec`` ("copy").

    ``skip_ms``: Opus's pre-skip, milliseconds that its decoder gives before the sound begins.
    """

    index: int
    kind: str
    codec: str
    skip_ms: int = 0


@dataclass(frozen=True, slots=True)
class Cover:
    """A cover picture for Matroska, which keeps it as an attached file."""

    name: str
    mimetype: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Company:
    """The output's streams in order, None standing for the restored video, and who is missing.

    ``movie_timescale``: ticks per second in which MP4 can say every stream's start exactly.
    ``languages``: (place in ``streams``, code) where the container knows another code for it.
    ``tags`` and ``disposition`` are those of the source's video stream. ``covers`` are attached
    after all streams, not mapped.
    """

    streams: tuple[Passenger | None, ...]
    copied: tuple[str, ...] = ()
    converted: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    disposition: str = "default"
    movie_timescale: int = 1000
    has_chapters: bool = False
    apple_tags: bool = False
    covers: tuple[Cover, ...] = ()
    languages: tuple[tuple[int, str], ...] = ()


def company(info: VideoInfo, muxer: str, binary: str, *, cut: bool) -> Company:
    """Who comes along into a ``muxer`` file ("mp4", "matroska", ...), by trial with ``binary``.

    ``cut``: only a part of the film is kept, which a second video stream cannot be copied into.
    """
    if not info.streams:  # pictures: no file that anything could be copied from
        return Company((None,), movie_timescale=info.time_base.denominator)
    others = [stream for stream in info.streams if stream.index != info.stream_index]
    willing = [stream for stream in others if not _refusal(stream, muxer, cut)]
    if muxer == "matroska":
        willing = [stream for stream in willing if stream.kind != "cover"]
    everyone_fits = _muxes(
        info, [Passenger(s.index, s.kind, "copy") for s in willing], muxer, binary
    )
    streams: list[Passenger | None] = []
    copied, converted, dropped, attached = [], [], [], []
    for stream in info.streams:
        label = f"#{stream.index} {stream.kind} {stream.codec or '(no codec)'}"
        reason = _refusal(stream, muxer, cut)
        if stream.index == info.stream_index:
            streams.append(None)
        elif reason:
            dropped.append(f"{label}: {reason}")
        elif stream.kind == "cover" and muxer == "matroska":
            attached.append(stream.index)
            copied.append(label)
        elif (rider := _seat(info, stream, muxer, binary, everyone_fits)) is None:
            dropped.append(f"{label}: {muxer} cannot hold it")
        else:
            streams.append(rider)
            if rider.codec == "copy":
                copied.append(label)
            else:
                converted.append(f"{label} -> {rider.codec}: {muxer} cannot hold it as it is")
    with open_film(info.path) as container:
        video = container.streams[info.stream_index]
        flags = [name for name in _DISPOSITIONS if video.disposition & Disposition[name]]
        return Company(
            streams=tuple(s and replace(s, skip_ms=_opus_skip_ms(container, s)) for s in streams),
            copied=tuple(copied),
            converted=tuple(converted),
            dropped=tuple(dropped),
            tags=tuple(video.metadata),
            disposition="+".join(flags) or "0",
            movie_timescale=_movie_timescale(container, info.time_base),
            has_chapters=bool(container.chapters()),
            languages=_languages(container, info, streams) if muxer == "mov" else (),
            covers=tuple(_cover(container, index) for index in attached),
            apple_tags=any(key.startswith("com.") for key in container.metadata),
        )


def carried(info: VideoInfo, riders: list[Passenger]) -> set[int]:
    """The indexes of those riders that have any packet; reads until each has shown one."""
    waiting = {rider.index for rider in riders}
    found: set[int] = set()
    with open_film(info.path) as container, contextlib.suppress(av.FFmpegError):
        for packet in container.demux([container.streams[index] for index in waiting]):
            if packet.size:
                found.add(packet.stream_index)
            if found == waiting:
                break
    return found


def _refusal(stream: StreamInfo, muxer: str, cut: bool) -> str | None:
    """Why a stream is left out without a trial; None where it may come."""
    if stream.kind == "data":
        return "a data track, which cannot be copied"
    if stream.codec is None and stream.kind != "attachment":
        return "its codec is unknown"
    if stream.kind == "cover" and muxer not in _COVER_FORMATS:
        return f"{muxer} cannot hold cover pictures"
    if stream.kind == "cover" and muxer == "matroska" and stream.codec not in _COVER_FILES:
        return "matroska knows no such pictures"
    if stream.kind == "video" and cut:
        return "a second video stream cannot be cut without coding it anew"
    if stream.kind == "attachment" and muxer != "matroska":
        return f"{muxer} cannot hold attachments"
    return None


def _seat(
    info: VideoInfo, stream: StreamInfo, muxer: str, binary: str, fits: bool
) -> Passenger | None:
    """How a stream comes along: copied, else in a codec that ``muxer`` holds, else not at all."""
    copied = Passenger(stream.index, stream.kind, "copy")
    playable = muxer != "mpegts" or stream.codec in _TS_CODECS
    if playable and (fits or _muxes(info, [copied], muxer, binary)):
        return copied
    encoder = {"subtitle": _SUBTITLE_ENCODERS, "audio": _AUDIO_ENCODERS}.get(stream.kind, {})
    if muxer not in encoder:
        return None
    codec = encoder[muxer]
    if muxer in MOV_FAMILY and (stream.codec or "").startswith(("pcm_", "flac")):
        codec = "alac"  # keeps every sample
    changed = Passenger(stream.index, stream.kind, codec)
    return changed if _muxes(info, [changed], muxer, binary) else None


def _muxes(info: VideoInfo, riders: list[Passenger], muxer: str, binary: str) -> bool:
    """Whether ``binary`` writes the header of a ``muxer`` file with these streams and no other.

    No table of ours knows what each version holds (PCM in MP4: from FFmpeg 6 on); a trial does.
    """
    if not riders:
        return True
    command = [binary, "-v", "error", "-nostdin", "-y", "-i", f"file:{info.path.absolute()}"]
    for place, rider in enumerate(riders):
        command += ["-map", f"0:{rider.index}", f"-c:{place}", rider.codec]
    command += ["-t", "0", "-strict", "-2", "-f", muxer, os.devnull]
    try:
        trial = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_TRIAL_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return False
    return trial.returncode == 0


def _movie_timescale(container: av.container.InputContainer, time_base: Fraction) -> int:
    """Ticks in which the starts of all tracks are whole: MP4 stores them in the movie's timescale
    (ISO/IEC 14496-12, 8.6.6), and FFmpeg's default of 1000 rounds sound that starts late."""
    rates = [stream.codec_context.sample_rate for stream in container.streams.audio]
    ticks = math.lcm(time_base.denominator, *(rate for rate in rates if rate))
    return ticks if ticks < 2**31 else time_base.denominator


def _opus_skip_ms(film: av.container.InputContainer, rider: Passenger) -> int:
    """From the identification header, RFC 7845, 5.1; 0 for anything else."""
    context = film.streams[rider.index].codec_context
    header = bytes(context.extradata or b"") if context is not None else b""
    if not header.startswith(b"OpusHead") or len(header) < 12:
        return 0
    return -(-int.from_bytes(header[10:12], "little") // 48)


def _languages(
    film: av.container.InputContainer, info: VideoInfo, streams: list[Passenger | None]
) -> tuple[tuple[int, str], ...]:
    """The languages that a QuickTime file knows under another code."""
    found = []
    for place, rider in enumerate(streams):
        stream = film.streams[rider.index if rider else info.stream_index]
        code = _QUICKTIME_LANGUAGES.get(stream.metadata.get("language", ""))
        if code is not None:
            found.append((place, code))
    return tuple(found)


def _cover(film: av.container.InputContainer, index: int) -> Cover:
    """The one packet of a cover picture's stream: a whole picture file."""
    stream = film.streams[index]
    assert stream.codec_context is not None
    suffix, mimetype = _COVER_FILES[stream.codec_context.codec.canonical_name]
    content = next((bytes(packet) for packet in film.demux(stream) if packet.size), b"")
    return Cover(f"cover{index}.{suffix}", mimetype, content)
