"""The model for lmms-eval, against a stand-in for the package."""

import importlib
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from sttm.errors import ConfigError
from tests.integrations.conftest import Asked

MODEL = "sttm.integrations.lmms_eval.model"


@dataclass
class Instance:
    args: tuple[Any, ...]


@dataclass
class TokenCounts:
    output_tokens: int


@dataclass
class GenerationResult:
    text: str
    token_counts: TokenCounts


class Lmms:
    def __init__(self) -> None:
        self.rank = 0
        self.task_dict: dict[str, Any] = {}
        self.cleaned = False

    def clean(self) -> None:
        self.cleaned = True


@pytest.fixture
def heard() -> list[Any]:
    return []


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch, heard: list[Any]) -> Iterator[Any]:
    """The module, imported beside a package that has what it uses of lmms-eval."""
    logger = types.SimpleNamespace(warning=heard.append)
    modules: dict[str, dict[str, Any]] = {
        "lmms_eval": {},
        "lmms_eval.api": {},
        "lmms_eval.api.instance": {
            "Instance": Instance,
            "TokenCounts": TokenCounts,
            "GenerationResult": GenerationResult,
        },
        "lmms_eval.api.model": {"lmms": Lmms},
        "lmms_eval.models": {},
        "lmms_eval.models.model_utils": {},
        "lmms_eval.models.model_utils.gen_metrics": {
            "log_metrics": lambda **metrics: heard.append(metrics)
        },
        "loguru": {"logger": logger},
    }
    for name, content in modules.items():
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, MODEL, raising=False)
    yield importlib.import_module(MODEL)
    sys.modules.pop(MODEL, None)


def instances(model: Any, asked: list[Asked], simple: bool, **generation: Any) -> list[Instance]:
    """Requests as lmms-eval makes them; documents are looked up in the model's task_dict."""
    model.task_dict["needle"] = {"test": asked}
    if simple:
        return [
            Instance((doc.question, generation, lambda d: [d.video], i, "needle", "test"))
            for i, doc in enumerate(asked)
        ]

    def messages(doc: Asked) -> list[dict[str, Any]]:
        content = [{"type": "video", "url": doc.video}, {"type": "text", "text": doc.question}]
        return [{"role": "user", "content": content}]

    return [
        Instance((doc.question, messages, generation, i, "needle", "test"))
        for i, doc in enumerate(asked)
    ]


def test_both_faces_answer_alike(model: Any, heard: list[Any], asked: list[Asked]) -> None:
    found = []
    for face, simple in ((model.Sttm, False), (model.SttmSimple, True)):
        assert face.is_simple is simple
        lm = face(pretrained="nano", full=True, batch_size=1)
        results = lm.generate_until(instances(lm, asked, simple, max_new_tokens=6, until=["\n\n"]))
        assert all(result.token_counts.output_tokens > 0 for result in results)
        found.append([result.text for result in results])
    assert found[0] == found[1] == [item.answer for item in asked]
    metrics = heard[-1]["additional_metrics"]
    assert metrics == {"sttm_retention": 1.0, "sttm_prefills": 2, "sttm_skipped": 0}


def test_what_is_not_used_or_skipped_is_told(
    model: Any, heard: list[Any], asked: list[Asked]
) -> None:
    lm = model.SttmSimple(pretrained="nano", on_error="skip", device="cpu")
    broken = [asked[0]._replace(video="none.mp4"), asked[1]]
    results = lm.generate_until(instances(lm, broken, True, max_new_tokens=2, eyes=2))
    assert results[0] == GenerationResult("", TokenCounts(0))
    told = [text for text in heard if isinstance(text, str)]
    assert told[0] == "generation arguments that sttm does not use: eyes"
    assert told[1].startswith("skipped, the answer is empty: needle, document 0: got no such file")
    assert told[2].startswith("1 of 2 questions were skipped")
    assert heard[-2]["additional_metrics"]["sttm_skipped"] == 1


def test_other_requests_are_refused(model: Any) -> None:
    lm = model.Sttm(pretrained="nano")
    with pytest.raises(ConfigError, match="output_type loglikelihood or multiple_choice"):
        lm.loglikelihood([])
    with pytest.raises(ConfigError, match="output_type generate_until_multi_round"):
        lm.generate_until_multi_round([])


def test_bad_arguments_are_refused_before_a_model_is_loaded(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "load_nano", pytest.fail)
    with pytest.raises(ConfigError, match="Did you mean 'keep'"):
        model.Sttm(pretrained="nano", kepe=0.3)
    with pytest.raises(ConfigError, match="device_map: got 'moon'"):
        model.Sttm(pretrained="nano", device="moon")


def test_cleaning_lets_go_of_the_model(model: Any) -> None:
    lm = model.Sttm(pretrained="nano")
    lm.clean()
    assert lm.cleaned
    assert lm._answerer is None
