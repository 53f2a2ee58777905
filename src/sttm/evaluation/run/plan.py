"""What to run: a task, a method at a budget, and everything else that answers depend on."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttm.errors import ConfigError, unknown_name
from sttm.evaluation.checks import check_count
from sttm.evaluation.machine import fingerprint
from sttm.evaluation.specs import Setting
from sttm.evaluation.tasks import Item, Task
from sttm.video import Sampling

if TYPE_CHECKING:
    from sttm.evaluation.run.answer import EvalRunner

SEED = 42  # as published
PUBLISHED = "published"  # features that are not ours


@dataclass(frozen=True)
class VideoItems:
    """All questions about one video.

    Args:
        video_id: the video.
        items: the questions, in the order of the task.
    """

    video_id: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class EvalPlan:
    """What to run; picklable, so that processes and other machines can share the work.

    Args:
        task: the questions, how they are put and how answers are read.
        setting: the method at a budget.
        sampling: frames to sample; None for the task's own.
        layer: see `sttm.attach`.
        positions: see `sttm.attach`.
        prompt: style of the prompt, of ``task.prompts``.
        parser: how answers are read; None for the task's own.
        max_new_tokens: of an answer; greedy.
        seed: of torch, numpy and Python, set anew for every video.
        reproduce: use only algorithms that give the same bits every time.
        features: folder of extracted features to use in place of videos.
        warm_up: answer the first question of each process twice, and time only the second.

    Raises:
        ConfigError: a style or parser that the task does not have, or a number out of range.
    """

    task: Task
    setting: Setting
    sampling: Sampling | None = None
    layer: int | None = None
    positions: str = "auto"
    prompt: str = "published"
    parser: str | None = None
    max_new_tokens: int = 32
    seed: int = SEED
    reproduce: bool = False
    features: Path | None = None
    warm_up: bool = True

    def __post_init__(self) -> None:
        if self.prompt not in self.task.prompts:
            raise unknown_name("prompt style", self.prompt, self.task.prompts)
        check_count("max_new_tokens", self.max_new_tokens)
        check_count("seed", self.seed, least=0)
        self.task.parse("", Item(self.task.name, "", "", None, "", ("", "")), self.parser)

    @property
    def frames(self) -> Sampling:
        """The sampling in force."""
        return self.task.frames if self.sampling is None else self.sampling

    def choices(self) -> dict[str, Any]:
        """Tell what an answer depends on beside its question and the model, as JSON values."""
        plain = self.setting.method is None
        return {
            "task": self.task.name,
            "task_version": self.task.version,
            "task_definition": digest(self.task.model_dump_json(by_alias=True)),
            "method": self.setting.label,
            "spec": self.setting.spec,
            "keep": self.setting.keep,
            "options": _options(self.setting),
            "layer": None if plain else self.layer,
            "positions": None if plain else self.positions,
            "sampling": asdict(self.frames),
            "prompt": self.prompt,
            "parser": self.parser or self.task.parsing.default,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "reproduce": self.reproduce,
        }

    def identity(self, name: str, model: Any) -> dict[str, Any]:
        """Tell what an answer depends on beside its question; a journal's settings.

        Args:
            name: of the model.
            model: the model; what the plan leaves to it, the layer and the positions, is filled in.

        Raises:
            ConfigError: there are no features in the folder, or they do not fit.
        """
        from sttm.models import adapter_for
        from sttm.models.configuration import ReductionConfig

        adapter = adapter_for(model)
        choices = self.choices()
        if self.setting.method is not None and self.layer is None:
            choices["layer"] = ReductionConfig.of(adapter, self.setting.method).layer
        if choices["positions"] == "auto":
            choices["positions"] = adapter.positions
        return {
            "benchmark": "eval",
            **choices,
            "model": name,
            "weights": fingerprint(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "newline": getattr(adapter, "newline", None),
            "features": self._features(model),
        }

    def _features(self, model: Any) -> str | None:
        if self.features is None:
            return None
        from sttm.evaluation.features import FeatureFolder

        FeatureFolder.open(self.features, model, sampling=self.frames)
        return features_of(self.features)

    def runner(self, model: Any, processor: Any) -> "EvalRunner":
        """Get ready to answer, once per process."""
        from sttm.evaluation.run.answer import EvalRunner

        return EvalRunner(self, model, processor)


def by_video(items: Iterable[Item]) -> list[VideoItems]:
    """Group questions by video, videos in the order in which they first come.

    Raises:
        ConfigError: two questions have one id.
    """
    found: dict[str, list[Item]] = {}
    seen: set[str] = set()
    for item in items:
        if item.question_id in seen:
            raise ConfigError(
                f"{item.task}: got the question id {item.question_id!r} twice, expected each once: "
                "answers are kept by it. Make the ids of the data set unique."
            )
        seen.add(item.question_id)
        found.setdefault(item.video_id, []).append(item)
    return [VideoItems(video_id, tuple(some)) for video_id, some in found.items()]


def _options(setting: Setting) -> dict[str, Any]:
    """Every field of the method, so that a changed default is another setting."""
    method: Any = setting.method
    if method is None:
        return {}
    if not is_dataclass(method):
        raise ConfigError(
            f"method {setting.label!r}: got a {type(method).__name__}, expected a dataclass: its "
            "fields are the settings that answers depend on. Add @dataclass(frozen=True), below "
            "@register."
        )
    # vars() would miss nothing here, but asdict() also opens nested records.
    fields = asdict(method)  # type: ignore[arg-type]
    return {name: list(v) if isinstance(v, tuple) else v for name, v in fields.items()}


def features_of(folder: Path) -> str:
    """Tell which features a folder holds: what they depend on, whatever its name.

    Of a folder as the authors published them only the name tells anything.

    Raises:
        ConfigError: there is no manifest, or it is damaged.
    """
    from sttm.evaluation.features.manifest import MANIFEST, Manifest
    from sttm.evaluation.features.published import is_published

    if is_published(folder) and not (folder / MANIFEST).is_file():
        return "/".join([PUBLISHED, *folder.resolve().parts[-2:]])
    return digest(json.dumps(Manifest.read(folder).settings, sort_keys=True))


def digest(text: str) -> str:
    """Shorten a text to what tells it from others."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
