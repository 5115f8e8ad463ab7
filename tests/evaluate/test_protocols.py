"""What the benchmarks lay down, against the field's descriptions of them."""

import hashlib
import re

import pytest

from vrestore.errors import UsageError
from vrestore.evaluate import figures
from vrestore.evaluate.figures import OTHERS, ZOO_ROWS, known_as, published
from vrestore.evaluate.protocols import PROTOCOLS, find
from vrestore.models.catalogue import CATALOGUE
from vrestore.models.download import Remote
from vrestore.models.entry import Entry


def frames_of(name):
    (naming, *_) = find(name).namings
    return sum(len(find(name).judged_of(count)) for count in naming.values())


def test_the_frames_that_count_are_those_of_the_papers():
    assert frames_of("reds4") == 400
    assert frames_of("reds-val") == 3000
    assert frames_of("vid4") == 171
    assert frames_of("ntire21-vsr") == frames_of("ntire-deblur") == 300
    assert find("ntire21-vsr").judged_of(100) == [9, 19, 29, 39, 49, 59, 69, 79, 89, 99]
    assert find("vimeo90k-t").judged_of(7) == [3]
    assert [p.name for p in PROTOCOLS if p.mirrored] == ["vimeo90k-t", "ntire21-vsr"]
    assert find("udm10").judged_of(4) == [0, 1, 2, 3]


def test_a_short_clip_of_videolq_is_judged_in_the_frames_that_it_has():
    assert find("videolq").judged_of(100) == [0, 50, 99]
    assert find("videolq").judged_of(60) == [0, 50]


def test_reds4_is_four_clips_of_the_training_set():
    assert list(find("reds4").namings[0]) == ["000", "011", "015", "020"]


def test_the_validation_clips_are_known_by_both_of_their_names():
    official, renamed = find("reds-val").namings
    assert list(official)[::29] == ["000", "029"]
    assert list(renamed)[::29] == ["240", "269"]


def test_channels_and_crops_are_those_of_the_tables():
    found = {p.name: (p.channel, p.crop) for p in PROTOCOLS}
    assert found["reds4"] == found["ntire-deblur"] == ("RGB", 0)
    assert found["vid4"] == found["vimeo90k-t"] == found["udm10"] == ("Y", 0)
    assert found["spmcs"] == ("Y", 8)


def test_an_unknown_protocol_is_an_error_that_names_the_nearest():
    with pytest.raises(UsageError, match="did you mean reds4"):
        find("redds4")
    with pytest.raises(UsageError, match="choose one of reds4, reds-val"):
        find("x")


def test_every_published_figure_is_of_a_model_and_a_set_that_there_are():
    names = {entry.name for entry in CATALOGUE}
    assert set(ZOO_ROWS) <= names
    for model, protocol, degradation in OTHERS:
        assert model in names
        assert find(protocol).degradation in (degradation, "bi", "bd")


def test_the_catalogues_figures_are_those_of_the_table():
    sets = {"REDS4": "reds4", "Vimeo-90K-T": "vimeo90k-t", "Vid4": "vid4", "VideoLQ": "videolq"}
    checked = 0
    for entry in CATALOGUE:
        if not entry.figure or "blur" in entry.data:  # the protocols' inputs are sharp
            continue
        name, *words = entry.figure.split()
        kind = re.search(r"\((B[ID])\)", entry.data)
        found = published(entry.name, sets[name], kind[1].lower() if kind else None)
        if "NIQE" in words:
            assert found.niqe == float(words[-1])
        else:
            assert [found.psnr, found.ssim] == [float(w) for w in words[-1].split("/")]
        checked += 1
    assert checked > 20


def test_an_input_made_otherwise_has_another_figure():
    assert published("basicvsr-vimeo-bd", "vid4", "bd").psnr == 27.9791
    assert published("basicvsr-vimeo-bd-mmagic", "vid4", "bi").psnr == 26.2708
    assert published("basicvsr-vimeo-bd", "vid4", "bd_duf") is None
    assert published("basicvsr", "reds4", "bi") is None


def test_a_published_file_is_known_by_its_content_whatever_it_is_called(tmp_path, monkeypatch):
    file = tmp_path / "renamed.pth"
    file.write_bytes(b"weights")
    assert known_as("basicvsr", file) is None
    assert known_as(str(file), None) is None
    assert known_as("bicubic", None) == "bicubic"
    digits = hashlib.sha256(b"weights").hexdigest()[:8]
    remote = Remote(f"their-{digits}.pth", digits, None, "")
    row = Entry("theirs", "BasicVSR", "", 4, 1, "", "", "", remote=remote)
    monkeypatch.setattr(figures, "PUBLISHED", (row,))
    assert known_as("basicvsr", file) == "theirs"
