"""A TOML file -> a frozen dataclass, checked by name and type; times as people write them."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from fractions import Fraction
from pathlib import Path
from types import UnionType
from typing import Any, Literal, NewType, TypeVar, Union, get_args, get_origin, get_type_hints

from vrestore.errors import UsageError

T = TypeVar("T")
NTSC_ROUNDING = Fraction(1, 200)  # 23.98 is 24000/1001 as well
FrameRate = NewType("FrameRate", Fraction)  # frames a second
ByteSize = NewType("ByteSize", int)
BYTES_OF = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def read_toml(path: Path, cls: type[T]) -> T:
    """The dataclass that the file fills; UsageError names a key that is unknown or wrong."""
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: is not TOML: {error}") from error
    return from_table(table, cls, str(path))


def from_table(table: dict[str, Any], cls: type[T], where: str) -> T:
    """``table`` as ``cls``; nested tables become nested dataclasses, arrays become tuples."""
    values = converted(table, cls, where)
    for field in fields(cls):  # type: ignore[arg-type]
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in table:
            raise UsageError(f"{where}: key {field.name!r} is missing")
    return cls(**values)


def converted(table: Mapping[str, Any], cls: type[Any], where: str) -> dict[str, Any]:
    """The values of ``table`` in the types of ``cls``'s fields; UsageError for what is none."""
    hints = get_type_hints(cls)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(hints)}"
            raise UsageError(f"{where}: unknown key {key!r}{hint}")
    return {k: _convert(v, hints[k], f"{where}: {k}") for k, v in table.items()}


def parse_time(text: str) -> Fraction:
    """``90``, ``1:30`` or ``0:01:30.5`` as exact seconds; UsageError for anything else."""
    if not re.fullmatch(r"(\d{1,9}:){0,2}(\d{1,9}(\.\d{0,18})?|\.\d{1,18})", text, re.ASCII):
        raise UsageError(f"{text!r} is not a time; write seconds, M:SS or H:MM:SS.mmm")
    seconds = Fraction(0)
    for part in text.split(":"):
        seconds = seconds * 60 + Fraction(part)
    return seconds


def parse_rate(text: str) -> FrameRate:
    """``24``, ``23.976`` or ``24000/1001`` frames a second; UsageError for anything else.

    A decimal near an NTSC rate is that rate, 1000/1001 of a whole number.
    """
    if re.fullmatch(r"\d{1,9}(\.\d{1,9}|/\d{1,9})?", text, re.ASCII):
        with suppress(ZeroDivisionError):
            rate = Fraction(text)
            for whole in (24, 30, 48, 60, 120):
                if "." in text and abs(rate - Fraction(whole * 1000, 1001)) < NTSC_ROUNDING:
                    rate = Fraction(whole * 1000, 1001)
            if rate:
                return FrameRate(rate)
    raise UsageError(f"{text!r} is not a frame rate; write 24, 23.976 or 24000/1001")


def parse_size(text: str) -> ByteSize:
    """``4GiB``, ``4G``, ``500MiB`` or bytes; UsageError for anything else, and for nothing."""
    form = r"(\d{1,9}(?:\.\d{1,9})?|\d{1,18}) ?([kmgt]?)(?:i?b)?"
    found = re.fullmatch(form, text, re.IGNORECASE | re.ASCII)
    size = round(float(found[1]) * BYTES_OF[found[2].lower()]) if found else 0
    if size < 1:
        raise UsageError(f"{text!r} is not a size; write 4GiB, 500MiB or bytes")
    return ByteSize(size)


def _convert(value: Any, hint: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: must be a table")
        return from_table(value, hint, where)
    if get_origin(hint) in (Union, UnionType):
        choices = [h for h in get_args(hint) if h is not type(None)]
        if value is None and len(choices) < len(get_args(hint)):
            return None
        return _convert(value, choices[0], where)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(v, get_args(hint)[0], f"{where}[{i}]") for i, v in enumerate(value))
    if get_origin(hint) is Literal:
        if value in get_args(hint):
            return value
        raise UsageError(f"{where}: must be {' or '.join(map(repr, get_args(hint)))}")
    if hint is float and type(value) is int:
        return float(value)
    if hint is Path and isinstance(value, str | Path):
        return Path(value)
    if hint is FrameRate and type(value) in (str, int, float):
        return parse_rate(str(value))
    if hint is ByteSize and type(value) in (str, int):
        return parse_size(str(value))
    if hint is Fraction and type(value) in (str, int, float):
        return parse_time(str(value))
    if hint is Any or (type(value) is hint):
        return value
    if get_origin(hint) is dict and isinstance(value, dict):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise UsageError(f"{where}: must be {name}, not {type(value).__name__}")
