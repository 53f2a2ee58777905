"""Registration, the version gate, and what a server may be asked for."""

import logging
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

import sttm
from sttm.errors import ConfigError
from sttm.methods import list_methods
from sttm.vllm import ANYWAY, ARCHITECTURES, register
from sttm.vllm.config import Reduction

PROJECT = Path(__file__).parents[2] / "pyproject.toml"


def test_the_plugin_is_announced_and_light() -> None:
    project = tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]
    assert project["entry-points"]["vllm.general_plugins"] == {"sttm": "sttm.vllm:register"}
    heavy = ("torch", "numpy", "transformers", "vllm", "av")
    code = f"import sys, sttm.vllm; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_engine_loads_neither_hooks_nor_chat() -> None:
    code = "import sys, sttm.vllm.config, sttm.vllm.positions; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = {name for name in done.stdout.split() if name.startswith("sttm.")}
    assert not {name.split(".")[1] for name in ours} & {"models", "chat", "video", "evaluation"}
    assert "transformers" not in done.stdout.split()


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Stand in for vLLM 0.32 on a machine with a GPU; returns what is registered."""
    known: dict[str, str] = {}
    modules: dict[str, dict[str, Any]] = {
        "vllm": {"ModelRegistry": SimpleNamespace(register_model=known.__setitem__)},
        "vllm.version": {"__version__": "0.32.0+cu130"},
        "vllm.platforms": {"current_platform": SimpleNamespace(is_cpu=lambda: False)},
    }
    for name, attributes in modules.items():
        module = ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    return known


def test_every_architecture_has_two_names(fake: dict[str, str]) -> None:
    register()
    assert set(fake) == {p + name for name in ARCHITECTURES for p in ("", "STTM")}
    assert fake["STTMQwen2VLForConditionalGeneration"] == (
        "sttm.vllm.qwen2_vl:Qwen2VLForConditionalGeneration"
    )


@pytest.mark.parametrize("version", ["0.31.0+cpu", "0.32.0", "0.33.1"])
def test_tested_releases_are_served(
    version: str, fake: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["vllm.version"], "__version__", version)
    register()
    assert fake


@pytest.mark.parametrize("version", ["0.30.1", "0.34.0", "1.32.0", "dev"])
def test_other_releases_are_left_alone_with_a_warning(
    version: str,
    fake: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sys.modules["vllm.version"], "__version__", version)
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    register()
    assert not fake
    assert f"got vLLM {version}" in caplog.text
    monkeypatch.setenv(ANYWAY, "1")
    register()
    assert fake


def config(given: Any = None, architecture: str = "Qwen2VLForConditionalGeneration") -> Any:
    known = {"architectures": [architecture]}
    return SimpleNamespace(**known, **({} if given is None else {"sttm": given}))


def test_it_is_off_unless_asked_for() -> None:
    assert Reduction.read(config(), None) is None
    assert Reduction.read(config(), 0.7) is None  # vLLM's own pruning
    assert Reduction.read(config(architecture="STTMQwen2VLForConditionalGeneration"), 0.7)


@pytest.mark.parametrize(("rate", "left"), [(0.7, 30), (0.71, 29), (0.5, 50), (0.999, 1)])
def test_a_rate_leaves_what_is_written(rate: float, left: int) -> None:
    reduction = Reduction.read(config({}), rate)
    assert reduction is not None
    assert reduction.count(100) == left


def test_a_request_has_its_own_budget() -> None:
    reduction = Reduction.read(config({"keep": 512, "method": "evs"}), 0.5)
    assert reduction is not None
    assert reduction.count(1000) == 512
    own = reduction.of_request({"sttm_keep": 0.2, "fps": 2})
    assert own.count(1000) == 200
    assert own.fingerprint != reduction.fingerprint
    assert reduction.of_request({}) is reduction


@pytest.mark.parametrize("method", [m for m in list_methods() if m.name != "identity"])
def test_methods_are_accepted_or_refused_by_name(method: Any) -> None:
    given = config({"method": method.name})
    if method.query_aware or method.requires:
        with pytest.raises(ConfigError, match=f"sttm.method: got '{method.name}'"):
            Reduction.read(given, 0.5)
    else:
        reduction = Reduction.read(given, 0.5)
        assert reduction is not None
        assert reduction.method(3).name == method.name


@pytest.mark.parametrize(
    ("given", "rate", "message"),
    [
        ({}, None, "--video-pruning-rate: got None"),
        ({}, 0.0, "expected a rate above 0"),
        ("evs", 0.5, "expected an object"),
        ({"method": "stm"}, 0.5, "Did you mean 'sttm'"),
        ({"method": "identity"}, 0.5, "keep"),
        ({"keep": 1.5}, 0.5, "sttm.keep: got 1.5"),
        ({"parnt": "top_left"}, 0.5, "Did you mean 'parent'"),
        ({"temporal_threshold": None}, 0.5, "sttm.temporal_threshold: got None"),
        ({"budget_scope": "joint"}, 0.5, "every video is reduced by itself"),
        ({"max_tokens": 7}, 0.5, "max_tokens"),
    ],
)
def test_bad_settings_are_refused(given: Any, rate: float | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Reduction.read(config(given), rate)


def test_a_bad_budget_of_a_request_is_refused() -> None:
    reduction = Reduction.read(config({}), 0.5)
    assert reduction is not None
    with pytest.raises(ConfigError, match="sttm_keep: got 0"):
        reduction.of_request({"sttm_keep": 0})
    assert sttm.__version__ in reduction.fingerprint
