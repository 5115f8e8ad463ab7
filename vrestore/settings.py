"""A TOML file -> a frozen dataclass, checked by name and type."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from vrestore.errors import UsageError

T = TypeVar("T")


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
    hints = get_type_hints(cls)
    for key in table:
        if key not in hints:
            near = difflib.get_close_matches(key, hints, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known keys: {', '.join(hints)}"
            raise UsageError(f"{where}: unknown key {key!r}{hint}")
    for field in fields(cls):  # type: ignore[arg-type]
        required = field.default is MISSING and field.default_factory is MISSING
        if required and field.name not in table:
            raise UsageError(f"{where}: key {field.name!r} is missing")
    return cls(**{k: _convert(v, hints[k], f"{where}: {k}") for k, v in table.items()})


def _convert(value: Any, hint: Any, where: str) -> Any:
    if is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise UsageError(f"{where}: must be a table")
        return from_table(value, hint, where)
    if get_origin(hint) in (Union, UnionType):
        choices = [h for h in get_args(hint) if h is not type(None)]
        return _convert(value, choices[0], where)
    if get_origin(hint) is tuple and isinstance(value, list):
        return tuple(_convert(v, get_args(hint)[0], f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and type(value) is int:
        return float(value)
    if hint is Path and isinstance(value, str):
        return Path(value)
    if hint is Any or (type(value) is hint):
        return value
    if get_origin(hint) is dict and isinstance(value, dict):
        return value
    name = getattr(hint, "__name__", str(hint))
    raise UsageError(f"{where}: must be {name}, not {type(value).__name__}")
