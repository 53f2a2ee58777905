"""Break the library in one place at a time, and see that a test notices: ``make mutants``.

Every mutant is a piece of source text that stands in one place, and what it becomes. It is made in
a copy of ``src``, never in place. Where the source has moved on, adjust ``old`` here.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Mutant:
    """One mistake that somebody could make.

    Args:
        name: what goes wrong.
        file: below ``src/sttm``.
        old: text that stands in this file once.
        new: what it becomes.
        tests: that have to fail, as pytest takes them.
    """

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


MUTANTS = (
    Mutant(
        "FlashAttention reads the original positions",
        "models/inputs.py",
        "changed[api.POSITION_IDS] = torch.arange(hidden.shape[1], device=hidden.device)[None]",
        "pass",
        ("tests/models/test_flash_attention.py",),
    ),
    Mutant(
        "inner products are summed in any order",
        "ops/similarity.py",
        "for _ in range(3):",
        "for _ in range(0):",
        ("tests/test_fixed_order.py",),
    ),
    Mutant(
        "half precision becomes float32 as a whole",
        "plan.py",
        "width = rows.shape[1] if rows.dtype == dtype else _PIECE // self.num_in",
        "width = rows.shape[1]",
        ("tests/test_fixed_order.py",),
    ),
    Mutant(
        "half precision is summed in half precision",
        "plan.py",
        "dtype = torch.promote_types(rows.dtype, torch.float32)",
        "dtype = rows.dtype",
        ("tests/test_plan.py", "tests/test_fixed_order.py"),
    ),
    Mutant(
        "shares are ignored: groups are plain means",
        "plan.py",
        "share = self.weight[token].to(dtype)",
        "share = (1 / self.sizes.to(dtype))[self.group[token]]",
        ("tests/test_plan.py",),
    ),
    Mutant(
        "the larger of two equal indices wins",
        "ops/selection.py",
        "(equal & (equal.cumsum(0) <= room))",
        "(equal & (equal.flip(0).cumsum(0).flip(0) <= room))",
        ("tests/ops/test_selection.py",),
    ),
    Mutant(
        "the parent is linked to the next frame",
        "ops/links.py",
        "in_previous = _contained(cut, -tree.patches_per_frame, equal=True)",
        "in_previous = _contained(cut, tree.patches_per_frame, equal=True)",
        ("tests/ops/test_merge_against_naive.py",),
    ),
    Mutant(
        "a share of the tokens is one token more",
        "budget.py",
        "return max(1, int(allowed))",
        "return max(1, int(allowed) + 1)",
        ("tests/test_budget.py",),
    ),
    Mutant(
        "later positions move the other way",
        "models/inputs.py",
        "shift = -moved if shift is None else shift - moved",
        "shift = moved if shift is None else shift + moved",
        ("tests/models/test_reduced.py",),
    ),
    Mutant(
        "the padding of a batch is forgotten",
        "models/padding.py",
        "return torch.cat([cached, new.to(cached.device)], 1)",
        "return None",
        ("tests/models/test_batches.py",),
    ),
    Mutant(
        "tokens rotate like those before them",
        "models/inputs.py",
        "tuple(self.reduction.gather(part) for part in given)",
        "tuple(part[..., : self.reduction.length, :] for part in given)",
        ("tests/models/test_reduced.py",),
    ),
    Mutant(
        "DeepStack stops at the merge",
        "models/forward.py",
        "return hidden + self.short.reduction.reduce(full)",
        "return hidden",
        ("tests/models/test_reduced.py",),
    ),
    Mutant(
        "a reduced video can be cropped",
        "models/cache.py",
        "if self.crop_limit and self.num_entries() - abs(tokens_to_remove) < self.crop_limit:",
        "if False:",
        ("tests/models/test_caches.py",),
    ),
    Mutant(
        "a question counts on from the number of tokens",
        "chat/prefilled.py",
        "torch.arange(len(ids)) + self.video.next_position - len(self.video.ids)",
        "torch.arange(len(ids))",
        ("tests/chat/test_session.py",),
    ),
)


def pytest(source: Path, tests: Sequence[str]) -> tuple[bool, str]:
    """Run tests on a copy of ``src`` until one fails.

    Returns:
        whether all passed, and the first that did not, or what pytest said.
    """
    command = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "--tb=line", *tests]
    # Bytecode is found by a file's time and size, which a mutant may share with the original.
    environment = {**os.environ, "PYTHONPATH": str(source), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    failed = re.search(r"^FAILED (\S+)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1) or (done.returncode == 1 and failed is None):
        raise SystemExit(f"pytest could not run {' '.join(tests)}:\n{done.stdout}{done.stderr}")
    return done.returncode == 0, failed[1] if failed else "nothing"


def make(source: Path, mutant: Mutant) -> str:
    """Change the copy of ``src``; return what the file held before."""
    path = source / "sttm" / mutant.file
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    count = text.count(mutant.old)
    if count != 1:
        raise SystemExit(
            f"{mutant.name!r}: got {count} places in src/sttm/{mutant.file} that read\n"
            f"    {mutant.old}\nexpected one. Adjust this mutant in tests/mutants.py."
        )
    path.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
    return text


def run(mutants: Sequence[Mutant]) -> list[str]:
    """Run every mutant and print the table.

    Returns:
        the names of those that survived.
    """
    survived = []
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "src"
        shutil.copytree(ROOT / "src", source, ignore=shutil.ignore_patterns("__pycache__"))
        for mutant in mutants:  # all fit before the first runs
            (source / "sttm" / mutant.file).write_text(make(source, mutant), encoding="utf-8")
        passed, said = pytest(source, sorted({test for m in mutants for test in m.tests}))
        if not passed:
            raise SystemExit(f"{said} fails without any mutant: mend it first.")
        print("| mutant | killed by |\n|---|---|")
        for mutant in mutants:
            before = make(source, mutant)
            passed, killer = pytest(source, mutant.tests)
            (source / "sttm" / mutant.file).write_text(before, encoding="utf-8")
            survived += [mutant.name] if passed else []
            print(f"| {mutant.name} | {'**survived**' if passed else killer} |", flush=True)
    return survived


def main() -> None:
    """Run the mutants whose name or file contains a given text; all without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", nargs="?", default="")
    text = parser.parse_args().text
    chosen = [mutant for mutant in MUTANTS if text in f"{mutant.name} {mutant.file}"]
    survived = run(chosen)
    if survived or not chosen:
        raise SystemExit(f"{len(survived)} of {len(chosen)} mutants survived.")


if __name__ == "__main__":
    main()
