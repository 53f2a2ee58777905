"""From answers to rows: accuracies, intervals, and differences on the same clips."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sttm.evaluation.journal import AnswerRecord
from sttm.evaluation.needle import NeedlePlan
from sttm.evaluation.specs import ALL, Keep, Setting
from sttm.evaluation.statistics import MEAN, Bootstrap, Estimate, Tally, known


@dataclass(frozen=True)
class Row:
    """Accuracy of one setting on one task.

    Args:
        frames: length of the clips.
        kind: of the scenes; "all" for all of them.
        method: label; "all" for all tokens.
        keep: the budget; None where the method has its own.
        task: "all" is the mean over the tasks, each counted once.
        retention: tokens kept / tokens, mean over the clips; None if it is out of reach.
        accuracy: right / asked; None where nothing was asked, or where the method could not reach
            the budget for all clips.
        ci_low, ci_high: 95 % bootstrap interval over clips.
        n: questions.
        clips: clips with such a question.
    """

    frames: int
    kind: str
    method: str
    keep: Keep | None
    task: str
    retention: float | None
    accuracy: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    clips: int


@dataclass(frozen=True)
class Difference:
    """Accuracy of one setting less that of another on the same clips.

    Args:
        frames, kind, method, keep, task: see `Row`.
        against: label of the other; "all" for all tokens.
        against_keep: budget of the other.
        difference: accuracy less accuracy of the other.
        ci_low, ci_high: 95 % bootstrap interval, both resampled together.
        n: questions.
    """

    frames: int
    kind: str
    method: str
    keep: Keep | None
    task: str
    against: str
    against_keep: Keep | None
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    n: int


@dataclass(frozen=True)
class Report:
    """All rows of a run.

    Args:
        tasks: in order, without "all".
        rows: over all kinds of scenes.
        by_kind: the same per kind.
        differences: over all kinds, to all tokens and to the reference.
    """

    tasks: tuple[str, ...]
    rows: list[Row]
    by_kind: list[Row]
    differences: list[Difference]


def summarize(
    plan: NeedlePlan,
    answers: Iterable[AnswerRecord],
    tasks: Sequence[str],
    *,
    against: str | None = None,
    resamples: int = 2000,
) -> Report:
    """Turn answers into rows.

    Args:
        plan: what was run; other answers are left out.
        answers: all answers.
        tasks: the order of the tasks.
        against: label of a method to compare the others with at the same budget.
        resamples: bootstrap samples.
    """
    wanted = {(clip.frames, clip.kind, clip.seed) for clip in plan.clips()}
    keys = {setting.key for setting in plan.settings}
    used = [
        answer
        for answer in answers
        if (answer.frames, answer.kind, answer.seed) in wanted
        and (answer.method, answer.keep) in keys
    ]
    asked = {answer.task for answer in used}
    tasks = tuple(task for task in tasks if task in asked)
    report = Report(tasks, [], [], [])
    for frames in sorted(plan.frames):
        of_length = [answer for answer in used if answer.frames == frames]
        group = _Group(plan, frames, MEAN, tasks, of_length, resamples)
        report.rows.extend(group.rows())
        report.differences.extend(group.differences(against))
        for kind in plan.kinds if len(plan.kinds) > 1 else ():
            some = [answer for answer in of_length if answer.kind == kind]
            report.by_kind.extend(_Group(plan, frames, kind, tasks, some, resamples).rows())
    return report


class _Group:
    """The answers about clips of one length, perhaps of one kind."""

    def __init__(
        self,
        plan: NeedlePlan,
        frames: int,
        kind: str,
        tasks: tuple[str, ...],
        answers: Sequence[AnswerRecord],
        resamples: int,
    ) -> None:
        self.frames, self.kind, self.tasks = frames, kind, tasks
        self.settings = plan.settings
        clips = sorted({answer.seed for answer in answers})
        self._clip = {seed: place for place, seed in enumerate(clips)}
        self._by_setting: dict[object, list[AnswerRecord]] = defaultdict(list)
        for answer in answers:
            self._by_setting[answer.method, answer.keep].append(answer)
        self._tallies = {setting.key: self._tally(setting) for setting in plan.settings}
        self._bootstrap = Bootstrap(len(clips), resamples=resamples, seed=plan.seed)

    def rows(self) -> list[Row]:
        """Accuracies of every setting."""
        rows = []
        for setting in self.settings:
            tally = self._tallies[setting.key]
            retention = self._retention(setting)
            for task, place, estimate in self._named(self._bootstrap.accuracies(tally)):
                asked = tally.asked if place is None else tally.asked[:, [place]]
                rows.append(
                    Row(
                        self.frames,
                        self.kind,
                        setting.label,
                        setting.keep,
                        task,
                        retention,
                        known(estimate.value),
                        known(estimate.low),
                        known(estimate.high),
                        n=int(asked.sum()),
                        clips=int((asked.sum(1) > 0).sum()),
                    )
                )
        return rows

    def differences(self, against: str | None) -> list[Difference]:
        """Differences to all tokens, and to the reference at the same budget."""
        found = []
        by_key = {setting.key: setting for setting in self.settings}
        for setting in self.settings:
            others = [by_key.get((ALL, 1.0))]
            if against not in (None, ALL, setting.label):
                assert against is not None
                others.append(by_key.get((against, setting.keep)) or by_key.get((against, None)))
            for other in others:
                if other is not None and setting.method is not None:
                    found += self._against(setting, other)
        return found

    def _against(self, setting: Setting, other: Setting) -> list[Difference]:
        tally = self._tallies[setting.key]
        estimates = self._bootstrap.differences(tally, self._tallies[other.key])
        return [
            Difference(
                self.frames,
                self.kind,
                setting.label,
                setting.keep,
                task,
                other.label,
                other.keep,
                known(estimate.value),
                known(estimate.low),
                known(estimate.high),
                n=int(tally.asked.sum() if place is None else tally.asked[:, place].sum()),
            )
            for task, place, estimate in self._named(estimates)
        ]

    def _named(self, estimates: Sequence[Estimate]) -> list[tuple[str, int | None, Estimate]]:
        places: list[int | None] = [*range(len(self.tasks)), None]
        return list(zip((*self.tasks, MEAN), places, estimates, strict=True))

    def _tally(self, setting: Setting) -> Tally:
        place = {task: number for number, task in enumerate(self.tasks)}
        answers = self._by_setting[setting.key]
        if any(answer.right is None for answer in answers):
            # Some clips are out of its reach: on the others alone it cannot be compared.
            answers = []
        triples = [
            (self._clip[answer.seed], place[answer.task], bool(answer.right)) for answer in answers
        ]
        return Tally.count(triples, len(self._clip), len(self.tasks))

    def _retention(self, setting: Setting) -> float | None:
        """Mean over clips."""
        shares: dict[int, list[float]] = defaultdict(list)
        for answer in self._by_setting[setting.key]:
            if answer.tokens_out is None:
                return None
            shares[answer.seed].append(answer.tokens_out / answer.tokens_in)
        means = [sum(share) / len(share) for share in shares.values()]
        return round(sum(means) / len(means), 6) if means else None
