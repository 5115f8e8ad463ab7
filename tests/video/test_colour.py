"""Colour against independent witnesses: published codes, swscale, zimg, analytic positions."""

from __future__ import annotations

import math
import shutil
import subprocess
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

from vrestore.errors import InputError
from vrestore.video.colour import ColourConverter
from vrestore.video.frame import Colour, PixelFormat

YUV444 = PixelFormat("yuv", 8)
YUV420 = PixelFormat("yuv", 8, 1, 1)

# EBU bars of 75 %, 8 bits, limited range: EBU Tech 3325 and ITU-R BT.1729's tables.
BARS = {
    "white": (0.75, 0.75, 0.75),
    "yellow": (0.75, 0.75, 0.0),
    "cyan": (0.0, 0.75, 0.75),
    "green": (0.0, 0.75, 0.0),
    "magenta": (0.75, 0.0, 0.75),
    "red": (0.75, 0.0, 0.0),
    "blue": (0.0, 0.0, 0.75),
    "black": (0.0, 0.0, 0.0),
}
BAR_CODES = {
    "smpte170m": {
        "white": (180, 128, 128),
        "yellow": (162, 44, 142),
        "cyan": (131, 156, 44),
        "green": (112, 72, 58),
        "magenta": (84, 184, 198),
        "red": (65, 100, 212),
        "blue": (35, 212, 114),
        "black": (16, 128, 128),
    },
    "bt709": {
        "white": (180, 128, 128),
        "yellow": (168, 44, 136),
        "cyan": (145, 147, 44),
        "green": (133, 63, 52),
        "magenta": (63, 193, 204),
        "red": (51, 109, 212),
        "blue": (28, 212, 120),
        "black": (16, 128, 128),
    },
}


def flat(rgb: tuple[float, float, float], height: int = 4, width: int = 6) -> Tensor:
    return torch.tensor(rgb)[:, None, None].expand(3, height, width).clone()


@pytest.mark.parametrize("matrix", BAR_CODES)
@pytest.mark.parametrize("depth", [8, 10])
def test_ebu_bars_have_their_published_codes(matrix: str, depth: int) -> None:
    converter = ColourConverter(PixelFormat("yuv", depth), Colour(matrix, False), 4, 6)
    for name, rgb in BARS.items():
        codes = [int(plane[2, 3]) for plane in converter.from_rgb(flat(rgb))]
        if depth == 8:
            assert codes == list(BAR_CODES[matrix][name]), name
        else:  # four times as fine: within what the 8-bit table was rounded by
            assert np.abs(np.array(codes) / 4 - BAR_CODES[matrix][name]).max() <= 0.5 + 1 / 8, name


@pytest.mark.parametrize(
    ("depth", "full_range", "black", "white", "neutral"),
    [
        (8, False, 16, 235, 128),
        (10, False, 64, 940, 512),
        (12, False, 256, 3760, 2048),
        (8, True, 0, 255, 128),
        (10, True, 0, 1023, 512),
        (16, True, 0, 65535, 32768),
    ],
)
def test_black_and_white_are_the_codes_of_h273(
    depth: int, full_range: bool, black: int, white: int, neutral: int
) -> None:
    converter = ColourConverter(PixelFormat("yuv", depth), Colour("bt709", full_range), 4, 6)
    for value, luma in ((0.0, black), (1.0, white)):
        planes = converter.from_rgb(flat((value,) * 3))
        assert [int(plane[0, 0]) for plane in planes] == [luma, neutral, neutral]
        assert torch.equal(converter.to_rgb(planes), flat((value,) * 3))


@pytest.mark.parametrize("matrix", ["bt709", "smpte170m", "bt2020nc", "smpte240m", "fcc"])
@pytest.mark.parametrize("full_range", [False, True])
def test_rgb_is_that_of_swscale(ffmpeg: str, matrix: str, full_range: bool) -> None:
    generator = np.random.default_rng(1)
    codes = generator.integers(40, 200, (3, 32, 48), dtype=np.uint8)
    codes[1:] = 128 + (codes[1:].astype(int) - 120) // 4  # mostly inside the cube: swscale clips
    scale = f"scale=in_color_matrix={matrix}:in_range={'full' if full_range else 'limited'}"
    theirs = through_ffmpeg(
        ffmpeg, codes, "yuv444p", f"{scale}:flags=accurate_rnd+full_chroma_int", "gbrp16le"
    )
    green, blue, red = theirs.view("<u2").reshape(3, 32, 48).astype(float) / (255 << 8)
    ours = ColourConverter(YUV444, Colour(matrix, full_range), 32, 48).to_rgb(tensors(codes))
    # Half an 8-bit code; swscale's coefficients have 13 bits, its 16-bit white is 255 << 8.
    assert np.abs(ours.clamp(0, 1).numpy() - np.stack([red, green, blue])).max() < 0.5 / 255


@pytest.mark.parametrize("siting", ["left", "center", "topleft", "top", "bottomleft", "bottom"])
def test_upsampled_chroma_is_that_of_zimg(ffmpeg: str, siting: str) -> None:
    if " zscale " not in said_by(ffmpeg, "-filters"):
        pytest.skip("this ffmpeg has no zscale")
    y, x = np.mgrid[:32, :48]
    cb, cr = 128 + 60 * np.sin(x[:16, :24] / 5 + y[:16, :24] / 7), 128 + 4.0 * x[:16, :24] - 40
    planes = [np.full((32, 48), 126.0), cb, cr]
    codes = [np.rint(plane).astype(np.uint8) for plane in planes]
    packed = np.concatenate([plane.ravel() for plane in codes])
    # param_a, param_b: Keys' cubic, a = -0.5.
    resize = f"zscale=chromalin={siting}:filter=bicubic:param_a=0:param_b=0.5,format=yuv444p"
    theirs = through_ffmpeg(ffmpeg, packed, "yuv420p", resize, "yuv444p", size=(32, 48))
    converter = ColourConverter(YUV420, Colour("bt709", False, siting), 32, 48)
    back = ColourConverter(YUV444, Colour("bt709", False), 32, 48)
    ours = back.from_rgb(converter.to_rgb([torch.from_numpy(plane) for plane in codes]))
    inner = (slice(None), slice(4, -4), slice(4, -4))  # its borders are not mirrored
    difference = np.stack([p.numpy() for p in ours]).astype(int) - theirs.reshape(3, 32, 48)
    assert np.abs(difference[inner]).max() <= 1


def first_chroma(siting: str, sub: int) -> tuple[float, float]:
    """Where the first chroma sample lies, in luma samples right and down: H.273, figure 10."""
    far = (1 << sub) - 1
    down = {"t": 0.0, "b": float(far)}.get(siting[0], far / 2)
    return (0.0 if siting.endswith("left") else far / 2), down


@pytest.mark.parametrize("siting", ["left", "center", "topleft", "top", "bottomleft", "bottom"])
@pytest.mark.parametrize("sub", [(1, 1), (1, 0), (0, 1), (2, 0), (2, 2)])
def test_a_ramp_lands_at_the_chroma_samples_own_places(siting: str, sub: tuple[int, int]) -> None:
    height, width = 96, 128
    colour = Colour("bt709", True, siting)
    pixel_format = PixelFormat("yuv", 16, *sub)
    converter = ColourConverter(pixel_format, colour, height, width)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    ramp = 0.2 + 0.003 * x + 0.002 * y
    _, cb, cr = converter.from_rgb(torch.stack([ramp, 0.5 + 0 * ramp, 0.7 - ramp / 3]))
    full = ColourConverter(PixelFormat("yuv", 16), colour, height, width)
    _, cb_full, _ = full.from_rgb(torch.stack([ramp, 0.5 + 0 * ramp, 0.7 - ramp / 3]))
    # Chroma of a plane is a plane: its values at any place follow from three of its samples.
    origin, right, below = (float(cb_full[at]) for at in ((0, 0), (0, 120), (90, 0)))
    right_0, down_0 = (first_chroma(siting, sub[0])[0], first_chroma(siting, sub[1])[1])
    h, w = cb.shape
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    at_x, at_y = columns * (1 << sub[0]) + right_0, rows * (1 << sub[1]) + down_0
    expected = origin + (right - origin) / 120 * at_x + (below - origin) / 90 * at_y
    assert cr.shape == cb.shape == (-(-height >> sub[1]), -(-width >> sub[0]))
    border = tuple(slice(n // 3, -(n // 3)) for n in (h, w))  # beyond it the mirror bends the ramp
    assert (cb.float() - expected)[border].abs().max() < 3  # of 65536


@pytest.mark.parametrize(("siting", "place"), [("left", 0.0), ("center", 0.5)])
def test_an_edge_lands_where_it_was(siting: str, place: float) -> None:
    """A step between luma samples 31 and 32: its centre, found by summing, is at 31.5."""
    rgb = flat((0.2, 0.5, 0.5), 8, 64)
    rgb[0, :, 32:] = 0.8
    colour = Colour("bt709", True, siting)
    _, _, cr = ColourConverter(PixelFormat("yuv", 16, 1, 0), colour, 8, 64).from_rgb(rgb)
    row = cr[4].double()
    low, high = row[0], row[-1]
    lows = float(((high - row) / (high - low)).sum())  # so many samples lie below the step
    assert abs(2 * (lows - 0.5) + place - 31.5) < 0.02


def test_a_coloured_detail_does_not_alias() -> None:
    """Stripes finer than chroma can show come out as their mean; picked samples would not."""
    rgb = flat((0.5, 0.5, 0.5), 8, 64)
    rgb[0, :, ::2] = 0.9
    rgb[0, :, 1::2] = 0.1
    _, _, cr = ColourConverter(YUV420, Colour("bt709", True, "left"), 8, 64).from_rgb(rgb)
    assert (cr.int() - 128).abs().max() <= 1


@pytest.mark.parametrize("sub", [(0, 0), (1, 1), (2, 2)])
def test_chroma_filters_leave_luma_alone(sub: tuple[int, int]) -> None:
    rgb = torch.rand(3, 18, 22, generator=torch.Generator().manual_seed(3))
    colour = Colour("bt709", False)
    luma, *_ = ColourConverter(PixelFormat("yuv", 8, *sub), colour, 18, 22).from_rgb(rgb)
    alone, *_ = ColourConverter(YUV444, colour, 18, 22).from_rgb(rgb)
    assert torch.equal(luma, alone)


def test_what_is_brighter_than_white_survives() -> None:
    planes = (torch.full((2, 2), 250), torch.full((2, 2), 128), torch.full((2, 2), 128))
    converter = ColourConverter(YUV444, Colour("bt709", False), 2, 2)
    rgb = converter.to_rgb(planes)
    assert rgb.min() > 1.06
    assert int(converter.from_rgb(rgb)[0][0, 0]) == 250
    assert int(converter.from_rgb(rgb * 9)[0][0, 0]) == 255
    assert int(converter.from_rgb(rgb * -9)[0][0, 0]) == 0


def test_rgb_and_grey_pass_straight_through() -> None:
    codes = torch.arange(256, dtype=torch.uint8).reshape(16, 16)
    rgb = ColourConverter(PixelFormat("rgb", 8), Colour("gbr", True), 16, 16)
    planes = (codes, codes.flip(0), codes.T.contiguous())
    assert torch.equal(rgb.to_rgb(planes), torch.stack(planes).float() / 255)
    assert all(map(torch.equal, rgb.from_rgb(rgb.to_rgb(planes)), planes))
    grey = ColourConverter(PixelFormat("gray", 8), Colour("gbr", True), 16, 16)
    spread = grey.to_rgb([codes])
    assert torch.equal(spread[0], spread[1])
    assert torch.equal(spread[0], spread[2])
    assert torch.equal(grey.from_rgb(spread)[0], codes)


def test_unknown_matrix_or_siting_is_refused() -> None:
    with pytest.raises(InputError, match="ycgco"):
        ColourConverter(YUV420, Colour("ycgco", True), 4, 4)
    with pytest.raises(InputError, match="middle"):
        ColourConverter(YUV420, Colour("bt709", True, "middle"), 4, 4)


def test_planes_of_another_size_are_refused() -> None:
    converter = ColourConverter(YUV420, Colour("bt709", True), 5, 5)
    with pytest.raises(ValueError, match="expected"):
        converter.to_rgb([torch.zeros(5, 5), torch.zeros(2, 3), torch.zeros(3, 3)])
    with pytest.raises(ValueError, match="expected"):
        converter.from_rgb(torch.zeros(3, 5, 4))


@pytest.mark.parametrize("clip", ["flower.mp4", "friday.mp4"])
@pytest.mark.parametrize("siting", ["left", "center", "topleft"])
def test_a_natural_film_comes_back_to_the_code(shared: Path, clip: str, siting: str) -> None:
    with av.open(str(shared / "media" / "demo" / clip)) as film:
        picture = next(film.decode(video=0))
    planes = tensors_of(picture)
    height, width = planes[0].shape
    converter = ColourConverter(YUV420, Colour("bt709", False, siting), height, width)
    again = converter.from_rgb(converter.to_rgb(planes))
    assert all(map(torch.equal, again, planes))


@pytest.mark.parametrize("siting", ["left", "center"])
def test_chroma_of_a_clamped_natural_film_keeps_44_db(shared: Path, siting: str) -> None:
    """A network's output is often clamped to 0..1: then the codes outside the cube are lost."""
    with av.open(str(shared / "media" / "demo" / "flower.mp4")) as film:
        planes = tensors_of(next(film.decode(video=0)))
    converter = ColourConverter(YUV420, Colour("bt709", False, siting), *planes[0].shape)
    again = converter.from_rgb(converter.to_rgb(planes).clamp(0, 1))
    assert min(psnr(a, b) for a, b in zip(again[1:], planes[1:], strict=True)) > 44


def test_chroma_of_full_resolution_survives_half_of_it(shared: Path) -> None:
    """4:4:4 -> 4:2:0 -> 4:4:4: what the down filter keeps and the up filter gives back."""
    clips = sorted((shared / "media" / "val").glob("*.mp4"))
    assert clips
    for clip in clips[:3]:
        with av.open(str(clip)) as film:
            planes = tensors_of(next(film.decode(video=0)))
        size = planes[0].shape
        full = ColourConverter(YUV444, Colour("smpte170m", False), *size)
        half = ColourConverter(YUV420, Colour("smpte170m", False), *size)
        again = full.from_rgb(half.to_rgb(half.from_rgb(full.to_rgb(planes))))
        assert torch.equal(again[0], planes[0]) or psnr(again[0], planes[0]) > 60
        assert min(psnr(a, b) for a, b in zip(again[1:], planes[1:], strict=True)) > 46


@pytest.fixture
def ffmpeg() -> str:
    found = shutil.which("ffmpeg")
    if found is None:
        pytest.skip("no ffmpeg on PATH to be the witness")
    return found


def said_by(ffmpeg: str, flag: str) -> str:
    command = [ffmpeg, "-hide_banner", flag]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def through_ffmpeg(
    ffmpeg: str,
    codes: np.ndarray,
    pixel_format: str,
    filters: str,
    wanted: str,
    size: tuple[int, int] | None = None,
) -> np.ndarray:
    height, width = size or codes.shape[-2:]
    raw = ["-f", "rawvideo", "-pix_fmt"]
    source = [*raw, pixel_format, "-s", f"{width}x{height}", "-i", "-"]
    command = [ffmpeg, "-v", "error", *source, "-vf", filters, *raw, wanted, "-"]
    reply = subprocess.run(command, input=codes.tobytes(), check=True, capture_output=True)
    return np.frombuffer(reply.stdout, np.uint8)


def tensors(planes: np.ndarray) -> list[Tensor]:
    return [torch.from_numpy(plane) for plane in planes]


def tensors_of(picture: av.VideoFrame) -> list[Tensor]:
    planes = []
    for plane in picture.planes:
        lines = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
        planes.append(torch.from_numpy(lines[: plane.height, : plane.width].copy()))
    return planes


def psnr(a: Tensor, b: Tensor) -> float:
    error = float((a.double() - b.double()).square().mean())
    return 10 * math.log10(255**2 / error) if error else math.inf
