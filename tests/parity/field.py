"""The comparison methods against what their authors' code gives; see README.md."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sttm.grid import VideoGrid
from sttm.methods import VideoFeatures, get_method
from sttm.plan import MergePlan
from tests.parity.comparison import Comparison, paired

FOLDER = Path(__file__).parent
NUMBERS: dict[str, Any] = json.loads((FOLDER / "field.json").read_text())
CASES: list[dict[str, Any]] = NUMBERS["cases"]
Arrays = dict[str, torch.Tensor]
Checked = tuple[bool, float | None]


def load_video(name: str) -> VideoFeatures:
    """Return an input with both attentions, in float32."""
    shape = NUMBERS["inputs"][name]
    grid = VideoGrid(shape["frames"], shape["height"], shape["width"])
    with np.load(FOLDER / "field.npz") as data:
        x, tower, prompt = (
            torch.from_numpy(data[f"{kind}_{name}"].astype(np.float32)).reshape(grid.num_tokens, -1)
            for kind in ("x", "tower", "prompt")
        )
    return VideoFeatures(x, grid, tower.flatten(), prompt.flatten())


def load_arrays(case: dict[str, Any]) -> Arrays:
    """Return what the authors' code gave: integers as int64, features as float32."""
    with np.load(FOLDER / "field.npz") as data:
        arrays = {key: torch.from_numpy(data[name]) for key, name in case["arrays"].items()}
    return {key: a.float() if a.is_floating_point() else a.long() for key, a in arrays.items()}


def options_of(case: dict[str, Any], video: VideoFeatures) -> dict[str, Any]:
    """Translate the authors' parameters; the count is theirs, where a method has one."""
    of, count = case["parameters"], case["count"]
    match case["method"]:
        case "vidcom2_vllm":
            return {"keep": 1 - of["q"]}
        case "fastvid":
            return {"keep": count, "segments": of["DySeg_c"], "similarity": of["DySeg_tau"]}
        case "holitom":
            return {"keep": count, "threshold": of["tau"]}
        case "visionzip":
            return {"keep": of["per_frame"] * video.grid.frames}
        case "prunevid":
            return {"cluster_ratio": of["cluster_ratio"], "still_threshold": of["tau"]}
        case "octree":
            return {"threshold": of["threshold"], "root_level": of["root_level"]}
        case "framefusion":
            return {"keep": count, "threshold": of["similarity_lower_bound"]}
    return {"keep": count}


def check_tokens(video: VideoFeatures, plan: MergePlan, arrays: Arrays) -> Checked:
    """Compare which tokens are left, and the features that come out in their places."""
    index, order = arrays["index"].sort()
    same = torch.equal(index, plan.anchor)
    if "frame_tokens" in arrays:
        same &= torch.equal(arrays["frame_tokens"], plan.info["frame_tokens"])
    if not same or "rows" not in arrays:
        return same, None
    return same, float((plan.apply(video.x) - arrays["rows"][order]).abs().max())


def check_groups(video: VideoFeatures, plan: MergePlan, arrays: Arrays) -> Checked:
    """Compare in which token of the output every token is, too."""
    same, difference = check_tokens(video, plan, arrays)
    return same and torch.equal(arrays["index"][arrays["member"]], plan.anchor[plan.group]), (
        difference
    )


def check_segments(video: VideoFeatures, plan: MergePlan, arrays: Arrays) -> Checked:
    """Compare where segments begin, too."""
    same, difference = check_tokens(video, plan, arrays)
    if "segment_sizes" in arrays:
        starts = arrays["segment_sizes"].cumsum(0) - arrays["segment_sizes"]
    else:
        starts = arrays["starts"]
    return same and torch.equal(starts, plan.info["segments"]), difference


def check_rows(video: VideoFeatures, plan: MergePlan, arrays: Arrays) -> Checked:
    """Compare the features that come out, in any order."""
    if arrays["rows"].shape[0] != plan.num_out:
        return False, None
    same, difference = paired(arrays["rows"], plan.apply(video.x))
    if "window_sizes" in arrays:
        starts = arrays["window_sizes"].cumsum(0) - arrays["window_sizes"]
        same &= torch.equal(starts, plan.info["segments"])
    return same, difference


def check_visionzip(video: VideoFeatures, plan: MergePlan, arrays: Arrays) -> Checked:
    """Compare dominant tokens, and contextual ones, which are half as long in a plan.

    The authors' output is the target plus the mean of what joined it. Nothing else may differ.
    """
    dominant = torch.isin(plan.anchor, arrays["index"])
    same = int(dominant.sum()) == len(arrays["index"])
    same &= plan.num_out == len(arrays.get("rows", plan.anchor))
    if not same or "rows" not in arrays:
        return same, None
    ours = plan.apply(video.x) * torch.where(plan.sizes > 1, 2.0, 1.0)[:, None]
    frame = plan.anchor // video.grid.tokens_per_frame
    # Per frame the authors' rows are dominant tokens by place, then contextual ones by place.
    order = (frame * 2 + (~dominant).long()).sort(stable=True).indices
    return same, float((ours[order] - arrays["rows"]).abs().max())


CHECKS: dict[str, Callable[[VideoFeatures, MergePlan, Arrays], Checked]] = {
    "tome": check_groups,
    "fastvid": check_segments,
    "holitom": check_segments,
    "prunevid": check_rows,
    "octree": check_rows,
    "visionzip": check_visionzip,
}


def compare(case: dict[str, Any]) -> Comparison:
    """Compare one case."""
    name, video = case["method"], load_video(case["input"])
    method: Any = get_method(name.removesuffix("_vllm"), **options_of(case, video))
    plan = method.plan(video).check()
    same, difference = CHECKS.get(name, check_tokens)(video, plan, load_arrays(case))
    return Comparison(name, label(case), same, difference)


def label(case: dict[str, Any]) -> str:
    """Name a case by its method, input and parameters."""
    values = "-".join(f"{value:.3g}" for value in case["parameters"].values())
    return f"{case['method']}-{case['input']}-{values}"


def comparisons() -> Iterator[Comparison]:
    """Compare all cases, method by method."""
    yield from map(compare, sorted(CASES, key=lambda case: str(case["method"])))
