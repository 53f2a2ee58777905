import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

import sttm
from sttm.chat import VideoChat
from sttm.errors import ConfigError
from sttm.evaluation.compare import (
    Agreement,
    Measured,
    ModelAnswer,
    Question,
    Row,
    VideoComparison,
    compare_video,
    default_questions,
    draw_comparison,
    read_questions,
    recommend,
    summarize,
)
from sttm.evaluation.compare.measure import agreement
from sttm.evaluation.compare.store import ComparisonFile
from sttm.evaluation.specs import Setting, make_settings
from sttm.methods import Method, Signal, VideoFeatures
from sttm.ops.reconstruction import coverage, rebuild, reconstruction_error
from tests.chat.tiny import FAMILIES, bundle, clip

QUESTIONS = [Question("what", "What is it?"), Question("when", "When was that, say?")]


@dataclass(frozen=True)
class Watching(Method):
    """Keeps all tokens, and remembers what it saw."""

    name: ClassVar[str] = "watching"
    requires: ClassVar[frozenset[Signal]] = frozenset({"tower_attention"})
    seen: list[VideoFeatures] = field(default_factory=list)

    def plan(self, video: VideoFeatures) -> sttm.MergePlan:
        video.attention("tower_attention")
        self.seen.append(video)
        return sttm.MergePlan.identity(video.grid.num_tokens)


def compared(family: str, settings: Sequence[Setting], **options: Any) -> VideoComparison:
    tiny = bundle(family)
    given: dict[str, Any] = {"layer": 1, "max_new_tokens": 5, "max_frames": 8, **options}
    return compare_video(tiny.model, tiny.processor, clip(), settings, QUESTIONS, **given)


def test_the_divergence_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    whole, reduced = torch.randn(2, 4, 7, generator=generator).unbind()
    whole[0, 3] = -math.inf
    divergence, equal = 0.0, 0
    for one, other in zip(whole.tolist(), reduced.tolist(), strict=True):
        p, q = ([math.exp(v) for v in row] for row in (one, other))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        divergence += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0) / 4
        equal += one.index(max(one)) == other.index(max(other))
    found = agreement(whole, reduced)
    assert found.kl == pytest.approx(divergence, rel=1e-6)
    assert found.equal == equal / 4
    assert agreement(whole, whole) == Agreement(0.0, 1.0)


@pytest.mark.parametrize("family", FAMILIES)
def test_keeping_all_tokens_changes_nothing(family: str) -> None:
    (setting,) = make_settings(["sttm"], [10**6])
    whole, same = compared(family, [setting]).settings
    assert (whole.method, same.method) == ("all", "sttm")
    assert same.tokens_out == whole.tokens_out
    assert same.error == pytest.approx(0.0, abs=1e-6)
    assert same.coverage == 1.0
    for each in (*whole.agreement, *same.agreement):
        assert each.kl == pytest.approx(0.0, abs=1e-6)
        assert each.equal == 1.0


@pytest.mark.parametrize("family", ["llava_onevision", "qwen2_5_vl", "internvl"])
def test_error_and_coverage_are_of_the_input_of_the_layer(family: str) -> None:
    tiny = bundle(family)
    method = sttm.get_method("tome", keep=0.4)
    found = compared(family, [Setting("tome", 0.4, method, "tome")]).settings[1]
    watching = Blind()
    VideoChat(tiny.model, tiny.processor, watching, layer=1).watch(clip(), max_frames=8)
    x = torch.cat([video.x for video in watching.seen])
    rebuilt = torch.cat([rebuild(video.x, method.plan(video)) for video in watching.seen])
    assert found.layer == 1
    assert found.error == pytest.approx(reconstruction_error(x, rebuilt), rel=1e-5)
    assert found.coverage == coverage(x, rebuilt)


@dataclass(frozen=True)
class Blind(Watching):
    requires: ClassVar[frozenset[Signal]] = frozenset()

    def plan(self, video: VideoFeatures) -> sttm.MergePlan:
        self.seen.append(video)
        return sttm.MergePlan.identity(video.grid.num_tokens)


def test_answers_and_agreement_are_those_of_a_chat() -> None:
    tiny = bundle("llava_onevision")
    (setting,) = make_settings(["random"], [0.3])
    found = compared("llava_onevision", [setting])
    plain = VideoChat(tiny.model, tiny.processor).watch(clip(), max_frames=8)
    reduced = VideoChat(tiny.model, tiny.processor, setting.method, layer=1)
    video = reduced.watch(clip(), max_frames=8)
    assert (found.frames, found.tokens_in) == (8, plain.tokens_in)
    assert found.settings[1].tokens_out == video.tokens_out
    for question, answer, each in zip(
        QUESTIONS, found.answers, found.settings[1].agreement, strict=True
    ):
        asked = plain.ask(question.text, max_new_tokens=5)
        wanted = ModelAnswer(question.kind, question.text, asked.text, len(asked.ids))
        assert answer == wanted
        logits = [v.answer_logits(question.text, asked.ids) for v in (plain, video)]
        assert each == agreement(*logits)
        assert each.kl > 0


def test_one_encoding_and_one_unreduced_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, Any]] = []
    for name in ("encode", "prefill"):
        before = getattr(VideoChat, name)

        def counted(self: Any, *args: Any, _: Any = (name, before), **kwargs: Any) -> Any:
            calls.append((_[0], self.method and self.method.name))
            return _[1](self, *args, **kwargs)

        monkeypatch.setattr(VideoChat, name, counted)
    tiny = bundle("llava_onevision")
    hooks = (
        len(tiny.model._forward_hooks),
        len(tiny.model.model.language_model.layers[0]._forward_pre_hooks),
    )
    watching = Watching()
    settings = [
        *make_settings(["sttm"], [1.0, 0.5, 10]),
        Setting("watching", None, watching, "watching"),
    ]
    found = compared("llava_onevision", settings)
    assert calls == [
        ("encode", "watching"),  # which reads the tower's attention
        ("prefill", "random"),  # warms up
        ("prefill", None),
        ("prefill", "sttm"),
        ("prefill", "sttm"),
        ("prefill", "watching"),
    ]
    assert [(m.method, m.keep) for m in found.settings] == [s.key for s in settings]
    after = (
        len(tiny.model._forward_hooks),
        len(tiny.model.model.language_model.layers[0]._forward_pre_hooks),
    )
    assert hooks == after


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match=r"got fastv 0.5, whose plan depends on the question"):
        compared("llava_onevision", make_settings(["fastv"], [0.5]))
    with pytest.raises(ConfigError, match="no budget below 1"):
        compared("llava_onevision", make_settings(["sttm"], [1.0]))
    with pytest.raises(ConfigError, match=r"^sttm per_head 7 0.5: per_head: got 7 heads"):
        compared("llava_onevision", make_settings(["sttm:per_head=7"], [0.5]))
    tiny = bundle("llava_onevision")
    with pytest.raises(ConfigError, match="questions: got none"):
        compare_video(tiny.model, tiny.processor, clip(), make_settings(["sttm"], [0.5]), [])


def test_a_budget_out_of_reach_is_left_out_of_the_means() -> None:
    settings = make_settings(["sttm:spatial_threshold=none"], [0.5, 1])
    found = compared("llava_onevision", settings)
    rows = summarize([found])
    assert found.settings[2].tokens_out is None
    assert [row.videos for row in rows] == [1, 1, 0]
    assert math.isnan(rows[2].error)
    assert recommend(rows).keep == 0.5


def row(method: str, keep: float, *kl: float, tokens: float | None = None) -> Row:
    kinds = {name: Agreement(value, 1.0) for name, value in zip(("what", "when"), kl, strict=False)}
    mean = Agreement(sum(kl) / len(kl), 1.0)
    count = 1000 * keep if tokens is None else tokens
    return Row(method, keep, 2, 3, keep, count, 0.1, 0.9, 0.01, keep, mean, kinds)


WHOLE = row("all", 1.0, 0.0, 0.0)


def test_the_smallest_budget_that_loses_nothing_is_recommended() -> None:
    rows = [
        WHOLE,
        row("sttm", 0.5, 0.0, 0.0),
        row("sttm", 0.3, 0.009, 0.001),
        row("sttm", 0.1, 0.005, 0.4),
        row("random", 0.3, 0.2, 0.009),
    ]
    found = recommend(rows)
    assert (found.method, found.keep, found.loss) == ("sttm", 0.3, "nothing")
    assert found.text == (
        "sttm at 30 % loses nothing measurable (KL 0.005, 100.0 % of tokens equal); the first "
        "token comes after 30% of the time that all tokens take.",
        "At 10 % 'when' suffers first (KL 0.400, 100.0 % of tokens equal).",
    )


def test_what_does_not_hold_at_a_larger_budget_is_chance() -> None:
    rows = [WHOLE, row("sttm", 0.5, 0.0, 0.0), row("sttm", 0.3, 0.2, 0.0), row("sttm", 0.1, 0, 0)]
    assert recommend(rows).keep == 0.5
    assert recommend([*rows[:2], rows[3]]).keep == 0.1


def test_random_tokens_that_do_as_well_are_told_and_never_recommended() -> None:
    rows = [WHOLE, row("sttm", 0.3, 0.0, 0.0), row("random", 0.1, 0.0, 0.0)]
    found = recommend(rows)
    assert found.method == "sttm"
    assert not any("Random" in text for text in recommend(rows[:2]).text)
    assert found.text[-1].startswith("Random tokens do as well there")


def test_other_recommendations() -> None:
    little = recommend([WHOLE, row("sttm", 0.3, 0.0, 0.09), row("evs", 0.3, 0.0, 0.08)])
    assert (little.method, little.loss) == ("evs", "little")
    much = recommend([WHOLE, row("sttm", 0.5, 0.0, 0.2), row("sttm", 0.3, 2.0, 0.3)])
    assert (much.keep, much.loss) == (0.5, "more")
    unequal = row("sttm", 0.3, 0.0, 0.0)
    one = {**unequal.kinds, "when": Agreement(0.0, 0.95)}
    assert recommend([WHOLE, replace(unequal, kinds=one)]).loss == "little"
    none = recommend([WHOLE, replace(unequal, videos=2)])
    assert none.method is None


def test_means_are_over_videos_and_questions() -> None:
    def video(tokens: int, kl: float) -> VideoComparison:
        answers = tuple(ModelAnswer(kind, "?", "!", 2) for kind in ("what", "when", "when"))
        some = tuple(Agreement(kl * factor, 1.0) for factor in (1, 2, 3))
        whole = Measured("all", 1.0, None, 100, 0.0, 1.0, 0.0, 1.0, (Agreement(0.0, 1.0),) * 3)
        return VideoComparison(
            4,
            100,
            0.1,
            answers,
            (whole, replace(whole, method="m", tokens_out=tokens, agreement=some)),
        )

    _, found = summarize([video(20, 1.0), video(40, 3.0)])
    assert found.retention == pytest.approx(0.3)
    assert (found.tokens_out, found.videos) == (30, 2)
    assert found.agreement.kl == pytest.approx(4.0)
    assert found.kinds["what"].kl == 2.0
    assert found.kinds["when"].kl == 5.0
    assert found.weakest == "when"


def test_questions_are_read(tmp_path: Path) -> None:
    file = tmp_path / "questions.txt"
    file.write_text("# note\n\nwhen: At what time: exactly?\n what :Who?\n", encoding="utf-8")
    assert read_questions(file) == [
        Question("when", "At what time: exactly?"),
        Question("what", "Who?"),
    ]
    for text, told in (
        ("Who?\n", "got 'Who[?]' in line 1"),
        ("what: Who?\nwhat: Who?\n", "in line 2"),
        ("# nothing\n", "without a question"),
    ):
        file.write_text(text, encoding="utf-8")
        with pytest.raises(ConfigError, match=told):
            read_questions(file)
    file.write_bytes(b"what: \xff?\n")
    with pytest.raises(ConfigError, match="not in UTF-8"):
        read_questions(file)


@pytest.mark.parametrize("nano", [False, True])
def test_the_packaged_questions_ask_for_five_kinds(nano: bool) -> None:
    kinds = {question.kind for question in default_questions(nano=nano)}
    assert kinds == {"what", "where", "when", "how many", "read the text"}


def test_a_file_of_the_same_settings_goes_on(tmp_path: Path) -> None:
    path, video = (
        tmp_path / "compare.json",
        compared("llava_onevision", make_settings(["sttm"], [9])),
    )
    ComparisonFile(path, {"layer": 1}, {"commit": "a"}).add("a.mp4", video)
    again = ComparisonFile(path, {"layer": 1}, {"commit": "b"})
    assert again.videos == {"a.mp4": video}
    with pytest.raises(ConfigError, match="a comparison with another layer"):
        ComparisonFile(path, {"layer": 2}, {})
    path.write_text("{}")
    with pytest.raises(ConfigError, match="no comparison that can be read"):
        ComparisonFile(path, {"layer": 1}, {})


def test_the_picture(tmp_path: Path) -> None:
    for rows in ([WHOLE, row("sttm", 0.3, 0.0, 0.2), row("sttm", 0.1, 0.3, 0.2)], [WHOLE]):
        draw_comparison(rows, tmp_path / "compare.png")
        assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
