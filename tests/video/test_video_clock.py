from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from sttm.video.clock import Clock, Rate, measure
from sttm.video.orientation import orientation_of


def clock(times: list[int | None], length: int | None = 1, base: int = 10) -> Clock:
    made = Clock(Fraction(1, base))
    for time in times:
        made.add(time, length)
    return made


def test_rate_of_a_header_that_agrees_is_kept() -> None:
    assert measure(clock([*range(100)]), Fraction(10)) == Rate(10.0, 10.0, True)
    # 1 % off is rounding or drift; the header wins, so the published frames come out
    assert measure(clock([*range(1000)]), Fraction(995, 100)) == Rate(9.95, 100.0, True)
    # and so is one frame more or less
    assert measure(clock([*range(10)]), Fraction(95, 10)) == Rate(9.5, 1.0, True)


def test_rate_of_a_header_that_is_wrong_is_replaced() -> None:
    assert measure(clock([*range(100)]), Fraction(30)) == Rate(10.0, 10.0, True)
    assert measure(clock([*range(100)]), None) == Rate(10.0, 10.0, True)
    assert measure(clock([*range(100)]), Fraction(0)) == Rate(10.0, 10.0, True)


def test_unknown_length_of_the_last_frame_is_the_average() -> None:
    assert clock([0, 10, 30], length=0).span() == Fraction(45, 10)
    assert clock([0, 10, 30], length=None).span() == Fraction(45, 10)
    assert clock([5], length=None).span() is None


def test_times_that_miss_or_go_back_give_the_header_rate() -> None:
    assert measure(clock([0, None, 2]), Fraction(10)) == Rate(10.0, 0.3, False)
    assert measure(clock([0, 2, 1]), Fraction(10)) == Rate(10.0, 0.3, False)
    assert measure(clock([0, 2, 1]), Fraction(10), ordered=False) == Rate(10.0, 0.3, True)
    assert measure(clock([0, 2, 1]), None) is None


def test_no_time_passes() -> None:
    assert measure(clock([7, 7, 7]), Fraction(10)) is None
    assert measure(clock([7], length=0), Fraction(10)) == Rate(10.0, 0.1, False)


def test_seconds_count_from_the_first_frame() -> None:
    assert clock([14, 24]).seconds(24) == 1.0


@pytest.mark.parametrize(("first", "second", "swap"), [*product((1, -1), (1, -1), (False, True))])
def test_orientation_sends_every_point_where_the_matrix_does(
    first: int, second: int, swap: bool
) -> None:
    one = 1 << 16
    a, b, c, d = (0, first * one, second * one, 0) if swap else (first * one, 0, 0, second * one)
    image = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    shown = orientation_of(np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], np.int32)).apply(image)
    points = {}
    for y, x in product(range(2), range(3)):
        points[(b * x + d * y) // one, (a * x + c * y) // one] = image[y, x]
    top, left = min(y for y, _ in points), min(x for _, x in points)
    assert len(points) == shown.shape[0] * shown.shape[1]
    for (y, x), pixel in points.items():
        assert np.array_equal(shown[y - top, x - left], pixel)


def test_slanted_and_degenerate_matrices_are_not_exact() -> None:
    slanted = np.array([46341, 46341, 0, -46341, 46341, 0, 0, 0, 1 << 30], np.int32)
    assert not orientation_of(slanted).exact
    assert not orientation_of(np.zeros(9, np.int32)).exact
