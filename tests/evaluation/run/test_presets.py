import pytest

from sttm.cli.options import Wanted, parse_reduction
from sttm.errors import UnknownNameError
from sttm.evaluation.run.presets import get_preset, list_presets
from sttm.evaluation.run.published import (
    find_published,
    list_published,
    match_published,
    model_key,
)
from sttm.evaluation.tasks import get_task
from sttm.methods import STTM

ABLATIONS = ("positions-", "layer-", "spatial-", "root-")


def test_every_preset_can_be_set_up() -> None:
    names = [preset.name for preset in list_presets()]
    assert len(set(names)) == len(names) > 100
    for preset in list_presets():
        assert get_task(preset.task).name == preset.task
        reduction = parse_reduction(
            Wanted(preset.keep, preset.thresholds, None, preset.method, preset.method is None),
            model=preset.model,
        )
        assert (reduction.method is None) == preset.name.endswith("/100")
        assert (preset.keep is None) or (preset.thresholds is None)


def test_a_preset_is_the_row_that_it_names() -> None:
    preset = get_preset("sttm-paper/llava-video-7b/vnbench/30")
    assert (preset.layer, preset.positions, preset.thresholds) == (2, "reassigned", ".80/.60")
    method = parse_reduction(
        Wanted(thresholds=preset.thresholds, method=preset.method), model=preset.model
    ).method
    assert method == STTM(spatial_threshold=0.8, temporal_threshold=0.6, linking="published")
    assert get_preset("sttm-paper/llava-video-72b/videomme/50").layer == 0
    assert get_preset("sttm-paper/qwen2-vl-7b/vnbench/50").positions == "survived"
    layer = get_preset("sttm-paper/llava-video-7b/videomme/30/layer-18")
    assert (layer.layer, layer.thresholds) == (18, ".80/.50")
    with pytest.raises(UnknownNameError, match="Did you mean 'sttm-paper/llava-video-7b/vnbench"):
        get_preset("sttm-paper/llava-video-7b/vnbnch/30")


def test_every_preset_has_its_row_in_the_paper() -> None:
    for preset in list_presets():
        method = "all" if preset.method is None else preset.method.split(":")[0]
        row = match_published(preset.model, preset.task, method, None, preset.name)
        ablation = preset.name.split("/")[-1].startswith(ABLATIONS)
        assert (row is None) == ablation, preset.name
        assert model_key(preset.model) == preset.name.split("/")[1]


def test_rows_of_the_paper() -> None:
    # Averages that figure 1 of the paper prints, from the cells of table 11.
    tasks = ("vnbench", "videomme", "longvideobench", "mlvu", "egoschema", "nextqa")
    for method, budget, accuracy, ttft in (("sttm", 50, 99.5, 48.4), ("tome", 30, 93.6, 36.8)):
        rows = [find_published("llava-video-7b", task, method, budget) for task in tasks]
        accuracies = [row.relative_accuracy for row in rows if row and row.relative_accuracy]
        times = [row.relative_ttft for row in rows if row and row.relative_ttft]
        assert 100 * sum(accuracies) / 6 == pytest.approx(accuracy, abs=0.06)
        assert 100 * sum(times) / 6 == pytest.approx(ttft, abs=0.06)
    assert len(list_published()) == 2 * 13 * 6 + 7 * 3 + 7
    assert sum(bool(row.doubt) for row in list_published()) == 7


@pytest.mark.parametrize(
    ("model", "method", "keep", "preset", "budget"),
    [
        ("lmms-lab/LLaVA-Video-7B-Qwen2-Video-Only", "tome", 0.3, None, 30),
        ("converted/llava-video-7b/", "all", 1.0, None, 100),
        ("lmms-lab/LLaVA-Video-7B-Qwen2-Video-Only", "sttm", 0.25, None, None),
        ("lmms-lab/LLaVA-Video-7B-Qwen2-Video-Only", "sttm", None, None, None),
        ("nano (bundled)", "sttm", 0.3, None, None),
        ("anything", "sttm", None, "sttm-paper/llava-video-7b/vnbench/50", 50),
        ("anything", "sttm", None, "sttm-paper/llava-video-7b/vnbench/30/layer-6", None),
        ("anything", "sttm", None, "sttm-paper/llava-video-7b/mlvu/30", None),
    ],
)
def test_which_row_a_run_is_set_beside(
    model: str, method: str, keep: float | None, preset: str | None, budget: int | None
) -> None:
    row = match_published(model, "vnbench", method, keep, preset)
    assert (None if row is None else row.budget) == budget
