from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from sttm.video.clock import Background, Clock, Coverage, Rate, Timeline, measure
from sttm.video.orientation import orientation_of


def clock(
    times: list[int | None],
    length: int | None = 1,
    base: int = 10,
    background: Background | None = None,
) -> Clock:
    made = Clock(Fraction(1, base), background)
    for time in times:
        made.add(time, length)
    return made


def timeline(made: Clock) -> Timeline:
    found = made.timeline()
    assert found is not None
    return found


def span(made: Clock) -> Fraction | None:
    return timeline(made).span()


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
    assert span(clock([0, 10, 30], length=0)) == Fraction(45, 10)
    assert span(clock([0, 10, 30], length=None)) == Fraction(45, 10)
    assert span(clock([5], length=None)) is None


def test_times_that_miss_or_go_back_give_the_header_rate() -> None:
    assert measure(clock([0, None, 2]), Fraction(10)) == Rate(10.0, 0.3, False)
    assert measure(clock([0, 2, 1]), Fraction(10)) == Rate(10.0, 0.3, False)
    assert measure(clock([0, 2, 1]), Fraction(10), ordered=False) == Rate(10.0, 0.3, True)
    assert measure(clock([0, 2, 1]), None) is None


def test_no_time_passes() -> None:
    assert measure(clock([7, 7, 7]), Fraction(10)) is None
    assert measure(clock([7], length=0), Fraction(10)) == Rate(10.0, 0.1, False)


def test_seconds_count_from_the_first_frame() -> None:
    assert timeline(clock([14, 24])).seconds() == (0.0, 1.0)
    assert clock([14, None]).timeline() is None
    assert clock([]).timeline() is None


def test_long_steps_among_short_ones_are_jumps() -> None:
    """A second is 10 ticks; half an hour is 18000."""
    found = timeline(clock([0, 1, 2, 18003, 18004]))
    assert found.seconds() == pytest.approx((0.0, 0.1, 0.2, 0.3, 0.4))
    assert found.jumps.tolist() == [18001]
    assert timeline(clock([0, 1, 2, 18002, 18003])).jumps.tolist() == []  # half an hour may be true
    slow = [0, 20000, 50000, 60000, 99000]  # one frame in half an hour, or in more
    assert timeline(clock([*slow])).seconds() == pytest.approx([time / 10 for time in slow])
    assert timeline(clock([0, 18500])).seconds() == (0.0, 1850.0)


@pytest.mark.parametrize(("seconds", "jumps"), [(6, []), (4, [101])])
def test_a_long_step_with_sound_in_it_is_true(seconds: int, jumps: list[int]) -> None:
    sound = Coverage(Fraction(1))
    for second in range(seconds):
        sound.add(second, second + 1)
    made = clock([0, 1, 102, 103], background=Background((sound,), Fraction(10)))
    assert timeline(made).jumps.tolist() == jumps


def test_steps_back_are_jumps_when_no_codec_reorders_so_far() -> None:
    found = timeline(clock([*range(20), *range(20)]))
    assert found.seconds() == pytest.approx([tick / 10 for tick in range(40)])
    assert (found.jumps.tolist(), found.backwards) == ([-19], False)
    near = timeline(clock([*range(10), *range(10)]))
    assert (near.jumps.tolist(), near.backwards) == ([], True)
    assert measure(clock([*range(20), *range(20)]), Fraction(10)) == Rate(10.0, 4.0, True)


def test_the_clock_starts_with_the_sound() -> None:
    def start(first: int, sound: int) -> float:
        heard = Coverage(Fraction(1))
        heard.add(sound, sound + 1)
        background = Background((heard,), Fraction(10))
        return timeline(clock([first, first + 1], background=background)).seconds()[0]

    assert start(50, 0) == 5.0
    assert start(50, 5) == start(50, 6) == 0.0
    assert start(30, -2) == 5.0
    assert start(200, 0) == 0.0  # far behind the sound, and nothing in between: a jump


def test_sound_is_one_piece_until_it_stops_or_goes_back() -> None:
    heard = Coverage(Fraction(1))
    for second in (0, 1, 2, 5, 6, 1):
        heard.add(second, second + 1)
    assert heard.start == 0
    assert heard.within(Fraction(0), Fraction(10)) == 3 + 2 + 1
    assert heard.within(Fraction(5, 2), Fraction(11, 2)) == 1
    assert heard.within(Fraction(20), Fraction(30)) == 0


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
