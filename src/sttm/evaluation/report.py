"""From runs to rows: accuracies with intervals, and runs against each other and the paper."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from sttm.errors import ConfigError, unknown_name
from sttm.evaluation.intervals import Counts, Pairing, overall, per_group, video_places
from sttm.evaluation.paper import PublishedRow, row_beside
from sttm.evaluation.runs import Run, Summary, summarize
from sttm.evaluation.specs import ALL, Keep
from sttm.evaluation.statistics import RESAMPLES, Bootstrap, Estimate, known, mcnemar

FAMILY = "family"  # unions of a group's values

# Group, value, accuracy, its interval, counted, missing.
_Cell = tuple[str, str, float | None, Estimate | None, int, int]


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


def make_report(
    runs: Sequence[Run],
    *,
    full: Run | None = None,
    compare: bool = False,
    against: str | None = None,
    by: str | None = None,
    resamples: int = RESAMPLES,
) -> EvalReport:
    """Sum up runs.

    Args:
        runs: of any tasks and models.
        full: the run that the others are set in relation to; None to find those with all tokens
            and otherwise equal settings.
        compare: test every two runs of one task against each other.
        against: label of a method; the others are tested against it, at the same budget.
        by: name of a group; runs are also reported on the questions of each of its values.
        resamples: bootstrap samples.

    Raises:
        ConfigError: ``full`` is of another task than a run, no run is of the method ``against``, or
            no question has a group ``by``.
    """
    report = EvalReport([], [], [])
    report.runs.extend(_add(report.accuracies, runs, full, resamples))
    if by is not None:
        parts = [part for run in runs for part in run.parts(by)]
        if not parts:
            names = sorted({name for run in runs for name in run.task.groups})
            raise unknown_name("group", by, names)
        for value in sorted({part.part for part in parts}):
            some = [part for part in parts if part.part == value]
            whole = (
                next((part for part in full.parts(by) if part.part == value), None)
                if full
                else None
            )
            report.parts.extend(_add(report.accuracies, some, whole, resamples))
    pairs = [(a, b) for i, a in enumerate(runs) for b in runs[i + 1 :]] if compare else []
    pairs += [] if against is None else _pairs_with(against, runs)
    report.comparisons.extend(_compare(*pair, resamples) for pair in pairs if _same_task(*pair))
    return report


def _add(
    accuracies: list[AccuracyRow], runs: Sequence[Run], full: Run | None, resamples: int
) -> Iterator[RunRow]:
    """Sum up runs, or parts of runs with the same value of a group."""
    for run in runs:
        rows = _accuracies(run, resamples)
        accuracies.extend(rows)
        yield _row(run, rows[0], _Reference.find(run, runs, full), resamples)


def _pairs_with(label: str, runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Pair each run with that of a method at the same budget, or at the method's own."""
    chosen = [run for run in runs if run.settings["method"] == label]
    if not chosen:
        names = sorted({str(run.settings["method"]) for run in runs})
        raise unknown_name("method to compare with", label, names)
    pairs = []
    for run in runs:
        alike = [each for each in chosen if _same_task(run, each) and not run.full]
        same = [each for each in alike if each.settings["keep"] == run.settings["keep"]]
        if run.settings["method"] != label and (label == ALL or same or len(alike) == 1):
            pairs += [(run, other) for other in (same or alike)[:1]]
    return pairs


def _accuracies(run: Run, resamples: int) -> list[AccuracyRow]:
    """Compute all accuracies; the task's first metric as a whole comes first."""
    # Videos that nothing is known about add nothing to an interval.
    videos = video_places(a for a in run.answers.values() if a.right is not None)
    counts = Counts(run.task, run.scored(), videos)
    bootstrap = Bootstrap(len(videos), resamples=resamples)
    rows = []
    for name, metric in counts.metrics.items():
        estimate = overall(bootstrap, counts, name)
        cells: list[_Cell] = [("", "", metric.value, estimate, metric.n, metric.missing)]
        for group, shares in metric.groups.items():
            found = {} if group == FAMILY else per_group(bootstrap, counts, name, group)
            for value, share in sorted(shares.items()):
                cells.append((group, value, share.value, found.get(value), share.n, share.missing))
        rows += [
            AccuracyRow(
                run.name,
                name,
                group,
                value,
                None if accuracy is None else round(accuracy, 5),
                known(None if interval is None else interval.low),
                known(None if interval is None else interval.high),
                n,
                missing,
                metric.unit,
                run.part,
            )
            for group, value, accuracy, interval, n, missing in cells
        ]
    return rows


@dataclass(frozen=True)
class _Reference:
    """The run with all tokens, or one that would be if it did not differ in other settings."""

    full: Run | None
    near: Run | None
    differs: tuple[str, ...]

    @classmethod
    def find(cls, run: Run, runs: Sequence[Run], chosen: Run | None) -> "_Reference":
        if chosen is not None:
            return cls(chosen, None, tuple(run.differs(chosen)))
        alike = [
            each
            for each in runs
            if each.full
            and _same_task(run, each)
            and each.settings["model"] == run.settings["model"]
        ]
        near = min(alike, key=lambda each: len(run.differs(each)), default=None)
        differs = () if near is None else tuple(run.differs(near))
        return cls(None, near, differs) if differs else cls(near, None, ())


def _row(run: Run, first: AccuracyRow, reference: _Reference, resamples: int) -> RunRow:
    full = reference.full
    ratio, less, ttft, common = _relative(run, full, first.metric, resamples)
    settings, summary = run.settings, summarize(run.answers.values())
    empty_wrong = None
    if summary.empty > summary.empty_scored:
        metrics = run.task.metrics(run.scored(empty_wrong=True))
        empty_wrong = known(metrics[first.metric].value)
    beside = None
    if not run.part:
        beside = row_beside(settings, preset=run.preset, questions=first.n, hidden=summary.hidden)
    return RunRow(
        run=run.name,
        folder=str(run.folder),
        task=run.task.name,
        model=str(settings["model"]),
        method=str(settings["method"]),
        keep=settings["keep"],
        metric=first.metric,
        accuracy=first.accuracy,
        ci_low=first.ci_low,
        ci_high=first.ci_high,
        n=first.n,
        accuracy_if_empty_wrong=empty_wrong,
        summary=summary,
        full=None if full is None else full.name,
        full_differs=reference.differs,
        near=None if reference.near is None else reference.near.name,
        relative_accuracy=None if ratio is None else known(ratio.value),
        relative_low=None if ratio is None else known(ratio.low),
        relative_high=None if ratio is None else known(ratio.high),
        less_full=None if less is None else known(less.value),
        less_full_low=None if less is None else known(less.low),
        less_full_high=None if less is None else known(less.high),
        relative_ttft=known(ttft),
        common=common,
        left=0 if run.part else run.left,
        left_out=sum(run.about.get("left_out", {}).values()),
        published=None if beside is None else beside.row,
        published_differs=() if beside is None else beside.differs,
        unreachable=run.unreachable,
        part=run.part,
    )


def _relative(
    run: Run, full: Run | None, metric: str, resamples: int
) -> tuple[Estimate | None, Estimate | None, float | None, int]:
    """Return accuracy over and less accuracy, TTFT over TTFT, and the questions behind them."""
    if full is None:
        return None, None, None, 0
    if not _same_task(run, full):
        raise ConfigError(
            f"--full: got {full.name}, a run of {full.task.name}, for {run.name}, one of "
            f"{run.task.name}, expected the same questions. Report on each task by itself."
        )
    pair = Pairing(run, full, resamples=resamples)
    times = [
        [t.ttft_s for name in pair.common if (t := each.answers[name].times) is not None]
        for each in (run, full)
    ]
    ttft = fmean(times[0]) / fmean(times[1]) if all(times) else None
    return pair.ratio(metric), pair.difference(metric), ttft, len(pair.common)


def _same_task(first: Run, second: Run) -> bool:
    names = ("task", "task_definition")
    return all(first.settings.get(name) == second.settings.get(name) for name in names)


def _compare(first: Run, second: Run, resamples: int) -> Comparison:
    metric = next(iter(first.task.metrics_by_name))
    pair = Pairing(first, second, resamples=resamples)
    found = pair.difference(metric)
    rights = [
        (bool(first.answers[name].right), bool(second.answers[name].right)) for name in pair.common
    ]
    only_first, only_second = rights.count((True, False)), rights.count((False, True))
    return Comparison(
        first.name,
        second.name,
        metric,
        known(found.value),
        known(found.low),
        known(found.high),
        only_first,
        only_second,
        rights.count((True, True)),
        rights.count((False, False)),
        mcnemar(only_first, only_second),
        len(rights),
        pair.videos,
        tuple(first.differs(second)),
    )
