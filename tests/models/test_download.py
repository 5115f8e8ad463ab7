"""Fetching weights, against a server of our own that interrupts, lies and refuses."""

from __future__ import annotations

import errno
import hashlib
import http.server
import io
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from films import film
from networks import small_realbasicvsr

from vrestore.cli import main
from vrestore.errors import ModelError, OutputError, UsageError
from vrestore.models import catalogue, download
from vrestore.models.checkpoint import load_network, save_network
from vrestore.models.download import Remote, fetch, models_folder

CONTENT = os.urandom(700_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@dataclass
class Server:
    """What it sends, and what it was asked."""

    url: str = ""
    content: bytes = CONTENT
    break_after: int | None = None  # bytes of the file, once
    breaks: int = 1
    status: int = 200
    kind: str = "application/octet-stream"
    ranges: bool = True
    length: str | None = None
    shift: int = 0  # how far from where it was asked to it goes on
    delay: threading.Event | None = None
    asked: list[str | None] = field(default_factory=list)

    def remote(self, **changes: object) -> Remote:
        values = {"file": f"net-{SHA256[:8]}.pth", "sha256": SHA256, "url": self.url}
        return Remote(**(values | {"page": "https://example.org/models"} | changes))


@pytest.fixture
def server() -> Iterator[Server]:
    config = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range")
            config.asked.append(asked)
            if config.delay:
                config.delay.wait(10)
            if config.status != 200:
                self.send_error(config.status)
                return
            start = int(asked[6:-1]) if asked and config.ranges else 0
            if start >= len(config.content):
                self.send_error(416)
                return
            body = config.content[start:]
            self.send_response(206 if start else 200)
            if start:
                end = len(config.content)
                self.send_header("Content-Range", f"bytes {start + config.shift}-{end - 1}/{end}")
            self.send_header("Content-Type", config.kind)
            if config.length != "none":
                self.send_header("Content-Length", config.length or str(len(body)))
            self.end_headers()
            if config.break_after is not None and config.breaks:
                config.breaks -= 1
                body = body[: config.break_after - start]
            with suppress(ConnectionError):  # who has seen enough goes
                self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        config.url = f"http://127.0.0.1:{running.server_address[1]}/net.pth"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield config
        running.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.suffix != ".lock")


def test_a_file_is_fetched_once_with_its_progress(server, tmp_path):
    seen = []
    path = fetch(server.remote(), tmp_path / "new", progress=lambda *now: seen.append(now))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert seen == sorted(seen)
    assert fetch(server.remote(), tmp_path / "new") == path
    assert server.asked == [None]
    assert names(tmp_path / "new") == [path.name]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_file_goes_on_where_it_ended(server, tmp_path, ranges):
    server.break_after, server.ranges = 300_000, ranges
    path = fetch(server.remote(), tmp_path)
    assert path.read_bytes() == CONTENT
    assert server.asked == [None, "bytes=300000-"]


def test_a_run_that_was_killed_goes_on_in_the_next(server, tmp_path):
    remote = server.remote()
    (tmp_path / f"{remote.file}.part").write_bytes(CONTENT[:123_456])
    assert fetch(remote, tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=123456-"]


def test_a_part_that_is_whole_is_only_checked(server, tmp_path):
    remote = server.remote()
    (tmp_path / f"{remote.file}.part").write_bytes(CONTENT)
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


def test_a_server_that_always_breaks_off_keeps_the_part_and_says_so(server, tmp_path):
    server.break_after, server.breaks = 200_000, 99
    server.ranges = False
    with pytest.raises(ModelError, match=r"broke off after 200000 of 700000 bytes; run again to"):
        fetch(server.remote(), tmp_path)
    assert len(server.asked) == 3
    assert names(tmp_path) == [f"{server.remote().file}.part"]


@pytest.mark.parametrize(
    "changes",
    [{"sha256": "0" * 64}, {"sha256": "01234567"}, {"size_bytes": 5}],
    ids=["sha256", "eight digits", "length"],
)
def test_another_file_than_the_published_one_is_not_kept(server, tmp_path, changes):
    with pytest.raises(ModelError, match="another file than the published") as caught:
        fetch(server.remote(**changes), tmp_path)
    assert SHA256 in str(caught.value)
    assert names(tmp_path) == []


def test_a_part_of_another_file_is_not_kept_either(server, tmp_path):
    remote = server.remote()
    (tmp_path / f"{remote.file}.part").write_bytes(os.urandom(1000))
    with pytest.raises(ModelError, match="nothing was kept"):
        fetch(remote, tmp_path)
    assert fetch(remote, tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize(("status", "times"), [(404, 1), (403, 1), (503, 3)])
def test_a_refusal_names_the_file_its_hash_and_its_place(server, tmp_path, status, times):
    server.status = status
    with pytest.raises(ModelError) as caught:
        fetch(server.remote(), tmp_path)
    message = str(caught.value)
    page = "https://example.org/models"
    for part in (str(status), server.url, SHA256, page, str(tmp_path / server.remote().file)):
        assert part in message
    assert len(server.asked) == times
    assert names(tmp_path) == []


def test_a_page_instead_of_the_file_is_told_apart(server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(ModelError, match="sends a page and not the file"):
        fetch(server.remote(), tmp_path)
    assert names(tmp_path) == []


def test_a_full_disk_is_not_taken_for_the_networks_fault(server, tmp_path, monkeypatch):
    class Full(io.RawIOBase):
        name = "weights.part"

        def write(self, data):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "open", lambda path, mode: Full())
    with pytest.raises(OutputError, match=r"weights\.part: cannot be written: No space left"):
        fetch(server.remote(), tmp_path)
    assert server.asked == [None]


def test_headers_that_make_no_sense_are_the_servers_fault(server, tmp_path):
    server.length = "abc"
    with pytest.raises(ModelError, match="cannot be fetched from"):
        fetch(server.remote(), tmp_path)


def test_without_a_network_the_message_says_what_to_do_by_hand(tmp_path):
    remote = Server(url="http://127.0.0.1:9/net.pth").remote()
    with pytest.raises(ModelError, match=r"cannot be fetched from .*refused.*--weights") as caught:
        fetch(remote, tmp_path)
    assert remote.file in str(caught.value)


def test_offline_asks_nobody(server, tmp_path):
    with pytest.raises(ModelError, match="--offline"):
        fetch(server.remote(), tmp_path, offline=True)
    assert server.asked == []
    path = fetch(server.remote(), tmp_path)
    assert fetch(server.remote(), tmp_path, offline=True) == path


def test_a_file_that_was_put_there_and_is_another_is_refused_and_left(server, tmp_path):
    path = tmp_path / server.remote().file
    path.write_bytes(b"mine")
    with pytest.raises(ModelError, match="remove it, and it is fetched anew"):
        fetch(server.remote(), tmp_path)
    assert path.read_bytes() == b"mine"
    assert server.asked == []


def test_where_it_cannot_be_fetched_anew_it_is_said_where_to_get_it(server, tmp_path):
    path = tmp_path / server.remote().file
    path.write_bytes(b"mine")
    for remote, offline in ((server.remote(url=None), False), (server.remote(), True)):
        with pytest.raises(ModelError, match=r"remove it, and get net.* from https://example.org"):
            fetch(remote, tmp_path, offline=offline)
    assert server.asked == []


def test_a_folder_in_the_place_of_the_file_is_named(server, tmp_path):
    (tmp_path / server.remote().file).mkdir()
    with pytest.raises(OutputError, match=rf"{server.remote().file}: is a folder, where the file"):
        fetch(server.remote(), tmp_path)
    assert server.asked == []


@pytest.mark.parametrize("told", [True, False], ids=["as its length says", "without a length"])
def test_a_reply_without_an_end_is_not_read_to_it(server, tmp_path, told, monkeypatch):
    server.content = CONTENT * 40
    seen = []
    if not told:
        server.length = "none"
    remote = server.remote(size_bytes=len(CONTENT))
    with pytest.raises(ModelError, match=f"more than its {len(CONTENT)} bytes; nothing was"):
        fetch(remote, tmp_path, progress=lambda *now: seen.append(now[0]))
    assert seen[-1] <= len(CONTENT) + download.BLOCK_BYTES
    assert names(tmp_path) == []
    monkeypatch.setattr(download, "MOST_BYTES", len(CONTENT))
    if not told:
        with pytest.raises(ModelError, match="more than its"):
            fetch(server.remote(), tmp_path)


def test_a_server_that_goes_on_elsewhere_is_asked_for_the_whole(server, tmp_path):
    (tmp_path / f"{server.remote().file}.part").write_bytes(CONTENT[:1000])
    server.shift = 10
    assert fetch(server.remote(), tmp_path).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-", None]


def test_a_home_that_nobody_has_is_named(monkeypatch):
    monkeypatch.setenv("VRESTORE_HOME", "~nobody-of-this-name/x")
    with pytest.raises(UsageError, match="VRESTORE_HOME=~nobody-of-this-name/x: there is no such"):
        models_folder()


def test_a_folder_that_cannot_be_written_is_said(server, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OutputError, match="weights cannot be kept there"):
        fetch(server.remote(), tmp_path / "file" / "models")


def test_two_processes_that_want_one_file_fetch_it_once(server, tmp_path):
    server.delay = threading.Event()
    remote = server.remote()
    code = (
        "import sys; from pathlib import Path; from vrestore.models.download import *\n"
        "print('ready', flush=True)\n"
        "print(fetch(Remote(*sys.argv[2:6]), Path(sys.argv[1])))"
    )
    words = [str(tmp_path), remote.file, remote.sha256, server.url, remote.page]
    both = [
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    assert [p.stdout.readline() for p in both] == ["ready\n"] * 2
    while not server.asked:
        assert all(p.poll() is None for p in both)
    time.sleep(0.5)  # for the other one to come to the lock
    server.delay.set()
    told = [p.communicate(timeout=60) for p in both]
    assert [out.strip() for out, _ in told] == [str(tmp_path / remote.file)] * 2
    waits = f"{remote.file}: another process fetches it; waiting for that\n"
    assert sorted(err for _, err in told) == ["", waits]
    assert (tmp_path / remote.file).read_bytes() == CONTENT
    assert server.asked == [None]


@pytest.fixture
def shelf(server, tmp_path, monkeypatch):
    """A catalogue whose published model is on our server, and a home of its own."""
    monkeypatch.setenv("VRESTORE_HOME", str(tmp_path / "home"))
    entry = catalogue.find("basicvsr-reds4")
    ours = type(entry)(**{**vars(entry), "name": "ours", "remote": server.remote()})
    monkeypatch.setattr(catalogue, "CATALOGUE", (ours, *catalogue.CATALOGUE))
    monkeypatch.setattr("vrestore.shelf.CATALOGUE", catalogue.CATALOGUE)
    return ours


@pytest.mark.parametrize(("size", "here"), [(None, True), (5, False), (4, True)])
def test_a_file_of_another_size_is_not_here(shelf, server, size, here):
    shelf.path.parent.mkdir(parents=True)
    shelf.path.write_bytes(b"part")
    sized = replace(shelf, remote=server.remote(size_bytes=size))
    assert sized.is_here == here


def test_get_shows_the_licence_fetches_and_prints_the_path(shelf, capsys):
    assert main(["models", "get", "ours"]) == 0
    out, err = capsys.readouterr()
    assert Path(out.strip()).read_bytes() == CONTENT
    assert Path(out.strip()).parent == models_folder()
    assert "non-commercial research only" in err
    assert main(["models", "path", "ours"]) == 0
    assert capsys.readouterr().out == out
    for action in ("show", "get", "path"):
        assert main(["models", action, "ours", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["path"] == out.strip()
    assert main(["models", "get", shelf.remote.file, "--offline"]) == 0
    assert "research" not in capsys.readouterr().err


def test_the_list_says_what_is_here(shelf, capsys):
    for here in ("no", "yes"):
        assert main(["models"]) == 0
        out = capsys.readouterr().out
        assert re.search(
            rf"^ours .*super-resolution x4 .*6\.3 M .*REDS4 31\.4170.* {here}$", out, re.M
        )
        assert f"{shelf.remote.file}; licence: Apache-2.0" in out
        main(["models", "get", "ours", "--quiet"])
        capsys.readouterr()


def test_a_run_fetches_what_it_needs_unless_offline(shelf, server, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["clip.mp4", "-n", "ours"]) == 3
    film(tmp_path / "clip.mp4", 1)
    assert main(["clip.mp4", "-n", "ours", "--offline"]) == 4
    assert server.asked == []
    assert "research" not in capsys.readouterr().err
    main(["clip.mp4", "-n", "ours"])
    assert "non-commercial research only" in capsys.readouterr().err
    assert server.asked == [None]


def test_from_python_the_licence_goes_to_the_log(shelf, caplog):
    with pytest.raises(ModelError, match="not a checkpoint"):
        catalogue.load_model("ours")
    assert "non-commercial research only" in caplog.text


def test_a_published_file_is_known_by_its_name_wherever_it_lies(tmp_path):
    entry = catalogue.find("realbasicvsr")
    path = tmp_path / entry.remote.file
    save_network(small_realbasicvsr(), path, {})
    assert load_network(path).dynamic_refine_thres == 5
    assert catalogue.load_model(str(path)).dynamic_refine_thres == 5
    assert load_network(path, dynamic_refine_thres=7).dynamic_refine_thres == 7
    assert load_network(path.rename(tmp_path / "other.pth")).dynamic_refine_thres == 255


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["get"], "models get takes 1 name"),
        (["list", "basicvsr"], "models list takes no name"),
        (["get", "basicvsr-red4"], "did you mean basicvsr-reds4"),
        (["fetch"], "invalid choice: 'fetch'"),
    ],
)
def test_wrong_words_are_usage_or_model_errors(words, message, capsys):
    assert main(["models", *words]) in (2, 4)
    assert message in capsys.readouterr().err
