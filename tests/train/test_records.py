"""What a run leaves: a state that is whole or not there, a log that only grows."""

import subprocess
import sys

import pytest
import torch

from vrestore.errors import ModelError, OutputError
from vrestore.train.records import keep_config, load, resume_log, save, write_row

CPU = torch.device("cpu")

FULL = """
import resource, sys, torch
from pathlib import Path
from vrestore.errors import OutputError
from vrestore.train.records import save
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    save(Path(sys.argv[1]), {"net": torch.rand(1 << 20)})
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="files are bounded as Unix does it")
def test_what_no_disk_has_room_for_leaves_the_state_before(tmp_path):
    state = tmp_path / "state.pt"
    save(state, {"step": 3})
    command = [sys.executable, "-c", FULL, str(state)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert f"{state}: cannot be written" in said
    assert "make room" in said
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]
    assert load(state, CPU) == {"step": 3}
    with pytest.raises(OutputError, match="cannot be written"):
        save(tmp_path / "gone" / "state.pt", {"step": 3})


def test_a_damaged_state_is_told_in_a_line(tmp_path):
    state = tmp_path / "state.pt"
    assert load(state, CPU) is None
    save(state, {"net": torch.rand(1000), "step": 3})
    whole = state.read_bytes()
    for damaged in (b"", bytes(100), whole[:100], whole[: len(whole) // 2], b"step = 3"):
        state.write_bytes(damaged)
        with pytest.raises(ModelError, match="is damaged, or no state of a run"):
            load(state, CPU)


def test_rows_that_are_done_again_leave_the_log(tmp_path):
    log, columns = tmp_path / "log.csv", ["step", "loss"]
    assert resume_log(log, 5, columns) == columns
    assert not log.exists()
    log.write_text("")  # a run killed as it opened it
    assert resume_log(log, 5, columns) == columns
    for step in (2, 4, 6):
        write_row(log, {"step": step, "loss": 0.5}, columns)
    assert resume_log(log, 4, columns) == columns
    assert log.read_text().split() == ["step,loss", "2,0.5", "4,0.5"]
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]


def test_a_clip_that_is_validated_from_now_on_has_a_column_of_its_own(tmp_path):
    log = tmp_path / "log.csv"
    write_row(log, {"step": 1, "dog": 0.5}, ["step", "dog"])
    columns = resume_log(log, 1, ["step", "cat"])
    write_row(log, {"step": 2, "cat": 0.7}, columns)
    assert log.read_text().split() == ["step,dog,cat", "1,0.5,", "2,,0.7"]


def test_what_a_run_was_before_it_was_changed_is_kept(tmp_path):
    keep_config(tmp_path, "seed = 1\n", 0)
    keep_config(tmp_path, "seed = 1\n", 7)
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
    keep_config(tmp_path, "seed = 2\n", 7)
    assert (tmp_path / "config.toml").read_text() == "seed = 2\n"
    assert (tmp_path / "config_to_step_7.toml").read_text() == "seed = 1\n"


def test_a_run_needs_no_pyav():
    """A GPU machine may have none: frames come by decord or OpenCV there, strips are left out."""
    code = (
        "import sys, torch; from pathlib import Path; sys.modules['av'] = None; "
        "import vrestore.train.loop; from vrestore.train.records import save_strip; "
        "save_strip(Path('no.png'), *[torch.zeros(3, 8, 8)] * 3)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
