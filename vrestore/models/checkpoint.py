"""A file on disk -> architecture, sizes, weights: the layouts of the field, read safely.

A file is unwrapped (containers and prefixes), its keys are brought to BasicSR's names, the network
is recognised by them, its sizes are read off the shapes, and then every key must fit.
"""

from __future__ import annotations

import inspect
import os
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from vrestore.errors import ModelError, OutputError
from vrestore.models.basicvsr import BasicVSR
from vrestore.models.basicvsrpp import BasicVSRPlusPlus
from vrestore.models.edvr import EDVR, EDVRFeatureExtractor
from vrestore.models.frbasicvsr import FRBasicVSR
from vrestore.models.frrealbasicvsr import FRRealBasicVSR
from vrestore.models.iconvsr import IconVSR
from vrestore.models.layouts import basicsr_name
from vrestore.models.published import told_of
from vrestore.models.realbasicvsr import RealBasicVSR
from vrestore.models.shapes import Architecture, Shapes
from vrestore.models.spynet import SPyNet
from vrestore.models.temporal import FrameNetwork, Network, RecurrentNetwork, WindowNetwork

State = dict[str, Tensor]

# BasicSR, BasicSR, mmediting and mmagic; averaged weights are what their authors test with.
_CONTAINERS = ("params_ema", "params", "state_dict")
_OWNERS = ("generator_ema.", "generator.")
_WRAPPERS = re.compile(r"^((module|_orig_mod)\.)+")  # DataParallel, torch.compile
_COUNTERS = {"step_counter", "steps"}  # training state that mmediting and mmengine save as buffers

# What training frameworks leave beside the weights. Such objects are never made, nor their code
# imported: empty ones take their places.
_INERT = (
    *("mmcv.", "mmengine.", "mmedit.", "mmagic.", "numpy.", "omegaconf.", "argparse.Namespace"),
    *("datetime.", "pathlib.", "torch.torch_version."),
)
_MOST_INERT = 100

ARCHITECTURES: tuple[Architecture, ...] = (
    BasicVSR,
    BasicVSRPlusPlus,
    EDVR,
    EDVRFeatureExtractor,
    FRBasicVSR,
    FRRealBasicVSR,
    IconVSR,
    RealBasicVSR,
    SPyNet,
)


def load_network(path: str | Path, **told: Any) -> Network:
    """The restoring network in a checkpoint: eval mode, float32, CPU, no gradients.

    Sizes are read off the weights. ``told``: constructor arguments that no shape tells (EDVR's
    ``center_frame_idx``, say); a published file is known by its name, others get the published
    defaults. Raises ``ModelError`` for a file that is missing, damaged, unknown, incomplete, not
    finite, or that asks for code to be run.
    """
    net = load_module(path, **(told_of(Path(path).name) | told))
    if not isinstance(net, FrameNetwork | WindowNetwork | RecurrentNetwork):
        raise ModelError(
            f"{path}: holds a {type(net).__name__} alone, which is a part of restoring networks "
            "and restores nothing by itself; give the checkpoint of a whole network"
        )
    return net


def load_module(path: str | Path, **told: Any) -> nn.Module:
    """As ``load_network``, for any known architecture: also a flow network alone."""
    path = Path(path)
    state = _basicsr_names(_unwrapped(_read(path), path), path)
    architecture = _recognised(state, path)
    unknown = told.keys() - inspect.signature(architecture).parameters.keys()
    if unknown:
        raise ModelError(
            f"{path}: holds a {_name(architecture)}, which has no {_first(unknown, 3)}"
        )
    try:
        arguments = architecture.sizes(Shapes(state)) | told
        with torch.device("meta"):  # no time and no random numbers spent on initial values
            net = architecture(**arguments)
    except (LookupError, ArithmeticError, ValueError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"{path}: looks like {_name(architecture)}, but its sizes cannot be read off "
            f"{_first(error.args or (error,), 1)}"
            f"{', which is missing or of another form' if isinstance(error, LookupError) else ''}; "
            "the file is damaged or of another network"
        ) from error
    sizes = ", ".join(f"{name}={value}" for name, value in arguments.items())
    expected = net.state_dict()
    state = _fitted(state, expected, f"{path}: does not fit {_name(architecture)}({sizes})")
    net.load_state_dict(_float32(state, expected, path), assign=True)
    return net.eval().requires_grad_(False)


def save_network(
    net: nn.Module, path: str | Path, metadata: dict[str, str], *, half: bool = False
) -> None:
    """Write the weights as safetensors with ``metadata`` in the header; complete or not at all.

    ``half``: as float16, half the bytes; a network loaded from them runs in float32 all the same.
    """
    path = Path(path)
    kind = torch.float16 if half else None
    tensors = {
        name: value.detach().to("cpu", kind).contiguous()
        for name, value in net.state_dict().items()
    }
    partial = path.with_name(path.name + ".partial")
    try:
        partial.write_bytes(safetensors.torch.save(tensors, metadata))
        os.replace(partial, path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise OutputError(f"{path}: the weights cannot be written: {error.strerror}") from error


def _read(path: Path) -> object:
    """What the file holds. Only tensors and plain containers are ever built from a pickle."""
    if path.is_fifo() or path.is_socket() or path.is_char_device():
        raise ModelError(f"{path}: is a pipe or a device; a checkpoint is a file on a disk")
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise ModelError(f"{path}: the checkpoint cannot be opened: {error.strerror}") from error
    try:
        if head[8:] == b"{":  # safetensors: eight bytes of length, then a JSON header
            return safetensors.torch.load_file(path)
        return _pickled(path)
    except Exception as error:  # the readers raise a dozen kinds on bytes that are not theirs
        foreign = re.search(r"GLOBAL (\S+)", str(error))
        if foreign:
            raise ModelError(
                f"{path}: refused, because it asks for {foreign[1]} to be called and not only for "
                "weights to be read; save its state dict alone, from where you trust it"
            ) from error
        detail = ""
        if isinstance(error, RuntimeError | safetensors.SafetensorError):
            detail = f" ({str(error).splitlines()[0][:120]})"
        raise ModelError(
            f"{path}: not a checkpoint, or a damaged one{detail}; .pth and .safetensors files "
            "with a state dict can be read. Fetch it anew and compare its size or sha256"
        ) from error


def _pickled(path: Path) -> object:
    """A pickle's tensors and plain containers; known foreign objects stand in it as empty ones."""
    inert: list[Any] = []
    while True:
        try:
            with torch.serialization.safe_globals(inert), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of old files; what is wrong becomes an error
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            foreign = re.search(r"GLOBAL (\S+)", str(error))
            name = foreign[1] if foreign else ""
            known = name.startswith(_INERT) and len(inert) < _MOST_INERT
            if not known or any(f"{kind.__module__}.{kind.__name__}" == name for kind in inert):
                raise
            module, _, word = name.rpartition(".")
            inert.append(type(word, (_Inert,), {"__module__": module}))


class _Inert:
    """Stands for an object of a training framework: takes what it is given, and does nothing."""

    def __new__(cls, *args: object, **kwargs: object) -> Any:
        # Many of them are dictionaries, and torch fills only those of exactly its own kinds.
        return super().__new__(cls) if cls.__module__.startswith("numpy") else OrderedDict()

    def __init__(self, *args: object, **kwargs: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def _unwrapped(content: object, path: Path) -> State:
    """The network's own tensors, out of their container and without prefixes."""
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds a {type(content).__name__}, not a state dict")
    top = _plain(content)
    inner = (held for key in _CONTAINERS if isinstance(held := top.get(key), dict) and held)
    found = _plain(next(inner, top))
    state = {_WRAPPERS.sub("", str(k)): v for k, v in found.items() if isinstance(v, Tensor)}
    for key, value in state.items():
        if value.layout == torch.strided and value.nbytes > value.untyped_storage().nbytes():
            raise ModelError(
                f"{path}: {_first([key], 1)} claims {value.nbytes} bytes and has "
                f"{value.untyped_storage().nbytes()}; the file is damaged, or made to do harm"
            )
    for owner in _OWNERS:
        owned = {k.removeprefix(owner): v for k, v in state.items() if k.startswith(owner)}
        if owned:
            state = {_WRAPPERS.sub("", key): value for key, value in owned.items()}
            break
    state = {key: value for key, value in state.items() if key not in _COUNTERS}
    if not state:
        raise ModelError(
            f"{path}: holds no weights; at its top are {_first(found, 5) or 'no keys'}"
        )
    return state


def _basicsr_names(state: State, path: Path) -> State:
    renamed: State = {}
    for key, value in state.items():
        name = basicsr_name(key)
        if name in renamed:
            raise ModelError(f"{path}: holds {_first([name], 1)} twice, in two naming layouts")
        renamed[name] = value
    return renamed


def _recognised(state: State, path: Path) -> Architecture:
    """The largest known architecture all of whose parts the file has."""
    parts = {key.partition(".")[0] for key in state}
    known = [entry for entry in ARCHITECTURES if entry.parts <= parts]
    if known:
        return max(known, key=lambda entry: len(entry.parts))
    nearest = max(ARCHITECTURES, key=lambda a: len(a.parts & parts) / len(a.parts | parts))
    if nearest.parts & parts:
        lacking = _first(sorted(nearest.parts - parts), 4)
        hint = f"the nearest known one, {_name(nearest)}, has {lacking} as well"
        beyond = [key for key in state if key.partition(".")[0] not in nearest.parts]
        hint += f", and no {_first(beyond, 1)}" if beyond else ""
    else:
        hint = f"known are {', '.join(_name(entry) for entry in ARCHITECTURES)}"
    raise ModelError(
        f"{path}: no known architecture; its {len(state)} keys begin {_first(state, 3)}; {hint}"
    )


def _fitted(state: State, expected: Mapping[str, Tensor], trouble: str) -> State:
    """``state`` with exactly the expected keys and shapes, or an error that says what is wrong."""
    # SPyNet files hold no mean and std: both projects register them after loading.
    constants = SPyNet(levels=0).state_dict()
    for key in expected.keys() - state.keys():
        if key.rpartition(".")[2] in constants:
            state = {**state, key: constants[key.rpartition(".")[2]]}
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    wrong = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    faults = [
        f"{len(keys)} {word} (first: {_first(keys, 1)})"
        for word, keys in (("missing", missing), ("unexpected", unexpected))
        if keys
    ]
    if wrong:
        found, wanted = tuple(state[wrong[0]].shape), tuple(expected[wrong[0]].shape)
        faults.append(f"{len(wrong)} of wrong shape (first: {wrong[0]} is {found}, not {wanted})")
    if faults:
        raise ModelError(f"{trouble}: {', '.join(faults)}; the file is of another network or cut")
    return state


def _float32(state: State, expected: Mapping[str, Tensor], path: Path) -> State:
    """Copies of their own, so that nothing shares memory with the file or with each other.

    In the memory layout that the network chose for its weights: it decides speed and the last bits.
    """
    out: State = {}
    for key, value in state.items():
        if value.layout != torch.strided or value.is_meta or not value.is_floating_point():
            raise ModelError(f"{path}: {key} is {value.dtype}, {value.layout}, not plain floats")
        # Not ``empty_like``: asked of a tensor without values, it loads torch's compiler, 60 MiB.
        tensor = torch.empty_strided(expected[key].shape, expected[key].stride())
        if not tensor.copy_(value.detach()).isfinite().all():
            raise ModelError(
                f"{path}: {key} holds values that are not finite; its training diverged or the "
                "file is damaged"
            )
        out[key] = tensor
    return out


def _name(architecture: Architecture) -> str:
    """The class's name."""
    return str(getattr(architecture, "__name__", architecture))


def _plain(mapping: dict[Any, Any]) -> dict[Any, Any]:
    """A dictionary and no more, whatever attributes the file hung on it."""
    return dict(dict.items(mapping))


def _first(keys: Iterable[object], number: int) -> str:
    """Some of them, cut, and without what would move a terminal's cursor."""
    shown = [str(key)[:80] for key in list(keys)[:number]]
    return ", ".join("".join(c if c.isprintable() else "?" for c in key) for key in shown)
