"""Run the tests of the hooks with several releases of transformers, and write down what came out.

python -m tests.tested_versions [RELEASE ...]

Each release is installed by itself, beside everything else that this environment has. The records
go to src/sttm/models/tested_versions.json, those of other releases stay, and the table to
docs/models.md. Without RELEASE only the table is written again.
"""

import datetime
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from packaging.version import Version

from sttm.models import list_models

ROOT = Path(__file__).parents[1]
RECORDS = ROOT / "src/sttm/models/tested_versions.json"
PAGE = ROOT / "docs/models.md"
TESTS = ("tests/models", "tests/chat", "tests/checkpoints/test_forward.py")
BEGIN, END = "<!-- versions: begin -->", "<!-- versions: end -->"
_OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}


def main(releases: list[str]) -> int:
    """Test the releases, write the records and the table; 1 if anything failed."""
    records = {one["version"]: one for one in json.loads(RECORDS.read_text(encoding="utf-8"))}
    for release in releases:
        print(f"transformers {release}", flush=True)
        records[release] = tested(release)
    ordered = sorted(records.values(), key=lambda one: Version(one["version"]))
    RECORDS.write_text(json.dumps(ordered, indent=1) + "\n", encoding="utf-8")
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    PAGE.write_text(f"{before}{BEGIN}\n{table(ordered)}\n{END}{after}", encoding="utf-8")
    return int(any(f["failed"] for one in ordered for f in one["families"].values()))


def tested(release: str) -> dict[str, Any]:
    """Run the tests with one release, and count their outcomes by family."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, "--target", folder, f"transformers=={release}"], check=True)
        report = Path(folder) / "report.xml"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((folder, str(ROOT / "src")))}
        run = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-p", "no:cacheprovider"]
        subprocess.run(
            [*run, f"--junitxml={report}", *TESTS], cwd=ROOT, env=environment, check=False
        )
        families = by_family(report)
    return {
        "version": release,
        "date": datetime.date.today().isoformat(),
        "torch": version("torch"),
        "families": families,
    }


def by_family(report: Path) -> dict[str, dict[str, int]]:
    """Count passed, failed and skipped tests whose parameters name a family."""
    counts = {kind: Counter[str]() for family in list_models() for kind in family.model_types}
    for case in ElementTree.parse(report).iter("testcase"):
        found = [_OUTCOMES[child.tag] for child in case if child.tag in _OUTCOMES]
        name = case.get("name", "")
        words = re.split(r"[^a-z0-9_]+", name[name.find("[") :])
        siblings = {"Qwen3VLMoe": "qwen3_vl_moe", "Qwen3_5Moe": "qwen3_5_moe"}
        siblings["Glm4vMoe"] = "glm4v_moe"
        words += [kind for key, kind in siblings.items() if key in name]
        for kind in counts.keys() & set(words):
            counts[kind][found[0] if found else "passed"] += 1
    order = ("passed", "failed", "skipped")
    return {kind: {name: count[name] for name in order} for kind, count in counts.items()}


def table(records: list[dict[str, Any]]) -> str:
    """Write the families and the releases as a Markdown table."""
    heads = [one["version"] for one in records]
    lines = [f"| `model_type` | {' | '.join(heads)} |", "|---" * (len(heads) + 1) + "|"]
    for kind in records[-1]["families"]:
        cells = [_cell(one["families"].get(kind)) for one in records]
        lines.append(f"| `{kind}` | {' | '.join(cells)} |")
    dates = [f"{one['version']} {one['date']} (torch {one['torch']})" for one in records]
    return "\n".join(lines) + f"\n\nRun: {', '.join(dates)}."


def _cell(count: dict[str, int] | None) -> str:
    if not count or not (count["passed"] or count["failed"]):
        return "refused"
    return f"{count['failed']} failed" if count["failed"] else str(count["passed"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
