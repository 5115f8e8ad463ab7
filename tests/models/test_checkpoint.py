"""Every layout of the field loads; whatever does not fit is refused and nothing is executed."""

from __future__ import annotations

import argparse
import datetime
import os
import pathlib
import pickle
import re
import shutil
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch
from golden import filled
from networks import small_iconvsr
from torch import Tensor

from vrestore.errors import ModelError, OutputError
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.checkpoint import load_module, load_network, save_network
from vrestore.models.spynet import SPyNet

SIZES: dict[str, Any] = {
    "num_feat": 8,
    "num_block": 2,
    "num_tail_feat": 12,
    "spynet_levels": 3,
    "spynet_kernel": 5,
    "spynet_widths": (6, 4),
}
State = dict[str, Tensor]


@pytest.fixture
def state() -> State:
    """A compact BasicVSR in BasicSR's names."""
    return filled({k: tuple(v.shape) for k, v in BasicVSR(**SIZES).state_dict().items()})


def prefixed(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def zeros(state: State) -> State:
    return {key: torch.zeros_like(value) for key, value in state.items()}


def mmagic(state: State) -> State:
    """The same weights in mmagic's names (shared/reference/architectures.md, section 3)."""
    out = {}
    for key, value in state.items():
        key = re.sub(r"(backward|forward)_trunk", r"\1_resblocks", key)
        key = re.sub(r"upconv(\d)", r"upsample\1.upsample_conv", key)
        inner = re.match(r"(.*basic_module\.\d+\.basic_module)\.(\d+)\.(.*)", key)
        if inner:
            key = f"{inner[1]}.{int(inner[2]) // 2}.conv.{inner[3]}"
        out[key] = value
    return out


LAYOUTS: dict[str, Callable[[State], dict[str, Any]]] = {
    "params": lambda s: {"params": s},
    "params_ema before params": lambda s: {"params": zeros(s), "params_ema": s},
    "params_ema that is empty": lambda s: {"params": s, "params_ema": {}},
    "empty beside": lambda s: {"params": s, "iter": 5, "best": None},
    "bare": lambda s: s,
    "bare with counters": lambda s: {**s, "step_counter": torch.zeros(1)},
    "module.": lambda s: prefixed("module.", s),
    "params with module.": lambda s: {"params": prefixed("module.", s)},
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "generator.": lambda s: {
        "meta": {"epoch": 1},
        "state_dict": {
            **prefixed("generator.", mmagic(s)),
            "step_counter": torch.zeros(1),
            "discriminator.conv.weight": torch.zeros(3),
            "perceptual_loss.vgg.weight": torch.zeros(3),
        },
    },
    "generator_ema. before generator.": lambda s: {
        "state_dict": {
            **prefixed("generator.", zeros(mmagic(s))),
            **prefixed("generator_ema.", mmagic(s)),
        }
    },
    "mmengine's average": lambda s: {
        "state_dict": {
            **prefixed("generator_ema.module.", mmagic(s)),
            "generator_ema.steps": torch.tensor(7),
        }
    },
    "mmagic, bare": mmagic,
    "without mean and std": lambda s: {
        k: v for k, v in s.items() if k[-4:] not in ("mean", ".std")
    },
    "doubles": lambda s: {k: v.double() for k, v in s.items()},
    "trained parameters": lambda s: {k: torch.nn.Parameter(v) for k, v in s.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_every_layout_gives_the_same_network(
    layout: str, zipped: bool, state: State, tmp_path: Path
) -> None:
    path = tmp_path / "net.pth"
    torch.save(LAYOUTS[layout](state), path, _use_new_zipfile_serialization=zipped)
    assert_is(load_network(path), state)


def test_safetensors_are_known_by_content_not_by_name(state: State, tmp_path: Path) -> None:
    for name, prefix in (("net.safetensors", ""), ("net.pth", "module.")):
        safetensors.torch.save_file(prefixed(prefix, state), tmp_path / name)
        assert_is(load_network(tmp_path / name), state)


def test_every_size_is_read_off_the_shapes(tmp_path: Path) -> None:
    net = BasicVSR(4, 0, 6, 1, 3, ())
    torch.save(net.state_dict(), tmp_path / "net.pth")
    assert_is(load_network(tmp_path / "net.pth"), net.state_dict())


@pytest.mark.parametrize("layout", ["basicsr", "mmagic"])
def test_a_flow_network_without_mean_and_std_gets_imagenets(layout: str, tmp_path: Path) -> None:
    state = SPyNet(3, 3, (6, 4)).state_dict()
    held = {k: v for k, v in state.items() if k not in ("mean", "std")}
    torch.save({"params": mmagic(held) if layout == "mmagic" else held}, tmp_path / "flow.pth")
    net = load_module(tmp_path / "flow.pth")
    assert isinstance(net, SPyNet)
    assert net.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
    with pytest.raises(ModelError, match="holds a SPyNet alone"):
        load_network(tmp_path / "flow.pth")


def test_halves_become_float32(state: State, tmp_path: Path) -> None:
    torch.save({k: v.half() for k, v in state.items()}, tmp_path / "net.pth")
    assert_is(load_network(tmp_path / "net.pth"), {k: v.half().float() for k, v in state.items()})


def test_weights_that_shared_memory_in_the_file_do_not_in_the_network(
    state: State, tmp_path: Path
) -> None:
    torch.save({**state, "conv_hr.bias": state["conv_hr.weight"].view(-1)[:12]}, tmp_path / "n.pth")
    net = load_network(tmp_path / "n.pth")
    places = {value.untyped_storage().data_ptr() for value in net.state_dict().values()}
    assert len(places) == len(state)


def test_loaded_weights_lie_as_the_network_laid_its_own(state: State, tmp_path: Path) -> None:
    """Channels last is 1.3 to 1.5 times as fast on a CPU, and the layout decides the last bits."""
    torch.save(state, tmp_path / "net.pth")
    loaded, built = load_network(tmp_path / "net.pth").state_dict(), BasicVSR(**SIZES).state_dict()
    assert {k: v.stride() for k, v in loaded.items()} == {k: v.stride() for k, v in built.items()}


def test_loading_draws_no_random_numbers(state: State, tmp_path: Path) -> None:
    torch.save(state, tmp_path / "net.pth")
    torch.manual_seed(5)
    load_network(tmp_path / "net.pth")
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))


def test_a_saved_network_loads_again_with_its_metadata(state: State, tmp_path: Path) -> None:
    path = tmp_path / "net.safetensors"
    net = BasicVSR(**SIZES)
    net.load_state_dict(state)
    save_network(net, path, {"iterations": "12", "psnr": "31.4"})
    assert_is(load_network(str(path)), state)
    with safetensors.safe_open(path, "pt") as file:
        assert file.metadata() == {"iterations": "12", "psnr": "31.4"}
    assert [p.name for p in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_network_that_cannot_be_saved_says_why(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="No such file or directory"):
        save_network(SPyNet(1, 3, ()), tmp_path / "absent" / "net.safetensors", {})


class Hostile:
    """A pickle that creates a file when it is read without care."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (os.mkdir, (str(self.path),))


def test_a_plain_pickle_is_told_in_our_words_alone(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    (tmp_path / "net.pth").write_bytes(pickle.dumps({"params": [1, 2]}, protocol=2))
    with pytest.raises(ModelError):
        load_network(tmp_path / "net.pth")
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "pickle 4"])
def test_a_hostile_pickle_executes_nothing(form: str, state: State, tmp_path: Path) -> None:
    trap, path = tmp_path / "executed", tmp_path / "net.pth"
    content = {"params": state, "extra": Hostile(trap)}
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(Hostile(trap), protocol=4 if form[-1] == "4" else 2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(ModelError):
        load_network(path)
    assert not trap.exists()
    torch_reads_it = form in ("zip", "legacy")
    if torch_reads_it:  # the trap itself works
        torch.load(path, weights_only=False)
        assert trap.exists()


def test_what_no_training_framework_leaves_is_refused_though_it_does_no_harm(
    state: State, tmp_path: Path
) -> None:
    class Stranger:
        def __reduce__(self) -> tuple[Any, ...]:
            return (shutil.which, ("ffmpeg",))

    torch.save({"params": state, "extra": Stranger()}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"refused, because it asks for shutil\.which"):
        load_network(tmp_path / "net.pth")


def test_foreign_objects_are_named_and_the_unsafe_way_is_not_advised(
    state: State, tmp_path: Path
) -> None:
    torch.save({"params": state, "extra": Hostile(tmp_path / "x")}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"refused, because it asks for \w+\.mkdir") as caught:
        load_network(tmp_path / "net.pth")
    assert "weights_only" not in str(caught.value)


@pytest.fixture
def message_hub(monkeypatch: pytest.MonkeyPatch) -> Any:
    """An object such as mmengine leaves in its checkpoints, with numpy's numbers in it."""
    import numpy as np

    module = types.ModuleType("mmengine.logging.message_hub")
    code = "class MessageHub:\n    def __setstate__(self, state):\n        raise SystemExit"
    exec(code, module.__dict__)
    kind = module.__dict__["MessageHub"]
    kind.__module__ = module.__name__
    for name in ("mmengine", "mmengine.logging", module.__name__):
        monkeypatch.setitem(sys.modules, name, module)
    hub = kind()
    config = type("ConfigDict", (dict,), {"__module__": module.__name__})
    module.__dict__["ConfigDict"] = config
    hub.config = config(model=config(type="BasicVSR"), where=pathlib.PurePosixPath("work"))
    hub.when = [datetime.datetime(2026, 1, 1), torch.__version__]
    hub.history = {
        "loss": np.arange(3.0),
        "last": np.float64(0.5),
        "flags": argparse.Namespace(a=1),
    }
    return hub


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_what_training_frameworks_leave_is_passed_over_and_never_made(
    zipped: bool, state: State, message_hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "net.pth"
    content = {"meta": {"hub": [message_hub]}, "params": state, "message_hub": message_hub}
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mmengine"]:
        monkeypatch.delitem(sys.modules, name)
    assert_is(load_network(path), state)
    assert not [name for name in sys.modules if name.startswith("mmengine")]


def test_a_hostile_object_beside_those_is_refused_still(
    state: State, message_hub: Any, tmp_path: Path
) -> None:
    path, trap = tmp_path / "net.pth", tmp_path / "executed"
    message_hub.callback = Hostile(trap)
    torch.save({"params": state, "message_hub": message_hub}, path)
    with pytest.raises(ModelError, match=r"refused, because it asks for \w+\.mkdir"):
        load_network(path)
    assert not trap.exists()


def broken(kind: str, state: State, path: Path) -> None:
    torch.save({"params": state}, path, _use_new_zipfile_serialization="legacy" not in kind)
    whole = path.read_bytes()
    if "cut" in kind:
        path.write_bytes(whole[: len(whole) * int(kind[-2:]) // 100])
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("vrestore/readme.txt", "no tensors here")
    elif kind == "safetensors cut":
        path.write_bytes(safetensors.torch.save(state)[:-100])
    else:
        path.write_bytes(
            {
                "empty": b"",
                "one byte": b"\x80",
                "text": b"weights are at https://example.org/net.pth",
                "page": b"<!DOCTYPE html><html>404</html>",
                "json": b'{"params": {"a": 1}}',
                "garbage": bytes(range(256)) * 9,
                "almost safetensors": b"\xff" * 8 + b"{" + b"\x00" * 50,
            }[kind]
        )


@pytest.mark.parametrize(
    "kind",
    ["zip", "empty", "one byte", "text", "page", "json", "garbage", "almost safetensors"]
    + [f"{form} cut {percent}" for form in ("zip", "legacy") for percent in (10, 50, 99)]
    + ["safetensors cut 90"],
)
def test_what_is_no_checkpoint_is_refused(kind: str, state: State, tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    broken(kind, state, path)
    with pytest.raises(ModelError, match=r"net\.pth: not a checkpoint, or a damaged one") as caught:
        load_network(path)
    assert caught.value.exit_code == 4
    assert "weights_only" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused(
    state: State, tmp_path: Path
) -> None:
    huge = torch.zeros(1).expand(1 << 20, 1 << 20)
    torch.save(state | {"conv_hr.weight": huge}, tmp_path / "net.pth")
    with pytest.raises(ModelError, match=r"net.pth: conv_hr.weight claims 4398046511104 bytes"):
        load_network(tmp_path / "net.pth")


@pytest.mark.parametrize("name", ["get", "keys"])
def test_attributes_on_a_dictionary_are_not_listened_to(
    name: str, state: State, tmp_path: Path
) -> None:
    hung = OrderedDict(state)
    setattr(hung, name, 5)
    torch.save(hung, tmp_path / "net.pth")
    assert_is(load_network(tmp_path / "net.pth"), state)


def test_names_in_a_file_cannot_write_on_a_terminal(state: State, tmp_path: Path) -> None:
    torch.save(
        state | {"\x1b[31m\nvrestore: done" + "x" * 1000: torch.zeros(1)}, tmp_path / "a.pth"
    )
    with pytest.raises(ModelError) as caught:
        load_network(tmp_path / "a.pth")
    assert "1 unexpected (first: ?[31m?vrestore: donexxx" in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


@pytest.mark.skipif(sys.platform == "win32", reason="there are no named pipes in folders there")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(ModelError, match="is a pipe or a device"):
        load_network(tmp_path / "pipe.pth")


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be opened: No such file"):
        load_network(tmp_path / "none.pth")
    with pytest.raises(ModelError, match="cannot be opened: Is a directory"):
        load_network(tmp_path)


WRONG: dict[str, tuple[Any, str]] = {
    "a list": (lambda s: list(s.values()), "holds a list, not a state dict"),
    "a tensor": (lambda s: torch.zeros(3), "holds a Tensor, not a state dict"),
    "no weights": (lambda s: {"epoch": 3, "lr": 0.1}, "holds no weights; at its top are epoch, lr"),
    "nothing": (lambda s: {}, "at its top are no keys"),
    "another network": (
        lambda s: {f"body.{i}.weight": torch.zeros(3) for i in range(9)},
        r"no known architecture; its 9 keys begin body\.0\.weight, body\.1\.weight, "
        r"body\.2\.weight; known are BasicVSR, .*EDVR, .*SPyNet",
    ),
    "half a network": (
        lambda s: {k: v for k, v in s.items() if not k.startswith(("spynet", "fusion"))},
        "the nearest known one, BasicVSR, has fusion, spynet as well",
    ),
    "a missing key": (
        lambda s: without(s, "upconv1.bias", "conv_hr.bias"),
        r"does not fit BasicVSR\(num_feat=8, .*\): 2 missing \(first: upconv1.bias\); the file",
    ),
    "an unexpected key": (
        lambda s: {**s, "fusion.gamma": torch.ones(1), "edvr.weight": torch.ones(1)},
        r"2 unexpected \(first: fusion.gamma\)",
    ),
    "wrong shapes": (
        lambda s: {**s, "forward_trunk.main.0.weight": torch.zeros(8, 19, 3, 3)},
        r"1 of wrong shape \(first: forward_trunk.main.0.weight is \(8, 19, 3, 3\), "
        r"not \(8, 11, 3, 3\)\)",
    ),
    "a gap in the blocks": (
        lambda s: {k.replace("main.2.1.", "main.2.99999999999."): v for k, v in s.items()},
        r"8 missing \(first: backward_trunk.main.2.1.conv1.weight\), 8 unexpected",
    ),
    "no size": (
        lambda s: without(s, "fusion.weight"),
        "sizes cannot be read off fusion.weight, which is missing or of another form; the file",
    ),
    "half of another network": (
        lambda s: {**{k: v for k, v in s.items() if k[0] != "s"}, "head.weight": torch.ones(1)},
        r"the nearest known one, BasicVSR, has spynet as well, and no head.weight",
    ),
    "a scalar": (
        lambda s: {**s, "fusion.weight": torch.tensor(1.0)},
        "sizes cannot be read off fusion.weight",
    ),
    "an even kernel": (
        lambda s: {
            k: v[..., :4, :4] if k.startswith("spynet.b") and v.dim() == 4 else v
            for k, v in s.items()
        },
        "whose kernel of 4 is even",
    ),
    "not a number": (
        lambda s: {**s, "conv_last.bias": torch.tensor([0.0, float("nan"), 0.0])},
        "conv_last.bias holds values that are not finite",
    ),
    "infinite": (
        lambda s: {**s, "conv_last.bias": torch.tensor([0.0, 1e300, 0.0], dtype=torch.float64)},
        "conv_last.bias holds values that are not finite",
    ),
    "integers": (
        lambda s: {**s, "conv_last.bias": torch.zeros(3, dtype=torch.int8)},
        r"conv_last.bias is torch.int8, torch.strided, not plain floats",
    ),
    "two layouts at once": (
        lambda s: {**s, "upsample1.upsample_conv.bias": torch.zeros(32)},
        "holds upconv1.bias twice",
    ),
    "batch normalisation in the flow network": (
        lambda s: {**s, "spynet.basic_module.0.basic_module.0.bn.weight": torch.zeros(6)},
        r"1 unexpected \(first: spynet.basic_module.0.basic_module.0.bn.weight\)",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_weights_that_do_not_fit_are_refused_by_name(
    kind: str, state: State, tmp_path: Path
) -> None:
    spoil, message = WRONG[kind]
    torch.save(spoil(state), tmp_path / "net.pth")
    with pytest.raises(ModelError, match=message):
        load_network(tmp_path / "net.pth")


def test_a_file_of_half_the_size_holds_the_network_in_half_precision(tmp_path: Path) -> None:
    net = small_iconvsr()
    sizes = []
    for half in (False, True):
        save_network(net, tmp_path / "net.safetensors", {"steps": "7"}, half=half)
        sizes.append((tmp_path / "net.safetensors").stat().st_size)
        with safetensors.safe_open(tmp_path / "net.safetensors", "pt") as file:
            assert file.metadata() == {"steps": "7"}
    assert sizes[1] < 0.7 * sizes[0]
    found = load_network(tmp_path / "net.safetensors", keyframe_stride=3).state_dict()
    for name, value in net.state_dict().items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], value.half().float())


def without(state: State, *keys: str) -> State:
    return {key: value for key, value in state.items() if key not in keys}


def assert_is(net: Any, expected: State) -> None:
    """The network holds exactly these values and is ready for use."""
    assert isinstance(net, BasicVSR)
    assert not net.training
    actual = net.state_dict()
    assert actual.keys() == expected.keys()
    for key, value in actual.items():
        assert value.dtype == torch.float32
        assert value.device.type == "cpu"
        assert torch.equal(value, expected[key]), key
    assert not any(p.requires_grad for p in net.parameters())
    assert net(torch.rand(2, 3, 4, 4)).isfinite().all()
