"""Which releases of transformers sttm was tested with, and what came out.

``make versions`` runs the tests and writes ``tested_versions.json``.
"""

import json
import warnings
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from importlib.resources import files

from packaging.version import Version

from sttm.errors import UntestedVersionWarning


@dataclass(frozen=True)
class TestedVersion:
    """One release of transformers.

    Args:
        version: its number.
        date: when the tests ran, ISO.
        torch: the version of torch beside it.
        families: for each ``model_type`` the tests passed, failed and skipped.
    """

    __test__ = False  # the name is no test's

    version: str
    date: str
    torch: str
    families: dict[str, dict[str, int]]


@cache
def tested() -> tuple[TestedVersion, ...]:
    """Return the tested releases, oldest first."""
    text = files("sttm.models").joinpath("tested_versions.json").read_text(encoding="utf-8")
    found = [TestedVersion(**record) for record in json.loads(text)]
    return tuple(sorted(found, key=lambda one: Version(one.version)))


def tested_versions() -> tuple[str, ...]:
    """Return their numbers, oldest first."""
    return tuple(one.version for one in tested())


def newest_tested() -> str:
    """Return the newest number."""
    return tested_versions()[-1]


def versions_for(model_type: str) -> tuple[str, ...]:
    """Return the releases in which a family passed its tests, oldest first."""
    counts = ((one.version, one.families.get(model_type, {})) for one in tested())
    return tuple(number for number, count in counts if count.get("passed") and not count["failed"])


@cache  # once per process
def warn_if_untested() -> None:
    """Warn, once, if the installed transformers is newer than every tested one."""
    installed = version("transformers")
    if Version(installed) > Version(newest_tested()):
        warnings.warn(
            f"transformers {installed} is newer than the newest that sttm was tested with "
            f"({newest_tested()}). What sttm relies on is checked while it runs, so a change that "
            "matters is an error; for a tested set, "
            f"pip install 'transformers=={newest_tested()}'.",
            UntestedVersionWarning,
            stacklevel=3,
        )
