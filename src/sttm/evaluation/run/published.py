"""What the STTM paper reports, to stand beside a run."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from sttm.evaluation.specs import ALL

FULL = 100  # the budget that keeps every token, in %


@dataclass(frozen=True)
class PublishedRow:
    """A cell of the paper's tables 11 to 14.

    Args:
        model: short name of the model.
        task: name of the task.
        method: name in the registry; "all" for all tokens.
        budget: nominal share of the tokens in %.
        accuracy: mean over questions, in 0..1.
        ttft_s: seconds.
        tokens: video tokens in the last layer's cache, mean over questions.
        retention: mean over questions of the tokens kept, in 0..1; None where it is not printed.
        source: paper and table.
        doubt: why the cell cannot be right as it stands; empty if nothing speaks against it.
    """

    model: str
    task: str
    method: str
    budget: int
    accuracy: float
    ttft_s: float
    tokens: int
    retention: float | None
    source: str
    doubt: str = ""

    @property
    def full(self) -> "PublishedRow | None":
        """The same with all tokens."""
        return find_published(self.model, self.task, ALL, FULL)

    @property
    def relative_accuracy(self) -> float | None:
        """Accuracy / accuracy with all tokens."""
        return self.accuracy / self.full.accuracy if self.full else None

    @property
    def relative_ttft(self) -> float | None:
        """TTFT / TTFT with all tokens."""
        return self.ttft_s / self.full.ttft_s if self.full else None


def find_published(model: str, task: str, method: str, budget: int) -> PublishedRow | None:
    """Find a row; None if the paper has none."""
    return _rows().get((model, task, method, budget))


def list_published() -> list[PublishedRow]:
    """List all rows."""
    return list(_rows().values())


def model_key(name: str) -> str | None:
    """Tell which of the paper's models a hub id or folder is; None if it is none of them."""
    last = Path(name.rstrip("/")).name.lower()
    known = _content()["checkpoints"].items()
    return next((key for key, names in known if last in names), None)


def match_published(
    model: str, task: str, method: str, keep: float | int | None, preset: str | None
) -> PublishedRow | None:
    """Find the paper's row for a run.

    Args:
        model: hub id or folder.
        task: name of the task.
        method: name in the registry; "all" for all tokens.
        keep: exact budget, if any.
        preset: name of the preset that the run was made with, if any.
    Returns: None where the paper has no such row, or the run does not say which it is.
    """
    if preset is not None:
        parts = preset.split("/")
        ablation = len(parts) == 5 and parts[4] != method
        if len(parts) not in (4, 5) or ablation or parts[2] != task:
            return None
        return find_published(parts[1], task, method, int(parts[3]))
    budget = FULL if method == ALL else round(100 * keep) if isinstance(keep, float) else None
    key = model_key(model)
    return None if key is None or budget is None else find_published(key, task, method, budget)


@cache
def _content() -> dict[str, Any]:
    path = Path(__file__).parent / "published.yaml"
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return content


@cache
def _rows() -> dict[tuple[str, str, str, int], PublishedRow]:
    content = _content()
    names = ("model", "task", "method", "budget")
    doubts = {tuple(doubt[name] for name in names): doubt["why"] for doubt in content["doubts"]}
    rows = {}
    for model, lines in content["rows"].items():
        for line in lines:
            method, budget = line["method"], line["budget"]
            for task, cell in line.items():
                if task in ("method", "budget"):
                    continue
                key = model, task, method, budget
                source = f"{content['source']}, table {content['tables'][model]}"
                rows[key] = _row(key, cell, source, doubts.get(key, ""))
    return rows


def _row(key: tuple[str, str, str, int], cell: str, source: str, doubt: str) -> PublishedRow:
    accuracy, ttft, tokens, *retention = cell.split("/")
    return PublishedRow(
        *key,
        accuracy=round(float(accuracy) / 100, 4),
        ttft_s=float(ttft),
        tokens=int(tokens),
        retention=round(float(retention[0]) / 100, 4) if retention else None,
        source=source,
        doubt=doubt,
    )
