"""Cost of the STTM merge against the number of frames, with its naive twin beside it.

    python benchmarks/merge_op.py                     # 32 ... 1024 frames of 14x14, 896 channels
    python benchmarks/merge_op.py --frames 32 64 --naive-up-to 32 --repeats 3

Writes ``merge_op.json`` and ``merge_op.png`` to ``benchmarks/results``. Every naive run is also a
correctness check: the fast groups must be those of the twin.
"""

import argparse
import ctypes
import json
import math
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from sttm.evaluation.environment import environment
from sttm.grid import VideoGrid
from sttm.methods import STTM, VideoFeatures
from sttm.ops import naive
from sttm.plan import MergePlan

SEED = 0
KEYS = ("plan_ms", "apply_ms", "both_ms", "both_cpu_ms", "naive_ms", "naive_cpu_ms")
METHOD = STTM(spatial_threshold=0.80, temporal_threshold=0.60)
BUDGETS = {
    "plan_keep_30_ms": STTM(keep=0.30),
    "plan_keep_5_ms": STTM(keep=0.05),
    "plan_cap_5_ms": STTM(spatial_threshold=0.80, temporal_threshold=0.60, max_tokens=0.05),
    "plan_distortion_30_ms": STTM(keep=0.30, criterion="distortion"),
    "plan_distortion_limit_ms": STTM(max_distortion=0.10, criterion="distortion"),
}
# Frames that share one scene, and the noise that leaves about a quarter of the tokens.
SCENE_FRAMES = 8
NOISE = 0.55


def make_video(grid: VideoGrid, channels: int) -> torch.Tensor:
    """Return ``(N, C)`` float32: smooth scenes that change every few frames, plus noise."""
    generator = torch.Generator().manual_seed(SEED)
    scenes = math.ceil(grid.frames / SCENE_FRAMES)
    coarse = torch.randn(scenes, channels, 4, 4, generator=generator)
    smooth = torch.nn.functional.interpolate(
        coarse, size=(grid.height, grid.width), mode="bilinear"
    )
    video = smooth.repeat_interleave(SCENE_FRAMES, 0)[: grid.frames].permute(0, 2, 3, 1)
    noise = torch.randn(video.shape, generator=generator)
    return noise.mul_(NOISE).add_(video).reshape(grid.num_tokens, channels)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def median_ms(
    function: Callable[[], object],
    repeats: int,
    device: torch.device,
    clock: Callable[[], float] = time.perf_counter,
) -> float:
    """Return the median time of some calls after one call to warm up.

    Pass ``time.process_time`` for CPU time, which other work on the machine hardly changes.
    """
    function()
    times = []
    for _ in range(repeats):
        synchronize(device)
        start = clock()
        function()
        synchronize(device)
        times.append((clock() - start) * 1e3)
    return round(statistics.median(times), 2)


def _status_mib(field: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 1024


def peak_extra_mib(function: Callable[[], object], device: torch.device) -> float | None:
    """Return the memory that a call takes beyond what is there before it; None if unknown."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        function()
        return round((torch.cuda.max_memory_allocated(device) - before) / 2**20, 1)
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None
    # Hand freed memory back, so that it is not counted as there before; "5" makes the high-water
    # mark of the resident memory start again from here.
    ctypes.CDLL(None).malloc_trim(0)
    reset.write_text("5")
    before_mib = _status_mib("VmRSS")
    function()
    peak_mib = _status_mib("VmHWM")
    return None if before_mib is None or peak_mib is None else round(peak_mib - before_mib, 1)


def naive_twin(x: torch.Tensor, grid: VideoGrid, plan: MergePlan) -> dict[str, Any]:
    """Time the literal twin once and compare its groups with the plan's."""
    settings = naive.Settings(
        spatial_threshold=plan.info["spatial_threshold"],
        temporal_threshold=plan.info["temporal_threshold"],
    )
    start, cpu_start = time.perf_counter(), time.process_time()
    merged = naive.merge(x, grid.frames, grid.height, grid.width, settings)
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu_start
    if plan.group.tolist() != merged.group:
        raise SystemExit(f"{grid}: the fast groups differ from the naive ones; times mean nothing")
    return {
        "naive_ms": round(wall * 1e3, 1),
        "naive_cpu_ms": round(cpu * 1e3, 1),
        "same_groups_as_naive": True,
    }


def measure(frames: int, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one video length."""
    device = torch.device(options.device)
    grid = VideoGrid(frames, options.side, options.side)
    x = make_video(grid, options.channels).to(device, getattr(torch, options.dtype))
    plan = METHOD.plan(VideoFeatures(x, grid)).check()

    def both() -> torch.Tensor:
        return METHOD.plan(VideoFeatures(x, grid)).apply(x)

    row: dict[str, Any] = {
        "frames": frames,
        "tokens_in": plan.num_in,
        "tokens_after_spatial": plan.info["tokens_after_spatial"],
        "tokens_out": plan.num_out,
        "plan_ms": median_ms(lambda: METHOD.plan(VideoFeatures(x, grid)), options.repeats, device),
        "apply_ms": median_ms(lambda: plan.apply(x), options.repeats, device),
        "both_ms": median_ms(both, options.repeats, device),
        "both_cpu_ms": median_ms(both, options.repeats, device, time.process_time),
        **{
            name: median_ms(partial(method.plan, VideoFeatures(x, grid)), options.repeats, device)
            for name, method in BUDGETS.items()
        },
        "peak_extra_mib": peak_extra_mib(both, device),
        "input_mib": round(x.numel() * x.element_size() / 2**20, 1),
    }
    if frames <= options.naive_up_to:
        row |= naive_twin(x.cpu(), grid, plan)
        row["naive_over_fast"] = round(row["naive_cpu_ms"] / row["both_cpu_ms"], 1)
    print(json.dumps(row), flush=True)
    return row


def growth(rows: list[dict[str, Any]], key: str) -> float | None:
    """Return the slope of log(cost) over log(frames): 1 is linear."""
    points = [(math.log(r["frames"]), math.log(r[key])) for r in rows if r.get(key)]
    if len(points) < 2:
        return None
    frames, costs = zip(*points, strict=True)
    return round(statistics.linear_regression(frames, costs).slope, 3)


def draw(report: dict[str, Any], path: Path) -> None:
    """Draw time over frames on two log axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5))
    settings = report["settings"]
    # One thread's CPU time is its wall time on an idle machine, and nearly so on a busy one.
    on_cpu = report["environment"]["device"] == "cpu"
    fast = "both_cpu_ms" if on_cpu else "both_ms"
    labels = {fast: "plan + apply", "naive_cpu_ms": "naive twin (CPU, one run)"}
    for key, label in labels.items():
        rows = [row for row in report["rows"] if key in row]
        slope = report["growth"][key]
        text = label if slope is None else f"{label}, ~ frames^{slope:.2f}"
        axes.plot([r["frames"] for r in rows], [r[key] for r in rows], marker="o", label=text)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    frames = [row["frames"] for row in report["rows"]]
    axes.set_xticks(frames, [str(count) for count in frames])
    axes.set_xlabel(f"frames of {settings['side']}x{settings['side']} tokens")
    axes.set_ylabel(f"milliseconds of {'CPU' if on_cpu else 'wall'} time (median)")
    axes.set_title(
        f"STTM merge, {settings['channels']} channels, {settings['dtype']}, "
        f"{report['environment']['device']}, {report['environment']['threads']} thread(s)"
    )
    axes.grid(visible=True, which="major", alpha=0.3)
    axes.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description="Cost of the STTM merge against video length.")
    parser.add_argument("--frames", type=int, nargs="+", default=[32, 64, 128, 256, 512, 1024])
    parser.add_argument("--side", type=int, default=14)
    parser.add_argument("--channels", type=int, default=896)
    parser.add_argument("--dtype", choices=["float32", "float16", "bfloat16"], default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--naive-up-to", type=int, default=256, help="frames; the twin is slow")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [measure(frames, options) for frames in sorted(options.frames)]
    report = {
        "command": " ".join(["python", "benchmarks/merge_op.py", *sys.argv[1:]]),
        "environment": {**environment(torch.device(options.device)), "seed": SEED},
        "settings": {
            "method": repr(METHOD),
            "budgets": {name: repr(method) for name, method in BUDGETS.items()},
            "side": options.side,
            "channels": options.channels,
            "dtype": options.dtype,
            "repeats": options.repeats,
        },
        "growth": {key: growth(rows, key) for key in KEYS},
        "rows": rows,
    }
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "merge_op.json").write_text(json.dumps(report, indent=2) + "\n")
    draw(report, options.output / "merge_op.png")


if __name__ == "__main__":
    main()
