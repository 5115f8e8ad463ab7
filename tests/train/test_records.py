"""What a run leaves: a state that is whole or not there, a log that only grows."""

import subprocess
import sys

import pytest
import torch

from vrestore.errors import ModelError, OutputError
from vrestore.train.records import forget_rows_after, load, save, write_row

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
    log = tmp_path / "log.csv"
    forget_rows_after(5, log)
    assert not log.exists()
    log.write_text("")  # a run killed as it opened it
    forget_rows_after(5, log)
    for step in (2, 4, 6):
        write_row(log, {"step": step, "loss": 0.5}, ["step", "loss"])
    forget_rows_after(4, log)
    assert log.read_text().split() == ["step,loss", "2,0.5", "4,0.5"]
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
