import csv
import math

import pytest
import torch
from train_material import texture, tiny_config, tiny_material

from vrestore.train import loop
from vrestore.train.config import Stage
from vrestore.train.data import Material, shrink
from vrestore.train.plot import plot


@pytest.fixture
def on_made_pictures(monkeypatch):
    hr = torch.stack([texture(5, 64, 96).roll(2 * t, -1) for t in range(4)])
    monkeypatch.setattr(Material, "load", staticmethod(lambda folder: tiny_material()))
    monkeypatch.setattr(loop, "load_validation", lambda folder: {"made": (shrink(hr), hr)})


def rows(run):
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_run_stopped_and_resumed_is_the_run_that_was_never_stopped(tmp_path, on_made_pictures):
    config, cpu = tiny_config(), torch.device("cpu")
    loop.train(config, tmp_path / "whole", cpu, None)
    for _ in range(config.steps):  # each call is out of time after one step
        loop.train(config, tmp_path / "pieces", cpu, 0.0)
    whole = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)
    pieces = torch.load(tmp_path / "pieces" / "state.pt", weights_only=True)
    assert whole["step"] == pieces["step"] == config.steps
    for part in ("net", "ema"):
        for key, value in whole[part].items():
            assert torch.equal(value, pieces[part][key]), key
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("whole", "pieces")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == config.steps


def test_training_makes_the_loss_smaller(tmp_path, on_made_pictures):
    loop.train(tiny_config(80), tmp_path, torch.device("cpu"), None)
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert sum(losses[-20:]) < 0.95 * sum(losses[:20])


def test_the_flow_network_stays_as_it_is_at_first(tmp_path, on_made_pictures):
    config, cpu = tiny_config(), torch.device("cpu")
    states = []
    for _ in range(config.steps):
        loop.train(config, tmp_path, cpu, 0.0)
        states.append(torch.load(tmp_path / "state.pt", weights_only=True)["net"])
    taught = torch.load(tmp_path / "flow.pt", weights_only=True)["spynet"]
    for step, state in enumerate(states, start=1):
        still = all(torch.equal(state["spynet." + key], value) for key, value in taught.items())
        assert still == (step <= config.optimiser.flow_fixed)


def test_the_rate_rises_then_falls_along_a_cosine():
    config = tiny_config(100)
    rates = [loop.rate_at(step, config) for step in range(100)]
    assert rates[0] < rates[1] == max(rates)
    assert rates[50] == pytest.approx(0.5 * (1e-3 + 1e-6), rel=1e-6)
    assert rates[99] < 3e-6


def test_stages_follow_each_other():
    config = tiny_config(6)
    assert config.steps == 6
    assert config.stage_at(2) == Stage(3, 2, 3, 12)
    assert config.stage_at(3) == Stage(3, 2, 5, 12, "log_error")


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(
    tmp_path, on_made_pictures, monkeypatch
):
    monkeypatch.setitem(loop.LOSSES, "charbonnier", lambda a, b: (a - b).sum() * math.nan)
    with pytest.raises(FloatingPointError, match="step 0"):
        loop.train(tiny_config(), tmp_path, torch.device("cpu"), None)
    assert (tmp_path / "bad_batch.pt").exists()


def test_the_plot_draws_both_losses(tmp_path, on_made_pictures):
    pytest.importorskip("matplotlib")
    loop.train(tiny_config(), tmp_path, torch.device("cpu"), None)
    plot(tmp_path / "log.csv", tiny_config(), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000
