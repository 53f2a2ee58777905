"""The kernels in Triton's interpreter, and their code for GPUs; both without a GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.kernels.conftest import INTERPRETED

pytest.importorskip("triton")
FOLDER = Path(__file__).parent


@pytest.mark.skipif(INTERPRETED, reason="is what starts the interpreter")
def test_the_kernels_do_in_the_interpreter_what_torch_does() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(
        [*command, str(FOLDER / "test_kernels.py")],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) >= 50


@pytest.mark.skipif(INTERPRETED, reason="nothing is compiled in the interpreter")
@pytest.mark.parametrize("capability", [80, 90])
def test_the_compiled_code_rounds_as_torch_does(capability: int, tmp_path: Path) -> None:
    """No multiplication is fused with an addition; roots and quotients are exact."""
    code = f"from tests.kernels.compiling import report; report({capability})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TRITON_CACHE_DIR": str(tmp_path)},
        cwd=FOLDER.parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stdout.split("\n")
    operations = {line.split(":")[0]: set(line.split(":")[1].split()) for line in lines if line}
    assert set(operations) == {"_pooled_scores", "_pair_cosines", "_segment_sums"}
    for name, used in operations.items():
        assert {"mul.rn.f32", "add.rn.f32"} <= used, name
        assert not [each for each in used if each.startswith("fma") or "approx" in each]
        if name != "_segment_sums":
            assert {"sqrt.rn.f64", "div.rn.f64", "add.rn.f64"} <= used


@pytest.mark.parametrize("value", [None, "0", "1"])
def test_a_cpu_never_uses_kernels(value: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    from sttm.kernels import SWITCH, use_kernels

    monkeypatch.delenv(SWITCH, raising=False)
    if value is not None:
        monkeypatch.setenv(SWITCH, value)
    assert not use_kernels(torch.device("cpu"))


class TestElsewhere:
    """What is decided on a CUDA device, by a device that says it is one."""

    @pytest.fixture(autouse=True)
    def _device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from sttm import kernels

        monkeypatch.delenv(kernels.SWITCH, raising=False)
        monkeypatch.setattr(kernels, "_run", lambda _: True)

    def test_kernels_are_used_unless_they_are_switched_off(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from sttm.kernels import SWITCH, use_kernels

        assert use_kernels(torch.device("cuda", 0))
        monkeypatch.setenv(SWITCH, "0")
        assert not use_kernels(torch.device("cuda", 0))

    def test_a_compiled_model_gets_torch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from sttm.kernels import use_kernels

        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
        assert not use_kernels(torch.device("cuda", 0))


def test_kernels_that_do_not_run_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that Triton cannot use, here because there is none, leaves the work to torch."""
    from sttm import kernels

    monkeypatch.delenv(kernels.SWITCH, raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    kernels._run.cache_clear()
    for name in ("ones", "arange"):
        real = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *args, device, real=real: real(*args))
    with pytest.warns(UserWarning, match="STTM_TRITON=0"):
        assert not kernels.use_kernels(torch.device("cuda", 0))
    assert not kernels.use_kernels(torch.device("cuda", 0))
    kernels._run.cache_clear()
