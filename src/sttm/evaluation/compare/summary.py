"""Many videos in one row for each method and budget, and what follows from the rows, in words."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from sttm.budget import written_keep
from sttm.evaluation.compare.measure import Agreement, Measured, VideoComparison
from sttm.evaluation.specs import ALL, Keep

# What counts as no loss, and as little, in every kind of question: the divergence in nats, and the
# share of equal next tokens.
NOTHING = Agreement(kl=0.01, equal=0.99)
LITTLE = Agreement(kl=0.1, equal=0.9)
_LIMITS = {"nothing": NOTHING, "little": LITTLE}
_LOSSES = {
    "nothing": "loses nothing measurable",
    "little": "loses little",
    "more": "is the nearest, and loses more than a little: keep more tokens",
}
_RANDOM = "random"


@dataclass(frozen=True)
class Recommendation:
    """What to use.

    Args:
        method: label of the method; None if no setting can be recommended or named.
        keep: its budget.
        loss: "nothing", "little", or "more": then it is only the nearest.
        text: sentences that say why.
    """

    method: str | None
    keep: Keep | None
    loss: str
    text: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One method at one budget: means over the videos.

    Args:
        method: label; "all" for all tokens.
        keep: the budget; None where the method has its own.
        layer: the decoder layer; None for all tokens.
        videos: that the means are of; others are out of the method's reach at this budget. With
            none, every number is NaN.
        retention: tokens out / tokens in.
        tokens_out, error, coverage, merge_s, ttft_s: see `Measured`.
        agreement: mean over all questions.
        kinds: the same for each kind of question.
    """

    method: str
    keep: Keep | None
    layer: int | None
    videos: int
    retention: float
    tokens_out: float
    error: float
    coverage: float
    merge_s: float
    ttft_s: float
    agreement: Agreement
    kinds: Mapping[str, Agreement]

    @property
    def weakest(self) -> str:
        """The kind of question with the largest divergence; of equal ones the first."""
        return max(self.kinds, key=lambda kind: self.kinds[kind].kl)

    def within(self, limit: Agreement) -> bool:
        """Tell whether every kind of question loses no more than this."""
        return self.videos > 0 and all(
            each.kl <= limit.kl and each.equal >= limit.equal for each in self.kinds.values()
        )

    def __str__(self) -> str:
        return self.method if self.keep is None else f"{self.method} at {_written(self.keep)}"


def summarize(videos: Sequence[VideoComparison]) -> list[Row]:
    """Take means over videos that were compared under the same settings and questions.

    Args:
        videos: at least one.
    """
    settings = zip(*(video.settings for video in videos), strict=True)
    return [_row(videos, list(measured)) for measured in settings]


def _row(videos: Sequence[VideoComparison], measured: Sequence[Measured]) -> Row:
    pairs = [(v, m) for v, m in zip(videos, measured, strict=True) if m.tokens_out is not None]
    kinds: dict[str, list[Agreement]] = {}
    for video, one in pairs:
        for answer, agreement in zip(video.answers, one.agreement, strict=True):
            kinds.setdefault(answer.kind, []).append(agreement)

    def mean(value: Callable[[Measured], float | None]) -> float:
        return _mean([number for _, m in pairs if (number := value(m)) is not None])

    return Row(
        method=measured[0].method,
        keep=measured[0].keep,
        layer=measured[0].layer,
        videos=len(pairs),
        retention=_mean([(m.tokens_out or 0) / v.tokens_in for v, m in pairs]),
        tokens_out=mean(lambda m: m.tokens_out),
        error=mean(lambda m: m.error),
        coverage=mean(lambda m: m.coverage),
        merge_s=mean(lambda m: m.merge_s),
        ttft_s=mean(lambda m: m.ttft_s),
        agreement=_mean_agreement([each for some in kinds.values() for each in some]),
        kinds={kind: _mean_agreement(some) for kind, some in kinds.items()},
    )


def recommend(rows: Sequence[Row]) -> Recommendation:
    """Say what to use, by rules that only read the numbers.

    1. A setting loses nothing measurable if no kind of question is beyond `NOTHING`, and little if
       none is beyond `LITTLE`, at this and at every larger budget of the method: what holds at 10 %
       and not at 30 % is chance. Only settings that all videos reach, and not random tokens, are
       recommended.
    2. Of those that lose nothing, the one with the fewest tokens; of equally many the one with the
       least divergence. If there is none, the same of those that lose little. If there is none
       either, nothing is recommended, and the one with the least divergence is named.
    3. The next smaller budget of the same method tells which kind of question suffers first: that
       with the largest divergence.
    4. If random tokens are within the same limit, in as few tokens, the questions do not tell
       methods apart, which is said.

    Args:
        rows: from `summarize`.
    """
    whole = next(row for row in rows if row.method == ALL)
    usable = [r for r in rows if r.videos == whole.videos and r.method not in (ALL, _RANDOM)]
    if not usable:
        text = "No method reaches its budget on all videos: nothing to recommend."
        return Recommendation(None, None, "more", (text,))
    best, loss = _best(usable)
    told = [
        f"{best} {_LOSSES[loss]} ({_numbers(best.agreement)}); the first token comes after "
        f"{best.ttft_s / whole.ttft_s:.0%} of the time that all tokens take."
    ]
    below = [r for r in usable if r.method == best.method and r.tokens_out < best.tokens_out]
    if below:
        after = max(below, key=lambda row: row.tokens_out)
        kind = after.weakest
        told.append(
            f"At {_written(after.keep)} '{kind}' suffers first ({_numbers(after.kinds[kind])})."
        )
    if loss in _LIMITS and any(
        row.method == _RANDOM and row.within(_LIMITS[loss]) and row.tokens_out <= best.tokens_out
        for row in rows
    ):
        told.append(
            "Random tokens do as well there: these videos and questions do not tell methods apart. "
            "Add videos, or questions of your own."
        )
    return Recommendation(best.method, best.keep, loss, tuple(told))


def _best(usable: Sequence[Row]) -> tuple[Row, str]:
    """Return the setting to use, and what it loses."""
    for loss, limit in _LIMITS.items():
        beyond = [row for row in usable if not row.within(limit)]
        within = [row for row in usable if not any(_at_least(row, other) for other in beyond)]
        if within:
            return min(within, key=lambda row: (row.tokens_out, row.agreement.kl)), loss
    return min(usable, key=lambda row: (row.agreement.kl, row.tokens_out)), "more"


def _at_least(row: Row, other: Row) -> bool:
    """Tell whether ``other`` is the same method with as many tokens or more."""
    return other.method == row.method and other.tokens_out >= row.tokens_out


def _numbers(agreement: Agreement) -> str:
    return f"KL {agreement.kl:.3f}, {100 * agreement.equal:.1f} % of tokens equal"


def _written(keep: Keep | None) -> str:
    if keep is None:
        return "its own budget"
    return f"{100 * keep:.4g} %" if isinstance(keep, float) else f"{written_keep(keep)} tokens"


def _mean_agreement(some: Sequence[Agreement]) -> Agreement:
    return Agreement(_mean([each.kl for each in some]), _mean([each.equal for each in some]))


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else float("nan")
