"""The core needs torch and numpy alone; what needs more says which extra brings it."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import sttm
from sttm.extras import EXTRAS, NEEDS

SOURCE = Path(sttm.__file__).parent
ROOT = Path(__file__).parents[1]
CORE = {"torch", "numpy"}
# Parts that only another program imports, or only where torch's CUDA build is; what that brings.
HOSTS = {
    "sttm.kernels": {"triton"},
    "sttm.integrations.lmms_eval": {"lmms_eval", "loguru", "tqdm", "accelerate"},
    "sttm.vllm": {"vllm"},
}
ALL = sorted({package for packages in EXTRAS.values() for package in packages})
MORE = ["accelerate", "click", "torchvision"]  # what comes with the extras, but not with torch


def run(
    code: str, *, without: list[str], path: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run code in a process in which some packages cannot be imported."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({without!r}))\n"
    found = [str(SOURCE.parent), *([str(path)] if path else [])]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(reversed(found))}
    command = [sys.executable, "-c", hidden + code]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def needed(module: str) -> set[str]:
    """Return the packages that a module may import: its own, and those of its packages."""
    parts = module.split(".")
    outer = [".".join(parts[: i + 1]) for i in range(len(parts))]
    return {p for name in outer for extra in NEEDS.get(name, ()) for p in EXTRAS[extra]}


def imported(tree: ast.AST) -> Iterator[str]:
    """Yield the top names of what is imported, also inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def required(tree: ast.AST) -> Iterator[str]:
    """Yield the packages that functions check for themselves, with ``require(("hf",), ...)``."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="require"), args=[ast.Tuple() as extras, *_]):
                yield from (p for extra in ast.literal_eval(extras) for p in EXTRAS[extra])


def test_no_module_imports_more_than_its_extras_bring() -> None:
    known = sys.stdlib_module_names | CORE | {"sttm"}
    unknown = {}
    for path in sorted(SOURCE.rglob("*.py")):
        module = ".".join(("sttm", *path.relative_to(SOURCE).with_suffix("").parts))
        guest = {p for part, brought in HOSTS.items() if module.startswith(part) for p in brought}
        tree = ast.parse(path.read_text(encoding="utf-8"))
        more = set(imported(tree)) - known - needed(module) - set(required(tree)) - guest
        if more:
            unknown[module] = more
    assert unknown == {}


def test_what_needs_extras_exists() -> None:
    for module in NEEDS:
        path = SOURCE.joinpath(*module.split(".")[1:])
        assert path.is_dir() or path.with_suffix(".py").is_file(), module


def test_the_extras_bring_what_is_imported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> Iterator[str]:
        for requirement in requirements:
            if own := re.match(r"sttm\[(.*)\]", requirement):
                for extra in own[1].split(","):
                    yield from names(project["optional-dependencies"][extra])
            else:
                yield re.split(r"[\[<>=!~ ]", requirement)[0].lower()

    assert set(names(project["dependencies"])) == CORE
    of = {
        name: {dist.lower() for dist in dists} for name, dists in packages_distributions().items()
    }
    for extra, packages in EXTRAS.items():
        brought = set(names(project["optional-dependencies"][extra]))
        lacking = [
            p for p in packages if not {d.replace("-", "_") for d in of[p]} & _under(brought)
        ]
        assert not lacking, f"[{extra}] in pyproject.toml does not bring {lacking}"
    everything = set(names(project["optional-dependencies"]["all"]))
    assert everything == {
        name for extra in EXTRAS for name in names(project["optional-dependencies"][extra])
    }
    assert everything <= set(names(project["optional-dependencies"]["dev"]))


def _under(names: set[str]) -> set[str]:
    return {name.replace("-", "_") for name in names}


@pytest.mark.skipif(not (ROOT / "docs").is_dir(), reason="the documentation is not here")
def test_every_method_plans_with_torch_alone() -> None:
    code = f"""
import re
from pathlib import Path
import numpy, torch
before = set(sys.modules)
import sttm
from sttm.methods import list_methods
for info in list_methods():
    if info.name != "identity":
        page = Path({str(ROOT)!r}, "docs", "methods", info.name + ".md").read_text(encoding="utf-8")
        names = {{}}
        exec(re.findall(r"```python\\n(.*?)```", page, flags=re.DOTALL)[0], names)
        print(info.name, isinstance(names["plan"], sttm.MergePlan))
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print("beside:", *sorted(new - sys.stdlib_module_names - {{"torch", "numpy", "sttm"}}))
"""
    done = run(code, without=[*ALL, *MORE])
    assert done.returncode == 0, done.stderr
    *methods, beside = done.stdout.splitlines()
    assert {"sttm True", "visionzip True", "fastv True"} <= set(methods)
    assert not [line for line in methods if not line.endswith(" True")]
    assert beside == "beside:"


@pytest.mark.parametrize(
    ("code", "wanted", "extra"),
    [
        ("import sttm; sttm.attach", "sttm.attach", "hf"),
        ("import sttm; sttm.VideoChat", "sttm.VideoChat", "hf,video"),
        ("from sttm import VideoChat", "sttm.VideoChat", "hf,video"),
        ("import sttm.attachment", "sttm.attachment", "hf"),
        ("import sttm.models.registry", "sttm.models", "hf"),
        ("from sttm.checkpoints import load", "sttm.checkpoints", "hf"),
        ("from sttm.video import read_video", "sttm.video", "video"),
        ("import sttm.view", "sttm.view", "video"),
        ("from sttm import nano; nano.load", "sttm.nano.model", "hf"),
        ("from sttm.nano import make_clip, write_clip; write_clip(make_clip(0), 'clip.mp4')",
         "sttm.nano.write_clip", "video"),
        ("import sttm.evaluation", "sttm.evaluation", "eval"),
        ("from sttm.distributed import RayExecutor", "sttm.distributed", "ray"),
        ("import sttm.cli", "sttm.cli", "cli"),
    ],
)  # fmt: skip
def test_the_extra_is_named(code: str, wanted: str, extra: str) -> None:
    done = run(code, without=ALL)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    told = f'{wanted} needs more than is installed. Run: pip install "sttm[{extra}]" (it brings '
    assert last.startswith(f"sttm.errors.MissingExtraError: {told}"), done.stderr


def test_only_what_is_missing_is_named() -> None:
    done = run("import sttm; sttm.VideoChat", without=["av"])
    assert done.stderr.endswith('Run: pip install "sttm[video]" (it brings av).\n')


@pytest.mark.parametrize("broken", ["raise ImportError('a broken build')", "import no_such_module"])
def test_a_broken_package_is_not_called_missing(tmp_path: Path, broken: str) -> None:
    (tmp_path / "transformers.py").write_text(broken)
    done = run("import sttm; sttm.attach", without=[], path=tmp_path)
    last = done.stderr.splitlines()[-1]
    assert "sttm[" not in last
    assert last.startswith(("ImportError: a broken build", "ModuleNotFoundError: No module named"))


@pytest.mark.parametrize("arguments", [[], ["--help"], ["ask", "a.mp4", "What?"], ["eval", "run"]])
def test_the_command_says_it_in_one_line(arguments: list[str]) -> None:
    code = f"sys.argv[1:] = {arguments!r}\nfrom sttm.__main__ import main; main()"
    done = run(code, without=["typer", "matplotlib"])
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr == (
        "error: the command sttm needs more than is installed. "
        'Run: pip install "sttm[cli]" (it brings matplotlib, typer).\n'
    )
