"""Law 1 on odd real films: every frame at its time, all sound and subtitles byte for byte."""

import pytest
from films import packets_of, seconds_of, shared

import vrestore
from vrestore.video.probe import probe

LONG = {"cups_no_codec_data.mp4", "edit_list_positive_shift.mp4", "iphone_hlg_10bit_rotated.mp4"}
FILMS = [
    "alpha.webm", "camera_mjpeg.avi", "cover_art.mp4", "cups_no_codec_data.mp4",
    "edit_list_positive_shift.mp4", "first_pts_10s.mp4", "hls_cea608.ts",
    "iphone_hlg_10bit_rotated.mp4", "mpeg2.ts", "phone_rot90_data_first_audio.mov",
    "rotate_and_reflect.mp4", "srt_subtitles.mkv", "truncated.mp4", "webcam_vfr.mov",
]  # fmt: skip


def film_seconds(path):
    """Times of the restored stream's frames, covers left out."""
    import av

    index = probe(path).stream_index
    with av.open(str(path)) as container:
        stream = container.streams[index]
        return sorted(
            float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None
        )


@pytest.mark.parametrize("name", [n for n in FILMS if n not in LONG])
def test_every_time_stamp_and_every_packet_of_a_real_film_comes_out(tmp_path, name):
    check(shared("fixtures/" + name), tmp_path / name)


def check(source, target):
    report = vrestore.restore(
        source,
        target,
        model="identity",
        device="cpu",
        preset=None if source.suffix in (".webm", ".avi") else "ultrafast",
    )
    before, after = film_seconds(source), film_seconds(target)
    if report.damage:
        assert report.frames == len(after) < len(before)
        assert {round(t, 4) for t in after} <= {round(t, 4) for t in before}
    else:
        assert after == pytest.approx(before, abs=1e-6)
    for kind in ("audio", "subtitle"):
        assert packets_of(source, kind) == packets_of(target, kind)
    assert probe(target).display_matrix == probe(source).display_matrix
    assert probe(target).sample_aspect == probe(source).sample_aspect


def test_a_gif_becomes_a_film(tmp_path):
    source = shared("fixtures/people.gif")
    vrestore.restore(source, tmp_path / "out.mp4", model="identity", device="cpu")
    assert len(seconds_of(tmp_path / "out.mp4")) == 23
    assert film_seconds(tmp_path / "out.mp4") == pytest.approx(film_seconds(source), abs=1e-6)
