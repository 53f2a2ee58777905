import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttm.errors import ConfigError
from sttm.video import (
    Sampling,
    llava_indices,
    nominal_times,
    qwen_indices,
    smart_resize,
    uniform_indices,
)

counts = st.integers(1, 5000)
caps = st.integers(1, 300)
source_rates = st.one_of(
    st.sampled_from([23.976, 24000 / 1001, 25.0, 30000 / 1001, 30.0, 60.0]), st.floats(0.5, 240)
)
target_rates = st.one_of(st.sampled_from([0.5, 1.0, 2.0]), st.floats(0.05, 60))


def twin(total: int, source_fps: float, fps: float, max_frames: int) -> list[int]:
    """Section E of the benchmark notes, word for word and slow."""
    interval = source_fps / fps
    found = []
    step = 0
    while step < math.ceil((total - 1) / interval):
        found.append(math.ceil(step * interval))
        step += 1
    if not found or found[-1] != total - 1:
        found.append(total - 1)
    if len(found) <= max_frames:
        return found
    if max_frames == 1:
        return [0]
    apart = (total - 1) / (max_frames - 1)
    return [int(place * apart) for place in range(max_frames - 1)] + [total - 1]


@given(counts, source_rates, target_rates, caps)
def test_llava_equals_its_twin(total: int, source_fps: float, fps: float, cap: int) -> None:
    assert list(llava_indices(total, source_fps, fps, cap)) == twin(total, source_fps, fps, cap)


@given(counts, source_rates, target_rates, caps, st.sampled_from(["llava", "qwen", "uniform"]))
def test_every_rule_keeps_its_promises(
    total: int, source_fps: float, fps: float, cap: int, rule: str
) -> None:
    picked = Sampling(rule, fps, cap).indices(total, source_fps)
    assert 1 <= len(picked) <= cap + (rule == "qwen" and cap % 2)
    assert list(picked) == sorted(picked)
    assert picked[0] == 0
    assert all(type(index) is int and 0 <= index < total for index in picked)
    assert picked[-1] == total - 1 or (cap == 1 and rule != "qwen")
    if rule == "qwen":
        assert len(picked) % 2 == 0
    if rule == "uniform":
        assert len(set(picked)) == len(picked) == min(cap, total)


def test_ten_seconds_at_thirty_are_eleven_frames() -> None:
    picked = llava_indices(300, 30.0, 1.0, 128)
    assert picked == (0, 30, 60, 90, 120, 150, 180, 210, 240, 270, 299)


def test_ntsc_rate_rounds_up() -> None:
    # 29.97: 0, 29.97, 59.94, 89.91 -> 0, 30, 60, 90; the last of 100 frames is 99
    assert llava_indices(100, 30000 / 1001, 1.0, 128) == (0, 30, 60, 90, 99)


def test_last_frame_is_not_repeated_where_the_rule_lands_on_it() -> None:
    # (7 - 1) / 2.5 = 2.4 -> steps 0, 2.5, 5 -> 0, 3, 5, and 6 is appended
    assert llava_indices(7, 5.0, 2.0, 128) == (0, 3, 5, 6)
    # (6 - 1) / 2.5 = 2 -> 0, 3, and 5 is appended; 5 frames: 4 / 2.5 -> 0, 3, 4
    assert llava_indices(6, 5.0, 2.0, 128) == (0, 3, 5)
    # 3 frames at 1.5 per step: 0, 2 and 2 is the last already
    assert llava_indices(3, 3.0, 2.0, 128) == (0, 2)


def test_cap_spreads_evenly_and_truncates() -> None:
    # 299 / 3 = 99.67 -> 0, 99.67, 199.33, 299
    assert llava_indices(300, 30.0, 1.0, 4) == (0, 99, 199, 299)
    assert llava_indices(300, 30.0, 1.0, 1) == (0,)
    assert llava_indices(300, 30.0, 1.0, 11) == llava_indices(300, 30.0, 1.0, 128)


def test_wanting_more_than_the_file_has_repeats_frames() -> None:
    # steps of half a frame: 0, .5, 1, 1.5, 2, 2.5 -> 0, 1, 1, 2, 2, 3
    assert llava_indices(4, 30.0, 60.0, 128) == (0, 1, 1, 2, 2, 3)


def test_enormous_rate_neither_hangs_nor_overflows() -> None:
    assert llava_indices(3, 30.0, 1e300, 5) == (0, 0, 1, 1, 2)
    assert llava_indices(3, 5e-324, 1e300, 2) == (0, 2)


def test_qwen_pads_with_the_last_frame() -> None:
    assert qwen_indices(300, 30.0, 1.0, 128)[-2:] == (299, 299)
    assert len(qwen_indices(300, 30.0, 1.0, 128)) == 12
    assert qwen_indices(30, 30.0, 2.0, 128) == (0, 15, 29, 29)
    assert qwen_indices(1, 30.0, 1.0, 128) == (0, 0)
    assert qwen_indices(300, 30.0, 1.0, 3) == (0, 149, 299, 299)


def test_one_frame_gives_that_frame() -> None:
    for rule in ("llava", "uniform"):
        assert Sampling(rule).indices(1, 30.0) == (0,)


def test_uniform_ignores_the_rate() -> None:
    assert uniform_indices(100, 4) == (0, 33, 66, 99)
    assert uniform_indices(3, 8) == (0, 1, 2)


def test_nominal_times_are_index_over_rate() -> None:
    assert nominal_times((0, 30, 299), 30.0) == pytest.approx((0.0, 1.0, 9.9666667))
    assert nominal_times((0, 24000), 24000 / 1001) == pytest.approx((0.0, 1001.0))


@pytest.mark.parametrize(
    "numbers",
    [
        {"fps": 0.0},
        {"fps": -1.0},
        {"fps": math.nan},
        {"fps": math.inf},
        {"max_frames": 0},
        {"max_frames": 2.5},
        {"max_frames": True},
    ],
)
def test_numbers_out_of_range_are_told(numbers: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=rf"got {next(iter(numbers))}=.*expected"):
        Sampling(**numbers)  # type: ignore[arg-type]


def test_unknown_rule_suggests_the_nearest() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'llava'"):
        Sampling(rule="lava")


def test_frame_counts_and_rates_are_checked() -> None:
    with pytest.raises(ConfigError, match="total_frames"):
        llava_indices(0, 30.0, 1.0, 8)
    with pytest.raises(ConfigError, match="source_fps"):
        Sampling().indices(10, 0.0)
    assert llava_indices(int(np.int64(3)), 30.0, 1.0, 8) == (0, 2)


def test_smart_resize_cases_calculated_by_hand() -> None:
    # 480 / 28 = 17.1 -> 17, 854 / 28 = 30.5 -> 30 (half to even is not at play): 510 tokens
    assert smart_resize(480, 854, frames=12) == (17 * 28, 30 * 28)
    # 720p has 26 * 46 = 1196 tokens, over 768: scale sqrt(921600 / 602112) = 1.2372
    # 720 / 1.2372 / 28 = 20.8 -> 20, 1280 / 1.2372 / 28 = 36.9 -> 36: 720 tokens
    assert smart_resize(720, 1280, frames=12) == (20 * 28, 36 * 28)
    # 90 x 160 has 3 * 6 tokens, under 128: scale sqrt(100352 / 14400) = 2.6399
    # 90 * 2.6399 / 28 = 8.5 -> 9, 160 * 2.6399 / 28 = 15.1 -> 16
    assert smart_resize(90, 160, frames=12) == (9 * 28, 16 * 28)


@pytest.mark.parametrize(("frames", "tokens"), [(12, 768), (300, 768), (360, 640), (100000, 134)])
def test_long_videos_get_fewer_tokens_per_step(frames: int, tokens: int) -> None:
    height, width = smart_resize(2800, 2800, frames=frames)
    side = math.isqrt(tokens)
    assert (height, width) == (side * 28, side * 28)


@given(st.integers(28, 4000), st.integers(28, 4000), st.integers(1, 2000))
def test_smart_resize_stays_in_its_bounds(height: int, width: int, frames: int) -> None:
    if max(height, width) > 20 * min(height, width):
        return  # floor and ceil of a very thin side leave the bounds, as published
    tall, wide = smart_resize(height, width, frames)
    assert tall % 28 == wide % 28 == 0
    assert tall * wide <= 768 * 784
    assert frames > 300 or tall * wide >= 128 * 784 * 0.5


def test_smart_resize_refuses_ribbons_and_nonsense() -> None:
    with pytest.raises(ConfigError, match="got frames of 10000x28"):
        smart_resize(28, 10000, 2)
    with pytest.raises(ConfigError, match="height"):
        smart_resize(0, 100, 2)
    assert min(smart_resize(20, 4000, 2)) >= 28
