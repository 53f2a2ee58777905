import json
from typing import Any

import pytest

from sttm.errors import UnknownNameError
from sttm.evaluation.paper import Beside, find_published, list_published, model_key, row_beside
from sttm.evaluation.presets import Preset, get_preset, list_presets
from sttm.evaluation.tasks import get_task
from sttm.methods import STTM, get_method

PREFIX = "sttm-paper/llava-video-7b"
QUESTIONS = {"vnbench": 5400, "videomme": 2700, "egoschema": 5031}


def settings(preset: str, **changes: Any) -> dict[str, Any]:
    """Settings of a run with a preset, as they come back from disk."""
    found = get_preset(f"{PREFIX}/{preset}")
    made = {
        **found.choices(),
        "model": found.model,
        "newline": found.newline,
        "dtype": found.dtype,
        **changes,
    }
    loaded: dict[str, Any] = json.loads(json.dumps(made))
    return loaded


def beside(
    found: dict[str, Any], preset: str | None = None, questions: int | None = None, hidden: int = 0
) -> Beside | None:
    name = None if preset is None else f"{PREFIX}/{preset}"
    count = QUESTIONS[found["task"]] if questions is None else questions
    return row_beside(found, preset=name, questions=count, hidden=hidden)


def test_every_preset_can_be_set_up_and_has_its_row_in_the_paper() -> None:
    names = [preset.name for preset in list_presets()]
    assert len(set(names)) == len(names) > 200
    for preset in list_presets():
        plan = preset.config()
        assert plan.task.name == preset.task
        assert (plan.settings[0].method is None) == ("/100" in preset.name)
        assert preset.choices()["parser"] == preset.choices()["prompt"] == "published"
        row = find_published(preset.row)
        assert row is not None, preset.name
        assert (row.budget, row.task, row.model) == (preset.budget, preset.task, _model(preset))
        assert model_key(preset.model) == _model(preset)
    assert {row.name for row in list_published()} == {preset.row for preset in list_presets()}


def _model(preset: Preset) -> str:
    return preset.name.split("/")[1]


def test_a_preset_is_the_row_that_it_names() -> None:
    preset = get_preset(f"{PREFIX}/vnbench/30")
    assert (preset.layer, preset.positions, preset.newline) == (2, "reassigned", "no_token")
    setting = preset.setting()
    assert setting.method == STTM(
        spatial_threshold=0.8, temporal_threshold=0.6, linking="published"
    )
    assert str(setting) == "sttm linking published .80/.60"
    assert get_preset("sttm-paper/llava-video-72b/videomme/50").layer == 0
    qwen = get_preset("sttm-paper/qwen2-vl-7b/vnbench/50")
    assert (qwen.positions, qwen.newline) == ("survived", None)
    assert qwen.config().frames.rule == "qwen"
    # llava-hf's copy has a newline token and no system prompt: it is not the paper's.
    onevision = get_preset("sttm-paper/llava-onevision-7b/mlvu/50")
    assert onevision.model == "lmms-lab/llava-onevision-qwen2-7b-ov"
    assert model_key("llava-hf/llava-onevision-qwen2-7b-ov-hf") is None
    with pytest.raises(UnknownNameError, match="Did you mean 'sttm-paper/llava-video-7b/vnbench"):
        get_preset("sttm-paper/llava-video-7b/vnbnch/30")


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("vnbench/30/single-13x13", get_method("single", size=(13, 13), mode="nearest")),
        ("vnbench/30/octree", get_method("octree", threshold=0.8)),
        (
            "videomme/30/temporal-only",
            STTM(spatial_threshold=None, temporal_threshold=0.5, linking="published"),
        ),
        (
            "videomme/30/root-2x2-75",
            STTM(
                spatial_threshold=0.75, temporal_threshold=None, linking="published", root_level=0
            ),
        ),
        (
            "videomme/50/parent-top-left",
            STTM(spatial_threshold=0.85, temporal_threshold=0.55, parent="top_left"),
        ),
        ("mlvu/100/newline-grid", None),
    ],
)
def test_ablations(name: str, method: Any) -> None:
    preset = get_preset(f"{PREFIX}/{name}")
    assert preset.setting().method == method
    assert (preset.layer, preset.positions) == (2, "reassigned")


def test_what_else_ablations_change() -> None:
    assert get_preset(f"{PREFIX}/videomme/30/layer-18").layer == 18
    assert get_preset(f"{PREFIX}/videomme/30/positions-merged").positions == "merged"
    assert get_preset(f"{PREFIX}/nextqa/100/newline-grid").newline == "grid"


def test_rows_of_the_paper() -> None:
    # Averages that figure 1 of the paper prints, from the cells of table 11.
    tasks = ("vnbench", "videomme", "longvideobench", "mlvu", "egoschema", "nextqa")
    for budget, accuracy, ttft in (("50", 99.5, 48.4), ("30/tome", 93.6, 36.8)):
        rows = [find_published(f"llava-video-7b/{task}/{budget}") for task in tasks]
        accuracies = [row.relative_accuracy for row in rows if row and row.relative_accuracy]
        times = [row.relative_ttft for row in rows if row and row.relative_ttft]
        assert 100 * sum(accuracies) / 6 == pytest.approx(accuracy, abs=0.06)
        assert 100 * sum(times) / 6 == pytest.approx(ttft, abs=0.06)
    main = [row for row in list_published() if row.budget is not None]
    assert len(main) == 2 * 13 * 6 + 7 * 3 + 7
    assert sum(bool(row.doubt) for row in main) == 7
    layer = find_published("llava-video-7b/vnbench/30/layer-0")
    assert layer is not None
    assert (layer.relative_accuracy, layer.relative_ttft, layer.retention) == (0.958, 0.279, 0.283)
    assert (layer.accuracy, layer.method, layer.source) == (
        None,
        "layer-0",
        "arXiv 2507.07990, table 9",
    )
    grid = find_published("llava-video-7b/nextqa/100/newline-grid")
    assert grid is not None
    assert (grid.accuracy, grid.relative_accuracy) == (0.822, None)


@pytest.mark.parametrize(
    "name", ["vnbench/100", "vnbench/30", "vnbench/50/tome", "vnbench/30/layer-6"]
)
def test_a_run_that_is_a_row_stands_beside_it_whether_it_says_so_or_not(name: str) -> None:
    row = find_published(f"llava-video-7b/{name}")
    assert row is not None
    assert beside(settings(name), name) == Beside(row, ()) == beside(settings(name))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"layer": 0}, "layer 0 instead of 2"),
        ({"positions": "survived"}, "positions survived instead of reassigned"),
        ({"prompt": "official"}, "prompt official instead of published"),
        ({"parser": "clean"}, "parser clean instead of published"),
        ({"newline": "one_token"}, "newline one_token instead of no_token"),
        ({"dtype": "float32"}, "dtype float32 instead of bfloat16"),
        ({"task_definition": "x"}, "another definition of the task vnbench"),
        (
            {"sampling": {"rule": "llava", "fps": 1.0, "max_frames": 64}},
            "max_frames 64 instead of 180",
        ),
    ],
)
def test_what_differs_from_the_row_is_named(changes: dict[str, Any], told: str) -> None:
    for preset in ("vnbench/50/tome", None):
        found = beside(settings("vnbench/50/tome", **changes), preset)
        assert found is not None
        assert found.row.name == "llava-video-7b/vnbench/50/tome"
        assert found.differs == (told,)


def test_another_model_or_method_is_that_row_only_if_it_says_so() -> None:
    nano = settings("vnbench/30", model="nano (bundled)")
    assert beside(nano) is None
    found = beside(nano, "vnbench/30")
    assert found is not None
    assert found.differs == (
        "model nano (bundled) instead of lmms-lab/LLaVA-Video-7B-Qwen2-Video-Only",
    )
    other = settings("vnbench/30", spec="evs:keep=0.3")
    assert beside(other) is None


def test_a_budget_is_that_of_the_row_exactly() -> None:
    near = settings("vnbench/30/tome", keep=0.304, options={"keep": 0.304})
    assert beside(near) is None
    # STTM at exactly 30 % is not the row at the published thresholds, but may stand beside it.
    exact = settings("vnbench/30", keep=0.3)
    exact["options"] = {**exact["options"], "keep": 0.3, "spatial_threshold": "auto"}
    found = beside(exact)
    assert found is not None
    assert found.row.name == "llava-video-7b/vnbench/30"
    assert found.differs == ("keep 0.3 instead of none", "spatial_threshold auto instead of 0.8")
    # An ablation is not known by its budget, which it does not have.
    single = settings("vnbench/30/single-9x9", keep=0.3, options={"keep": 0.3})
    assert beside(single) is None


def test_other_questions_than_the_paper_s_are_told() -> None:
    found = beside(settings("vnbench/30"), questions=300)
    assert found is not None
    assert found.differs == ("300 questions counted instead of 5400",)
    found = beside(settings("egoschema/30"), questions=500, hidden=4531)
    assert found is not None
    assert found.differs == (
        "500 questions counted (4531 whose right answer is hidden) instead of 5031",
    )


def test_a_preset_that_is_no_more_has_no_row() -> None:
    assert beside(settings("vnbench/30"), "vnbench/31") is None
    assert get_task("vnbench").expected.questions == QUESTIONS["vnbench"]
