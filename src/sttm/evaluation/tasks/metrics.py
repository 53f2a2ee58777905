"""How answers count: the authors' accuracies and the benchmarks' own, each under its name."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Annotated, NamedTuple

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from sttm.errors import ConfigError, unknown_name
from sttm.evaluation.tasks.items import Item
from sttm.evaluation.tasks.spans import check_rule, read_span, score_span


class Scored(NamedTuple):
    """An item, and whether its answer is right; None where there is none (skipped, an error).

    Args:
        item: the question.
        right: whether the answer is the expected one.
        parsed: what was read out of the answer, for metrics with a score of their own.
    """

    item: Item
    right: bool | None
    parsed: str | None = None


@dataclass(frozen=True)
class Share:
    """An accuracy.

    Args:
        value: in 0..1; None if nothing was counted.
        n: how many were counted.
        missing: how many were not, for want of an answer.
    """

    value: float | None
    n: int
    missing: int


@dataclass(frozen=True)
class Metric:
    """A metric of a run.

    Args:
        value: in 0..1; None if nothing was counted.
        n: how many ``unit`` were counted.
        missing: how many were not, for want of an answer: the value says nothing about them.
        hidden: how many cannot be, since the right answer is not published.
        unit: what is counted: "questions", or "samples" of several questions.
        description: how it is computed.
        groups: the same per value of each group.
    """

    value: float | None
    n: int
    missing: int
    hidden: int
    unit: str
    description: str
    groups: Mapping[str, Mapping[str, Share]] = field(default_factory=dict)


class MetricRule(BaseModel):
    """How a metric is computed.

    Args:
        kind: "micro", the mean over questions; "macro", the mean over values of the group ``by`` of
            their accuracies; "all_tries", as "macro" over samples, the questions about one video,
            that count as right only if all ``tries`` of them are.
        by: the group that "macro" and "all_tries" average over; "micro" may name one to rename.
        tries: questions of a sample.
        score: what an answer counts; None for 1 if it is right, else a rule of
            `spans.score_span`, for questions about spans of time.
        rename: other names of values of ``by`` in this metric.
        families: unions of values of ``by`` that get an accuracy too, computed as the whole is;
            patterns such as ``ret*``.
        description: for people.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str = "micro"
    by: str = ""
    tries: int = Field(default=1, ge=1)
    score: Annotated[str, AfterValidator(check_rule)] | None = None
    rename: dict[str, str] = Field(default_factory=dict)
    families: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    description: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> "MetricRule":
        if self.kind not in _KINDS:
            raise unknown_name("kind of metric", self.kind, _KINDS)
        if not self.by and (self.kind != "micro" or self.rename or self.families):
            raise ConfigError("by: got no group, expected the one that the metric averages over.")
        return self


@dataclass(frozen=True)
class _Unit:
    """What counts once: a question or a sample, from 0 to 1."""

    right: float | None
    groups: Mapping[str, str]


def compute(
    rules: Mapping[str, MetricRule],
    groups: Sequence[str],
    scored: Sequence[Scored],
    items: Sequence[Item],
) -> dict[str, Metric]:
    """Compute metrics; see `Task.metrics`.

    Raises:
        ConfigError: a question is scored twice.
    """
    known = {one.item.question_id: one for one in scored}
    if len(known) < len(scored):
        ids = [one.item.question_id for one in scored]
        twice = next(name for name in ids if ids.count(name) > 1)
        raise ConfigError(f"scored: got {twice!r} twice, expected every question at most once.")
    rest = [Scored(item, None) for item in items if item.question_id not in known]
    everything = [*scored, *rest]
    countable = [one for one in everything if one.item.answer is not None]
    hidden = len(everything) - len(countable)
    return {name: _metric(rule, groups, countable, hidden) for name, rule in rules.items()}


def _metric(
    rule: MetricRule, groups: Sequence[str], scored: Sequence[Scored], hidden: int
) -> Metric:
    units = _samples(rule, scored) if rule.kind == "all_tries" else _questions(rule, scored)
    shares = {name: _by(units, name) for name in groups}
    if rule.by:
        shares[rule.by] = _by(units, rule.by)
        if rule.families:
            shares["family"] = {
                name: _family(rule, units, shares[rule.by], members)
                for name, members in rule.families.items()
            }
    total = _KINDS[rule.kind](units, shares.get(rule.by, {}))
    return Metric(
        value=total.value,
        n=total.n,
        missing=total.missing,
        hidden=hidden,
        unit="samples" if rule.kind == "all_tries" else "questions",
        description=rule.description,
        groups={name: values for name, values in shares.items() if values},
    )


def _questions(rule: MetricRule, scored: Iterable[Scored]) -> list[_Unit]:
    return [_Unit(_score(rule, one), _renamed(rule, one.item)) for one in scored]


def _score(rule: MetricRule, one: Scored) -> float | None:
    if rule.score is None or one.right is None:
        return one.right
    found, expected = (read_span(text or "") for text in (one.parsed, one.item.answer))
    return 0.0 if found is None or expected is None else score_span(rule.score, found, expected)


def _samples(rule: MetricRule, scored: Iterable[Scored]) -> list[_Unit]:
    """Join the tries of a sample; one of which a try has no answer is missing altogether."""
    tries: dict[str, list[Scored]] = {}
    for one in scored:
        tries.setdefault(one.item.video_id, []).append(one)
    units = []
    for sample in tries.values():
        rights = [one.right for one in sample]
        complete = len(rights) == rule.tries and None not in rights
        units.append(_Unit(all(rights) if complete else None, _renamed(rule, sample[0].item)))
    return units


def _renamed(rule: MetricRule, item: Item) -> dict[str, str]:
    value = item.groups.get(rule.by)
    if value is None:
        return dict(item.groups)
    return {**item.groups, rule.by: rule.rename.get(value, value)}


def _by(units: Sequence[_Unit], group: str) -> dict[str, Share]:
    values = sorted({unit.groups[group] for unit in units if group in unit.groups})
    return {v: _share([u for u in units if u.groups.get(group) == v]) for v in values}


def _family(
    rule: MetricRule, units: Sequence[_Unit], shares: Mapping[str, Share], members: Sequence[str]
) -> Share:
    own = {name: s for name, s in shares.items() if any(fnmatchcase(name, m) for m in members)}
    return _KINDS[rule.kind]([unit for unit in units if unit.groups.get(rule.by) in own], own)


def _share(units: Sequence[_Unit]) -> Share:
    rights = [unit.right for unit in units if unit.right is not None]
    value = sum(rights) / len(rights) if rights else None
    return Share(value, len(rights), len(units) - len(rights))


def _pooled(units: Sequence[_Unit], shares: Mapping[str, Share]) -> Share:
    return _share(units)


def _averaged(units: Sequence[_Unit], shares: Mapping[str, Share]) -> Share:
    """Average accuracies; a value of the group of which nothing was counted is left out."""
    pooled = _share(units)
    values = [share.value for share in shares.values() if share.value is not None]
    return Share(sum(values) / len(values) if values else None, pooled.n, pooled.missing)


_KINDS: dict[str, Callable[[Sequence[_Unit], Mapping[str, Share]], Share]] = {
    "micro": _pooled,
    "macro": _averaged,
    "all_tries": _averaged,
}
