"""Shared asserts on the golden data: outputs of the official implementations (shared/golden)."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

SHARED = Path(__file__).resolve().parents[1].parent / "shared"
TOLERANCE = 1e-4  # of the output's standard deviation; 25 deliberate mistakes all gave 9e-3 or more


@dataclass(frozen=True)
class GoldenCase:
    """One call of a reference network: its state dict in its own layout, inputs and outputs."""

    name: str
    layout: str
    args: dict[str, Any]
    state: dict[str, Tensor]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    facts: dict[str, dict[str, Any]]  # per output: full shape, mean, std, perhaps slice


def shared_file(name: str) -> Path:
    """A file under ``shared/``; skips the test where it is absent."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"shared/{name} is not here")
    return path


def golden_case(name: str) -> GoldenCase:
    """The case of that name in the manifest, its parameters filled in."""
    manifest = json.loads(shared_file("golden/manifest.json").read_text())
    case = manifest["cases"][name]
    model = manifest["models"][case["model"]]
    with np.load(shared_file(f"golden/{case['file']}")) as file:
        arrays = {key: torch.from_numpy(file[key]) for key in file.files}
    state = filled(model["state"], case.get("salt", ""), case.get("fill_as"))
    for key in case.get("param_overrides", []):
        state[key] = arrays[f"param.{key}"]
    return GoldenCase(
        name=name,
        layout=model["layout"],
        args=model["args"],
        state=state,
        inputs={key: arrays[f"in.{key}"] for key in case["inputs"]},
        outputs={key: arrays[f"out.{key}"] for key in case["outputs"]},
        facts=case["outputs"],
    )


def filled(
    shapes: dict[str, Any], salt: str = "", fill_as: dict[str, str] | None = None
) -> dict[str, Tensor]:
    """Parameters as a pure function of name and shape (shared/golden/fill.py)."""
    spec = importlib.util.spec_from_file_location("golden_fill", shared_file("golden/fill.py"))
    assert spec is not None
    assert spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    state: dict[str, Tensor] = fill.fill_state_dict(shapes, salt, fill_as)
    return state


def assert_equals_golden(case: GoldenCase, actual: Tensor, output: str) -> None:
    """``actual`` equals that output of the case: shape, and values within ``TOLERANCE * std``."""
    facts, expected = case.facts[output], case.outputs[output]
    assert list(actual.shape) == facts["shape"], f"{case.name}.{output}: {list(actual.shape)}"
    if "slice" in facts:
        top, down, left, across = facts["slice"]
        actual = actual[..., top::down, left::across]
    assert actual.shape == expected.shape
    worst = (actual.double() - expected.double()).abs().max().item() / facts["std"]
    assert worst <= TOLERANCE, f"{case.name}.{output}: off by {worst:.2e} of its std"


def in_container(state: dict[str, Tensor], layout: str) -> dict[str, Any]:
    """What an official file of that layout holds at its top."""
    if layout == "basicsr":
        return {"params": state}
    if layout == "edvr_legacy":
        return dict(state)
    return {
        "meta": {"iter": 300000},
        "state_dict": {f"generator.{k}": v for k, v in state.items()},
    }
