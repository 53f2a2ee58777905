"""The README's table of what was measured is what is in benchmarks/results."""

import json
from typing import Any

import pytest

from .pages import ROOT, read

RESULTS = ROOT / "benchmarks" / "results"
VLLM_TIMES = (
    "cpu_per_request",
    "cpu_ratio",
    "per_second",
    "throughput_ratio",
    "ttft_p50",
    "ttft_p95",
)

pytestmark = pytest.mark.skipif(not RESULTS.is_dir(), reason="the results are not here")


def rows(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((RESULTS / name).read_text(encoding="utf-8"))["rows"]
    return found


def share(method: str, keep: float) -> str:
    """Percent right, with half of the interval."""
    (row,) = [
        row
        for row in rows("needle/results.json")
        if (row["task"], row["method"], row["keep"]) == ("all", method, keep)
    ]
    return f"{100 * row['accuracy']:.1f} ±{50 * (row['ci_high'] - row['ci_low']):.1f} %"


def seconds(method: str, keep: float) -> str:
    (row,) = [
        row for row in rows("speed/speed.json") if (row["method"], row["keep"]) == (method, keep)
    ]
    return f"{row['ttft_s']:.2f} s"


def test_the_table_of_the_readme() -> None:
    lines = [f"| 100 % | {share('all', 1)} | | {seconds('all', 1)} |"]
    for keep in (0.5, 0.3, 0.1):
        cells = (share("sttm", keep), share("random", keep), seconds("sttm", keep))
        lines.append(f"| {keep:.0%} | ".replace("%", " %") + " | ".join(cells) + " |")
    assert "\n".join(lines) in read("README.md")


def test_the_answers_in_vllm() -> None:
    runs = json.loads((RESULTS / "vllm/accuracy.json").read_text(encoding="utf-8"))["runs"]
    right = {(run["method"], run["keep"]): f"{100 * run['accuracy']:.1f}" for run in runs}
    for method in ("sttm", "evs", "vidcom2"):
        cells = [right[method, keep] for keep in (0.5, 0.3, 0.2, 0.1)]
        line = f"| `{method}` | " + " | ".join(cells)
        assert line in read("docs/vllm.md")
    assert f"All tokens: {right['all', 1.0]}" in read("docs/vllm.md")


@pytest.mark.parametrize("model", ["qwen3_vl", "qwen2_5_vl"])
def test_the_speed_in_vllm(model: str) -> None:
    for row in rows(f"vllm/speed-{model}.json"):
        cells = (row["setting"], row["clients"], row["prompt_tokens"])
        times = (f"{row[name]:.2f}" for name in VLLM_TIMES)
        assert f"| {' | '.join(map(str, (*cells, *times)))} |" in read("docs/vllm.md")
