"""The extras of the package: which part of sttm needs which, and what to install if one lacks.

``pip install sttm`` brings torch and numpy. Everything beyond methods, plans, grids, budgets and
tensor operations needs an extra, e.g. ``pip install "sttm[hf]"``.
"""

import sys
from collections.abc import Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType

from sttm.errors import MissingExtraError

# What sttm itself imports of each extra. What those packages need in turn is their own affair.
_HF = ("transformers", "huggingface_hub", "packaging", "pydantic", "safetensors")
_VIDEO = ("av", "jinja2", "PIL")
_EVAL = (*_HF, *_VIDEO, "matplotlib", "pyarrow", "yaml")
_SERVE = (
    *(*_HF, *_VIDEO, "fastapi", "httpcore", "prometheus_client", "python_multipart"),
    *("starlette", "uvicorn"),
)
EXTRAS = {
    "hf": _HF,
    "video": _VIDEO,
    "eval": _EVAL,
    "cli": (*_EVAL, "rich", "typer"),
    "ray": (*_EVAL, "ray"),
    "serve": _SERVE,
}
_HTTP = ("app", "browser_page", "fetching", "metrics", "running", "security")
# The extras of modules and packages; what is inside a package needs at least the same.
NEEDS = {
    "sttm.models": ("hf",),
    "sttm.attachment": ("hf",),
    "sttm.checkpoints": ("hf",),
    "sttm.video": ("video",),
    "sttm.view": ("video",),
    "sttm.chat": ("hf", "video"),
    "sttm.nano.model": ("hf",),
    "sttm.evaluation": ("eval",),
    "sttm.distributed": ("ray",),
    "sttm.server": ("hf", "video"),
    **dict.fromkeys([f"sttm.server.{name}" for name in _HTTP], ("serve",)),
    "sttm.cli": ("cli",),
}


def require(extras: Iterable[str], wanted: str) -> None:
    """Check that the packages of some extras are installed; nothing is imported.

    Args:
        extras: keys of `EXTRAS`.
        wanted: what needs them, for the message, e.g. ``"sttm.chat"``.

    Raises:
        MissingExtraError: a package is not there.
    """
    missing = {name: [p for p in EXTRAS[name] if not _is_installed(p)] for name in extras}
    lacking = ",".join(name for name, packages in missing.items() if packages)
    if lacking:
        packages = ", ".join(dict.fromkeys(p for found in missing.values() for p in found))
        raise MissingExtraError(
            f'{wanted} needs more than is installed. Run: pip install "sttm[{lacking}]" '
            f"(it brings {packages})."
        )


def _is_installed(package: str) -> bool:
    return sys.modules.get(package) is not None or find_spec(package) is not None


class _Guard(MetaPathFinder):
    """Checks what a part of sttm needs before it is imported, and finds nothing itself."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname in NEEDS:
            require(NEEDS[fullname], fullname)
        return None


def install_guard() -> None:
    """Check from now on, whenever a part of sttm is imported, that its extras are installed."""
    sys.meta_path.insert(0, _Guard())
