import gc
import sys
from types import ModuleType

import pytest
import torch

from vrestore.errors import UsageError
from vrestore.evaluate import consistency
from vrestore.evaluate.consistency import farneback, occluded, tecogan_window

STEP = (3, -2)  # pixels right and down from frame to frame


def texture(height=96, width=128, seed=0):
    """Smooth noise in the middle, flat towards the borders: what moves there comes from nowhere."""
    g = torch.Generator().manual_seed(seed)
    picture = torch.full((3, height, width), 128.0)
    inner = torch.rand(1, 3, (height - 64) // 4, (width - 64) // 4, generator=g) * 255
    inner = torch.nn.functional.interpolate(inner, scale_factor=4, mode="bilinear")
    picture[:, 32:-32, 32:-32] = inner[0].round()
    return picture


def shifted(frames):
    return [texture().roll((n * STEP[1], n * STEP[0]), (1, 2)) for n in range(frames)]


def constant_flow(x, y):
    def flow(a, b):
        return torch.tensor([x, y], dtype=torch.float32)[:, None, None].expand(2, *a.shape[1:])

    return flow


still_flow = constant_flow(0, 0)


def true_flow(film):
    """The shift itself, forward or backward, whichever the two frames ask for."""

    def flow(a, b):
        number = [next(i for i, f in enumerate(film) if f is frame) for frame in (a, b)]
        sign = number[1] - number[0]
        return constant_flow(sign * STEP[0], sign * STEP[1])(a, b)

    return flow


def mean_difference(a, b):
    return (a - b).abs().mean()


def scores_of(measure, reference, restored):
    for pair in zip(reference, restored, strict=True):
        measure.add(*pair)
    return [*measure.end().values()]


def tof(truth, restored):
    return scores_of(consistency.tof(), truth, restored)


def tlp(truth, restored, distance):
    return scores_of(consistency.tlp(distance), truth, restored)


def warping_error(guide, restored, flow):
    return scores_of(consistency.warping_error(flow), guide, restored)


@pytest.fixture
def opencv(monkeypatch):
    """Installed, as far as can be seen."""
    monkeypatch.setitem(sys.modules, "cv2", ModuleType("cv2"))


def test_a_film_that_follows_its_flow_has_no_warping_error_and_a_lost_one_has():
    film = shifted(4)
    errors = warping_error(film, film, true_flow(film))
    assert len(errors) == 3
    assert max(errors) < 1e-9
    assert min(warping_error(film, film, constant_flow(0, 0))) > 1e-3
    flickering = [frame + 10 * (n % 2) for n, frame in enumerate(film)]
    errors = warping_error(film, flickering, true_flow(film))
    assert errors == pytest.approx([(10 / 255) ** 2] * 3)


@pytest.mark.usefixtures("opencv")
def test_a_still_film_has_no_error_in_any_measure(monkeypatch):
    film = [texture()] * 7
    monkeypatch.setattr(consistency, "farneback", constant_flow(0, 0))
    assert tof(film, film) == [0, 0]
    assert tlp(film, film, mean_difference) == [0, 0]
    assert warping_error(film, film, constant_flow(0, 0)) == pytest.approx([0] * 6, abs=1e-12)


def test_the_warping_error_of_a_known_flicker_is_its_square():
    """A tenth of the range between frames, in every channel; half of the picture is occluded."""
    guide = [torch.zeros(3, 20, 24)] * 2
    restored = [torch.zeros(3, 20, 24), torch.full((3, 20, 24), 25.5)]
    assert warping_error(guide, restored, constant_flow(0, 0)) == pytest.approx([0.01])
    restored[1][:, :, 12:] = 255

    def half(a, b):  # forth and not back in the right half: 2 x 4 > 0.01 x 4 + 0.5
        flow = torch.zeros(2, 20, 24)
        flow[0, :, 12:] = 2
        return flow

    assert warping_error(guide, restored, half) == pytest.approx([0.01])


def test_where_all_is_occluded_the_warping_error_is_nil():
    film = [torch.zeros(3, 16, 16), torch.full((3, 16, 16), 255.0)]
    assert warping_error(film, film, constant_flow(5, 0)) == [0]


def test_occlusion_and_motion_boundaries_are_at_the_published_thresholds():
    still = torch.zeros(2, 8, 8)
    # |wf + wb|² = d² against 0.01 d² + 0.5: d = 0.7106
    for x, lost in ((0.70, False), (0.72, True)):
        forward = still.clone()
        forward[0] = x
        assert bool(occluded(forward, still).all()) == lost
        assert bool(occluded(forward, still).any()) == lost
    # A step of d between columns 3 and 4: d² against 0.002 where the flow is 0, in column 3 only.
    for d, steep in ((0.044, False), (0.046, True)):
        forward = still.clone()
        forward[1, :, 4:] = d
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[:, 3] = steep
        assert torch.equal(occluded(forward, still), expected)
    # In fast motion a step may be larger: 0.01 x 10² + 0.002 against d² between rows.
    for d, steep in ((0.99, False), (1.02, True)):
        forward, backward = still.clone(), still.clone()
        forward[0], backward[0] = 10.0, -10.0
        forward[0, 4:] += d
        backward[0, 4:] -= d
        assert bool(occluded(forward, backward)[3].all()) == steep
        assert not occluded(forward, backward)[:3].any()


@pytest.mark.usefixtures("opencv")
def test_tof_is_the_length_of_the_difference_of_the_flows(monkeypatch):
    """(3, 4) against (0, 0) is 5 pixels; what is in the border and at the ends does not count."""
    truth, restored = [texture()] * 8, [texture(seed=1)] * 8
    asked = []

    def flow(a, b):
        asked.append((a, b))
        found = torch.zeros(2, *a.shape[1:])
        if torch.equal(a, restored[0]):
            found[:, :8] = 1000
            found[:, 16:-16, 16:-16] = torch.tensor([3.0, 4.0])[:, None, None]
        return found

    monkeypatch.setattr(consistency, "farneback", flow)
    # 96x128 leaves 64x96: rows 16..79, columns 16..111.
    assert tof(truth, restored) == pytest.approx([5, 5, 5])
    assert len(asked) == 6


def test_tlp_is_a_hundred_times_the_difference_of_the_changes():
    def flicker(amplitude):
        return [torch.full((3, 64, 64), 100.0 + amplitude * (n % 2)) for n in range(6)]

    assert tlp(flicker(10), flicker(4), mean_difference) == [600]
    assert tlp(flicker(4), flicker(10), mean_difference) == [600]


def test_the_first_and_last_two_frames_are_not_looked_at():
    values = [0, 0, 10, 20, 50, 60, 255, 255]
    truth = [torch.full((3, 48, 48), float(v)) for v in values]
    still = [torch.zeros(3, 48, 48)] * len(values)
    assert tlp(truth, still, mean_difference) == [1000, 3000, 1000]
    with pytest.raises(UsageError, match="2 left out at each end: it needs 6 at least, not 5"):
        tlp(truth[:5], still[:5], mean_difference)


def test_a_score_belongs_to_the_later_frame_and_is_there_as_soon_as_it_can_be():
    """TecoGAN's pairs wait for two frames more: whether theirs are the last is not known before."""
    frames = [torch.full((3, 48, 48), float(n * n)) for n in range(8)]
    black = torch.zeros(3, 48, 48)
    trimmed, warped = consistency.tlp(mean_difference), consistency.warping_error(still_flow)
    known = []
    for frame in frames:
        trimmed.add(frame, black)
        warped.add(frame, frame)
        known.append((sorted(trimmed.scores), max(warped.scores, default=None)))
    assert [last for _, last in known] == [None, 1, 2, 3, 4, 5, 6, 7]
    assert [numbers for numbers, _ in known] == [[], [], [], [], [], [3], [3, 4], [3, 4, 5]]
    assert trimmed.end() == {3: 500, 4: 700, 5: 900}
    assert warped.end()[2] == pytest.approx((3 / 255) ** 2)


@pytest.mark.parametrize(
    ("make", "pairs"),
    [
        (lambda: consistency.warping_error(still_flow), 2),
        (lambda: consistency.tlp(mean_difference), 4),
    ],
)
def test_no_more_frames_are_held_than_are_needed(make, pairs):
    """A clip of any length takes the same room."""
    size = (3, 49, 51)  # no other tensor's
    measure, held = make(), []
    for n in range(9):
        measure.add(torch.full(size, float(n)), torch.full(size, float(n)))
        tensors = (x for x in gc.get_objects() if issubclass(type(x), torch.Tensor))
        held.append(sum(x.shape == size for x in tensors))
    assert max(held) == 2 * pairs


def test_pictures_are_judged_in_whole_codes():
    film = [torch.full((3, 48, 48), 100 + 0.4 * (n % 2)) for n in range(6)]
    assert tlp(film, [f.round() for f in film], mean_difference) == [0]


@pytest.mark.parametrize(
    ("size", "kept"),
    [
        ((720, 1280), (704, 1248)),
        ((576, 720), (544, 704)),
        ((48, 79), (32, 32)),
        ((48, 80), (32, 64)),
    ],
)
def test_the_window_is_tecogans(size, kept):
    """Multiples of 32 with at least 16 pixels left out in all, centred."""
    whole, rows, columns = tecogan_window(*size)
    assert whole == slice(None)
    for length, inner, part in zip(size, kept, (rows, columns), strict=True):
        assert part.stop - part.start == inner
        assert part.start == (length - inner) // 2


def test_a_larger_result_is_cut_and_a_smaller_one_is_refused():
    truth = [torch.full((3, 48, 50), 10.0 * n) for n in range(6)]
    larger = [torch.full((3, 52, 52), 10.0 * n) for n in range(6)]
    assert tlp(truth, larger, mean_difference) == [0]
    with pytest.raises(UsageError, match=r"the result is .* smaller"):
        tlp(larger, truth, mean_difference)


def test_films_that_do_not_fit_are_refused_in_one_sentence():
    film = shifted(6)
    still = constant_flow(0, 0)
    with pytest.raises(UsageError, match="frames: it needs 2 at least, not 1"):
        warping_error(film[:1], film[:1], still)
    with pytest.raises(UsageError, match="enlarge the flow's"):
        warping_error([f[:, ::2, ::2] for f in film], film, still)
    with pytest.raises(UsageError, match=r"frame 0 is \(1, 96, 128\)"):
        warping_error([f[:1] for f in film], film, still)
    with pytest.raises(UsageError, match="nothing is left of 47x96"):
        tecogan_window(96, 47)


def test_without_opencv_the_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"pip install opencv-python-headless"):
        tof(shifted(6), shifted(6))


def test_farnebacks_flow_finds_the_shift_and_tof_counts_what_is_missing():
    pytest.importorskip("cv2", reason="OpenCV is not installed")
    film = shifted(6)
    found = farneback(film[0], film[1])
    assert found.shape == (2, 96, 128)
    inner = found[:, 40:-40, 40:-40]
    torch.testing.assert_close(inner.mean((1, 2)), torch.tensor([3.0, -2.0]), atol=0.2, rtol=0)
    assert tof(film, film) == [0]
    (missed,) = tof(film, [film[0]] * 6)
    assert missed == pytest.approx(
        farneback(film[2], film[3])[tecogan_window(96, 128)].norm(dim=0).mean()
    )
