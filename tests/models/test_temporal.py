"""Which frames stand in for those beyond the ends of a shot (shared/reference/evaluation.md, 2)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrestore.engine.windows import windows
from vrestore.models.temporal import neighbours

TABLE = {  # of 100 frames: window, border -> centre -> indices
    (5, "replicate"): {
        0: "0 0 0 1 2", 1: "0 0 1 2 3", 98: "96 97 98 99 99", 99: "97 98 99 99 99"},
    (5, "reflection"): {
        0: "2 1 0 1 2", 1: "1 0 1 2 3", 98: "96 97 98 99 98", 99: "97 98 99 98 97"},
    (5, "reflection_circle"): {
        0: "4 3 0 1 2", 1: "4 0 1 2 3", 98: "96 97 98 99 95", 99: "97 98 99 96 95"},
    (5, "circle"): {
        0: "3 4 0 1 2", 1: "4 0 1 2 3", 98: "96 97 98 99 95", 99: "97 98 99 95 96"},
    (7, "replicate"): {
        0: "0 0 0 0 1 2 3", 2: "0 0 1 2 3 4 5", 97: "94 95 96 97 98 99 99"},
    (7, "reflection"): {
        0: "3 2 1 0 1 2 3", 2: "1 0 1 2 3 4 5", 98: "95 96 97 98 99 98 97"},
    (7, "reflection_circle"): {
        0: "6 5 4 0 1 2 3", 1: "6 5 0 1 2 3 4", 2: "6 0 1 2 3 4 5",
        97: "94 95 96 97 98 99 93", 98: "95 96 97 98 99 94 93", 99: "96 97 98 99 95 94 93"},
    (7, "circle"): {
        0: "4 5 6 0 1 2 3", 1: "5 6 0 1 2 3 4", 98: "95 96 97 98 99 93 94",
        99: "96 97 98 99 93 94 95"},
    (5, "padded_reflection"): {0: "4 3 0 1 2", 1: "3 0 1 2 3", 98: "96 97 98 99 96"},
    (7, "padded_reflection"): {0: "6 5 4 0 1 2 3", 99: "96 97 98 99 95 94 93"},
}  # fmt: skip
BORDERS = ["replicate", "reflection", "reflection_circle", "circle", "padded_reflection"]


@pytest.mark.parametrize(("size", "border"), TABLE, ids=str)
def test_borders_are_those_of_the_fields_data_sets(size, border):
    for centre, expected in TABLE[size, border].items():
        found = neighbours(centre, size // 2, size // 2, border, 99)
        assert found == [int(i) for i in expected.split()]


@given(
    frames=st.integers(1, 30),
    before=st.integers(0, 4),
    after=st.integers(0, 4),
    border=st.sampled_from(BORDERS),
)
def test_a_ring_of_one_window_serves_every_border(frames, before, after, border):
    """Streamed windows are those that the whole shot would give, in shots of any length."""
    taken = []

    def source():
        for i in range(frames):
            taken.append(i)
            yield i

    count = 0
    for window in windows(source(), before, after, border):
        expected = neighbours(window.index, before, after, border, frames - 1)
        assert list(window.items) == expected
        assert window.items[before] == window.index == count
        assert set(expected) <= set(range(frames))
        assert len(taken) <= max(count + after, before + after) + 1
        if after:
            assert window.last == (count == frames - 1)
        count += 1
    assert count == frames


def test_a_shot_too_short_for_a_circle_is_reflected_to_and_fro():
    assert neighbours(0, 3, 3, "reflection_circle", 2) == [1, 2, 1, 0, 1, 2, 1]
    assert neighbours(0, 2, 2, "padded_reflection", 0) == [0, 0, 0, 0, 0]
