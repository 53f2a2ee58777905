"""A task's metrics with intervals: videos are resampled, with all their questions."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sttm.evaluation.record import AnswerRecord
from sttm.evaluation.runs import Run
from sttm.evaluation.statistics import Bootstrap, Estimate, Tally
from sttm.evaluation.tasks import Metric, Scored, Share, Task

OVERALL = ""  # in place of a group


@dataclass(frozen=True, eq=False)
class Counted:
    """What one run counts for one metric and one group.

    Args:
        values: of the group; one for the metric as a whole, unless it averages over a group.
        tally: videos by values.
    """

    values: tuple[str, ...]
    tally: Tally


def video_places(answers: Iterable[AnswerRecord]) -> dict[str, int]:
    """Give every video a place, the same whatever the order of the answers; made ones by seed."""
    keys = sorted({(answer.extra.get("seed", ""), answer.video_id) for answer in answers})
    return {video: place for place, (_, video) in enumerate(keys)}


class Counts:
    """The answers of a run, counted for all metrics of its task.

    Args:
        task: the task.
        scored: the answers.
        places: the row of every video; answers about others are not counted.
    """

    def __init__(self, task: Task, scored: Sequence[Scored], places: dict[str, int]) -> None:
        self.metrics = task.metrics(scored)
        self._task = task
        self._cells: dict[tuple[str, str], list[tuple[int, str, Share]]] = defaultdict(list)
        self._rows = len(places)
        by_video: dict[str, list[Scored]] = defaultdict(list)
        for one in scored:
            if one.item.video_id in places:
                by_video[one.item.video_id].append(one)
        for video, some in by_video.items():
            # A metric of one video's answers tells what this video adds to every accuracy.
            for name, metric in task.metrics(some).items():
                self._count(name, metric, places[video])

    def _count(self, name: str, metric: Metric, place: int) -> None:
        whole = Share(metric.value, metric.n, metric.missing)
        self._cells[name, OVERALL].append((place, OVERALL, whole))
        for group, shares in metric.groups.items():
            for value, share in shares.items():
                self._cells[name, group].append((place, value, share))

    def counted(self, metric: str, group: str) -> Counted:
        """Count for a metric; for `OVERALL`, the last column of its accuracies is the metric."""
        rule = self._task.metrics_by_name[metric]
        if group == OVERALL and rule.kind != "micro":
            group = rule.by
        cells = self._cells[metric, group]
        values = tuple(sorted({value for _, value, _ in cells}))
        column = {value: place for place, value in enumerate(values)}
        tally = Tally.count([], self._rows, len(values))
        for place, value, share in cells:
            if share.value is not None:
                tally.asked[place, column[value]] += share.n
                # Whole numbers stay whole.
                tally.right[place, column[value]] += round(share.value * share.n, 9)
        return Counted(values, tally)


def overall(bootstrap: Bootstrap, counts: Counts, metric: str) -> Estimate:
    """Estimate a metric."""
    return bootstrap.accuracies(counts.counted(metric, OVERALL).tally)[-1]


def per_group(bootstrap: Bootstrap, counts: Counts, metric: str, group: str) -> dict[str, Estimate]:
    """Estimate the accuracies of a group's values; without those of which nothing was counted."""
    counted = counts.counted(metric, group)
    estimates = bootstrap.accuracies(counted.tally)[:-1]
    return dict(zip(counted.values, estimates, strict=True))


class Pairing:
    """Two runs on the questions that both answered.

    Args:
        first, second: runs of one task.
        resamples: bootstrap samples.
        seed: of the resampling.
    """

    def __init__(self, first: Run, second: Run, *, resamples: int, seed: int = 0) -> None:
        self.common = [
            name
            for name, answer in first.answers.items()
            if answer.right is not None
            and name in second.answers
            and second.answers[name].right is not None
            and not (first.unreachable or second.unreachable)
        ]
        places = video_places(first.answers[name] for name in self.common)
        self.first = Counts(first.task, first.scored(self.common), places)
        self.second = Counts(first.task, second.scored(self.common), places)
        self.videos = len(places)
        self._bootstrap = Bootstrap(len(places), resamples=resamples, seed=seed)

    def ratio(self, metric: str) -> Estimate:
        """Estimate the first's metric over the second's."""
        return self._bootstrap.ratios(*self._tallies(metric))[-1]

    def difference(self, metric: str) -> Estimate:
        """Estimate the first's metric less the second's."""
        return self._bootstrap.differences(*self._tallies(metric))[-1]

    def _tallies(self, metric: str) -> tuple[Tally, Tally]:
        tallies = [each.counted(metric, OVERALL).tally for each in (self.first, self.second)]
        return tallies[0], tallies[1]
