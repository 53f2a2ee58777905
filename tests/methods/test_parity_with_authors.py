"""Every comparison method decides as its authors' code does; see tests/parity/README.md."""

from typing import Any

import pytest

from sttm.methods import list_methods
from tests.parity import field
from tests.parity.comparison import Comparison, table


@pytest.mark.parametrize("case", field.CASES, ids=field.label)
def test_it_decides_as_the_authors_code(case: dict[str, Any]) -> None:
    comparison = field.compare(case)
    assert comparison.equal, comparison


def test_every_method_from_a_paper_is_compared() -> None:
    compared = {case["method"].removesuffix("_vllm") for case in field.CASES}
    ours = {"sttm", "single", "random", "uniform", "identity"}  # sttm: tests/ops/test_parity.py
    # dycoke plans as dycoke1; of simplecluster no numbers are known.
    assert compared == {info.name for info in list_methods()} - ours - {"dycoke", "simplecluster"}


def test_a_difference_is_told() -> None:
    cases = [
        Comparison("a", "1", True, 1e-7),
        Comparison("a", "2", True, 0.1),
        Comparison("b", "1", False),
    ]
    assert [case.equal for case in cases] == [True, False, False]
    rows = [line.split() for line in table(cases).splitlines()[1:]]
    assert rows == [["a", "2", "1", "1.0e-01"], ["b", "1", "0", "-"]]


@pytest.mark.parametrize("name", ["fastvid", "visionzip", "tome", "octree", "prunevid", "dycoke1"])
def test_the_comparison_notices_other_tokens(name: str) -> None:
    """The numbers of one case do not pass for another's."""
    one, other = [case for case in field.CASES if case["method"] == name][:2]
    assert not field.compare({**one, "arrays": other["arrays"]}).equal
