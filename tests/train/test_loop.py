import csv
import dataclasses
import math

import pytest
import torch
from networks import small_basicvsr, small_edvr
from train_material import (
    SIZES,
    adversarial_config,
    png,
    texture,
    tiny_config,
    tiny_material,
    tiny_vgg,
)

from vrestore.errors import InputError, ModelError, UsageError
from vrestore.models.checkpoint import save_network
from vrestore.models.resize import imresize
from vrestore.models.temporal import FrameNetwork
from vrestore.train import gradients, loop, rival
from vrestore.train.config import (
    Adversary,
    Data,
    Optimiser,
    Perceptual,
    Stage,
    Teacher,
    read_config,
)
from vrestore.train.data import Batches, Material
from vrestore.train.discriminator import UNetDiscriminator
from vrestore.train.footage import read_frames
from vrestore.train.losses import LOSSES
from vrestore.train.network import begin, build_network, forward
from vrestore.train.objective import Judges, objective, teach
from vrestore.train.plot import plot
from vrestore.train.reduction import shrink
from vrestore.train.stop import Stop

CPU = torch.device("cpu")


@pytest.fixture
def on_made_pictures(monkeypatch):
    hr = torch.stack([texture(5, 64, 96).roll(2 * t, -1) for t in range(4)])
    monkeypatch.setattr(Material, "load", staticmethod(lambda data: tiny_material()))
    monkeypatch.setattr(loop, "validation_clips", lambda folder: {"made": folder})
    monkeypatch.setattr(loop, "load_validation", lambda *_: {"made": (shrink(hr), hr)})


def rows(run):
    with (run / "log.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("method", ["adam", "muon"])
def test_a_run_stopped_and_resumed_is_the_run_that_was_never_stopped(
    tmp_path, on_made_pictures, method
):
    config, cpu = tiny_config(), torch.device("cpu")
    config = dataclasses.replace(
        config, optimiser=dataclasses.replace(config.optimiser, method=method)
    )
    loop.train(config, tmp_path / "whole", cpu, None)
    while not loop.train(config, tmp_path / "pieces", cpu, Stop(0.0)):
        pass  # each call is out of time after one step, of the flow network's own lessons, too
    whole = torch.load(tmp_path / "whole" / "state.pt", weights_only=True)
    pieces = torch.load(tmp_path / "pieces" / "state.pt", weights_only=True)
    assert whole["step"] == pieces["step"] == config.steps
    for part in ("net", "ema"):
        for key, value in whole[part].items():
            assert torch.equal(value, pieces[part][key]), key
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("whole", "pieces")]
    assert losses[0] == losses[1]
    assert len(losses[0]) == config.steps


def test_rows_of_several_steps_are_those_of_a_run_that_was_never_stopped(
    tmp_path, on_made_pictures
):
    """Steps since the last row count in the next one, and a stop adds no row of its own."""
    config = dataclasses.replace(tiny_config(), log_every=4, save_every=3, validate_every=99)
    loop.train(config, tmp_path / "whole", CPU, None)
    while not loop.train(config, tmp_path / "pieces", CPU, Stop(0.0)):
        pass
    logs = [
        [(row["step"], row["loss"], row["norm"]) for row in rows(tmp_path / name)]
        for name in ("whole", "pieces")
    ]
    assert logs[0] == logs[1]
    assert [step for step, *_ in logs[0]] == ["4", "6"]


def test_a_run_killed_before_its_first_state_begins_its_log_anew(tmp_path, on_made_pictures):
    while not (tmp_path / "state.pt").exists():
        loop.train(tiny_config(), tmp_path, CPU, Stop(0.0))
    (tmp_path / "state.pt").unlink()
    loop.train(tiny_config(), tmp_path, CPU, None)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4", "5", "6"]


def test_training_makes_the_loss_smaller(tmp_path, on_made_pictures):
    loop.train(tiny_config(80), tmp_path, torch.device("cpu"), None)
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert sum(losses[-20:]) < 0.95 * sum(losses[:20])


def test_the_flow_network_stays_as_it_is_at_first(tmp_path, on_made_pictures):
    config, cpu = tiny_config(), torch.device("cpu")
    states = []
    while len(states) < config.steps:
        loop.train(config, tmp_path, cpu, Stop(0.0))
        if not (tmp_path / "state.pt").exists():
            continue  # the flow network's own lessons
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


def test_restarts_begin_again_at_their_own_rate():
    o = Optimiser(
        1e-3, 1e-7, schedule="restarts", periods=(40, 60), restart_shares=(1.0, 0.5), warm_up=0
    )
    config = dataclasses.replace(tiny_config(100), optimiser=o)
    rates = [loop.rate_at(step, config) for step in range(100)]
    assert rates[0] == 1e-3
    assert rates[20] == pytest.approx(0.5 * (1e-3 + 1e-7))
    assert rates[39] < 3e-6 < rates[38]
    assert rates[40] == 5e-4
    assert rates[70] == pytest.approx(0.5 * (5e-4 + 1e-7))
    assert rates[99] < 1e-6


def test_milestones_lower_the_rate_step_by_step():
    o = Optimiser(1e-3, schedule="multistep", milestones=(10, 50), decay=0.5, warm_up=0)
    config = dataclasses.replace(tiny_config(100), optimiser=o)
    rates = [loop.rate_at(step, config) for step in range(100)]
    assert rates == [1e-3] * 10 + [5e-4] * 40 + [2.5e-4] * 50


def test_a_discriminator_that_goes_astray_stops_the_run_before_it_is_saved(
    tmp_path, on_made_pictures, monkeypatch
):
    config, calls = dataclasses.replace(adversarial_config(), save_every=1), []

    def astray(*given):
        calls.append(None)
        return teach(*given) * (math.nan if len(calls) == 2 else 1.0)

    with monkeypatch.context() as patch:
        patch.setattr(rival, "teach", astray)
        with pytest.raises(FloatingPointError, match="discriminator's loss or gradient is nan"):
            loop.train(config, tmp_path, CPU, None)
    assert (tmp_path / "bad_batch_0.pt").exists()
    assert loop.train(config, tmp_path, CPU, None)


def test_a_validation_folder_that_is_missing_or_empty_is_named(tmp_path):
    for folder in (tmp_path / "gone", tmp_path):
        config = dataclasses.replace(tiny_config(), data=Data(validation=folder))
        with pytest.raises(InputError, match=rf"{folder}: .*mend \[data\] validation"):
            loop.load_validation(config, 4)


def test_a_loss_that_is_no_number_stops_the_run_and_keeps_the_batch(
    tmp_path, on_made_pictures, monkeypatch
):
    monkeypatch.setitem(LOSSES, "charbonnier", lambda a, b: (a - b).sum() * math.nan)
    with pytest.raises(FloatingPointError, match=r"at step 0; its batch is in .*bad_batch_0"):
        loop.train(tiny_config(), tmp_path, CPU, None)
    batch = torch.load(tmp_path / "bad_batch_0.pt", weights_only=True)
    assert batch["step"] == 0
    assert torch.equal(batch["lq"], Batches(tiny_config(), tiny_material(), 4)[0][0])
    assert not (tmp_path / "state.pt").exists()


def test_a_run_that_goes_astray_is_stopped(tmp_path, on_made_pictures, monkeypatch, caplog):
    real = gradients.objective

    def astray(net, lq, gt, stage, judges, config):
        loss, output, truth = real(net, lq, gt, stage, judges, config)
        return loss, output + 50 * (len(seen) >= 6), truth

    seen = []
    monkeypatch.setattr(loop, "rate_at", lambda step, config: seen.append(step) or 1e-4)
    monkeypatch.setattr(gradients, "objective", astray)
    with (
        caplog.at_level("WARNING", "vrestore.train"),
        pytest.raises(FloatingPointError, match=r"mean error is 50.* at step 4"),
    ):
        loop.train(tiny_config(10), tmp_path, CPU, None)
    told = [record.getMessage() for record in caplog.records]
    assert [line.partition(":")[0] for line in told] == ["step 2", "step 3"]  # before it stops


def test_noise_does_not_stop_a_run():
    watch = loop.Watch()
    for error in [1.0] * 5 + [30.0, 30.0, 1.0, 30.0, 30.0, 1.0]:
        assert not watch.trouble(0.0, error)
    watch = loop.Watch(*loop.Watch(1.0, 2).kept())
    assert watch.trouble(0.0, 30.0)
    assert loop.Watch().trouble(math.inf, 1.0)


def with_everything(**changes):
    """RealBasicVSR with all kinds of loss, its first stage without a discriminator."""
    kinds = {"loss": "l1", "cleaning": 1.0, "perceptual": 0.5, "teacher": 0.5, "sharpened": True}
    stages = (Stage(2, 2, 3, 12, **kinds), Stage(4, 2, 3, 12, gan=0.05, **kinds))
    network = {"name": "realbasicvsr", **SIZES["realbasicvsr"]}
    return dataclasses.replace(
        tiny_config(), network=network, stage=stages, gan=Adversary(num_feat=4), **changes
    )


@pytest.fixture
def judges(tmp_path):
    """VGG19 and a teacher on disk, as the configuration names them."""
    torch.save(tiny_vgg(), tmp_path / "vgg.pth")
    save_network(small_basicvsr(), tmp_path / "teacher.safetensors", {})
    return {
        "perceptual": Perceptual(tmp_path / "vgg.pth", {"conv2_2": 1.0, "conv3_1": 1.0}),
        "teacher": Teacher(tmp_path / "teacher.safetensors"),
    }


def test_a_run_with_a_discriminator_is_resumed_to_the_same_losses(
    tmp_path, on_made_pictures, judges
):
    config = with_everything(dropout=0.3, **judges)
    loop.train(config, tmp_path / "whole", CPU, None)
    pieces = tmp_path / "pieces"
    calls = config.flow.tied_steps + config.flow.steps - 1 + config.steps
    ends = [loop.train(config, pieces, CPU, Stop(0.0)) for _ in range(calls)]
    assert ends == [False] * (calls - 1) + [True]
    whole, pieces = (
        torch.load(tmp_path / name / "state.pt", weights_only=True) for name in ("whole", "pieces")
    )
    for part in ("net", "ema", "rival"):
        for key, value in whole[part].items():
            assert torch.equal(value, pieces[part][key]), (part, key)
    losses = [[row["loss"] for row in rows(tmp_path / name)] for name in ("whole", "pieces")]
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == config.steps


@pytest.mark.parametrize(("patch", "scale"), [(33, 4), (12, 1)])
def test_a_discriminator_is_given_sides_that_it_can_halve(patch, scale):
    config = adversarial_config()
    assert Judges.of(config, 4, CPU).discriminator is not None
    stages = tuple(dataclasses.replace(stage, patch=patch) for stage in config.stage)
    with pytest.raises(UsageError, match=rf"stage\.1\.patch = {patch}: .* multiple of 8"):
        Judges.of(dataclasses.replace(config, stage=stages), scale, CPU)


@pytest.mark.parametrize("kind", ["loss_share", "cleaning", "perceptual", "teacher", "gan"])
def test_every_kind_of_loss_counts(judges, kind):
    torch.manual_seed(0)
    config = with_everything(**judges)
    net = build_network(config.network)
    begin(net, config)
    judged = Judges.of(config, 4, CPU)
    judged.discriminator.eval()  # its vectors stay
    lq, gt = (x.float() / 255 for x in Batches(config, tiny_material(), 4)[0])
    nothing = dict.fromkeys(("loss_share", "cleaning", "perceptual", "teacher", "gan"), 0.0)
    silent = dataclasses.replace(config.stage[1], **nothing)
    assert objective(net, lq, gt, silent, judged, config)[0] == 0
    alone = dataclasses.replace(silent, **{kind: 1.0})
    once, _, _ = objective(net, lq, gt, alone, judged, config)
    assert once != 0
    doubled, _, _ = objective(
        net, lq, gt, dataclasses.replace(alone, **{kind: 2.0}), judged, config
    )
    assert doubled.item() == pytest.approx(2 * once.item(), rel=1e-5)
    once.backward()
    learned = {name.split(".")[0] for name, p in net.named_parameters() if p.grad.any()}
    assert learned == {"image_cleaning"} | (set() if kind == "cleaning" else {"basicvsr"})
    assert all(p.grad is None for p in judged.discriminator.parameters())


def test_a_teacher_that_makes_something_else_is_refused(judges, tmp_path):
    save_network(small_edvr(num_frame=3), tmp_path / "teacher.safetensors", {})
    config = with_everything(**judges)
    net = build_network(config.network)
    lq, gt = (x.float() / 255 for x in Batches(config, tiny_material(), 4)[0])
    with pytest.raises(UsageError, match=r"\[teacher\]: it makes \(2, 1, 3, 48, 48\)"):
        objective(net, lq, gt, config.stage[0], Judges.of(config, 4, CPU), config)


@pytest.mark.parametrize("name", ["edvr", "basicvsrpp"])
def test_deformable_networks_learn_in_bf16(name):
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_config(), network={"name": name, **SIZES[name]})
    net = build_network(config.network)
    begin(net, config)
    torch.nn.init.normal_(net.conv_last.weight, std=0.02)  # an EDVR paints nothing at first
    clip = torch.rand(1, 5, 3, 16, 16)
    exact, _ = forward(net, clip)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = forward(net, clip)
    assert 0 < (output - exact).abs().max() < 0.1
    output.float().mean().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("form", ["vanilla", "lsgan", "hinge", "relativistic"])
def test_the_discriminator_learns_to_tell_what_is_made(form):
    torch.manual_seed(0)
    config = dataclasses.replace(tiny_config(), gan=Adversary(form, num_feat=4))
    rival = UNetDiscriminator(3, 4)
    optimiser = torch.optim.Adam(rival.parameters(), 1e-2)
    truth = torch.stack([texture(seed, 32, 32) for seed in range(4)])[None].float() / 255
    made = (truth * 0.2).requires_grad_()
    losses = []
    for _ in range(60):
        loss = teach(rival, made, truth, config)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    assert made.grad is None


def test_bf16_trains_as_well(tmp_path, on_made_pictures, judges):
    config = with_everything(precision="bf16", **judges)
    loop.train(config, tmp_path / "run", CPU, None)
    full = dataclasses.replace(config, precision="fp32")
    loop.train(full, tmp_path / "full", CPU, None)
    low, high = ([float(r["loss"]) for r in rows(tmp_path / name)] for name in ("run", "full"))
    assert low[0] != high[0]
    assert low[5] != high[5]
    assert low == pytest.approx(high, rel=0.05)
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert all(v.dtype == torch.float32 for v in state["net"].values())


def test_a_window_network_learns_its_middle_frame(tmp_path, on_made_pictures, monkeypatch):
    real = Batches.__getitem__
    monkeypatch.setattr(Batches, "__getitem__", lambda self, step: real(self, 0))
    network = {"name": "edvr", **SIZES["edvr"]}
    stage, muon = (Stage(40, 2, 5, 12),), Optimiser(rate=1e-2, method="muon", warm_up=5)
    config = dataclasses.replace(tiny_config(), network=network, stage=stage, optimiser=muon)
    loop.train(dataclasses.replace(config, flow=None), tmp_path, CPU, None)
    losses = [float(row["loss"]) for row in rows(tmp_path)]
    assert losses[-1] < 0.95 * losses[0]  # that of the bilinear frame, to which nothing is added
    assert not (tmp_path / "flow.pt").exists()


def test_a_run_leaves_its_configuration_and_strips(tmp_path, on_made_pictures):
    loop.train(tiny_config(), tmp_path, CPU, None)
    assert read_config(tmp_path / "config.toml").stage == tiny_config().stage
    strips = sorted((tmp_path / "strips").iterdir())
    assert [strip.name for strip in strips] == ["made_0000003.png", "made_0000006.png"]
    strip = read_frames(strips[1])[0]
    assert strip.shape == (3, 64, 3 * 96)
    truth = torch.stack([texture(5, 64, 96).roll(2 * t, -1) for t in range(4)])[2]
    assert torch.equal(strip[..., 192:], truth)
    enlarged = (imresize(shrink(truth[None])[0].float() / 255, 4) * 255).round().clamp(0, 255)
    assert torch.equal(strip[..., :96].float(), enlarged)


def test_curves_are_written_where_tensorboard_is(tmp_path, on_made_pictures):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    loop.train(tiny_config(), tmp_path, CPU, Stop(0.0))
    loop.train(tiny_config(), tmp_path, CPU, None)
    events = EventAccumulator(str(tmp_path / "curves"))
    events.Reload()
    logged = [(e.step, pytest.approx(e.value)) for e in events.Scalars("loss")]
    assert [(int(r["step"]), float(r["loss"])) for r in rows(tmp_path)] == logged


def test_a_state_of_another_network_is_refused(tmp_path, on_made_pictures):
    loop.train(tiny_config(), tmp_path, CPU, None)
    sizes = SIZES["basicvsr"] | {"num_feat": 12}
    with pytest.raises(ModelError, match="is of another network"):
        loop.train(dataclasses.replace(tiny_config(), network=sizes), tmp_path, CPU, Stop(0.0))


def test_validation_shows_what_training_shows(tmp_path):
    """The reduction is the run's own, and drawn alike at every validation."""
    for t in range(4):
        png(tmp_path / "clip" / f"{t}.png", texture(5, 64, 96).roll(2 * t, -1))
    config = dataclasses.replace(tiny_config(), data=Data(tmp_path))
    lr, hr = loop.load_validation(config, 4, 3)["clip"]
    assert len(hr) == 3
    assert torch.equal(lr, shrink(hr))
    real = dataclasses.replace(config, data=Data(tmp_path, degradation="real"))
    first, again = (loop.load_validation(real, 4)["clip"][0] for _ in range(2))
    assert first.shape == (4, 3, 16, 24)
    assert torch.equal(first, again)
    assert not torch.equal(first[:3], lr)


def test_at_scale_1_the_gain_is_over_the_input(tmp_path):
    """A network that gives its input back gains nothing, and one that gives the truth all."""
    hr = torch.stack([texture(5, 64, 96).roll(2 * t, -1) for t in range(3)])
    for t, frame in enumerate(hr):
        png(tmp_path / "clip" / f"{t}.png", frame)
    config = dataclasses.replace(tiny_config(), data=Data(tmp_path, degradation="real"))
    clips = loop.load_validation(config, 1)
    lq, truth = clips["clip"]
    assert lq.shape == truth.shape == hr.shape

    class Given(FrameNetwork):
        scale = 1

        def __init__(self, error):
            super().__init__()
            self.error = error

        def forward(self, x):
            return x + self.error

    error = (truth.float() - lq.float()) / 255
    assert loop.validate(Given(0 * error), clips, CPU) == {"clip": 0.0}
    halved = loop.validate(Given(error / 2), clips, CPU)["clip"]
    assert halved == pytest.approx(6.02, abs=0.2)
    nothing = dataclasses.replace(config, data=Data(tmp_path))
    with pytest.raises(UsageError, match="nothing to undo"):
        loop.load_validation(nothing, 1)


def test_a_network_of_scale_1_learns(tmp_path):
    for seed in range(2):
        png(tmp_path / "photos" / f"{seed}.png", texture(seed, 160, 240))
    for t in range(4):
        png(tmp_path / "val" / "clip" / f"{t}.png", texture(5, 64, 96).roll(2 * t, -1))
    before = build_network({"name": "frbasicvsr", **SIZES["frbasicvsr"], "hr_in": True})
    save_network(before, tmp_path / "x1.safetensors", {})
    network = {"name": "frbasicvsr", **SIZES["frbasicvsr"], "hr_in": True}
    network |= {"weights": str(tmp_path / "x1.safetensors")}
    data = Data(tmp_path / "val", div2k=tmp_path / "photos", degradation="real", workers=0)
    config = dataclasses.replace(tiny_config(), network=network, data=data)
    loop.train(config, tmp_path / "run", CPU, None)
    assert [row["step"] for row in rows(tmp_path / "run")] == ["1", "2", "3", "4", "5", "6"]
    strip = read_frames(tmp_path / "run/strips/clip_0000006.png")[0]
    assert strip.shape == (3, 64, 3 * 96)
    assert not (tmp_path / "run" / "flow.pt").exists()


def test_the_plot_draws_both_losses(tmp_path, on_made_pictures):
    pytest.importorskip("matplotlib")
    loop.train(tiny_config(), tmp_path, torch.device("cpu"), None)
    plot(tmp_path / "log.csv", tiny_config(), tmp_path / "curve.png")
    assert (tmp_path / "curve.png").stat().st_size > 10_000
