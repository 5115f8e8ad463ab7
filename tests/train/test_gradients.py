"""A step's gradients. Without a GPU, the recording is a double that makes the step again."""

import dataclasses
import logging
import math

import pytest
import torch
from torch import nn
from train_material import adversarial_config, tiny_config, tiny_material

from vrestore.train import gradients
from vrestore.train.data import Batches
from vrestore.train.gradients import SEEN_FIRST, Gradients, Made, Recording
from vrestore.train.network import begin, build_network
from vrestore.train.objective import Judges, objective

CPU = torch.device("cpu")
ENOUGH = SEEN_FIRST + 3  # steps, of which the last two are played


class Again:
    """What a CUDA graph does on replay: the same step, from the same places to the same places."""

    def __init__(self, owner, stage, lq, gt, made, grads):
        self.owner, self.stage, self.error = owner, stage, 1.0
        self.lq, self.gt, self.made, self.grads = lq, gt, made, grads

    def replay(self):
        parameters = list(self.owner.net.parameters())
        before = [p.grad for p in parameters]
        new = self.owner._step_by_step(self.lq, self.gt, self.stage)
        for name in ("loss", "output", "truth"):
            getattr(self.made, name).copy_(getattr(new, name))
        for place, parameter in zip(self.grads, parameters, strict=True):
            assert (place is None) == (parameter.grad is None)
            if place is not None:
                place.copy_(parameter.grad * self.error)
        for parameter, grad in zip(parameters, before, strict=True):
            parameter.grad = grad


@pytest.fixture
def recorded(monkeypatch):
    """Graphs that were recorded, in order."""
    graphs = []

    def record(self, lq, gt, stage):
        made = self._step_by_step(lq, gt, stage)
        grads = tuple(p.grad for p in self.net.parameters())
        graphs.append(Again(self, stage, lq, gt, made, grads))
        return Recording(graphs[-1], lq, gt, made, grads)

    monkeypatch.setattr(Gradients, "_record", record)
    monkeypatch.setattr(Gradients, "_aside", Gradients._step_by_step)
    return graphs


def network(config, device=CPU):
    torch.manual_seed(0)
    net = build_network(config.network)
    begin(net, config)
    return net.to(device)


def gradients_of(config, records=True):
    made = Gradients(network(config), Judges.of(config, 4, CPU), config, CPU)
    assert not made.records  # on a CPU
    made.records = records
    return made


def batch(config, step):
    return Batches(config, tiny_material(), 4)[step]


def of_one_form(steps, config=None):
    """Batches of the first stage, each another."""
    config = config or tiny_config(2 * steps)
    return [batch(config, step) for step in range(steps)]


def wanted(net, lq, gt, stage, config):
    """Loss and gradients in the plainest way."""
    net.zero_grad(set_to_none=True)
    small, large = (x.float() / 255 for x in (lq, gt))
    with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
        judged = Judges.of(config, 4, CPU)
        loss, output, truth = objective(net, small, large, stage, judged, config)
    loss.backward()
    return Made(loss.detach(), output.detach(), truth), grads_of(net)


def grads_of(net):
    return [None if p.grad is None else p.grad.clone() for p in net.parameters()]


def same(a, b):
    """Gradients of one network made twice; those that are not there are not in both."""
    return all(
        (x is None and y is None) or (x is not None and y is not None and torch.equal(x, y))
        for x, y in zip(a, b, strict=True)
    )


def check_step(made, step, lq, gt, stage):
    right, grads = wanted(made.net, lq, gt, stage, made.config)
    for parameter in made.net.parameters():  # what is left of an earlier step
        parameter.grad = torch.ones_like(parameter)
    found = made(lq, gt, stage)
    assert torch.equal(found.loss, right.loss), step
    assert torch.equal(found.output, right.output)
    assert torch.equal(found.truth, right.truth)
    assert same(grads_of(made.net), grads), step
    assert any(g is not None and g.any() for g in grads)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_cpu_it_is_the_objective_and_its_gradients(precision):
    config = dataclasses.replace(tiny_config(), precision=precision)
    made = gradients_of(config, records=False)
    for step in range(config.steps):
        check_step(made, step, *batch(config, step), config.stage_at(step))


def test_a_step_is_recorded_after_a_few_of_its_form(recorded):
    config = tiny_config(2 * ENOUGH)
    made, batches = gradients_of(config), of_one_form(ENOUGH, config)
    for seen, (lq, gt) in enumerate(batches, start=1):
        check_step(made, seen, lq, gt, config.stage[0])
        assert len(recorded) == (seen > SEEN_FIRST)
    assert made.records
    for given, again in zip(batches, of_one_form(ENOUGH, config), strict=True):
        assert torch.equal(given[0], again[0])  # none was written over by another
        assert torch.equal(given[1], again[1])


def test_a_batch_of_another_size_is_another_form(recorded):
    config = tiny_config()
    made, stage = gradients_of(config), config.stage[0]
    for step, (lq, gt) in enumerate(of_one_form(ENOUGH)):
        check_step(made, step, lq, gt, stage)
    for step, (lq, gt) in enumerate(of_one_form(ENOUGH)):
        check_step(made, step, lq[:1], gt[:1], stage)
    assert len(recorded) == 2


def test_the_step_that_is_recorded_is_played_from_then_on(recorded, monkeypatch):
    made, stage = gradients_of(tiny_config()), tiny_config().stage[0]
    batches = of_one_form(ENOUGH)
    for lq, gt in batches[: SEEN_FIRST + 1]:
        made(lq, gt, stage)
    monkeypatch.setattr(Gradients, "_aside", lambda *_: pytest.fail("step by step"))
    losses = [made(lq, gt, stage).loss.item() for lq, gt in batches[SEEN_FIRST + 1 :]]
    assert losses[0] != losses[1]


def other_frames(made, stage):
    return dataclasses.replace(stage, frames=5), 0


def other_patch(made, stage):
    return dataclasses.replace(stage, patch=16), 0


def other_loss(made, stage):
    return dataclasses.replace(stage, loss="l1"), 0


def another_learns(made, stage):
    made.net.spynet.requires_grad_(False)
    return stage, 1


@pytest.mark.parametrize("change", [other_frames, other_patch, other_loss, another_learns])
def test_another_form_begins_anew(recorded, change):
    config = tiny_config(2 * ENOUGH)
    made, stage = gradients_of(config), config.stage[0]
    for step, (lq, gt) in enumerate(of_one_form(ENOUGH, config)):
        check_step(made, step, lq, gt, stage)
    stage, fixed = change(made, stage)
    config = dataclasses.replace(config, stage=(stage,))
    for seen, (lq, gt) in enumerate(of_one_form(ENOUGH, config), start=1):
        check_step(made, seen, lq, gt, stage)
        assert len(recorded) == 1 + (seen > SEEN_FIRST)
    assert (None in recorded[1].grads) == bool(fixed)


def test_gradients_that_were_clipped_in_place_are_new_at_the_next_step(recorded):
    made, stage = gradients_of(tiny_config()), tiny_config().stage[0]
    optimiser = torch.optim.Adam(made.net.parameters(), 1e-3)
    for step, (lq, gt) in enumerate(of_one_form(ENOUGH + 2)):
        check_step(made, step, lq, gt, stage)
        nn.utils.clip_grad_norm_(made.net.parameters(), 1e-4)
        optimiser.step()
    assert len(recorded) == 1


@pytest.mark.parametrize("error", [1.5, math.nan, 0.0])
@pytest.mark.parametrize("of", ["loss", "norm"])
def test_a_recording_that_comes_out_otherwise_is_given_up_for_the_run(
    recorded, monkeypatch, caplog, of, error
):
    record = Gradients._record

    def off(self, lq, gt, stage):
        recording = record(self, lq, gt, stage)
        if of == "norm":
            recording.graph.error = error
        else:
            replay = recording.graph.replay
            monkeypatch.setattr(
                recording.graph, "replay", lambda: (replay(), recording.made.loss.mul_(error))
            )
        return recording

    monkeypatch.setattr(Gradients, "_record", off)
    config = tiny_config(2 * ENOUGH)
    made = gradients_of(config)
    with caplog.at_level(logging.WARNING, "vrestore.train"):
        for stage in config.stage:
            one = dataclasses.replace(config, stage=(stage,))
            for step, (lq, gt) in enumerate(of_one_form(ENOUGH, one)):
                check_step(made, step, lq, gt, stage)
    assert len(recorded) == 1
    (line,) = caplog.messages
    assert "steps are not recorded, which is slower: loss" in line


def test_what_cannot_be_recorded_goes_step_by_step(recorded, monkeypatch, caplog):
    tried = []

    def refuse(self, lq, gt, stage):
        self.net.zero_grad(set_to_none=True)
        tried.append(stage)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Gradients, "_record", refuse)
    made, stage = gradients_of(tiny_config()), tiny_config().stage[0]
    for step, (lq, gt) in enumerate(of_one_form(ENOUGH)):
        check_step(made, step, lq, gt, stage)
    assert len(tried) == 1
    assert "not permitted" in caplog.text


def test_stages_with_an_adversary_are_never_recorded(recorded):
    config = adversarial_config()
    made, (plain, rivals) = gradients_of(config), config.stage
    for lq, gt in of_one_form(ENOUGH):
        made(lq, gt, plain)
    assert made._recording is not None
    for lq, gt in of_one_form(ENOUGH):
        assert made(lq, gt, rivals).loss.isfinite()
    assert len(recorded) == 1
    assert made._recording is None  # and so nothing of its memory is held


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_runs_with_dropout_are_not_recorded(monkeypatch, share):
    monkeypatch.setattr(gradients.torch.cuda, "Stream", lambda device: None)
    config = dataclasses.replace(tiny_config(), dropout=share)
    judges = Judges.of(config, 4, CPU)
    made = Gradients(network(config), judges, config, torch.device("cuda"))
    assert made.records == (share == 0)


def test_what_a_step_gave_holds_no_graph(recorded):
    made, stage = gradients_of(tiny_config()), tiny_config().stage[0]
    for lq, gt in of_one_form(ENOUGH):
        found = made(lq, gt, stage)
        assert not any(x.requires_grad for x in (found.loss, found.output, found.truth))
    rivals = adversarial_config()
    found = gradients_of(rivals)(*of_one_form(1)[0], rivals.stage[1])
    assert not any(x.requires_grad for x in (found.loss, found.output, found.truth))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_a_gpu_recorded_steps_learn_what_steps_one_by_one_learn(precision):
    config = dataclasses.replace(tiny_config(4 * ENOUGH), precision=precision)
    device, losses = torch.device("cuda"), {}
    for records in (True, False):
        net = network(config, device)
        made = Gradients(net, Judges.of(config, 4, device), config, device)
        made.records = records
        optimiser = torch.optim.Adam(net.parameters(), 1e-3)
        losses[records] = []
        for lq, gt in of_one_form(2 * ENOUGH):
            losses[records].append(made(lq, gt, config.stage[0]).loss.item())
            nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            optimiser.step()
        assert (made._recording is not None) == records
    assert losses[True] == pytest.approx(losses[False], rel=1e-3 if precision == "fp32" else 0.02)
