"""From runs to rows: accuracies with intervals, and runs against each other and the paper."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from sttm.errors import ConfigError, unknown_name
from sttm.evaluation.intervals import Counts, Pairing, overall, per_group, video_places
from sttm.evaluation.paper import row_beside
from sttm.evaluation.rows import AccuracyRow, Comparison, EvalReport, RunRow
from sttm.evaluation.runs import Run, summarize
from sttm.evaluation.specs import ALL
from sttm.evaluation.statistics import RESAMPLES, Bootstrap, Estimate, known, mcnemar

FAMILY = "family"  # unions of a group's values

# Group, value, accuracy, its interval, counted, missing.
_Cell = tuple[str, str, float | None, Estimate | None, int, int]


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
        alike = [
            each
            for each in chosen
            if _same_task(run, each) and each.frames == run.frames and not run.full
        ]
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
        frames=run.frames,
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
