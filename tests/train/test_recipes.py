"""Every recipe runs, and a run that is killed goes on as if nothing had happened."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from train_material import SIZES, png, texture, tiny_vgg

from vrestore.models.checkpoint import save_network
from vrestore.train.config import read_config
from vrestore.train.loop import train
from vrestore.train.network import begin, build_network
from vrestore.train.stop import Stop

RECIPES = sorted((Path(__file__).parents[2] / "configs/train").glob("*.toml"))

# The process of a run that halts before its second step, to be killed there.
KILLED = """
import sys, time, torch
from pathlib import Path
from vrestore.train.config import read_config
from vrestore.train.data import Batches
from vrestore.train.loop import train
real = Batches.__getitem__
Batches.__getitem__ = lambda self, step: real(self, step) if step < 1 else time.sleep(600)
config = read_config(Path(sys.argv[1]), sys.argv[3:])
train(config, Path(sys.argv[2]), torch.device("cpu"), None)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of all that recipes name: frames, clips, photographs, weights."""
    folder = tmp_path_factory.mktemp("made")
    big = texture(1, 64, 128)
    for t in range(8):
        for name in ("reds/001", "validation/clip"):
            png(folder / name / f"{t:08d}.png", big[:, :, 4 * t : 4 * t + 96])
    for seed in range(2):
        png(folder / "photos" / f"{seed}.png", texture(seed, 160, 240))
    torch.save(tiny_vgg(), folder / "vgg.pth")
    for name, sizes in SIZES.items():
        torch.manual_seed(0)
        net = build_network({"name": name, **sizes})
        save_network(net, folder / f"{name}.safetensors", {})
        if name == "basicvsr":
            save_network(net.spynet, folder / "flow.safetensors", {})
    wotsa = build_network({"name": "edvr", **SIZES["edvr"], "with_tsa": False})
    save_network(wotsa, folder / "edvr.safetensors", {})
    cleaner = build_network({"name": "frbasicvsr", **SIZES["frbasicvsr"], "hr_in": True})
    save_network(cleaner, folder / "cleaner.safetensors", {})
    save_network(
        build_network({"name": "edvr", **SIZES["edvr"]}), folder / "refill.safetensors", {}
    )
    return folder


def tiny(recipe, folder):
    """What makes the recipe three steps of a small network on made pictures."""
    config = read_config(recipe)
    name = config.network.get("name", "basicvsr")
    changes = [f"network.{key}={toml(value)}" for key, value in SIZES[name].items()]
    if name == "iconvsr":
        changes += ["network.num_edvr_feat=8"]
    if "weights" in config.network:
        changes += [f"network.weights='{folder}/{name}.safetensors'"]
    if "refill" in config.network:
        changes += [f"network.refill='{folder}/refill.safetensors'"]
    if "cleaner" in config.network:
        changes += [f"network.cleaner='{folder}/cleaner.safetensors'"]
    if config.data.folder:
        changes += [f"data={{reds='{folder}/reds', div2k='{folder}/photos', validation='x'}}"]
        changes += [f"data.degradation='{config.data.degradation}'"]
    changes += [f"data.reds='{folder}/reds'", f"data.validation='{folder}/validation'"]
    if config.flow and config.flow.weights:
        changes += [f"flow.weights='{folder}/flow.safetensors'"]
    elif config.flow:
        small = {"tied_steps": 1, "steps": 1, "tied_batch": 2, "tied_patch": 16, "batch": 2}
        changes += [f"flow.{key}={value}" for key, value in {**small, "patch": 16}.items()]
    if config.perceptual:
        changes += [f"perceptual.weights='{folder}/vgg.pth'", "gan.num_feat=4"]
    for i in range(len(config.stage)):
        steps = 3 if i == 0 else 0
        sizes = {"steps": steps, "batch": 2, "frames": 5, "patch": 12}
        changes += [f"stage.{i}.{key}={value}" for key, value in sizes.items()]
    return [*changes, "data.workers=0", "log_every=1", "save_every=1", "validate_every=3"]


def tool(name, *arguments):
    repository = RECIPES[0].parents[2]
    command = [sys.executable, str(repository / "tools" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=repository)


def test_a_second_run_begins_with_what_was_exported_of_the_first(made, tmp_path):
    first, second = (next(p for p in RECIPES if p.stem == f"edvr_m_{n}") for n in ("wotsa", "tsa"))
    run, weights = tmp_path / "first", tmp_path / "first.safetensors"
    changes = [word for change in tiny(first, made) for word in ("--set", change)]
    trained = tool("train.py", first, "--folder", run, *changes)
    assert trained.returncode == 0, trained.stderr
    exported = tool("export.py", run / "config.toml", run, weights)
    assert exported.returncode == 0, exported.stderr
    assert "| clip |" in exported.stdout
    kept = weights.read_bytes()
    again = tool("export.py", run / "config.toml", run, weights)
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    assert weights.read_bytes() == kept
    half = tool("export.py", run / "config.toml", run, tmp_path / "half.safetensors", "--half")
    assert half.returncode == 0, half.stderr
    assert (tmp_path / "half.safetensors").stat().st_size < 0.75 * len(kept)
    config = read_config(second, [*tiny(second, made), f"network.weights='{weights}'"])
    net = build_network(config.network)
    assert all(name.startswith("fusion.") for name in begin(net, config))
    averaged = torch.load(run / "state.pt", weights_only=True)["ema"]
    assert torch.equal(net.conv_last.weight, averaged["conv_last.weight"])


def test_a_tool_tells_what_is_wrong_in_a_line(tmp_path):
    failed = tool("train.py", RECIPES[0], "--folder", tmp_path, "--set", "stage.0.step=3")
    assert failed.returncode == 2
    assert failed.stderr.splitlines()[0].startswith("train.py: ")
    assert "did you mean 'steps'" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.skipif(os.name != "posix", reason="a group of processes is asked")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_asked_to_stop_saves_the_step_that_it_is_at(made, tmp_path, how):
    recipe = next(p for p in RECIPES if p.stem == "basicvsr_compact")
    long = ["stage.0.steps=100000", "save_every=100000", "validate_every=100000"]
    changes = [*tiny(recipe, made), *long, "data.workers=2"]
    words = [word for change in changes for word in ("--set", change)]
    run = tmp_path / "run"
    command = [sys.executable, "tools/train.py", str(recipe), "--folder", str(run), *words]
    told = {"stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, cwd=RECIPES[0].parents[2], **told) as process:
        try:
            while "step 2 " not in (line := process.stderr.readline()):
                assert line, "the run ended by itself"
            assert not (run / "state.pt").exists()
            os.killpg(process.pid, how)  # all of them, as a terminal does
            said = process.stderr.read()
            assert process.wait(timeout=60) == 130, said
        finally:
            process.kill()
    assert "Traceback" not in said
    assert f"run again to go on from what {run / 'state.pt'} holds" in said
    assert not (run / "strips").exists()  # no validation: torchrun kills after half a minute
    steps = [int(step) for step, _, _ in losses(run)]
    assert torch.load(run / "state.pt", weights_only=True)["step"] == steps[-1] == len(steps)
    config = read_config(recipe, [*changes, f"stage.0.steps={steps[-1] + 1}"])
    train(config, run, torch.device("cpu"))
    assert [int(step) for step, _, _ in losses(run)] == [*steps, steps[-1] + 1]


def test_a_second_ctrl_c_stops_at_once(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    before = signal.getsignal(signal.SIGINT)
    with Stop() as stop:
        assert not stop.due()
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # the same one, handed on
        assert stop.due()
        clock[0] += 3
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_run_that_is_refused_leaves_what_lies_there(made, tmp_path):
    recipe = next(p for p in RECIPES if p.stem == "basicvsr_compact")
    changes = [word for change in tiny(recipe, made) for word in ("--set", change)]
    assert tool("train.py", recipe, "--folder", tmp_path / "a", *changes).returncode == 0
    before = (tmp_path / "a" / "config.toml").read_text()
    other = [*changes, "--set", "network.num_block=3"]
    refused = tool("train.py", recipe, "--folder", tmp_path / "a", *other)
    assert refused.returncode == 4
    assert "another network" in refused.stderr
    assert (tmp_path / "a" / "config.toml").read_text() == before
    nothing = [*changes, "--set", f"data.reds='{tmp_path}/no'"]
    assert tool("train.py", recipe, "--folder", tmp_path / "b", *nothing).returncode != 0
    assert not (tmp_path / "b").exists()


def toml(value):
    return list(value) if isinstance(value, tuple) else value


def losses(run):
    with (run / "log.csv").open() as file:
        return [(row["step"], row["loss"], row["norm"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_a_recipe_that_is_killed_gives_the_losses_of_one_that_is_not(recipe, made, tmp_path):
    changes = tiny(recipe, made)
    command = [sys.executable, "-c", KILLED, str(recipe), str(tmp_path / "killed"), *changes]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(command, env=environment)
    try:
        config = read_config(recipe, changes)
        assert config.steps == 3
        train(config, tmp_path / "whole", torch.device("cpu"), None)
        deadline = time.monotonic() + 120
        while not (tmp_path / "killed" / "state.pt").exists():
            assert process.poll() is None, "the run ended by itself"
            assert time.monotonic() < deadline, "the run did not make its first step"
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == -9
    train(config, tmp_path / "killed", torch.device("cpu"), None)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")
    assert [step for step, _, _ in losses(tmp_path / "whole")] == ["1", "2", "3"]
    assert len({loss for _, loss, _ in losses(tmp_path / "whole")}) == 3
