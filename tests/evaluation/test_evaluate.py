import pickle
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from sttm.chat import VideoChat
from sttm.chat.records import Encoded
from sttm.errors import BudgetError, ConfigError, WriteError
from sttm.evaluation.config import EvalConfig, VideoItems, by_video, features_of
from sttm.evaluation.evaluate import Job, answer_video
from sttm.evaluation.evaluator import Evaluator
from sttm.evaluation.features.manifest import MANIFEST, StoredVideo
from sttm.evaluation.record import EMPTY, OUT_OF_REACH, AnswerRecord, TimedAnswer
from sttm.evaluation.result_log import ResultLog
from sttm.evaluation.specs import ALL_TOKENS, Setting, make_settings
from sttm.evaluation.tasks import get_task
from sttm.nano.clips import make_clip, write_clip
from sttm.video import VideoWarning
from tests.cli.marks import needs_nano
from tests.video.video_clips import numbered

from .small import items, nano, needle_config

pytestmark = needs_nano


def answers(plan: EvalConfig, known: frozenset[str] = frozenset()) -> list[AnswerRecord]:
    return asked(Evaluator(plan, *nano()), by_video(plan.task.items(None)), known)


def asked(
    evaluator: Evaluator, videos: Sequence[VideoItems], known: frozenset[str] = frozenset()
) -> list[AnswerRecord]:
    names = [str(setting) for setting in evaluator.config.settings]
    jobs = [Job(video, dict.fromkeys(names, known)) for video in videos]
    return [answer for job in jobs for answer in answer_video(evaluator, job)]


def texts(found: Sequence[AnswerRecord]) -> dict[str, str | None]:
    return {answer.question_id: answer.text for answer in found}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often videos were encoded and prefilled."""
    calls = {"encode": 0, "prefill": 0}
    for name in calls:
        original = getattr(VideoChat, name)

        def count(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            calls[_name] += 1
            return _original(*args, **kwargs)

        monkeypatch.setattr(VideoChat, name, count)
    return calls


def test_one_prefill_serves_all_questions_of_a_video(counted: dict[str, int]) -> None:
    plan = needle_config(warm_up=False)
    found = answers(plan)
    assert counted == {"encode": 2, "prefill": 2}
    assert len(found) == len(plan.task.items(None)) > 4
    seen: set[str] = set()
    for each in found:
        assert each.times is not None
        assert each.times.prefill == ("shared" if each.video_id in seen else "first")
        if each.video_id in seen:
            assert each.times.paid_s < each.times.seconds
        else:
            assert each.times.paid_s == pytest.approx(each.times.seconds, abs=1e-5)
        assert 0 < each.times.ttft_s < each.times.answer_s
        assert (each.tokens_in, each.tokens_out, each.error) == (256, 128, None)
        seen.add(each.video_id)


def test_answers_are_those_of_a_chat(counted: dict[str, int]) -> None:
    plan = needle_config()
    found = texts(answers(plan))
    assert counted["prefill"] == 3  # one to warm up
    chat = VideoChat(*nano(), plan.settings[0].method, layer=0)
    for video in by_video(plan.task.items(None)):
        frames = plan.task.video(video.items[0])
        watched = chat.watch(frames)
        for item in video.items:
            assert found[item.question_id] == watched.ask(item.question, max_new_tokens=4).text


def test_what_is_known_is_not_asked_and_the_rest_stays_the_same() -> None:
    plan = needle_config(warm_up=False)
    whole = answers(plan)
    known = frozenset(answer.question_id for answer in whole[:3])
    rest = answers(plan, known)
    assert texts(rest) == texts(whole[3:])
    assert rest[0].times is not None
    assert rest[0].times.prefill == "first"


def test_a_query_aware_method_prefills_for_every_question(counted: dict[str, int]) -> None:
    plan = needle_config("fastv", warm_up=False)
    found = answers(replace(plan, layer=1))
    assert counted == {"encode": 2, "prefill": 0}
    assert {answer.times.prefill for answer in found if answer.times} == {"own"}
    assert all(answer.tokens_out == 128 for answer in found)


def test_a_folder_without_features_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder without features"):
        Evaluator(needle_config(features=tmp_path), *nano())


def custom(*videos: Path | None) -> list[VideoItems]:
    made = items("custom", [str(i) for i in range(len(videos))], 2, [{}])
    return by_video(replace(item, video=videos[int(item.video_id)]) for item in made)


def test_bad_videos_become_errors_and_others_answers(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    write_clip(make_clip(50_000_000, 4), clip)
    damaged = tmp_path / "damaged.mp4"
    damaged.write_bytes(b"no video at all" * 100)
    plan = replace(needle_config(), task=get_task("custom"))
    runner = Evaluator(plan, *nano())
    videos = custom(None, tmp_path / "none.mp4", damaged, clip)
    found = asked(runner, videos)
    assert [answer.error for answer in found] == [
        *["missing video"] * 4,
        *["unreadable video"] * 2,
        None,
        None,
    ]
    assert all(answer.right is None and answer.message for answer in found[:6])
    assert "damaged.mp4" in str(found[4].message)
    assert found[7].text is not None


def test_what_is_wrong_with_a_video_stands_at_its_answers(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    whole, cut = numbered(tmp_path / "whole.mkv", 90), tmp_path / "cut.mkv"
    content = whole.read_bytes()
    cut.write_bytes(content[: 2 * len(content) // 3])
    plan = replace(needle_config(), task=get_task("custom"))
    runner = Evaluator(plan, *nano())
    found = asked(runner, custom(whole, cut))
    assert [answer.error for answer in found] == [None] * 4
    assert [bool(answer.warnings) for answer in found] == [False, False, True, True]
    assert not [one for one in recwarn if one.category is VideoWarning]


class Odd(Evaluator):
    """Answers nothing, or fails."""

    error: BaseException | None = None

    def answers(
        self, encoded: Encoded, setting: Setting, questions: Sequence[str]
    ) -> Iterator[TimedAnswer]:
        first, *_ = super().answers(encoded, setting, questions[:1])
        yield replace(first, text="  ")
        if self.error is not None:
            raise self.error
        for _ in questions[1:]:
            yield replace(first, text="")


@pytest.mark.parametrize(("parser", "right"), [("clean", None), ("published", False)])
def test_an_empty_answer_is_an_error_that_the_parser_may_score(
    parser: str, right: bool | None
) -> None:
    plan = needle_config(parser=parser)
    video = by_video(plan.task.items(None))[0]
    found = asked(Odd(plan, *nano()), [video])
    assert len(found) == len(video.items)
    assert {(a.error, a.parsed, a.right) for a in found} == {(EMPTY, None, right)}
    # The model was asked: what it cost stays.
    assert all(a.times is not None and a.tokens_out == 128 for a in found)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BudgetError("keep: too few"), "budget out of reach"),
        (ConfigError("grid: odd"), "refused"),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory"),
    ],
)
def test_trouble_in_the_middle_of_a_video_keeps_what_was_answered(
    error: BaseException, kind: str
) -> None:
    plan = needle_config()
    runner = Odd(plan, *nano())
    runner.error = error
    video = by_video(plan.task.items(None))[0]
    found = asked(runner, [video])
    assert [answer.question_id for answer in found] == [i.question_id for i in video.items]
    assert [answer.error for answer in found] == [EMPTY, *[kind] * (len(video.items) - 1)]


def test_a_full_disk_is_no_fault_of_the_video() -> None:
    plan = needle_config()
    runner = Odd(plan, *nano())
    runner.error = WriteError("videos.zip: cannot be written (No space left on device).")
    video = by_video(plan.task.items(None))[0]
    answers = answer_video(runner, Job(video, {}))
    assert next(answers).text is not None
    with pytest.raises(WriteError, match="No space left"):
        next(answers)


@pytest.mark.parametrize(
    "error", [ZeroDivisionError("a bug"), ValueError("two\n lines"), OSError()]
)
def test_what_a_model_raises_is_that_video_s_error(error: Exception) -> None:
    plan = needle_config()
    runner = Odd(plan, *nano())
    runner.error = error
    video = by_video(plan.task.items(None))[0]
    found = asked(runner, [video])
    assert len(found) == len(video.items)
    assert {answer.error for answer in found[1:]} == {"failed"}
    message = " ".join(f"{video.video_id}: {type(error).__name__}: {error}".split()).rstrip(": ")
    assert found[-1].message == message


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(1)])
def test_what_is_no_fault_of_the_video_is_not_hidden(error: BaseException) -> None:
    plan = needle_config()
    runner = Odd(plan, *nano())
    runner.error = error
    with pytest.raises(type(error)):
        asked(runner, by_video(plan.task.items(None))[:1])


def test_a_plan_travels() -> None:
    plan = needle_config()
    copy = pickle.loads(pickle.dumps(plan))
    assert copy == plan
    model = nano()[0]
    assert copy.identities("nano", model) == plan.identities("nano", model)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"prompt": "offical"}, "prompt style"),
        ({"parser": "strict"}, "parser"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"seed": -1}, "seed"),
    ],
)
def test_bad_plans(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        needle_config(**changes)


def identity(config: EvalConfig) -> dict[str, Any]:
    (found,) = config.identities("nano", nano()[0]).values()
    return found


def test_every_setting_is_in_the_identity() -> None:
    plan = needle_config()
    base = identity(plan)
    changes: list[dict[str, Any]] = [
        {"layer": 1},
        {"positions": "survived"},
        {"parser": "published"},
        {"max_new_tokens": 5},
        {"seed": 1},
        {"batch": 2},
        {"reproduce": True},
        {"settings": needle_config(keep=0.3).settings},
        {"settings": needle_config("sttm:root_level=0").settings},
        {"task": get_task("needle")},
        {"sampling": replace(plan.frames, max_frames=3)},
    ]
    for change in changes:
        assert identity(replace(plan, **change)) != base, change


def test_what_is_left_to_the_model_is_in_the_identity() -> None:
    left = identity(needle_config(layer=None))
    assert (left["layer"], left["positions"]) == (2, "reassigned")
    assert left == identity(needle_config(layer=2, positions="reassigned"))
    assert left["newline"] == "one_token"
    full = identity(replace(needle_config(), settings=(ALL_TOKENS,)))
    assert (full["layer"], full["positions"]) == (None, None)


def test_features_are_known_by_what_they_depend_on(tmp_path: Path) -> None:
    found = []
    for name, dtype in (("one", "float32"), ("copy", "float32"), ("other", "bfloat16")):
        settings = {"model_type": "x", "dtype": dtype, "weights": "y", "tower_attention": False}
        settings |= {"rule": "llava", "fps": 1.0, "max_frames": 8}
        (tmp_path / name).mkdir()
        with ResultLog(tmp_path / name / MANIFEST, settings, {"host": name}, StoredVideo):
            pass
        found.append(features_of(tmp_path / name))
    assert found[0] == found[1] != found[2]
    theirs = tmp_path / "videomme" / "llava-video-7b" / "F-128_fps-1"
    for part in ("features", "metadata"):
        (theirs / part).mkdir(parents=True)
    assert features_of(theirs) == "published/llava-video-7b/F-128_fps-1"


def test_reproduce_uses_only_algorithms_that_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "x")
    try:
        Evaluator(needle_config(reproduce=True), *nano())
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_two_questions_of_one_id_are_refused() -> None:
    one = items("custom", ["a"], 1, [{}])
    with pytest.raises(ConfigError, match="'a-0' twice"):
        by_video([*one, *one])


MANY = tuple(make_settings(["sttm", "random"], [1.0, 0.5, 0.3]))


def test_one_encoding_serves_every_setting(counted: dict[str, int]) -> None:
    config = replace(needle_config(warm_up=False), settings=MANY)
    found = answers(config)
    assert counted == {"encode": 2, "prefill": 2 * len(MANY)}
    for setting in MANY:
        here = [answer for answer in found if answer.setting == str(setting)]
        assert texts(here) == texts(answers(replace(config, settings=(setting,))))
        waited = [a for a in here if a.times and a.times.prefill == "first"]
        assert len(waited) == 2
        for each in waited:
            assert each.times is not None
            alone = setting == MANY[0]
            assert (each.times.paid_s > each.times.video_s) is alone or not alone
    # The video is waited for once.
    paid = sum(answer.times.paid_s for answer in found if answer.times)
    seconds = sum(answer.times.seconds for answer in found if answer.times)
    assert paid < seconds / 2


def test_batches_give_the_same_answers() -> None:
    config = replace(needle_config(warm_up=False), settings=MANY[:2])
    together = answers(replace(config, batch=5))
    key = [(a.setting, a.question_id, a.text, a.tokens_out) for a in answers(config)]
    assert [(a.setting, a.question_id, a.text, a.tokens_out) for a in together] == key
    assert {(answer.times, answer.new_tokens) for answer in together} == {(None, None)}


def test_a_budget_out_of_reach_is_a_result_of_its_setting_alone() -> None:
    flat, merged = make_settings(["sttm:spatial_threshold=none", "random"], [1])
    found = answers(replace(needle_config(warm_up=False), settings=(flat, merged)))
    errors = {(answer.setting, answer.error) for answer in found}
    assert errors == {(str(flat), OUT_OF_REACH), (str(merged), None)}
    assert all(answer.settled for answer in found)


def test_settings_of_one_name_are_refused() -> None:
    one = needle_config().settings
    with pytest.raises(ConfigError, match="no name twice"):
        replace(needle_config(), settings=one + one)
    with pytest.raises(ConfigError, match="at least one"):
        replace(needle_config(), settings=())
