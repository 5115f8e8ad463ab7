"""Frames are the same whichever way they are read, and large sets are read as they are needed."""

import av
import numpy as np
import pytest
import torch
from films import ffmpeg
from train_material import png, texture

from vrestore.errors import InputError, UsageError
from vrestore.train import footage
from vrestore.train.config import Data
from vrestore.train.data import Material, Reduced
from vrestore.train.footage import Box, Film, FrameFolder, Held, Photographs, read_frames
from vrestore.train.reduction import shrink
from vrestore.train.view import detailed_view, photo_view, view_of

WHOLE = Box(0, 0, 64, 96)


def frames(count=30, seed=0):
    """``(T, 3, 64, 96)``: a picture that slides, so that every frame is another."""
    big = texture(seed, 64, 96 + 4 * count)
    return torch.stack([big[:, :, 4 * t : 4 * t + 96] for t in range(count)])


def film(path, count=30, keys=12, b_frames=3):
    """H.264 with B-frames and few key frames, as films are."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        stream.options = {"g": str(keys), "bf": str(b_frames), "crf": "10", "threads": "1"}
        for picture in frames(count):
            array = np.ascontiguousarray(picture.permute(1, 2, 0).numpy())
            container.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_film_read_at_random_has_the_frames_of_one_read_in_order(tmp_path, suffix):
    path = film(tmp_path / f"film{suffix}")
    with av.open(str(path)) as container:
        whole = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    clip = Film.open(path)
    assert clip.frames == len(whole) == len(read_frames(path)) == 30
    for times in ([0, 1, 2], [13, 14, 15], [27, 28, 29], [11, 13, 15], [29]):
        assert np.array_equal(clip.by_pyav(times), whole[times])


def test_a_film_that_is_learned_from_has_its_colours_and_no_stairs_in_them(tmp_path):
    """Slow colours survive the way through 4:2:0; FFmpeg's own way back to RGB darkens them."""
    across, down = torch.linspace(40, 215, 96), torch.linspace(60, 180, 64).view(64, 1)
    picture = torch.stack([v.expand(64, 96) for v in (across, across.flip(0), down)])
    red, green, blue = picture / 255
    luma = 0.299 * red + 0.587 * green + 0.114 * blue  # BT.601, chroma at every other column
    chroma = [(c - luma)[:, ::2] / (2 * (1 - k)) for c, k in ((blue, 0.114), (red, 0.299))]
    planes = [16 + 219 * luma, *(128 + 112 * (c[::2] + c[1::2]) for c in chroma)]
    codes = [plane.round().to(torch.uint8).numpy().tobytes() for plane in planes]
    (tmp_path / "codes").write_bytes(b"".join(codes))
    path, stored = tmp_path / "film.mkv", ("-pix_fmt", "yuv420p", "-s", "96x64")
    ffmpeg("-f", "rawvideo", *stored, "-i", tmp_path / "codes", "-c:v", "ffv1", path)
    error = read_frames(path)[0].float() - picture
    assert error.mean((1, 2)).abs().max() < 0.3
    assert error[..., 4:-4].abs().max() < 3


def test_a_film_begins_to_be_decoded_at_the_nearest_key_frame(tmp_path, monkeypatch):
    clip = Film.open(film(tmp_path / "film.mp4"))
    assert len(clip.keys) == 3
    starts = []
    real = Film._decoded

    def noted(self, start, wanted):
        starts.append(start)
        return real(self, start, wanted)

    monkeypatch.setattr(Film, "_decoded", noted)
    clip.by_pyav([25, 26])
    assert starts == [clip.keys[2]]


def test_a_film_whose_key_frame_lies_is_decoded_from_its_start(tmp_path, monkeypatch):
    """Some say of frames that decoding can begin there, where nothing can."""
    clip = Film.open(film(tmp_path / "film.mp4"))
    expected, real = clip.by_pyav([25]), Film._decoded
    dead = clip.keys[2]
    monkeypatch.setattr(
        Film, "_decoded", lambda self, at, wanted: {} if at == dead else real(self, at, wanted)
    )
    assert np.array_equal(clip.by_pyav([25]), expected)


def test_decord_gives_the_same_frames(tmp_path):
    pytest.importorskip("decord")
    clip = Film.open(film(tmp_path / "film.mp4"))
    for times in ([0, 1], [13, 14, 15], [29]):
        here, other = clip.by_pyav(times).astype(int), footage._by_decord(clip.path, times)
        assert np.abs(here - other).mean() < 1.5  # the next frame is another by ten and more
        before = clip.by_pyav([max(t - 1, 0) for t in times]).astype(int)
        assert times[0] == 0 or np.abs(before - other).mean() > 6


def test_a_damaged_film_is_named(tmp_path):
    path = film(tmp_path / "film.mp4")
    clip = Film.open(path)
    data = path.read_bytes()
    path.write_bytes(data[:200] + bytes(len(data) - 200))
    with pytest.raises(InputError, match=r"film\.mp4: frames \[20\]"):
        clip.by_pyav([20])
    (tmp_path / "text.mp4").write_text("no film")
    with pytest.raises(InputError, match=r"text\.mp4: holds no video"):
        Film.open(tmp_path / "text.mp4")


@pytest.fixture
def reds(tmp_path):
    for name in ("000", "001", "011", "017", "240"):
        for t, picture in enumerate(frames(4, int(name))):
            png(tmp_path / name / f"{t:08d}.png", picture)
    return tmp_path


def test_reds_is_learned_from_but_for_the_clips_that_the_field_tests_on(reds):
    material = Material.load(Data(validation=reds, reds=reds))
    names = [clip.pictures[0].parent.name for clip in material.clips]
    assert names == ["001", "017", "240"]
    assert torch.equal(material.clips[1].crop([2, 3], WHOLE), frames(4, 17)[2:])


def test_vimeo_takes_the_septuplets_of_its_list(tmp_path):
    for name in ("00001/0001", "00001/0002"):
        for i, picture in enumerate(frames(7)):
            png(tmp_path / "sequences" / name / f"im{i + 1}.png", picture)
    listed = tmp_path / "list.txt"
    listed.write_text("00001/0002 (256,448,3)\n\n")
    data = Data(validation=tmp_path, vimeo90k=tmp_path, vimeo90k_list=listed)
    (clip,) = Material.load(data).clips
    assert clip.frames == 7
    assert torch.equal(clip.crop([0, 6], WHOLE), frames(7)[[0, 6]])
    listed.write_text("not a name\n")
    with pytest.raises(InputError, match="no list of septuplets"):
        Material.load(data)
    with pytest.raises(UsageError, match="vimeo90k_list is missing"):
        Material.load(Data(validation=tmp_path, vimeo90k=tmp_path))


def test_pictures_of_div2k_are_read_when_they_are_asked_for(tmp_path, monkeypatch):
    for seed in range(3):
        png(tmp_path / f"{seed:04d}.png", texture(seed, 160, 240))
    read = []
    monkeypatch.setattr(footage, "read_frames", lambda p: read.append(p) or read_frames(p))
    material = Material.load(Data(validation=tmp_path, div2k=tmp_path))
    assert not read
    assert len(material.photos) == 3
    assert torch.equal(material.photos[2], texture(2, 160, 240))
    assert torch.equal(Reduced(material.photos)[1], shrink(texture(1, 160, 240)[None])[0])
    view, _ = photo_view(np.random.default_rng(0), material.photos, 3, 12, 4)
    assert view.pair(shrink)[0].shape == (3, 3, 12, 12)
    assert len(read) == 3


def test_only_the_frames_of_a_sample_are_read(reds, monkeypatch):
    clips = Material.load(Data(validation=reds, reds=reds)).clips
    read = []
    monkeypatch.setattr(footage, "read_frames", lambda p: read.append(p) or read_frames(p))
    counts = []
    for seed in range(8):
        detailed_view(np.random.default_rng(seed), clips, 4, 12, 4)
        counts.append(len(read))
        read.clear()
    assert set(counts) == {4, 3 + 4}  # of three places the first frames, where they are compared


def test_a_picture_of_another_size_is_named(reds):
    (clip, *_) = Material.load(Data(validation=reds, reds=reds)).clips
    png(clip.pictures[1], texture(0, 64, 64))
    with pytest.raises(InputError, match=r"00000001\.png: 64x64, not 96x64"):
        clip.crop([0, 1], WHOLE)


@pytest.mark.parametrize("box", [(0, 0), (8, 20), (16, 48)])
def test_a_crop_is_reduced_as_if_the_whole_frame_had_been(box):
    """Margins reach as far as the filter, and at the frame's border it is the frame's."""
    pixels = frames(2)
    y, x = box
    view = view_of(Held(pixels), range(2), Box(y, x, 48, 48), 4)
    lq, gt = view.pair(shrink)
    assert torch.equal(gt, pixels[..., y : y + 48, x : x + 48])
    whole = shrink(pixels)[..., y // 4 : y // 4 + 12, x // 4 : x // 4 + 12]
    assert (lq.int() - whole.int()).abs().max() <= 1
    assert (lq != whole).float().mean() < 0.001  # sums in another order round some halves elsewhere


def test_a_folder_of_frames_is_a_clip(reds):
    assert torch.equal(read_frames(reds / "001"), frames(4, 1))
    with pytest.raises(InputError, match="holds no pictures"):
        read_frames(reds)


def test_sets_that_are_not_there_are_told(tmp_path):
    for data, what in (
        (Data(validation=tmp_path), "name folder, reds"),
        (Data(validation=tmp_path, reds=tmp_path), "001/00000000"),
        (Data(validation=tmp_path, videos=tmp_path), "holds no films"),
        (Data(validation=tmp_path, div2k=tmp_path), "holds no pictures"),
    ):
        with pytest.raises((InputError, UsageError), match=what):
            Material.load(data)


def test_clips_too_short_for_a_stage_are_told():
    clip = FrameFolder((), 64, 96)
    with pytest.raises(InputError, match="no clip has 5 frames of 48x48"):
        Material([clip], Photographs()).fitting(5, 12, 4)
