"""A step as one launch. Without a GPU, the recording is a double that runs the function again."""

import pytest
import torch
from networks import moving_clip, small_basicvsrpp
from torch.utils._pytree import tree_flatten, tree_map_only

from vrestore.engine import graphs
from vrestore.engine.graphs import FORMS, SEEN_FIRST, Recorder, Recording, form_of, near
from vrestore.engine.restorer import Restorer


class Again:
    """What a CUDA graph does on replay: the same steps, from the same places to the same places."""

    def __init__(self, function, args, kwargs, result):
        self.call, self.result = (function, args, kwargs), result

    def replay(self):
        function, args, kwargs = self.call
        new = tree_flatten(function(*args, **kwargs))[0]
        for old, values in zip(tree_flatten(self.result)[0], new, strict=True):
            old.copy_(values)


@pytest.fixture
def recorded(monkeypatch):
    """Names of what was recorded, in order."""
    names = []

    def record(self, function, leaves, tree):
        names.append(function.__qualname__)
        mine = [leaf.clone() if isinstance(leaf, torch.Tensor) else leaf for leaf in leaves]
        args, kwargs = graphs.tree_unflatten(mine, tree)
        result = tree_map_only(torch.Tensor, torch.clone, function(*args, **kwargs))
        inputs = tuple(leaf for leaf in mine if isinstance(leaf, torch.Tensor))
        return Recording(Again(function, args, kwargs, result), inputs, result)

    monkeypatch.setattr(Recorder, "_record", record)
    return names


def doubled(x, more=()):
    return {"twice": 2 * x, "sum": sum(more, start=x)}


def test_a_form_is_recorded_once_and_gives_new_values_every_time(recorded):
    recorder, kept = Recorder(), []
    for k in range(SEEN_FIRST + 5):
        x = torch.full((2, 3), float(k))
        kept.append(recorder(doubled, x, more=(x, x)))
    assert recorded == ["doubled"]
    for k, found in enumerate(kept):  # what was given before is not written over
        assert torch.equal(found["twice"], torch.full((2, 3), 2.0 * k))
        assert torch.equal(found["sum"], torch.full((2, 3), 3.0 * k))


def test_other_shapes_layouts_types_and_counts_are_other_forms():
    def form(*args):
        return form_of("f", *tree_flatten(args))

    x = torch.rand(1, 2, 4, 6)
    assert form(x) == form(x + 1)
    others = [
        form(x),
        form(x[:, :, :2]),
        form(x.to(memory_format=torch.channels_last)),
        form(x.half()),
        form([x]),
        form(x, x),
        form(x, 1),
        form(x, 1.0),
        form(x, 2),
    ]
    assert len(set(others)) == len(others)


def test_what_cannot_be_recorded_is_called_as_it_is(monkeypatch):
    tried = []

    def refuse(self, function, leaves, tree):
        tried.append(function)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(Recorder, "_record", refuse)
    recorder = Recorder()
    for k in range(SEEN_FIRST + 4):
        assert recorder(doubled, torch.tensor(float(k)))["twice"] == 2 * k
    assert len(tried) == 1


def test_a_recording_that_gives_other_values_is_not_used(monkeypatch, caplog):
    unused = Recording(None, (), None)
    monkeypatch.setattr(Recorder, "_record", lambda self, function, leaves, tree: unused)
    monkeypatch.setattr(Recording, "play", lambda self, tensors: doubled(tensors[0] + 0.1))
    recorder = Recorder()
    for k in range(1, SEEN_FIRST + 4):
        x = torch.full((3,), float(k) / 4)
        assert torch.equal(recorder(doubled, x)["twice"], 2 * x)
    assert recorder._unfit == {"doubled"}
    assert caplog.text.count("other values") == 1


def test_rounding_is_near_and_a_wrong_value_is_not():
    x = torch.rand(50)
    assert near({"a": x, "b": [1, x.half()]}, {"a": x + 0.001, "b": [1, x]})
    assert near(torch.zeros(3), torch.zeros(3))
    assert not near(torch.full((3,), float("nan")), torch.ones(3))
    wrong = x.clone()
    wrong[7] += 0.5
    assert not near((x, wrong), (x, x))


def test_forms_without_end_do_not_fill_the_memory(recorded):
    recorder = Recorder()
    for size in range(1, FORMS + 10):
        for _ in range(SEEN_FIRST + 1):
            assert recorder(doubled, torch.ones(size))["twice"].sum() == 2 * size
    assert len(recorded) == FORMS


def test_a_recorded_network_restores_the_same_frames(recorded):
    net, clip = small_basicvsrpp(), moving_clip(14, 24, 28)

    def restored(recorder):
        restorer = Restorer(net, precision="fp32", device="cpu", chunk=4, lookahead=3)
        restorer._run._recorder = recorder
        return torch.stack(list(restorer.stream(clip)))

    assert torch.equal(restored(Recorder()), restored(None))
    assert {name.split(".")[-1] for name in recorded} == {"advance", "render", "flow"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_on_a_gpu_recorded_and_not_are_equal_to_rounding():
    net, clip = small_basicvsrpp(), moving_clip(30, 64, 80)
    for precision, most in (("fp32", 1e-3), ("fp16", 2e-2)):
        restorer = Restorer(net, precision=precision, device="cuda", chunk=8, lookahead=4)
        recorded = torch.stack(list(restorer.stream(clip))).cpu()
        assert restorer._run._recorder._recordings
        restorer._run._recorder = None
        plain = torch.stack(list(restorer.stream(clip))).cpu()
        assert (recorded - plain).abs().max() < most * plain.abs().max()
