"""What merging loses, without a model: every token beside the mean of its group.

    python benchmarks/reconstruction.py out/real-features/*.pt
    python benchmarks/reconstruction.py clips.npz --methods sttm:criterion=distortion tome

Files hold features ``(T, H, W, C)``: ``.pt`` with a dict of ``features`` and ``name`` (from
real_features.py), or ``.npz`` with an array for each clip. Per clip, method and budget:

* error: ``|x - x'| / |x|`` over all tokens, ``x'`` being the mean of the token's group;
* coverage: share of tokens whose cosine with this mean is at least 0.90;
* distance: 1 - cosine, its mean over the tokens;
* plan_ms: time of the plan, one run.

``k-means`` is Lloyd's algorithm over all tokens, from evenly spaced ones; ``refined`` the same from
the groups of ``sttm:criterion=distortion``: how far these are from a local optimum without a grid.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sttm.evaluation.environment import environment
from sttm.evaluation.specs import parse_spec
from sttm.grid import VideoGrid
from sttm.methods import STTM, VideoFeatures
from sttm.ops.reconstruction import coverage, reconstruction_error
from sttm.ops.selection import evenly_spaced

METHODS = ["sttm", "sttm:criterion=distortion", "tome", "simplecluster"]
KEEPS = [0.5, 0.3, 0.2, 0.1, 0.05]
FIGURES = ("error", "coverage", "distance", "plan_ms")
PIECE = 2048  # tokens whose distances to all means are held at once
Clip = tuple[str, VideoFeatures]


def read_clips(paths: list[Path]) -> Iterator[Clip]:
    for path in paths:
        if path.suffix == ".npz":
            arrays = {name: torch.from_numpy(x) for name, x in np.load(path).items()}
        else:
            stored = torch.load(path, weights_only=True)
            arrays = {stored["name"]: stored["features"]}
        for name, x in arrays.items():
            yield name, VideoFeatures(x.float().flatten(0, 2), VideoGrid(*x.shape[:3]))


def group_means(x: torch.Tensor, group: torch.Tensor, count: int) -> torch.Tensor:
    size = torch.bincount(group, minlength=count).clamp(min=1)
    return torch.zeros(count, x.shape[1]).index_add_(0, group, x) / size[:, None]


def figures(x: torch.Tensor, group: torch.Tensor, milliseconds: float) -> dict[str, float]:
    if int(group.min()) < 0:
        raise SystemExit("got a method that drops tokens, expected one that merges all of them.")
    mean = group_means(x, group, int(group.max()) + 1)[group]
    return {
        "error": reconstruction_error(x, mean),
        "coverage": coverage(x, mean),
        "distance": float((1 - torch.cosine_similarity(x, mean, dim=1)).mean()),
        "plan_ms": milliseconds,
    }


def nearest(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    half = mean.square().sum(1) / 2
    return torch.cat([(half - piece @ mean.T).argmin(1) for piece in torch.split(x, PIECE)])


def converge(x: torch.Tensor, group: torch.Tensor, count: int, rounds: int) -> torch.Tensor:
    """Run Lloyd's algorithm until the error falls by less than 0.1 % in a round.

    A mean that no token is nearest to moves to the token that is worst off.
    """
    before = float("inf")
    for _ in range(rounds):
        mean = group_means(x, group, count)
        group = nearest(x, mean)
        size = torch.bincount(group, minlength=count)
        loss = (x - mean[group]).square().sum(1)
        for empty in (size == 0).nonzero().flatten().tolist():
            worst = int(torch.where(size[group] > 1, loss, -1.0).argmax())
            size[group[worst]] -= 1
            group[worst], size[empty], loss[worst] = empty, 1, 0.0
        error = figures(x, group, 0.0)["error"]
        if error > 0.999 * before:
            break
        before = error
    return group


def measure(clip: Clip, keep: float, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure all methods on a clip at a budget."""
    name, video = clip
    x, shown = video.x, {"clip": name, "keep": keep}
    for text in options.methods:
        spec = parse_spec(text)
        start = time.perf_counter()
        plan = spec.build(keep).plan(video)
        spent = round((time.perf_counter() - start) * 1e3, 1)
        yield {**shown, "method": text, "tokens": plan.num_out, **figures(x, plan.group, spent)}
    start_plan = STTM(keep=keep, criterion="distortion").plan(video)
    count = start_plan.num_out
    seeds = x[evenly_spaced(count, len(x))]
    for label, group in (("k-means", nearest(x, seeds)), ("refined", start_plan.group)):
        if options.kmeans:
            start = time.perf_counter()
            group = converge(x, group, count, options.kmeans)
            spent = round((time.perf_counter() - start) * 1e3, 1)
            yield {**shown, "method": label, "tokens": count, **figures(x, group, spent)}


def table(rows: list[dict[str, Any]], figure: str) -> list[str]:
    """Write one figure per clip and method, all budgets side by side, and the means below."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    clips = list(dict.fromkeys(row["clip"] for row in rows))
    keeps = list(dict.fromkeys(row["keep"] for row in rows))
    found = {(r["clip"], r["method"], r["keep"]): r[figure] for r in rows}
    lines = [f"| {figure} | method | " + " | ".join(f"{100 * k:g} %" for k in keeps) + " |"]
    lines.append("|---" * (2 + len(keeps)) + "|")
    for clip in (*clips, "mean"):
        for method in methods:
            values = [
                statistics.mean(found[c, method, k] for c in (clips if clip == "mean" else [clip]))
                for k in keeps
            ]
            shown = " | ".join(f"{v:.0f}" if figure == "plan_ms" else f"{v:.3f}" for v in values)
            lines.append(f"| {clip} | {method} | {shown} |")
    return [*lines, ""]


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure what merging loses, without a model.")
    parser.add_argument("features", type=Path, nargs="+")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--keep", type=float, nargs="+", default=KEEPS)
    parser.add_argument("--kmeans", type=int, default=50, help="rounds at most; 0: no k-means")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--name", default="reconstruction")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows: list[dict[str, Any]] = []
    for clip in read_clips(options.features):
        for keep in options.keep:
            for row in measure(clip, keep, options):
                rows.append(row)
                print(json.dumps(row), flush=True)
    names = [path.name for path in options.features]
    shown = [arg if Path(arg).name not in names else Path(arg).name for arg in sys.argv[1:]]
    report = {
        "command": " ".join(["python", "benchmarks/reconstruction.py", *shown]),
        "environment": environment(torch.device("cpu")),
        "rows": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / f"{options.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    text = "\n".join(line for figure in FIGURES for line in table(rows, figure))
    (options.output / f"{options.name}.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
