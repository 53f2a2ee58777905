import numpy as np
import pytest

from sttm.evaluation.statistics import Bootstrap, Tally


def tally(right: list[list[int]], asked: list[list[int]]) -> Tally:
    return Tally(np.array(right), np.array(asked))


def test_constant_answers_have_no_spread() -> None:
    always = tally([[2, 1]] * 5, [[2, 1]] * 5)
    for estimate in Bootstrap(5).accuracies(always):
        assert (estimate.value, estimate.low, estimate.high) == (1.0, 1.0, 1.0)


def test_the_mean_counts_every_task_once() -> None:
    # Nine of ten right in a frequent task, none of two in a rare one.
    answers = tally([[5, 0], [4, 0]], [[5, 1], [5, 1]])
    digit, rare, mean = (estimate.value for estimate in Bootstrap(2).accuracies(answers))
    assert (digit, rare) == (0.9, 0.0)
    assert mean == pytest.approx(0.45)


def test_a_task_that_was_never_asked_is_left_out() -> None:
    answers = tally([[1, 0], [1, 0]], [[1, 0], [1, 0]])
    known, unknown, mean = Bootstrap(2).accuracies(answers)
    assert known.value == mean.value == 1.0
    assert np.isnan(unknown.value)
    assert np.isnan(unknown.low)


def test_counting() -> None:
    counted = Tally.count([(0, 1, True), (0, 1, False), (2, 0, True)], clips=3, tasks=2)
    assert counted.asked.tolist() == [[0, 2], [0, 0], [1, 0]]
    assert counted.right.tolist() == [[0, 1], [0, 0], [1, 0]]


@pytest.mark.parametrize("clips", [0, 1])
def test_one_clip_has_no_interval(clips: int) -> None:
    answers = tally([[1]] * clips or [], [[2]] * clips or [])
    if not clips:
        answers = Tally.count([], 0, 1)
    estimate = Bootstrap(clips).accuracies(answers)[0]
    assert np.isnan(estimate.low)
    assert np.isnan(estimate.high)


def test_the_same_seed_gives_the_same_interval() -> None:
    answers = tally([[0], [1], [1], [0]], [[1]] * 4)
    first, again, other = (Bootstrap(4, seed=seed).accuracies(answers)[0] for seed in (1, 1, 2))
    assert first == again
    assert (first.low, first.high) == (0.0, 1.0)
    assert other.value == first.value


def test_differences_are_paired() -> None:
    # Alike but for a constant: what differs between clips cancels out.
    generator = np.random.Generator(np.random.PCG64(0))
    right = generator.integers(0, 9, (30, 1))
    one, other = Tally(right + 1, np.full((30, 1), 10)), Tally(right, np.full((30, 1), 10))
    difference = Bootstrap(30).differences(one, other)[0]
    assert difference.value == pytest.approx(0.1)
    assert (difference.low, difference.high) == pytest.approx((0.1, 0.1))
    alone = Bootstrap(30).accuracies(one)[0]
    assert alone.high - alone.low > 0.1


def test_intervals_cover_the_truth_though_questions_of_a_clip_stand_together() -> None:
    """Each clip is easy (0.9) or hard (0.1): 50 clips of 8 questions are 50 draws, not 400."""
    generator = np.random.Generator(np.random.PCG64(7))
    covered, naive, trials = 0, 0, 200
    for trial in range(trials):
        easy = generator.choice([0.1, 0.9], (50, 1))
        right = generator.binomial(8, easy)
        estimate = Bootstrap(50, resamples=400, seed=trial).accuracies(
            Tally(right, np.full((50, 1), 8))
        )[0]
        covered += estimate.low <= 0.5 <= estimate.high
        half = 1.96 * np.sqrt(0.25 / 400)
        naive += abs(estimate.value - 0.5) <= half
    assert 0.90 <= covered / trials <= 0.99
    assert naive / trials < 0.75  # as if all 400 questions were independent
