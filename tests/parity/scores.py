"""Letters and totals of the benchmarks against what the authors' code gives; see README.md."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sttm.evaluation.tasks import Item, Scored, get_task
from tests.parity.comparison import Comparison

FOLDER = Path(__file__).parent / "scores"
EXPECTED: dict[str, dict[str, Any]] = json.loads((FOLDER / "expected.json").read_text())
_QUESTIONS = {"vnbench": "VNBench-main-4try.json", "longvideobench": "lvb_val.json"}


def load(name: str) -> dict[str, Any]:
    """Return a benchmark's rows, what a reader makes of them, and texts that models wrote."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text())
    return content


def read_items(name: str, data_dir: Path) -> list[Item]:
    """Write a benchmark's rows as its files, and return what its reader makes of them."""
    rows = load(name)["rows"]
    files: Mapping[str, Any] = (
        {f"json/{stem}.json": one for stem, one in rows.items()}
        if (name == "mlvu")
        else {_QUESTIONS[name]: rows}
    )
    for path, content in files.items():
        place = data_dir / name / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps(content))
    return get_task(name).items(data_dir, videos=False)


def score(name: str, items: list[Item], parser: str = "published") -> list[Scored]:
    """Read and score the texts."""
    task = get_task(name)
    letters = [
        task.parse(text, item, parser)
        for text, item in zip(load(name)["outputs"], items, strict=True)
    ]
    return [Scored(i, task.right(x, i, parser)) for x, i in zip(letters, items, strict=True)]


def comparisons() -> Iterator[Comparison]:
    """Compare every benchmark: each letter, the total, the groups."""
    for name, expected in EXPECTED.items():
        with TemporaryDirectory() as folder:
            items = read_items(name, Path(folder))
        task = get_task(name)
        letters = [
            task.parse(text, item, "published") or "-"
            for text, item in zip(load(name)["outputs"], items, strict=True)
        ]
        yield Comparison(f"scores: {name}", "letters", letters == list(expected["letters"]))
        micro = task.metrics(score(name, items))["micro"]
        assert micro.value is not None
        yield Comparison(
            f"scores: {name}", "total", micro.missing == 0, abs(micro.value - expected["micro"])
        )
        for group, values in expected["groups"].items():
            shares = {value: share.value or 0.0 for value, share in micro.groups[group].items()}
            same = shares.keys() == values.keys()
            difference = max(abs(shares[v] - values[v]) for v in values) if same else None
            yield Comparison(f"scores: {name}", f"by {group}", same, difference)
