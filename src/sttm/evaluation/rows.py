"""The rows of a report."""

from dataclasses import dataclass, field

from sttm.evaluation.paper import PublishedRow
from sttm.evaluation.runs import Summary
from sttm.evaluation.specs import Keep


@dataclass(frozen=True)
class AccuracyRow:
    """One accuracy of one run.

    Args:
        run: its name.
        metric: of the task.
        group, value: what the accuracy is over; empty for the metric as a whole.
        accuracy: in 0..1; None if nothing was counted.
        ci_low, ci_high: 95 % bootstrap interval over videos; None for fewer than two videos, and
            for unions of groups.
        n: how many were counted.
        missing: how many were not, for want of an answer.
        unit: what is counted.
        part: the value of a group whose questions alone are counted; empty for all.
    """

    run: str
    metric: str
    group: str
    value: str
    accuracy: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    missing: int
    unit: str
    part: str = ""


@dataclass(frozen=True)
class RunRow:
    """One run, and how it stands to the run with all tokens on the questions that both answered.

    Args:
        run: its name.
        folder: where it is.
        task, model: names.
        method: label; "all" for all tokens.
        keep: exact budget; None if thresholds or the method itself decide.
        metric: the task's first, the one that the paper reports.
        accuracy, ci_low, ci_high: of this metric.
        n: how many were counted for it.
        accuracy_if_empty_wrong: the same with empty answers that are not scored counted as wrong.
        summary: counts and means.
        full: name of the run with all tokens; None without one.
        full_differs: settings in which this run differs from it, beside the method's.
        near: without ``full``: name of a run with all tokens that was not taken for it, since it
            differs in ``full_differs``.
        relative_accuracy, relative_low, relative_high: this run's metric over the full run's.
        less_full, less_full_low, less_full_high: this run's metric less the full run's, both
            resampled together.
        relative_ttft: mean TTFT over the full run's.
        common: questions behind the relative numbers.
        left: questions that were not asked yet.
        left_out: rows of the data set that were malformed.
        published: the paper's row.
        published_differs: what of this run is not as the paper's row has it, in words.
        unreachable: questions for which the method cannot meet the budget; with any, the run has no
            accuracy: on the others alone it could not be compared.
        part: the value of a group whose questions alone are counted; empty for all.
        frames: of a made scene; of a video at most; 0 if that is not known.
    """

    run: str
    folder: str
    task: str
    model: str
    method: str
    keep: Keep | None
    metric: str
    accuracy: float | None
    ci_low: float | None
    ci_high: float | None
    n: int
    accuracy_if_empty_wrong: float | None
    summary: Summary
    full: str | None
    full_differs: tuple[str, ...]
    near: str | None
    relative_accuracy: float | None
    relative_low: float | None
    relative_high: float | None
    less_full: float | None
    less_full_low: float | None
    less_full_high: float | None
    relative_ttft: float | None
    common: int
    left: int
    left_out: int
    published: PublishedRow | None
    published_differs: tuple[str, ...]
    unreachable: int = 0
    part: str = ""
    frames: int = 0

    def troubles(self) -> list[str]:
        """Say what a reader of the accuracies has to know, in words."""
        found = self.summary.troubles()
        if self.unreachable:
            found.append("no accuracy: the budget is out of the method's reach for some videos")
        if self.accuracy_if_empty_wrong is not None:
            worst = f"{100 * self.accuracy_if_empty_wrong:.1f}"
            found.append(f"with empty answers counted as wrong the accuracy is {worst}")
        names = ", ".join(self.full_differs)
        again = " (--parser reads all runs by one rule)" if "parser" in self.full_differs else ""
        if self.full is not None and names:
            found.append(f"relative to {self.full}, which differs in {names}, too{again}")
        elif self.near is not None:
            found.append(f"no relative numbers: {self.near} differs in {names}, too{again}")
        if self.left:
            found.append(f"{self.left} not asked yet: the run is not finished")
        if self.left_out:
            found.append(f"{self.left_out} malformed rows of the data set left out")
        if self.published is not None and self.published.doubt:
            found.append(f"the paper's row (?): {self.published.doubt}")
        if self.published_differs:
            found.append(f"not as in the paper's row: {'; '.join(self.published_differs)}")
        return found


@dataclass(frozen=True)
class Comparison:
    """Two runs on the questions that both answered.

    Args:
        first, second: names.
        metric: of the task.
        difference: the first's less the second's.
        ci_low, ci_high: 95 % bootstrap interval over videos, both resampled together.
        only_first, only_second, both, neither: questions answered rightly by.
        p_value: exact McNemar test; it takes questions for independent, which those about one
            video are not quite, so that the interval is the safer of the two.
        questions, videos: behind it.
        differs: settings beside the method's that differ, too.
    """

    first: str
    second: str
    metric: str
    difference: float | None
    ci_low: float | None
    ci_high: float | None
    only_first: int
    only_second: int
    both: int
    neither: int
    p_value: float
    questions: int
    videos: int
    differs: tuple[str, ...]


@dataclass(frozen=True)
class EvalReport:
    """All rows.

    Args:
        runs: a row per run.
        accuracies: all metrics and groups.
        comparisons: pairs of runs, if asked for.
        parts: the runs again, on the questions of each value of a group, if asked for.
    """

    runs: list[RunRow]
    accuracies: list[AccuracyRow]
    comparisons: list[Comparison]
    parts: list[RunRow] = field(default_factory=list)
