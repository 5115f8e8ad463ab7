import hashlib
import json

import numpy as np
import pytest
import torch
from golden import shared_file
from torch.nn import functional as F

from vrestore.errors import UsageError
from vrestore.evaluate.niqe import PRISTINE, niqe


def golden_picture(name):
    with np.load(shared_file("golden/niqe_images.npz")) as file:
        return torch.from_numpy(file[name]).permute(2, 0, 1)


def golden_values():
    return json.loads(shared_file("golden/niqe.json").read_text())["values"]


def natural(height, width, seed=0):
    """Details of all sizes, as natural pictures have: noise whose power falls as 1/f²."""
    g = torch.Generator().manual_seed(seed)
    f = torch.fft.rfft2(torch.randn(3, height, width, generator=g, dtype=torch.float64))
    down, across = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    f /= (down**2 + across**2).sqrt().clamp_min(1 / max(height, width))
    x = torch.fft.irfft2(f, (height, width))
    return (128 + 40 * x / x.std()).clamp(0, 255)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_niqe_of_luma_and_of_grey_is_basicsrs(name):
    picture, expected = golden_picture(name), golden_values()[name]
    assert niqe(picture) == pytest.approx(expected["y_crop0"], abs=1e-3)
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    grey = torch.einsum("c,chw->hw", weights, picture.double())[None]
    # Not 1e-3: float32 decides some twenty ties between two codes, and once a step of the shape.
    assert niqe(grey) == pytest.approx(expected["gray_crop0"], abs=3e-3)
    if "y_crop4" in expected:
        assert niqe(picture, crop=4) == pytest.approx(expected["y_crop4"], abs=1e-3)


# By BasicSR's steps written anew in NumPy and SciPy, each in the type that it has there.
FLAT_PARTS = {
    (40, "bars"): 7.94530,
    (40, "corner"): 7.82428,
    (100, "bars"): 8.00066,
    (180, "corner"): 7.43279,
}


@pytest.mark.parametrize(("code", "where"), FLAT_PARTS)
def test_niqe_of_pictures_with_flat_parts_is_basicsrs(code, where):
    """Letterbox, sky, cartoon: rounding alone must not put what is flat above or below its mean."""
    picture = golden_picture("b").permute(1, 2, 0).tile(2, 2, 1).numpy()[:300, :400]
    noise = np.random.default_rng(1).normal(0, 2, picture.shape)
    picture = np.clip(picture + noise, 0, 255).round().astype(np.uint8)
    flat = {"bars": (np.s_[:40], np.s_[-40:]), "corner": (np.s_[:130, :130],)}[where]
    for part in flat:
        picture[part] = code
    found = niqe(torch.from_numpy(picture).permute(2, 0, 1))
    assert found == pytest.approx(FLAT_PARTS[code, where], abs=1e-3)


def test_the_model_is_the_published_file():
    found = hashlib.sha256(PRISTINE.read_bytes()).hexdigest()
    assert found in PRISTINE.with_suffix(".md").read_text()


def test_blur_and_noise_each_make_the_score_worse():
    picture = natural(192, 288)
    blurred = F.avg_pool2d(picture, 9, 1, 4)
    noise = torch.randn(picture.shape, generator=torch.Generator().manual_seed(1))
    noisy = (picture + 25 * noise).clamp(0, 255)
    assert niqe(picture) + 1 < min(niqe(blurred), niqe(noisy))


def test_what_is_beside_whole_blocks_does_not_count():
    picture = natural(192, 192)
    larger = F.pad(picture, (0, 95, 0, 40), value=255.0)
    # The window of the last whole block's edge reaches no further than the cut.
    assert niqe(larger) == niqe(picture)


def test_of_a_flat_block_what_is_a_number_still_counts_in_the_mean():
    """8.3573 is what the published arithmetic gives in float64, with scipy's filters."""
    picture = golden_picture("b").clone()
    picture[:, :108, :108] = 128  # a block, and as far as the windows of both sizes reach
    assert niqe(picture) == pytest.approx(8.3573, abs=1e-3)


def test_pictures_without_two_blocks_are_refused_in_one_sentence():
    for height, width in ((95, 400), (96, 96), (191, 191)):
        with pytest.raises(UsageError, match=f"96x96 pixels, and a picture of {width}x{height}"):
            niqe(torch.zeros(1, height, width))
    with pytest.raises(UsageError, match="of 184x184"):
        niqe(torch.zeros(1, 192, 192), crop=4)
    with pytest.raises(UsageError, match="flat"):
        niqe(torch.full((3, 192, 192), 100.0))
    with pytest.raises(UsageError, match="one picture"):
        niqe(torch.zeros(2, 3, 192, 192))
