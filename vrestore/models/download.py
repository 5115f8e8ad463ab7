"""Published weights, fetched once: resumable, checked before they get their name."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from vrestore.errors import ModelError, OutputError, UsageError

if TYPE_CHECKING:
    from filelock import FileLock

log = logging.getLogger("vrestore")

BLOCK_BYTES = 1 << 18
TIMEOUT_S = 30.0
MOST_BYTES = 1 << 31  # of a file whose size is not known; no published one comes near it
ATTEMPTS = 3  # of a connection that breaks; each goes on where the last one ended

ProgressBytes = Callable[[int, int | None], None]  # bytes so far, bytes in all where known


@dataclass(frozen=True)
class Remote:
    """A published file. ``sha256``: all 64 hex digits, or the first 8, which end its name."""

    file: str
    sha256: str
    url: str | None  # None: its publisher hands it out by a page only
    page: str  # where people find it
    size_bytes: int | None = None


def models_folder() -> Path:
    """Where fetched weights lie: ``$VRESTORE_HOME/models``, else in the user's cache folder."""
    home = os.environ.get("VRESTORE_HOME")
    if home:
        try:
            return Path(home).expanduser() / "models"
        except RuntimeError as error:  # ~name of nobody
            raise UsageError(f"VRESTORE_HOME={home}: there is no such home; set another") from error
    import platformdirs

    return platformdirs.user_cache_path("vrestore") / "models"


def fetch(
    remote: Remote,
    folder: Path,
    *,
    offline: bool = False,
    progress: ProgressBytes | None = None,
) -> Path:
    """The file, in ``folder``, with the size and hash that it must have; fetched if need be.

    Processes that want the same file wait for each other. Raises ``ModelError``: what failed, the
    file's name and hash, and where to put it by hand.
    """
    target = folder / remote.file
    if target.is_dir():
        raise OutputError(f"{target}: is a folder, where the file {remote.file} belongs; remove it")
    fetchable = not offline and remote.url is not None
    if target.is_file():
        return _seen(target, remote, fetchable)
    if offline or remote.url is None:
        why = "--offline" if offline else "its publisher gives it to people only"
        raise ModelError(
            f"{remote.file} is not on this machine ({why}); {_by_hand(target, remote)}"
        )
    from filelock import FileLock

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(FileLock(folder / f"{remote.file}.lock"), remote):
            if target.is_file():  # another process was first
                return _seen(target, remote, fetchable)
            part = folder / f"{remote.file}.part"
            for attempt in range(ATTEMPTS):
                try:
                    _go_on(remote, remote.url, part, target, progress)
                    break
                except (OSError, HTTPException, ValueError) as error:
                    _explain(error, remote, target, last=attempt + 1 == ATTEMPTS)
            _received(part, remote, target)
            os.replace(part, target)
    except OSError as error:
        raise OutputError(f"{folder}: weights cannot be kept there: {error.strerror}") from error
    return target


@contextmanager
def _alone(lock: FileLock, remote: Remote) -> Iterator[None]:
    """While no other process fetches the file; says so where there is one."""
    from filelock import Timeout

    try:
        lock.acquire(blocking=False)
    except Timeout:
        log.warning("%s: another process fetches it; waiting for that", remote.file)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _go_on(
    remote: Remote, url: str, part: Path, target: Path, progress: ProgressBytes | None
) -> None:
    """Add to the part what is missing. OSError, HTTPException, ValueError: the connection's."""
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "vrestore"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        reply = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        error.close()
        return  # nothing is left after the part; whether it is the file is seen to next
    with reply:
        goes_on = reply.status == 206 and _first_byte(reply) == have
        if have and reply.status == 206 and not goes_on:
            part.unlink()  # from its beginning, then
            raise HTTPException("the server goes on at another place than it was asked to")
        if reply.headers.get_content_type() == "text/html":
            raise ModelError(
                f"{url}: the server sends a page and not the file; {_by_hand(target, remote)}"
            )
        start = have if goes_on else 0
        length = reply.headers.get("Content-Length")
        total = start + int(length) if length else remote.size_bytes
        most = remote.size_bytes or total or MOST_BYTES
        with part.open("ab" if goes_on else "wb") as file:
            done = _copy(reply, file, start, total, most, progress)
    if done > most or (total or 0) > most:
        part.unlink()
        raise ModelError(
            f"{remote.url}: sent another file than the published {remote.file}: more than its "
            f"{most} bytes; nothing was kept. Try again, or {_by_hand(target, remote)}"
        )
    if total is not None and done < total:
        raise HTTPException(f"broke off after {done} of {total} bytes")


def _copy(
    reply: HTTPResponse,
    file: BinaryIO,
    done: int,
    total: int | None,
    most: int,
    progress: ProgressBytes | None,
) -> int:
    """The reply's bytes into the file, till they are more than ``most``; how many there are."""
    while done <= most and (block := reply.read(BLOCK_BYTES)):
        try:
            file.write(block)
        except OSError as error:
            raise OutputError(f"{file.name}: cannot be written: {error.strerror}") from error
        done += len(block)
        if progress:
            progress(done, total)
    return done


def _first_byte(reply: HTTPResponse) -> int | None:
    """Of a Content-Range such as ``bytes 100-199/200`` (RFC 9110, 14.4)."""
    span = (reply.headers.get("Content-Range") or "").removeprefix("bytes ").partition("-")[0]
    return int(span) if span.isdigit() else None


def _seen(path: Path, remote: Remote, fetchable: bool) -> Path:
    """``path`` if it is the file. ModelError: it is not; it is somebody's, and stays."""
    wrong = _difference(path, remote)
    if wrong:
        hint = "it is fetched anew" if fetchable else _by_hand(path, remote)
        raise ModelError(
            f"{path}: is not the published {remote.file}: {wrong}; remove it, and {hint}"
        )
    return path


def _received(part: Path, remote: Remote, target: Path) -> None:
    """ModelError where what was sent is not the file: it is removed."""
    wrong = _difference(part, remote)
    if wrong:
        part.unlink()
        raise ModelError(
            f"{remote.url}: sent another file than the published {remote.file}: {wrong}; nothing "
            f"was kept. Try again, or {_by_hand(target, remote)}"
        )


def _difference(path: Path, remote: Remote) -> str:
    """What the file is and what it should be; empty where that is one."""
    size = path.stat().st_size
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if remote.size_bytes in (None, size) and digest.startswith(remote.sha256):
        return ""
    expected = f"sha256 {remote.sha256}{'...' if len(remote.sha256) < 64 else ''}"
    if remote.size_bytes is not None:
        expected = f"{remote.size_bytes} bytes, {expected}"
    return f"{size} bytes, sha256 {digest} and not {expected}"


def _explain(error: Exception, remote: Remote, target: Path, *, last: bool) -> None:
    """Return where another attempt may help; else raise what a user can do."""
    if isinstance(error, urllib.error.HTTPError):
        error.close()
        if error.code >= 500 and not last:
            return
        raise ModelError(
            f"{remote.url}: the server answers {error.code} {' '.join(error.reason.split())}; "
            f"{_by_hand(target, remote)}"
        ) from error
    if isinstance(error, OSError) and error.filename is not None:
        raise error  # the disk's trouble, not the network's
    if not last:
        return
    reason = error.reason if isinstance(error, urllib.error.URLError) else error
    reason = " ".join(str(reason).split())
    raise ModelError(
        f"{remote.file} cannot be fetched from {remote.url}: {reason}; run again to go on, or "
        f"{_by_hand(target, remote)}"
    ) from error


def _by_hand(target: Path, remote: Remote) -> str:
    digits = "" if len(remote.sha256) == 64 else ", first digits"
    return (
        f"get {remote.file} from {remote.page} (sha256{digits}: {remote.sha256}) and "
        f"put it at {target}, or give a checkpoint with --weights"
    )
