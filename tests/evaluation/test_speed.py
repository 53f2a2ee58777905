from pathlib import Path

import pytest
import torch

import sttm
from sttm.evaluation import memory, shapes, speed
from sttm.evaluation.forced import Forced
from sttm.evaluation.memory import check_memory, peak_memory
from sttm.evaluation.result_log import ResultLog
from sttm.evaluation.shapes import SHAPES, Shape, TowerShape, build, count_parameters, prompt
from sttm.evaluation.speed import SpeedPlan, SpeedRecord, measure, speed_settings
from sttm.evaluation.speed_rows import SpeedRow
from sttm.methods import VideoFeatures
from sttm.models import adapter_for

TINY = Shape(
    *("llava_onevision", 48, 64, 3, 4, 2, 100),
    layer=1,
    grid=(4, 4),
    tower=TowerShape(16, 24, 2, 2, (56, 56), 8),
)
TINY_QWEN = Shape(
    *("qwen2_5_vl", 64, 64, 3, 4, 2, 100),
    layer=1,
    grid=(3, 5),
    frames_per_step=2,
    tower=TowerShape(16, 24, 2, 2, (168, 280), gated=True, full=(1,)),
)
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)
    monkeypatch.setitem(shapes.SHAPES, "tiny-qwen", TINY_QWEN)


def rows_of(shape: str, *methods: str, keep: float = 0.25) -> list[SpeedRow]:
    settings = tuple(speed_settings(methods, [keep]))
    return measure(SpeedPlan(shape, settings, frames=(8,), repeats=1)).rows


@pytest.mark.parametrize("shape", ["tiny", "tiny-qwen"])
def test_every_method_keeps_the_count(shape: str) -> None:
    whole, *rows = rows_of(
        shape, "sttm", "random", "visionzip", "fastv", "own=sttm:keep=none,spatial_threshold=0.8"
    )
    tokens = shapes.SHAPES[shape].video_tokens(8)
    assert (whole.method, whole.tokens_in, whole.tokens_out) == ("all", tokens, tokens)
    assert (whole.ttft_ratio, whole.ideal_ratio, whole.share_of_ideal) == (1.0, 1.0, 1.0)
    assert {row.tokens_out for row in rows} == {tokens // 4}
    assert [row.own_count for row in rows] == [True, True, True, True, False]
    assert all(0 < row.merge_s < row.ttft_s for row in rows)
    assert all(row.decode_s > 0 and row.kv_mib < whole.kv_mib for row in rows)
    assert all(row.ideal_ratio < 0.7 for row in rows)


def test_forcing_leaves_evenly_spread_neighbours() -> None:
    grid = sttm.VideoGrid(4, 4, 4)
    x = torch.ones(64, 8)  # all alike: thresholds leave very few
    inner = sttm.STTM(spatial_threshold=0.8, temporal_threshold=0.6)
    plan = Forced(inner, 20).plan(VideoFeatures(x, grid)).check()
    assert plan.num_out == 20
    assert set(torch.bincount(plan.group).tolist()) == {3, 4}
    exact = Forced(sttm.STTM(keep=20), 20).plan(VideoFeatures(x, grid))
    assert torch.equal(exact.group, sttm.STTM(keep=20).plan(VideoFeatures(x, grid)).group)


def test_operations_are_those_of_the_matrices() -> None:
    model = build(TINY, CPU, torch.float32)
    layer = model.get_decoder().layers[0]
    weights = sum(p.numel() for name, p in layer.named_parameters() if p.ndim == 2)
    # Linear part: two per weight and token; quadratic part: what is left.
    assert TINY.operations(1, 1) == 2 * weights + 2 * TINY.hidden
    assert TINY.operations(10, 3) == 3 * (10 * 2 * weights + 2 * 100 * TINY.hidden)


@pytest.mark.parametrize("name", SHAPES)
def test_published_sizes(name: str) -> None:
    shape = SHAPES[name]
    sizes = {"0.5b": 0.49e9, "3b": 3.1e9, "7b": 7.1e9, "72b": 71.5e9, "nano": 2.5e6}
    (wanted,) = [size for end, size in sizes.items() if name.endswith(end)][-1:]
    # One matrix for input and output, and next to no vision tower.
    assert count_parameters(shape) == pytest.approx(wanted, rel=0.08)


@pytest.mark.parametrize("shape", [TINY, TINY_QWEN])
def test_prompts_have_the_tokens_of_the_shape(shape: Shape) -> None:
    model = build(shape, CPU, torch.float32)
    inputs = prompt(model, shape, 7)
    with torch.no_grad():
        assert model(**inputs).logits.shape[1] == inputs["input_ids"].shape[1]
    with sttm.attach(model, sttm.STTM(keep=0.5), layer=1) as attachment, torch.no_grad():
        model(**inputs)
    assert attachment.reports[0].tokens_in == shape.video_tokens(7)


def test_what_does_not_fit_is_told_before_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2**30)
    with pytest.raises(sttm.ConfigError, match=r"about \d+\.\d GiB .* the 1\.0 GiB that are free"):
        check_memory("tiny", SHAPES["llava-onevision-7b"], 16, torch.bfloat16, CPU)
    check_memory("tiny", TINY, 16, torch.float32, CPU)


def test_peak_memory_sees_a_large_tensor() -> None:
    with peak_memory(CPU) as peak:
        torch.ones(2**24)
    if peak.extra is None or peak.total is None:
        pytest.skip("the system does not tell")
    assert 60 * 2**20 < peak.extra < peak.total


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"shape": "tinny"}, "Did you mean 'tiny'"),
        ({"layer": 3}, "layer"),
        ({"repeats": 0}, "repeats"),
        ({"frames": ()}, "frames"),
        ({"frames": (0,)}, "frames"),
        ({"frames": (4, 4)}, "frames: got 4, 4, expected different"),
        ({"device": "bogus"}, "device: got 'bogus', expected cpu, cuda"),
        ({"device": "meta"}, "device: got 'meta'"),
        ({"device": "cuda:99"}, "device: got cuda:99, but PyTorch finds"),
    ],
)
def test_bad_plans(changes: dict[str, object], told: str) -> None:
    arguments: dict[str, object] = {"shape": "tiny", "settings": (), "frames": (8,), **changes}
    with pytest.raises(sttm.ConfigError, match=told):
        SpeedPlan(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("methods", "keeps", "told"),
    [
        (["sttm", "sttm"], [0.5], "methods: got sttm twice"),
        (["a=sttm", "a=sttm:keep=none"], [0.5], "methods: got a twice"),
        (["sttm", "random"], [0.5, 0.3, 0.5], "keep: got 0.5 twice"),
        (["sttm"], [0.0], "keep: got 0.0"),
    ],
)
def test_bad_settings(methods: list[str], keeps: list[float], told: str) -> None:
    with pytest.raises(sttm.ConfigError, match=told):
        speed_settings(methods, keeps)


def small_plan(shape: str = "tiny") -> SpeedPlan:
    return SpeedPlan(shape, tuple(speed_settings(["sttm"], [0.25])), frames=(4,), repeats=1)


@pytest.mark.parametrize("shape", ["tiny", "tiny-qwen"])
def test_the_way_is_the_sum_of_its_stages(shape: str) -> None:
    result = measure(small_plan(shape))
    of = {(row.stage, row.keep): row for row in result.stages}
    front = [of[stage, None].seconds for stage in ("decode", "processor", "tower")]
    for row in result.rows:
        parts = [of[stage, row.keep].seconds for stage in ("merge", "prefill")]
        assert of["first token", row.keep].seconds == pytest.approx(sum(front + parts), abs=1e-4)
    share = of["tower reuse", None].patches
    assert share is not None
    assert 0.25 < share < 0.9  # one whole time step, and what the square crosses
    floors = [row.floor_s for row in result.stages if row.stage in ("tower", "prefill", "merge")]
    assert all(floor is not None and floor > 0 for floor in floors)


def test_a_stopped_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan, done = small_plan(), []

    def stop(count: int, total: int) -> None:
        done.append(count)
        if count == 3:
            raise KeyboardInterrupt

    def refuse(*arguments: object) -> None:
        raise AssertionError("all of its part is in the log")

    log = ResultLog(tmp_path / "log", {}, {}, SpeedRecord)
    with log, pytest.raises(KeyboardInterrupt):
        measure(plan, log=log, progress=stop)
    monkeypatch.setattr(speed, "FrontBench", refuse)
    with ResultLog(tmp_path / "log", {}, {}, SpeedRecord) as log:
        assert len(log.known) == 3
        first = measure(plan, log=log)
    monkeypatch.setattr(speed, "build", refuse)
    with ResultLog(tmp_path / "log", {}, {}, SpeedRecord) as log:
        assert measure(plan, log=log).rows == first.rows


@pytest.mark.parametrize("name", ["llava-onevision-0.5b", "qwen2.5-vl-3b", "nano"])
def test_towers_have_the_published_sizes(name: str) -> None:
    shape = SHAPES[name]
    tower = shapes.build_tower(shape, torch.device("meta"), torch.float32)
    layers = adapter_for(tower).tower_layers()
    assert len(layers) == shape.tower.layers
    counted = sum(p.numel() for p in layers[0].parameters() if p.ndim == 2)
    assert shape.tower.parameters() == shape.tower.layers * counted
    side = shape.tower.patches // (shape.grid[0] * shape.grid[1])
    assert side in (3, 4)  # 27 x 27 patches become 14 x 14 tokens
