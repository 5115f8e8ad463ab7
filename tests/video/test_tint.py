"""Black-and-white film comes out black and white, whatever the network paints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from films import ffmpeg, raw
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import vrestore
from vrestore.engine.restorer import Restorer
from vrestore.models.temporal import FrameNetwork
from vrestore.video.colour import ColourConverter
from vrestore.video.frame import Colour, PixelFormat
from vrestore.video.tint import OneTint

GREY = "geq=lum='40+mod(3*X+5*Y+7*N,150)':cb='{}':cr='{}'"


class Paints(FrameNetwork):
    """Puts some colour into every pixel, and makes the picture lighter."""

    scale = 1

    def forward(self, x: Tensor) -> Tensor:
        colour = torch.tensor([0.12, 0.0, -0.08], dtype=x.dtype).reshape(1, 3, 1, 1)
        return x + 0.1 + colour


def painted(source, target, **options):
    """The film behind that network, coded without loss."""
    how = {"codec": "ffv1", "device": "cpu"} | options
    return vrestore.restore(source, target, restorer=Restorer(Paints(), device="cpu"), **how)


def grey_film(path, cb: object, cr: object, pix_fmt: str = "yuv420p"):
    """Three frames whose luma moves; ``cb``, ``cr`` are what geq takes, in codes."""
    picture = f"color=gray:s=48x32:r=25,format={pix_fmt},{GREY.format(cb, cr)}"
    ffmpeg(
        "-f", "lavfi", "-i", picture, "-frames:v", 3, "-c:v", "ffv1", "-pix_fmt", pix_fmt, path,
    )  # fmt: skip
    return path


def planes_of(path, pix_fmt: str = "yuv420p"):
    """Luma and chroma of the three frames."""
    samples = raw(path, pix_fmt).reshape(3, -1)
    luma = 48 * 32
    return samples[:, :luma], samples[:, luma:].reshape(3, 2, -1)


@pytest.mark.parametrize(
    ("cb", "cr", "pix_fmt", "expected"),
    [
        (128, 128, "yuv420p", (128, 128)),
        (512, 512, "yuv444p10le", (512, 512)),
        (116, 140, "yuv420p", (116, 140)),  # sepia
        ("128+eq(mod(X,9),0)-eq(mod(Y,7),0)", 128, "yuv420p", (128, 128)),  # a codec's traces
    ],
)
def test_a_film_of_one_tint_keeps_it_and_takes_the_networks_luma(
    tmp_path, cb, cr, pix_fmt, expected
):
    source = grey_film(tmp_path / "in.mkv", cb, cr, pix_fmt)
    painted(source, tmp_path / "out.mkv")
    luma, chroma = planes_of(tmp_path / "out.mkv", pix_fmt)
    before, _ = planes_of(source, pix_fmt)
    assert (chroma[:, 0] == expected[0]).all()
    assert (chroma[:, 1] == expected[1]).all()
    lighter = (luma - before) / (4 if "10" in pix_fmt else 1)
    assert 20 < lighter.mean() < 32  # 0.1, and what the colours weigh: 219 codes are one


def test_a_film_with_colours_anywhere_is_the_networks_own(tmp_path):
    spot = "128+12*eq(X,7)*eq(Y,9)*eq(N,1)"  # one chroma sample of the second frame
    source = grey_film(tmp_path / "in.mkv", spot, 128)
    painted(source, tmp_path / "out.mkv")
    _, chroma = planes_of(tmp_path / "out.mkv")
    assert (chroma[0] == 128).all()
    assert (chroma[2] == 128).all()
    assert chroma[1, 0].min() < 124  # Paints takes blue away
    assert chroma[1, 1].max() > 132


def test_a_grey_picture_stored_in_colour_stays_grey(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "testsrc2=s=48x32,format=gray,format=rgb24", "-frames:v", 1,
           tmp_path / "in.png")  # fmt: skip
    painted(tmp_path / "in.png", tmp_path / "out.png", codec=None)
    red, green, blue = raw(tmp_path / "out.png", "gbrp").reshape(3, -1)
    assert (red == green).all()
    assert (green == blue).all()
    assert green.std() > 20


@settings(deadline=None, max_examples=40)
@given(
    cb=st.integers(0, 255),
    cr=st.integers(0, 255),
    matrix=st.sampled_from(["bt709", "smpte170m", "bt2020nc", "fcc"]),
    full=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_chroma_of_any_tint_comes_back_code_for_code(cb, cr, matrix, full, seed):
    fmt, colour = PixelFormat("yuv", 8, 1, 1), Colour(matrix, full, "left")
    luma = np.random.default_rng(seed).integers(16, 235, (6, 8), dtype=np.uint8)
    planes = luma, np.full((3, 4), cb, np.uint8), np.full((3, 4), cr, np.uint8)
    tints = OneTint(fmt, colour)
    tint = tints.of(planes)
    assert tint is not None
    convert = ColourConverter(fmt, colour, 6, 8)
    painted = convert.to_rgb([torch.from_numpy(p) for p in planes]) + torch.rand(3, 6, 8) * 0.05
    wanted = convert.from_rgb(painted)[0]
    y, b, r = convert.from_rgb(tints.give(painted, tint))
    assert (b == cb).all()
    assert (r == cr).all()
    assert (y.int() - wanted.int()).abs().max() <= 1


@given(spread=st.integers(0, 5), depth=st.sampled_from([8, 10, 12]))
def test_two_codes_of_eight_bits_are_no_colour_and_more_are(spread, depth):
    unit = 1 << (depth - 8)
    plane = np.full((34, 40), 90 * unit, np.uint16)
    plane[33, 7] += spread * unit  # where a glance at some rows does not see it
    fmt = PixelFormat("yuv", depth)
    found = OneTint(fmt, Colour("bt709", False)).of((plane, plane, plane))
    assert (found is not None) == (spread <= 2)
