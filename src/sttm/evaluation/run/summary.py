"""Count and average the answers of one run."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean

from sttm.evaluation.run.reading import EMPTY
from sttm.evaluation.run.records import EvalAnswer


@dataclass(frozen=True)
class Summary:
    """What became of the questions of a run; times are means over answers, in seconds.

    Args:
        asked: questions with a line, errors included.
        answered: those that the model answered.
        right: those answered rightly.
        hidden: those answered whose right answer is not known; they are not scored.
        unparsed: those answered with a text that holds no answer, hidden ones aside; they count as
            wrong.
        errors: questions that could not be asked or answered, by kind; they are not scored, but
            for empty answers where the parser has them wrong.
        empty: those that the model answered with an empty text, among the errors.
        empty_scored: those of them that count as wrong.
        videos: different ones answered about.
        damaged: those answered about a video of which only some frames could be decoded.
        damaged_videos: such videos.
        retention: mean over answers of tokens kept / tokens; None without answers.
        tokens_in, tokens_out: means of the video tokens in front of and behind the reduction.
        ttft_s: the language model's first forward, see `Times`.
        seconds: end to end, as if every question had come alone.
        paid_s: what was really spent on an answer.
    """

    asked: int
    answered: int
    right: int
    hidden: int
    unparsed: int
    errors: Mapping[str, int]
    empty: int
    empty_scored: int
    videos: int
    damaged: int
    damaged_videos: int
    retention: float | None
    tokens_in: float | None
    tokens_out: float | None
    ttft_s: float | None
    seconds: float | None
    paid_s: float | None

    def troubles(self) -> list[str]:
        """Say what a reader of the accuracies has to know, in words; empty if nothing."""
        errors = {kind: n for kind, n in self.errors.items() if kind != EMPTY}
        errors[EMPTY] = self.empty - self.empty_scored
        found = [f"{n} not scored: {kind}" for kind, n in sorted(errors.items()) if n]
        if self.empty_scored:
            found.append(f"{self.empty_scored} counted as wrong: {EMPTY}")
        if self.unparsed:
            found.append(
                f"{self.unparsed} answered without an answer in the text, counted as wrong"
            )
        if self.hidden:
            found.append(f"{self.hidden} answered whose right answer is hidden, not scored")
        if self.damaged:
            found.append(
                f"{self.damaged} answered about damaged videos ({self.damaged_videos}), of which "
                "only some frames could be decoded"
            )
        return found


def sum_up(answers: Iterable[EvalAnswer]) -> Summary:
    """Count and average."""
    every = list(answers)
    good = [answer for answer in every if answer.error is None]
    empty = [answer for answer in every if answer.empty]
    damaged = [answer for answer in good if answer.warnings]
    times = [answer.times for answer in good if answer.times is not None]
    shares = [share for answer in good if (share := answer.retention) is not None]
    return Summary(
        asked=len(every),
        answered=len(good),
        right=sum(answer.right is True for answer in good),
        hidden=sum(answer.expected is None for answer in good),
        unparsed=sum(answer.parsed is None and answer.right is not None for answer in good),
        errors=dict(Counter(answer.error for answer in every if answer.error is not None)),
        empty=len(empty),
        empty_scored=sum(answer.right is not None for answer in empty),
        videos=len({answer.video_id for answer in good}),
        damaged=len(damaged),
        damaged_videos=len({answer.video_id for answer in damaged}),
        retention=_mean(shares),
        tokens_in=_mean([answer.tokens_in for answer in good if answer.tokens_in is not None]),
        tokens_out=_mean([answer.tokens_out for answer in good if answer.tokens_out is not None]),
        ttft_s=_mean([time.ttft_s for time in times]),
        seconds=_mean([time.seconds for time in times]),
        paid_s=_mean([time.paid_s for time in times]),
    )


def _mean(values: list[float] | list[int]) -> float | None:
    return round(fmean(values), 6) if values else None
