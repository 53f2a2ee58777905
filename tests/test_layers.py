"""Imports point one way, and ``import sttm`` stays light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sttm

SOURCE = Path(sttm.__file__).parent
# From the bottom to the top: a package may import those before it, and itself.
ORDER = (
    "errors",
    "extras",
    "deprecated",
    "files",
    "plugins",
    "grid",
    "kernels",
    "plan",
    "ops",
    "budget",
    "methods",
    "streaming",
    "piecewise",
    "vllm",
    "video",
    "models",
    "attachment",
    "checkpoints",
    "chat",
    "nano",
    "view",
    "evaluation",
    "distributed",
    "server",
    "cli",
    "__main__",
    "integrations",
)
KNOWS_TRANSFORMERS = {"models", "attachment", "checkpoints", "chat", "nano", "evaluation", "cli"}
HEAVY = ("torch", "numpy", "transformers", "ray", "vllm", "gradio", "fastapi", "av", "matplotlib")


def _modules() -> list[Path]:
    return sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


def _layer(path: Path) -> str:
    return path.relative_to(SOURCE).with_suffix("").parts[0]


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_every_module_imports_only_from_layers_below() -> None:
    assert {_layer(path) for path in _modules()} <= set(ORDER), "add it to ORDER"
    wrong = []
    for path in _modules():
        used = {name.split(".")[1] for name in _imports(path) if name.startswith("sttm.")}
        own = ORDER.index(_layer(path))
        above = sorted(name for name in used & set(ORDER) if ORDER.index(name) > own)
        wrong += [f"{path.relative_to(SOURCE)} imports {name}" for name in above]
    assert not wrong


def test_only_some_layers_know_transformers() -> None:
    wrong = [
        str(path.relative_to(SOURCE))
        for path in _modules()
        if _layer(path) not in KNOWS_TRANSFORMERS
        and "transformers" in {name.split(".")[0] for name in _imports(path)}
    ]
    assert not wrong


def test_importing_sttm_stays_light() -> None:
    code = f"import sys, sttm; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_exist_and_are_sorted() -> None:
    assert all(hasattr(sttm, name) for name in sttm.__all__)
    upper = [name for name in sttm.__all__ if name.isupper()]
    classes = [name for name in sttm.__all__ if not name.isupper() and name[0].isupper()]
    functions = [name for name in sttm.__all__ if name[0].islower()]
    assert list(sttm.__all__) == sorted(upper) + sorted(classes) + sorted(functions)


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'merge_everything'"):
        _ = sttm.merge_everything
