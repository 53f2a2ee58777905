import json
from pathlib import Path

import pytest
import torch

import sttm
from sttm.evaluation.calibrate import (
    FeatureStore,
    Recording,
    bisect_threshold,
    calibrate,
    method_at,
    per_video,
)
from sttm.evaluation.thresholds import Thresholds, VideoRetention
from sttm.methods import VideoFeatures
from sttm.video import read_video
from tests.chat.tiny import bundle, clip

GRID = sttm.VideoGrid(6, 8, 8)


def features(seed: int, noise: float) -> torch.Tensor:
    """Frames that repeat, with noise: the more of it, the more tokens remain."""
    generator = torch.Generator().manual_seed(seed)
    still = torch.randn(1, GRID.tokens_per_frame, 32, generator=generator)
    moving = torch.randn(GRID.frames, GRID.tokens_per_frame, 32, generator=generator)
    return (still + noise * moving).reshape(-1, 32)


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    made = FeatureStore(tmp_path)
    for seed, noise in enumerate((0.1, 0.5, 1.0)):
        made.add([(features(seed, noise), GRID)])
    return made


@pytest.mark.parametrize("target", [0.001, 0.25, 0.5, 0.7771, 1.0])
def test_bisection_finds_the_nearest_threshold(target: float) -> None:
    found = bisect_threshold(lambda t: (t + 1) / 2, target)
    assert found.retention == pytest.approx(target, abs=0.000026)
    assert found.threshold == pytest.approx(2 * target - 1, abs=0.00006)
    assert round(found.threshold, 4) == found.threshold


@pytest.mark.parametrize(("target", "threshold"), [(0.1, -1.0), (0.9, 1.0)])
def test_what_is_out_of_reach_ends_at_an_end(target: float, threshold: float) -> None:
    found = bisect_threshold(lambda t: 0.5 + 0.1 * t, target)
    assert found.threshold == threshold


def test_bisection_tries_few_thresholds() -> None:
    tried: list[float] = []

    def step(threshold: float) -> float:
        tried.append(threshold)
        return float(threshold > 0.123)

    bisect_threshold(step, 0.5)
    assert len(tried) == len(set(tried)) <= 17


@pytest.mark.parametrize("target", [0.2, 0.3, 0.6])
def test_the_mean_over_videos_meets_the_target(store: FeatureStore, target: float) -> None:
    method, mean = calibrate(store, target, diagonal=0.2)
    rows = per_video(store, method, [("a", 6), ("b", 6), ("c", 6)])
    assert mean == pytest.approx(target, abs=0.02)
    assert sum(row.retention for row in rows) / 3 == pytest.approx(mean, abs=1e-6)
    plan = method.plan(VideoFeatures(features(2, 1.0), GRID))
    assert (rows[2].tokens_in, rows[2].tokens_out) == (plan.num_in, plan.num_out)
    assert rows[0].retention < rows[2].retention


def test_the_line_goes_on_at_its_ends() -> None:
    assert method_at(0.8, 0.2) == sttm.STTM(spatial_threshold=0.8, temporal_threshold=0.6)
    assert method_at(1.1, 0.2) == sttm.STTM(spatial_threshold=1.0, temporal_threshold=0.9)
    assert method_at(-0.9, 0.2) == sttm.STTM(spatial_threshold=-0.9, temporal_threshold=-1.0)


def test_what_is_recorded_is_what_a_method_sees(clip_file: Path) -> None:
    tiny = bundle("llava_onevision")
    video = read_video(clip_file, fps=1.0, max_frames=8)
    ((x, grid),) = Recording(tiny.model, tiny.processor, layer=1).features(video)
    method = sttm.STTM(spatial_threshold=0.9, temporal_threshold=0.7)
    chat = sttm.VideoChat(tiny.model, tiny.processor, method, layer=1)
    report = chat.watch(video).reports[0]
    assert grid == report.grid
    assert torch.equal(method.plan(VideoFeatures(x, grid)).group, report.plan.group)


@pytest.fixture
def clip_file(tmp_path: Path) -> Path:
    from sttm.video import write_video

    path = tmp_path / "clip.mp4"
    write_video(clip().repeat(4, 1).repeat(4, 2), path, 1.0)
    return path


@pytest.mark.parametrize(
    ("target", "diagonal", "told"),
    [(0.0, 0.2, "keep"), (1.5, 0.2, "keep"), (0.3, -0.1, "diagonal"), (0.3, 3.0, "diagonal")],
)
def test_numbers_out_of_range(
    store: FeatureStore, target: float, diagonal: float, told: str
) -> None:
    with pytest.raises(sttm.ConfigError, match=told):
        calibrate(store, target, diagonal=diagonal)


def test_no_videos(tmp_path: Path) -> None:
    with pytest.raises(sttm.ConfigError, match="no video"):
        calibrate(FeatureStore(tmp_path), 0.3, diagonal=0.2)


MADE = Thresholds(
    model="nano",
    layer=0,
    spatial_threshold=0.85,
    temporal_threshold=0.65,
    diagonal=0.2,
    target=0.3,
    mean_retention=0.299,
    videos=(VideoRetention("a.mp4", 8, 512, 153, 0.299),),
)


def test_thresholds_on_disk(tmp_path: Path) -> None:
    path = tmp_path / "thresholds.json"
    MADE.write(path, {"fps": 1.0})
    assert json.loads(path.read_text())["format"] == 1
    read = Thresholds.read(path)
    assert read.method() == sttm.STTM(spatial_threshold=0.85, temporal_threshold=0.65)
    assert (read.model, read.layer) == ("nano", 0)
    assert read.videos == list(MADE.videos)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("spatial_threshold", None),
        ("spatial_threshold", "auto"),
        ("spatial_threshold", "0.8"),
        ("temporal_threshold", 7),
        ("temporal_threshold", float("nan")),
        ("temporal_threshold", True),
        ("layer", "x"),
        ("layer", -1),
        ("model", 3),
        ("videos", "none"),
        ("videos", [{"video": "a.mp4"}]),
        ("format", "1"),
    ],
)
def test_damaged_thresholds_are_refused(tmp_path: Path, field: str, value: object) -> None:
    path = tmp_path / "thresholds.json"
    MADE.write(path, {})
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    told = rf"thresholds\.json: got .* as {field}.*Calibrate again"
    with pytest.raises(sttm.ConfigError, match=told):
        Thresholds.read(path)


@pytest.mark.parametrize(
    "text",
    ["", "hello", "[]", "null", "true", "7", "NaN", '"0.8"', '{"format": 2}', '{"format": 1}'],
)
def test_other_files_are_no_thresholds(tmp_path: Path, text: str) -> None:
    path = tmp_path / "thresholds.json"
    path.write_text(text)
    with pytest.raises(sttm.ConfigError, match=r"thresholds\.json: got .*Calibrate again"):
        Thresholds.read(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(sttm.ConfigError, match="Calibrate again"):
        Thresholds.read(path)
    with pytest.raises(sttm.ConfigError, match="cannot be read"):
        Thresholds.read(tmp_path / "none.json")
