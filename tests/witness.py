"""Shared asserts on finished films. The witness is ffprobe where there is one, else PyAV."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.stream import Disposition


@dataclass(frozen=True)
class Packet:
    """What the container says of one packet; times in exact seconds."""

    time: Fraction
    payload: str


@dataclass(frozen=True)
class Stream:
    """One stream: its kind ("cover" for attached pictures), codec, tick, packets and facts."""

    kind: str
    codec: str
    tick: Fraction
    packets: tuple[Packet, ...]
    facts: dict[str, Any]


def streams_of(path: Path) -> list[Stream]:
    """All streams with a codec, packets in the order of their times."""
    program = shutil.which("ffprobe")
    return _by_ffprobe(program, path) if program else _by_pyav(path)


def times_of(path: Path, kind: str = "video") -> list[Fraction]:
    """When the packets of the first stream of ``kind`` are shown, in order, in seconds."""
    return [packet.time for packet in _first(path, kind).packets]


def slack(old: Stream, new: Stream) -> Fraction:
    """Half a tick of the new container. For sound from a coarser one its tick too: FFmpeg counts
    samples where it copies sound, and so mends what the source has rounded."""
    mended = old.tick if old.kind == "audio" and old.tick > new.tick else 0
    return new.tick / 2 + mended


def assert_same_pts(wanted: Path | Iterable[Fraction], got: Path, kind: str = "video") -> None:
    """Every packet at the same time, within ``slack`` of the two containers."""
    times = times_of(wanted, kind) if isinstance(wanted, Path) else list(wanted)
    stream = _first(got, kind)
    allowed = slack(_first(wanted, kind) if isinstance(wanted, Path) else stream, stream)
    found = [packet.time for packet in stream.packets]
    assert len(found) == len(times), f"{len(times)} {kind} packets became {len(found)}"
    for number, (want, have) in enumerate(zip(times, found, strict=True)):
        difference = abs(want - have)
        assert difference <= allowed, f"{kind} packet {number}: {want} became {have}"


def assert_same_packets(wanted: Path, got: Path, kinds: Iterable[str]) -> None:
    """Streams of these kinds, in their order, with the same payloads at the same times."""
    kinds = tuple(kinds)
    before = [s for s in streams_of(wanted) if s.kind in kinds]
    after = [s for s in streams_of(got) if s.kind in kinds]
    assert [s.kind for s in after] == [s.kind for s in before]
    for old, new in zip(before, after, strict=True):
        assert [p.payload for p in new.packets] == [p.payload for p in old.packets], old.kind
        allowed = slack(old, new)
        for was, now in zip(old.packets, new.packets, strict=True):
            assert abs(was.time - now.time) <= allowed, f"{old.kind}: {was.time} -> {now.time}"


def _first(path: Path, kind: str) -> Stream:
    return next(stream for stream in streams_of(path) if stream.kind == kind)


def _by_ffprobe(program: str, path: Path) -> list[Stream]:
    command = [program, "-v", "fatal", "-show_streams", "-show_packets", "-show_data_hash", "MD5"]
    reply = subprocess.run([*command, "-of", "json", f"file:{path}"], capture_output=True)
    said = json.loads(reply.stdout)
    packets: dict[int, list[Packet]] = {}
    ticks = {s["index"]: Fraction(s["time_base"]) for s in said["streams"]}
    covers = {s["index"] for s in said["streams"] if s["disposition"]["attached_pic"]}
    for packet in said["packets"]:
        index, time = packet["stream_index"], packet.get("pts", packet.get("dts"))
        if time is None and index in covers:
            time = 0
        if time is not None:
            data = packet["data_hash"].removeprefix("MD5:")
            packets.setdefault(index, []).append(Packet(time * ticks[index], data))
    streams = []
    for facts in said["streams"]:
        if "codec_name" in facts:
            kind = "cover" if facts["disposition"]["attached_pic"] else facts["codec_type"]
            found = sorted(packets.get(facts["index"], []), key=lambda packet: packet.time)
            tick = ticks[facts["index"]]
            streams.append(Stream(kind, facts["codec_name"], tick, tuple(found), facts))
    return streams


def _by_pyav(path: Path) -> list[Stream]:
    with av.open(f"file:{path}") as film:
        packets: dict[int, list[Packet]] = {stream.index: [] for stream in film.streams}
        for packet in film.demux():
            time = packet.pts if packet.pts is not None else packet.dts
            if packet.size and time is not None and packet.stream.codec_context is not None:
                data = hashlib.md5(bytes(packet)).hexdigest()
                assert packet.time_base is not None
                packets[packet.stream_index].append(Packet(time * packet.time_base, data))
        streams = []
        for stream in film.streams:
            if stream.codec_context is not None and stream.time_base is not None:
                cover = bool(stream.disposition & Disposition.attached_pic)
                kind = "cover" if cover else stream.type
                found = sorted(packets[stream.index], key=lambda packet: packet.time)
                codec, tick = stream.codec_context.name, stream.time_base
                streams.append(Stream(kind, codec, tick, tuple(found), dict(stream.metadata)))
        return streams
