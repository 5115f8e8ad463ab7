"""Every official variant: recognised by its names, its sizes read off, its parameters counted."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from golden import SHARED

from vrestore.models.checkpoint import ARCHITECTURES, _basicsr_names, _name, _recognised
from vrestore.models.shapes import Shapes

FILE = SHARED / "golden/official_shapes.json.gz"
OURS = {_name(architecture) for architecture in ARCHITECTURES}


def official() -> dict[str, Any]:
    if not FILE.exists():
        return {}
    variants = json.loads(gzip.decompress(FILE.read_bytes()))
    return {name: v for name, v in variants.items() if v["arch"] in OURS}


VARIANTS = official()


@pytest.mark.skipif(not VARIANTS, reason="shared/golden/official_shapes.json.gz is not here")
def test_every_architecture_has_an_official_variant():
    assert {v["arch"] for v in VARIANTS.values()} == OURS - {"FRBasicVSR", "FRRealBasicVSR"}


@pytest.mark.parametrize("name", VARIANTS or ["none"])
def test_names_and_shapes_and_the_count_of_parameters_are_the_official_ones(name):
    if name not in VARIANTS:
        pytest.skip("shared/golden/official_shapes.json.gz is not here")
    variant = VARIANTS[name]
    shapes = variant["state"]
    state = {key: torch.empty(shape, device="meta") for key, shape in shapes.items()}
    renamed = _basicsr_names(state, Path(name))
    architecture = _recognised(renamed, Path(name))
    assert _name(architecture) == variant["arch"]
    with torch.device("meta"):
        net = architecture(**architecture.sizes(Shapes(renamed)))
    own = {key: value.shape for key, value in net.state_dict().items()}
    constants = {key for key in own if key.rpartition(".")[2] in ("mean", "std")}
    expected = {key: value.shape for key, value in renamed.items()}
    assert {k: v for k, v in own.items() if k not in constants - expected.keys()} == expected
    assert sum(p.numel() for p in net.parameters()) == variant["numel"]
