"""From runs to rows: accuracies with intervals, and runs against each other and the paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean

from sttm.errors import ConfigError
from sttm.evaluation.run.intervals import Counts, Pairing, overall, per_group
from sttm.evaluation.run.load import Run
from sttm.evaluation.run.published import PublishedRow, match_published
from sttm.evaluation.run.summary import Summary, sum_up
from sttm.evaluation.specs import Keep
from sttm.evaluation.statistics import RESAMPLES, Bootstrap, Estimate, mcnemar

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
        summary: counts and means.
        full: name of the run with all tokens; None without one.
        relative_accuracy, relative_low, relative_high: this run's metric over the full run's.
        relative_ttft: mean TTFT over the full run's.
        common: questions behind the relative numbers.
        left: questions that were not asked yet.
        left_out: rows of the data set that were malformed.
        published: the paper's row.
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
    summary: Summary
    full: str | None
    relative_accuracy: float | None
    relative_low: float | None
    relative_high: float | None
    relative_ttft: float | None
    common: int
    left: int
    left_out: int
    published: PublishedRow | None

    def troubles(self) -> list[str]:
        """Say what a reader of the accuracies has to know, in words."""
        found = self.summary.troubles()
        if self.left:
            found.append(f"{self.left} not asked yet: the run is not finished")
        if self.left_out:
            found.append(f"{self.left_out} malformed rows of the data set left out")
        if self.published is not None and self.published.doubt:
            found.append(f"the paper's row: {self.published.doubt}")
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
    """

    runs: list[RunRow]
    accuracies: list[AccuracyRow]
    comparisons: list[Comparison]


def make_report(
    runs: Sequence[Run],
    *,
    full: Run | None = None,
    compare: bool = False,
    resamples: int = RESAMPLES,
) -> EvalReport:
    """Sum up runs.

    Args:
        runs: of any tasks and models.
        full: the run that the others are set in relation to; None to find those with all tokens
            and otherwise equal settings.
        compare: test every two runs of one task against each other.
        resamples: bootstrap samples.
    Raises: ConfigError: ``full`` is of another task than a run.
    """
    report = EvalReport([], [], [])
    for run in runs:
        rows = _accuracies(run, resamples)
        report.accuracies.extend(rows)
        other = full if full is not None else _full_of(run, runs)
        report.runs.append(_row(run, rows[0], other, resamples))
    if compare:
        for place, first in enumerate(runs):
            for second in runs[place + 1 :]:
                if _same_task(first, second):
                    report.comparisons.append(_compare(first, second, resamples))
    return report


def _accuracies(run: Run, resamples: int) -> list[AccuracyRow]:
    """Compute all accuracies; the task's first metric as a whole comes first."""
    # Videos that nothing is known about add nothing to an interval.
    videos = sorted({a.video_id for a in run.answers.values() if a.right is not None})
    counts = Counts(run.task, run.scored(), {video: i for i, video in enumerate(videos)})
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
                _known(None if interval is None else interval.low),
                _known(None if interval is None else interval.high),
                n,
                missing,
                metric.unit,
            )
            for group, value, accuracy, interval, n, missing in cells
        ]
    return rows


def _row(run: Run, first: AccuracyRow, full: Run | None, resamples: int) -> RunRow:
    ratio, ttft, common = _relative(run, full, first.metric, resamples)
    settings = run.settings
    method = run.method
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
        summary=sum_up(run.answers.values()),
        full=None if full is None else full.name,
        relative_accuracy=None if ratio is None else _known(ratio.value),
        relative_low=None if ratio is None else _known(ratio.low),
        relative_high=None if ratio is None else _known(ratio.high),
        relative_ttft=_known(ttft),
        common=common,
        left=run.left,
        left_out=sum(run.about.get("left_out", {}).values()),
        published=match_published(
            str(settings["model"]), run.task.name, method, settings["keep"], run.preset
        ),
    )


def _full_of(run: Run, runs: Sequence[Run]) -> Run | None:
    return next((each for each in runs if each.full and not each.differs(run)), None)


def _relative(
    run: Run, full: Run | None, metric: str, resamples: int
) -> tuple[Estimate | None, float | None, int]:
    """Return accuracy over accuracy, TTFT over TTFT, and the questions behind them."""
    if full is None:
        return None, None, 0
    if not _same_task(run, full):
        raise ConfigError(
            f"--full: got {full.name}, a run of {full.task.name}, for {run.name}, one of "
            f"{run.task.name}, expected the same questions. Report on each task by itself."
        )
    pair = Pairing(run, full, resamples=resamples)
    times = [
        fmean([t.ttft_s for name in pair.common if (t := each.answers[name].times) is not None])
        if pair.common
        else 0.0
        for each in (run, full)
    ]
    ttft = times[0] / times[1] if times[1] else None
    return pair.ratio(metric), ttft, len(pair.common)


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
        _known(found.value),
        _known(found.low),
        _known(found.high),
        only_first,
        only_second,
        rights.count((True, True)),
        rights.count((False, False)),
        mcnemar(only_first, only_second),
        len(rights),
        pair.videos,
        tuple(first.differs(second)),
    )


def _known(value: float | None) -> float | None:
    return round(value, 5) if value is not None and isfinite(value) else None
