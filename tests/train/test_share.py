import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from train_material import adversarial_config, tiny_config

from vrestore.errors import UsageError
from vrestore.train.share import Share

RUN = """
import sys, torch
from pathlib import Path
from train_material import adversarial_config, tiny_config, tiny_material, texture
from vrestore.train import loop
from vrestore.train.data import Material
from vrestore.train.reduction import shrink
hr = torch.stack([texture(5, 64, 96)] * 2)
Material.load = staticmethod(lambda data: tiny_material())
if sys.argv[3] == "validated":
    loop.validation_clips = lambda folder: {"made": folder}
    loop.load_validation = lambda *_: {"made": (shrink(hr), hr)}
loop.train(eval(sys.argv[2])(), Path(sys.argv[1]), torch.device("cpu"), None)
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def start(folder, config, rank, world, port, validation="validated", **told):
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_PORT": port}
    environment = os.environ | {k: str(v) for k, v in places.items()}
    paths = [str(Path(__file__).parent), *sys.path]
    environment |= {"MASTER_ADDR": "127.0.0.1", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", RUN, str(folder), config, validation]
    return subprocess.Popen(command, env=environment, **told)


@pytest.mark.parametrize("config", [tiny_config, adversarial_config])
def test_two_processes_train_what_one_process_trains(config, tmp_path):
    port = free_port()
    running = [start(tmp_path / "two", config.__name__, rank, 2, port) for rank in (0, 1)]
    running.append(start(tmp_path / "one", config.__name__, 0, 1, port))
    assert [process.wait(250) for process in running] == [0, 0, 0]
    one, two = (
        torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("one", "two")
    )
    assert one["step"] == two["step"] == config().steps
    for part in {"net", "rival"} & one.keys():
        for key, value in one[part].items():
            assert torch.allclose(value, two[part][key], atol=2e-5), (part, key)
    assert ("rival" in one) == (config is adversarial_config)
    losses = [
        [float(row.split(",")[1]) for row in (tmp_path / name / "log.csv").read_text().split()[1:]]
        for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_no_process_waits_for_one_that_found_no_validation_clips(tmp_path):
    port, told = free_port(), {"stderr": subprocess.PIPE, "text": True}
    running = [start(tmp_path, "tiny_config", rank, 2, port, "missing", **told) for rank in (0, 1)]
    for process in running:
        assert "mend [data] validation" in process.communicate(timeout=100)[1]


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    with pytest.raises(UsageError, match="batch of 3"):
        Share(0, 2).check(3)
    with pytest.raises(
        UsageError, match="batch of 6 cannot be shared by 2 processes evenly in lots"
    ):
        Share(0, 2).check(6, 2)
    Share(1, 2).check(8, 2)
