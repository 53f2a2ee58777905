"""Questions about generated scenes, answered with many methods and budgets on the same clips."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from typing import Any

from sttm.errors import ConfigError, SttmError, WriteError
from sttm.evaluation.checks import MOST_SAMPLES, check_count
from sttm.evaluation.journal import AnswerKey, AnswerRecord
from sttm.evaluation.machine import fingerprint
from sttm.evaluation.parallel import Loader, Worker, work
from sttm.evaluation.runner import Runner
from sttm.evaluation.specs import Setting, check_frames
from sttm.evaluation.trouble import naming
from sttm.nano.questions import SCENE_TASKS, Question, scene_questions
from sttm.nano.scenes import FIRST_SEED, SCENE_KINDS, make_scene

TASKS: tuple[str, ...] = SCENE_TASKS
KINDS: tuple[str, ...] = SCENE_KINDS


@dataclass(frozen=True)
class ClipId:
    """What a clip is made from."""

    frames: int
    kind: str
    seed: int

    def __str__(self) -> str:
        return f"clip {self.seed} ({self.kind}, {self.frames} frames)"

    def questions(self) -> tuple[Any, list[Question]]:
        """Make the clip and its questions."""
        clip = make_scene(self.seed, self.frames, kind=self.kind)
        return clip, scene_questions(clip, self.seed)


@dataclass(frozen=True)
class NeedlePlan:
    """What to run.

    Args:
        settings: what to compare.
        frames: lengths of clips.
        samples: clips of each length; dealt to the kinds in turn.
        kinds: of scenes.
        seed: offset from `sttm.nano.scenes.FIRST_SEED`.
        layer: see `sttm.attach`.
        positions: see `sttm.attach`.
        max_new_tokens: of an answer.

    Raises:
        ConfigError: an unknown kind, or a number out of range.
    """

    settings: tuple[Setting, ...]
    frames: tuple[int, ...]
    samples: int
    kinds: tuple[str, ...] = KINDS
    seed: int = 0
    layer: int | None = None
    positions: str = "auto"
    max_new_tokens: int = 6

    def __post_init__(self) -> None:
        unknown = [kind for kind in self.kinds if kind not in KINDS]
        if unknown or not self.kinds or len(set(self.kinds)) < len(self.kinds):
            raise ConfigError(
                f"kinds: got {', '.join(self.kinds) or 'none'}, expected different ones of "
                f"{', '.join(KINDS)}."
            )
        check_count("samples", self.samples, most=MOST_SAMPLES)
        check_count("seed", self.seed, least=0)
        check_count("max_new_tokens", self.max_new_tokens)
        check_frames(self.frames)

    def clips(self) -> list[ClipId]:
        """List the clips, the shortest first."""
        return [
            ClipId(frames, self.kinds[i % len(self.kinds)], FIRST_SEED + self.seed + i)
            for frames in sorted(self.frames)
            for i in range(self.samples)
        ]

    def identity(self, name: str, model: Any) -> dict[str, Any]:
        """Tell what answers depend on beside method, budget and clip; a journal's settings."""
        return {
            "benchmark": "needle",
            "model": name,
            "weights": fingerprint(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "layer": self.layer,
            "positions": self.positions,
            "max_new_tokens": self.max_new_tokens,
        }

    def runner(self, model: Any, processor: Any) -> Runner:
        """Get ready to answer."""
        return Runner(
            model,
            processor,
            self.settings,
            layer=self.layer,
            positions=self.positions,
            max_new_tokens=self.max_new_tokens,
        )


def is_right(answer: str, expected: str) -> bool:
    """Whether an answer is the expected one; case and a full stop do not matter."""
    return answer.strip().rstrip(".").casefold() == expected.casefold()


def answer_clip(
    runner: Runner,
    settings: Sequence[Setting],
    clip_id: ClipId,
    known: Mapping[AnswerKey, AnswerRecord],
) -> Iterator[list[AnswerRecord]]:
    """Answer what is not known yet about one clip.

    Args:
        runner: has the model.
        settings: what to compare.
        clip_id: the clip.
        known: answers that are there.

    Yields:
        the new answers, setting by setting; an empty list where none was missing.

    Raises:
        SttmError: something went wrong with the clip.
    """
    clip, questions = clip_id.questions()
    encoded = None
    for setting in settings:
        todo = [here for here in _places(clip_id, setting, questions) if here.key not in known]
        if todo and encoded is None:
            encoded = runner.encode(clip.frames, fps=clip.fps, max_frames=clip_id.frames)
        if not todo or encoded is None:
            yield []
            continue
        outcome = runner.run(encoded, setting, [here.question.text for here in todo])
        yield [
            here.record(text, outcome.tokens_in, outcome.tokens_out)
            for here, text in zip(todo, outcome.texts, strict=True)
        ]


@dataclass(frozen=True)
class _Place:
    """Where an answer goes."""

    clip: ClipId
    setting: Setting
    index: int
    question: Question

    @property
    def key(self) -> AnswerKey:
        clip, setting = self.clip, self.setting
        return clip.frames, clip.kind, clip.seed, setting.label, setting.keep, self.index

    def record(self, answer: str | None, tokens_in: int, tokens_out: float | None) -> AnswerRecord:
        clip, setting, question = self.clip, self.setting, self.question
        return AnswerRecord(
            frames=clip.frames,
            kind=clip.kind,
            seed=clip.seed,
            index=self.index,
            method=setting.label,
            keep=setting.keep,
            spec=setting.spec,
            task=question.task,
            question=question.text,
            expected=question.answer,
            answer=answer,
            right=None if answer is None else is_right(answer, question.answer),
            tokens_in=tokens_in,
            tokens_out=tokens_out,
        )

    def check(self, found: AnswerRecord) -> None:
        """Refuse an answer to something else under the same key."""
        wanted = self.setting.spec, self.question.text, self.question.answer
        if (found.spec, found.question, found.expected) != wanted:
            raise ConfigError(
                f"answers: got one to {found.question!r} ({found.expected}) with {found.spec!r} "
                f"for clip {self.clip.seed}, expected {wanted[1]!r} ({wanted[2]}) with "
                f"{wanted[0]!r}: another method has this label, or the scenes have changed. Choose "
                "another --out, or another label."
            )


def _places(clip: ClipId, setting: Setting, questions: Sequence[Question]) -> Iterator[_Place]:
    for index, question in enumerate(questions):
        yield _Place(clip, setting, index, question)


def check_known(
    settings: Sequence[Setting], clip: ClipId, known: Mapping[AnswerKey, AnswerRecord]
) -> None:
    """Refuse answers to something else under the keys of a clip.

    Raises:
        ConfigError: known answers are of other questions or another method.
    """
    questions = clip.questions()[1] if known else []
    for setting in settings:
        for here in _places(clip, setting, questions):
            if here.key in known:
                here.check(known[here.key])


def known_by_clip(
    known: Mapping[AnswerKey, AnswerRecord],
) -> dict[ClipId, dict[AnswerKey, AnswerRecord]]:
    """Group answers by clip, so that a worker is sent only those that concern it."""

    def clip_of(item: tuple[AnswerKey, AnswerRecord]) -> tuple[int, str, int]:
        return item[0][:3]

    grouped = groupby(sorted(known.items(), key=clip_of), clip_of)
    return {ClipId(*key): dict(items) for key, items in grouped}


@dataclass(frozen=True)
class _Job:
    """One clip, and the answers about it that are there."""

    clip: ClipId
    known: dict[AnswerKey, AnswerRecord]


@dataclass(frozen=True)
class ClipFailure:
    """A clip that something went wrong with.

    Args:
        clip: the clip.
        error: what went wrong.
        left: settings that were not answered.
    """

    clip: ClipId
    error: SttmError
    left: int


def run(
    plan: NeedlePlan,
    load: Loader,
    known: Mapping[AnswerKey, AnswerRecord],
    *,
    processes: int = 1,
    skip: Callable[[ClipFailure], None] | None = None,
) -> Iterator[list[AnswerRecord]]:
    """Answer everything that is not known yet.

    Args:
        plan: what to run.
        load: gives the model and its processor; called once per process, so it must be picklable.
        known: answers that are there.
        processes: with more than one, clips are spread over them.
        skip: told about each clip that something went wrong with; None to stop at the first.

    Yields:
        for every clip and setting the new answers; an empty list where there were none.

    Raises:
        SttmError: what went wrong with a clip, or a worker that ended by itself.
    """
    by_clip = known_by_clip(known)
    jobs = [_Job(clip, by_clip.get(clip, {})) for clip in plan.clips()]
    for found in work(partial(_ready, plan, load), jobs, processes=processes):
        if isinstance(found, list):
            yield found
            continue
        if skip is None:
            raise found.error
        skip(found)
        yield from ([] for _ in range(found.left))


def _ready(plan: NeedlePlan, load: Loader) -> Worker[_Job, list[AnswerRecord] | ClipFailure]:
    runner = plan.runner(*load())
    return partial(_attempt, runner, plan.settings)


def _attempt(
    runner: Runner, settings: Sequence[Setting], job: _Job
) -> Iterator[list[AnswerRecord] | ClipFailure]:
    """Answer about a clip; what goes wrong with it comes last."""
    check_known(settings, job.clip, job.known)
    left = len(settings)
    try:
        with naming(str(job.clip)):
            for answers in answer_clip(runner, settings, job.clip, job.known):
                left -= 1
                yield answers
    except WriteError:
        raise
    except SttmError as error:
        yield ClipFailure(job.clip, error, left)
