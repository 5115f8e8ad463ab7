"""The tool that makes low-resolution input, on films and pictures that ffmpeg makes and reads."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import av
import numpy as np
import pytest
import torch
from films import ffmpeg, film, raw, seconds_of

from vrestore.evaluate.degradations import bd, bd_duf, bi

RGB8 = ("-pix_fmt", "rgb24")


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "tools" / "make_lr.py"
    spec = importlib.util.spec_from_file_location("make_lr", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures(folder: Path, count: int = 3, size: str = "64x48", pix_fmt: str = "rgb24") -> Path:
    folder.mkdir(parents=True)
    source = ("-f", "lavfi", "-i", f"testsrc2=s={size}:r=25", "-vf", "noise=alls=12")
    ffmpeg(*source, "-frames:v", count, "-pix_fmt", pix_fmt, folder / "shot%03d.png")
    return folder


def values(picture: Path, depth: int = 8) -> torch.Tensor:
    """``(3, H, W)`` as ffmpeg reads it, whole code values."""
    with av.open(str(picture)) as container:
        frame = next(container.decode(video=0))
    assert frame.format.components[0].bits == depth
    array = frame.to_ndarray(format="rgb24" if depth == 8 else "rgb48le")
    return torch.from_numpy(array.astype(np.int64)).permute(2, 0, 1)


@pytest.mark.parametrize(
    ("how", "scale", "by_hand"),
    [("bi", 4, bi), ("bd", 4, bd), ("bd-duf", 3, bd_duf), ("bi", 2, bi)],
)
def test_a_folder_of_pictures_is_reduced_under_its_names(
    tool, tmp_path, how, scale, by_hand
) -> None:
    folder = pictures(tmp_path / "hr")
    tool.main([str(folder), str(tmp_path / "lr"), "--how", how, "--scale", str(scale)])
    made = sorted((tmp_path / "lr").iterdir())
    assert [p.name for p in made] == [p.name for p in sorted(folder.iterdir())]
    for hr, lr in zip(sorted(folder.iterdir()), made, strict=True):
        expected = (by_hand(values(hr).double() / 255, scale) * 255 + 0.5).floor().clamp(0, 255)
        assert torch.equal(values(lr), expected.long())
        assert (values(lr) != expected).double().mean() < 1e-3


@pytest.mark.parametrize(("how", "by_hand"), [("bi", bi), ("bd", bd)])
def test_pictures_of_16_bits_have_all_of_them(tool, tmp_path, how, by_hand) -> None:
    """One code of 65535 is more than float32's sums leave: four samples of a thousand differ."""
    noise = np.random.default_rng(0).integers(0, 1 << 16, (240, 320, 3), dtype=np.uint16)
    (tmp_path / "noise.rgb").write_bytes(noise.astype("<u2").tobytes())
    (tmp_path / "hr").mkdir()
    form = ("-f", "rawvideo", "-pix_fmt", "rgb48le", "-s", "320x240")
    ffmpeg(*form, "-i", tmp_path / "noise.rgb", "-pix_fmt", "rgb48be", tmp_path / "hr/a.png")
    tool.main([str(tmp_path / "hr"), str(tmp_path / "lr"), "--how", how])
    hr, lr = (values(tmp_path / side / "a.png", 16) for side in ("hr", "lr"))
    expected = (by_hand(hr.double() / 65535, 4) * 65535 + 0.5).floor().clamp(0, 65535)
    assert torch.equal(lr, expected.long())


def test_a_folder_of_folders_and_films_keeps_its_shape(tool, tmp_path) -> None:
    root = tmp_path / "all"
    pictures(root / "000", 2)
    pictures(root / "deep" / "011", 2)
    film(root / "clip.mp4", 3, sound=False)
    tool.main([str(root), str(tmp_path / "lr")])
    found = sorted(
        p.relative_to(tmp_path / "lr").as_posix() for p in (tmp_path / "lr").rglob("*.*")
    )
    assert found == [
        "000/shot001.png",
        "000/shot002.png",
        "clip.mkv",
        "deep/011/shot001.png",
        "deep/011/shot002.png",
    ]


def test_a_link_back_is_not_followed(tool, tmp_path) -> None:
    pictures(tmp_path / "all" / "000", 1)
    (tmp_path / "all" / "loop").symlink_to("../all")
    tool.main([str(tmp_path / "all"), str(tmp_path / "lr")])
    assert [place.name for place in (tmp_path / "lr").iterdir()] == ["000"]


def test_a_film_becomes_ffv1_with_its_times_and_sound(tool, tmp_path) -> None:
    source = film(tmp_path / "in.mkv", 8)
    tool.main([str(source), str(tmp_path / "lr")])
    made = tmp_path / "lr" / "in.mkv"
    with av.open(str(made)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.width, stream.height) == ("ffv1", 16, 12)
        assert len(container.streams.audio) == 1
    assert seconds_of(made) == pytest.approx(seconds_of(source), abs=1e-3)
    luma = raw(source, "yuv420p").reshape(8, -1)[:, : 64 * 48].reshape(8, 12, 4, 16, 4)
    small = raw(made, "yuv420p").reshape(8, -1)[:, : 16 * 12].reshape(8, 12, 16)
    assert np.abs(luma.mean((2, 4)) - small).mean() < 6


def test_a_film_of_10_bits_stays_10_bits(tool, tmp_path) -> None:
    options = ("-pix_fmt", "yuv420p10le", "-c:v", "ffv1")
    source = film(tmp_path / "in.mkv", 2, sound=False, options=options)
    tool.main([str(source), str(tmp_path / "lr.mkv")])
    with av.open(str(tmp_path / "lr.mkv")) as container:
        assert container.streams.video[0].format.name == "yuv420p10le"


def test_crf_compresses_films_and_pictures(tool, tmp_path) -> None:
    source, folder = (
        film(tmp_path / "in.mp4", 4, sound=False),
        pictures(tmp_path / "hr", 4, "128x96"),
    )
    losses = []
    for crf in ("15", "45"):
        tool.main([str(source), str(tmp_path / crf), "--crf", crf])
        with av.open(str(tmp_path / crf / "in.mp4")) as container:
            assert container.streams.video[0].codec_context.name == "h264"
        tool.main([str(folder), str(tmp_path / f"p{crf}"), "--crf", crf])
        made = values(tmp_path / f"p{crf}" / "shot002.png")
        clean = (bi(values(folder / "shot002.png").double() / 255, 4) * 255).round()
        losses.append((made - clean).square().mean().item())
    assert losses[0] > 0
    assert losses[1] > 2 * losses[0]
    assert (tmp_path / "45/in.mp4").stat().st_size < (tmp_path / "15/in.mp4").stat().st_size


def test_what_does_not_divide_is_cut_and_said(tool, tmp_path, capsys) -> None:
    folder = pictures(tmp_path / "hr", 1, "64x50")
    tool.main([str(folder), str(tmp_path / "lr"), "--scale", "3"])
    said = capsys.readouterr().out
    assert "21x16, frames: 1; cut off: 1 px right, 2 px at the bottom" in said
    [hr], [lr] = list(folder.iterdir()), list((tmp_path / "lr").iterdir())
    expected = (bi(values(hr)[:, :48, :63].double() / 255, 3) * 255).round().clamp(0, 255)
    assert (values(lr) - expected).abs().max() <= 1


def test_what_cannot_be_is_one_line_and_an_exit_code(tool, tmp_path, capsys) -> None:
    deep = pictures(tmp_path / "deep", 1, pix_fmt="rgb48be")
    (tmp_path / "empty").mkdir()
    (tmp_path / "twice").mkdir()
    for name in ("a.mp4", "a.mov"):
        film(tmp_path / "twice" / name, 2, sound=False)
    mixed = pictures(tmp_path / "mixed" / "a", 1)
    shutil.copy(mixed / "shot001.png", mixed.parent / "preview.png")
    for arguments, code, words in [
        ([tmp_path / "empty", tmp_path / "x"], 3, "neither films nor pictures"),
        ([tmp_path / "no.mp4", tmp_path / "x"], 3, "no.mp4"),
        ([deep, tmp_path / "x", "--crf", "20"], 2, "16 bits to 8"),
        ([deep, tmp_path / "x", "--scale", "1"], 2, "nothing smaller"),
        ([deep, tmp_path / "x", "--scale", "100"], 2, "too small for --scale 100"),
        ([deep, deep], 2, "is the input itself"),
        ([tmp_path / "twice", tmp_path / "x"], 2, "would both become"),
        ([mixed.parent, tmp_path / "x"], 3, "mixed/preview.png: lies beside"),
    ]:
        with pytest.raises(SystemExit) as ended:
            tool.main([str(a) for a in arguments])
        assert ended.value.code == code
        said = capsys.readouterr().err
        assert words in said
        assert said.count("\n") == 1
    assert not (tmp_path / "x").exists()
