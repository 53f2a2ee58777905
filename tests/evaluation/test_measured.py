"""What docs/benchmarks.md says was measured is what is in benchmarks/results."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import sttm
from sttm.evaluation.render import markdown_table
from sttm.methods import Method, VideoFeatures, list_methods
from sttm.nano.model import NANO_LAYER, NANO_POSITIONS, load
from sttm.nano.questions import SCENE_TASKS
from sttm.nano.scenes import FIRST_SEED, SCENE_KINDS, make_scene
from tests.cli.marks import needs_nano

ROOT = Path(__file__).parents[2]
PAGE, RESULTS = ROOT / "docs" / "benchmarks.md", ROOT / "benchmarks" / "results" / "needle"
BUDGETS = (0.5, 0.3, 0.2, 0.1, 0.05)
BELOW = " ↓"
LINKS = {"sttm-distortion": '[sttm, `criterion="distortion"`](distortion.md)'}

needs_files = pytest.mark.skipif(
    not (PAGE.is_file() and RESULTS.is_dir()), reason="documentation or results are not here"
)


@cache
def results() -> Any:
    return json.loads((RESULTS / "results.json").read_text(encoding="utf-8"))


def accuracy(method: str, keep: float, *, kind: str = "all", pan: bool = True) -> float:
    rows = {
        row["task"]: row["accuracy"]
        for row in (*results()["rows"], *results()["by_kind"])
        if (row["kind"], row["method"], row["keep"]) == (kind, method, keep)
    }
    if pan:
        return float(rows["all"])
    tasks = [task for task in SCENE_TASKS if task != "pan"]
    return float(sum(rows[task] for task in tasks) / len(tasks))


def to_sttm(method: str, keep: float) -> Any:
    """The paired difference of the means."""
    (found,) = [
        d
        for d in results()["differences"]
        if (d["method"], d["keep"], d["against"], d["task"]) == (method, keep, "sttm", "all")
    ]
    return found


def others() -> list[str]:
    """All methods but STTM; the one that keeps most at the smallest budgets first."""
    names = {row["method"] for row in results()["rows"]} - {"all", "sttm"}
    return sorted(names, key=lambda name: [-accuracy(name, keep) for keep in (0.1, 0.05)])


def is_below(method: str, keep: float) -> bool:
    return method != "sttm" and bool(to_sttm(method, keep)["ci_high"] < 0)


def cell(method: str, keep: float) -> str:
    means = accuracy(method, keep), accuracy(method, keep, pan=False)
    below = BELOW if is_below(method, keep) else ""
    return f"{100 * means[0]:.1f}{below} ({100 * means[1]:.1f})"


def means_again(folder: str = "needle-again", budgets: Sequence[float] = BUDGETS) -> str:
    """The table of a measurement with the authors' rules."""
    again = json.loads((RESULTS.parent / folder / "results.json").read_text("utf-8"))
    found = {(row["method"], row["keep"]): row["accuracy"] for row in again["runs"]}
    below = {row["first"] for row in again["comparisons"] if row["ci_high"] < 0}
    own = ["sttm", "sttm-distortion"]
    rest = {method for method, _ in found} - {"all", *own}
    names = [*own, *sorted(rest, key=lambda name: [-found[name, keep] for keep in (0.1, 0.05)])]
    lines = [
        [
            LINKS.get(name, f"[{name}](methods/{name}.md)"),
            *(
                f"{100 * found[name, keep]:.1f}{BELOW if f'{name}-{keep}' in below else ''}"
                for keep in budgets
            ),
        ]
        for name in names
    ]
    return markdown_table(["method", *(f"{100 * keep:.0f} %" for keep in budgets)], lines)


def means_of_16_frames() -> str:
    return means_again("needle-16-again", (0.3, 0.1, 0.05))


def means_of_64_frames() -> str:
    return means_again("needle-64-again", (0.3, 0.1, 0.05))


def pans() -> str:
    """Accuracy in scenes with a pan, and less all tokens."""
    rows = json.loads((RESULTS.parent / "needle-pan" / "results.json").read_text("utf-8"))["runs"]
    found = {(row["method"], row["keep"]): row for row in rows}
    lines = []
    for name in ("sttm", "sttm-distortion", "simplecluster", "evs", "random", "tome"):
        cells = [LINKS.get(name, f"[{name}](methods/{name}.md)")]
        for keep in (0.3, 0.1, 0.05):
            row = found[name, keep]
            less = (row["less_full"], row["less_full_low"], row["less_full_high"])
            numbers = (100 * value for value in (row["accuracy"], *less))
            cells.append("{:.1f}: {:+.1f} [{:.1f}, {:.1f}]".format(*numbers))
        lines.append(cells)
    return markdown_table(["method", "30 %", "10 %", "5 %"], lines)


@cache
def grounding_rows() -> dict[tuple[str, float, str], Any]:
    found = json.loads((RESULTS.parent / "grounding" / "results.json").read_text("utf-8"))
    return {(row["method"], row["keep"], row["metric"]): row for row in found["rows"]}


GROUNDED = (
    *("sttm", "sttm-distortion", "simplecluster", "prunevid"),
    *("evs", "random", "tome", "uniform"),
)


def overlaps() -> str:
    """The mean IoU; ↓ and ↑ where it is below or above STTM's."""
    lines = []
    for name in GROUNDED:
        cells = [LINKS.get(name, f"[{name}](methods/{name}.md)")]
        for keep in BUDGETS:
            row = grounding_rows()[name, keep, "miou"]
            _, low, high = row.get("less_sttm", (0, 0, 0))
            sign = BELOW if high < 0 else " ↑" if low > 0 else ""
            cells.append(f"{100 * row['value'][0]:.1f}{sign}")
        lines.append(cells)
    return markdown_table(["method", *(f"{100 * keep:.0f} %" for keep in BUDGETS)], lines)


def starts_and_ends() -> str:
    """What every method loses at 10 %: of the mean IoU, and of the starts and ends."""
    lines = []
    for name in GROUNDED:
        rows = [grounding_rows()[name, 0.1, metric] for metric in ("miou", "start_1s", "end_1s")]
        values = [[100 * value for value in row["less_all"]] for row in rows]
        cells = ["{:+.1f} [{:.1f}, {:.1f}]".format(*value) for value in values]
        lines.append([LINKS.get(name, f"[{name}](methods/{name}.md)"), *cells])
    heads = ["less all tokens, at 10 %", "mIoU", "start within 1 s", "end within 1 s"]
    return markdown_table(heads, lines)


def means() -> str:
    heads = ["method", *(f"{100 * keep:.0f} %" for keep in BUDGETS)]
    lines = [
        [f"[{name}](methods/{name}.md)", *(cell(name, keep) for keep in BUDGETS)]
        for name in ("sttm", *others())
    ]
    return markdown_table(heads, lines)


def level() -> str:
    """At how many of the budgets, from the largest on, a method is level with STTM."""
    rank: dict[int, list[str]] = {}
    for name in sorted(others()):
        below = [is_below(name, keep) for keep in BUDGETS]
        assert below == sorted(below), f"{name} is level again at a smaller budget"
        rank.setdefault(below.count(False), []).append(f"`{name}`")
    words = ["nowhere", *(f"down to {100 * keep:.0f} %" for keep in BUDGETS)]
    lines = [[words[count], ", ".join(names)] for count, names in sorted(rank.items())[::-1]]
    return markdown_table(["level with STTM", "methods"], lines)


def kinds() -> str:
    lines = []
    for kind in SCENE_KINDS:
        values = [accuracy("all", 1.0, kind=kind)]
        values += [accuracy("sttm", keep, kind=kind) for keep in BUDGETS]
        lines.append([kind, *(f"{100 * value:.1f}" for value in values)])
    return markdown_table(["scenes", "all", *(f"{100 * keep:.0f} %" for keep in BUDGETS)], lines)


@needs_files
@pytest.mark.parametrize(
    "table",
    [
        means,
        means_again,
        means_of_16_frames,
        means_of_64_frames,
        level,
        kinds,
        pans,
        overlaps,
        starts_and_ends,
    ],
)
def test_the_tables_are_those_of_the_results(table: Any) -> None:
    assert table() in PAGE.read_text(encoding="utf-8")


@needs_files
def test_the_words_are_those_of_the_results() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    machine = results()["machine"]
    assert machine["commit"][:7] in text
    assert f"torch {machine['torch']}, transformers {machine['transformers']}" in text
    assert results()["command"] in text.replace(" \\ ", " ")
    first = next(row for row in results()["rows"] if row["task"] == "all")
    assert f"{first['clips']} scenes of {first['frames']} frames" in text
    assert f"{first['n']} questions" in text
    whole = accuracy("all", 1.0), accuracy("all", 1.0, pan=False)
    assert "all tokens {:.1f} ({:.1f})".format(*(100 * value for value in whole)) in text
    pan = next(row for row in results()["rows"] if row["task"] == "pan")
    assert f"{pan['n']} questions, and nano is weak at it ({100 * pan['accuracy']:.0f} %" in text
    # "Nobody is above STTM".
    assert all(to_sttm(name, keep)["ci_low"] <= 0 for name in others() for keep in BUDGETS)
    left_out = {"identity", "simplecluster"}
    assert {*others(), "sttm"} == {info.name for info in list_methods()} - left_out
    assert "and `simplecluster`, which came later" in text
    assert len(others()) == 15
    # "dycoke is dycoke1 here".
    apart = [accuracy("dycoke1", keep) - accuracy("dycoke", keep) for keep in BUDGETS]
    assert apart[:4] == [0, 0, 0, 0]
    assert round(100 * apart[4], 1) == 0.1


class Recorder(Method):
    """Keeps what a method is given."""

    name: ClassVar[str] = "recorder"

    def __init__(self) -> None:
        self.seen: list[VideoFeatures] = []

    def plan(self, video: VideoFeatures) -> sttm.MergePlan:
        self.seen.append(video)
        return sttm.MergePlan.identity(video.grid.num_tokens)


@needs_nano
@pytest.mark.slow
def test_on_nano_a_budget_is_the_temporal_step() -> None:
    """37 of 40 plans are those of FrameFusion's merging."""
    recorder = Recorder()
    chat = sttm.VideoChat(*load(), recorder, layer=NANO_LAYER, positions=NANO_POSITIONS)
    for i in range(8):
        clip = make_scene(FIRST_SEED + i, 32, kind=SCENE_KINDS[i % len(SCENE_KINDS)])
        chat.watch(clip.frames, fps=clip.fps, max_frames=32)
    same = 0
    for video in recorder.seen:
        alike = replace(video, prompt_attention=torch.ones(video.grid.num_tokens))
        for keep in BUDGETS:
            ours = sttm.STTM(keep=keep).plan(video)
            theirs: Any = sttm.get_method("framefusion", keep=keep)
            same += torch.equal(ours.group, theirs.plan(alike).group)
    assert (same, len(recorder.seen) * len(BUDGETS)) == (37, 40)
