"""What to run: a task, methods at budgets, and everything else that answers depend on.

The command line makes its options from the fields: importing this loads neither torch nor tasks.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sttm.errors import ConfigError, unknown_name
from sttm.evaluation.checks import check_count

if TYPE_CHECKING:
    from sttm.evaluation.specs import Setting
    from sttm.evaluation.tasks import Item, Task
    from sttm.video import Sampling

PUBLISHED = "published"  # features that are not ours


@dataclass(frozen=True)
class VideoItems:
    """All questions about one video.

    Args:
        video_id: the video.
        items: the questions, in the order of the task.
    """

    video_id: str
    items: "tuple[Item, ...]"


def _option(default: Any, text: str, **more: Any) -> Any:
    """Make a field that is an option of the command line, too."""
    return field(default=default, metadata={"help": text, **more})


@dataclass(frozen=True)
class EvalConfig:
    """What to run; picklable, so that processes and other machines can share the work.

    The fields with a help text are the options of ``sttm eval run`` of the same names.

    Args:
        task: the questions, how they are put and how answers are read.
        settings: methods at budgets; each video is encoded once for all of them.
        sampling: frames to sample; None for the task's own.

    Raises:
        ConfigError: a style or parser that the task does not have, a number out of range, or two
            settings of one name.
    """

    task: "Task"
    settings: "tuple[Setting, ...]"
    sampling: "Sampling | None" = None
    layer: int | None = _option(
        None, "Merge in front of this decoder layer. Default: 2, as published; 0 for nano."
    )
    positions: str = _option("auto", "Position policy, see `sttm models`.")
    prompt: str = _option("published", "published (the paper's) or official (the benchmark's).")
    parser: str | None = _option(
        None,
        "clean, published (quirks included), official or official-alternative. Default: the "
        "task's, which is clean; of a preset published.",
    )
    max_new_tokens: int = _option(32, "Longest answer; greedy.", min=1)
    batch: int = _option(
        1,
        "Questions to answer together on one prefill; more than 1 is faster, without times.",
        min=1,
    )
    features: Path | None = _option(  # noqa: RUF009 - a field of a dataclass
        None, "Features of `sttm extract` in place of videos.", metavar="DIR"
    )
    seed: int = _option(42, "Of torch, numpy and Python, set anew for every video.", min=0)
    reproduce: bool = _option(False, "Only algorithms that repeat every bit, or fail.")
    warm_up: bool = _option(True, "Answer the first question of a process twice, time the second.")

    def __post_init__(self) -> None:
        from sttm.evaluation.tasks import Item

        if self.prompt not in self.task.prompts:
            raise unknown_name("prompt style", self.prompt, self.task.prompts)
        check_count("max_new_tokens", self.max_new_tokens)
        check_count("batch", self.batch)
        check_count("seed", self.seed, least=0)
        self.task.parse("", Item(self.task.name, "", "", None, "", ("", "")), self.parser)
        folders = [folder_name(setting) for setting in self.settings]
        if not folders or len(set(folders)) < len(folders):
            raise ConfigError(
                f"settings: got {', '.join(folders) or 'none'}, expected at least one, and no name "
                "twice. Give specs that differ labels of their own: LABEL=NAME:option=value."
            )

    @property
    def frames(self) -> "Sampling":
        """The sampling in force."""
        return self.task.frames if self.sampling is None else self.sampling

    @property
    def num_frames(self) -> int:
        """Frames of a made scene; of a video at most."""
        return self.task.scenes.frames if self.task.made else self.frames.max_frames

    def choices(self, setting: "Setting") -> dict[str, Any]:
        """Tell what an answer depends on beside its question and the model, as JSON values."""
        plain = setting.method is None
        return {
            "task": self.task.name,
            "task_version": self.task.version,
            "task_definition": digest(self.task.model_dump_json(by_alias=True)),
            "method": setting.label,
            "spec": setting.spec,
            "keep": setting.keep,
            "options": _options(setting),
            "layer": None if plain else self.layer,
            "positions": None if plain else self.positions,
            "sampling": asdict(self.frames),
            "prompt": self.prompt,
            "parser": self.parser or self.task.parsing.default,
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
            "reproduce": self.reproduce,
            # Batched products round otherwise; without them the settings are as they ever were.
            **({"batch": self.batch} if self.batch > 1 else {}),
        }

    def identities(self, name: str, model: Any) -> dict[str, dict[str, Any]]:
        """Tell what an answer depends on beside its question; the settings of each result log.

        Args:
            name: of the model.
            model: the model; what the plan leaves to it, the layer and the positions, is filled in.

        Returns:
            JSON values by the name of the setting.

        Raises:
            ConfigError: there are no features in the folder, or they do not fit.
        """
        from sttm.evaluation.environment import fingerprint
        from sttm.models import adapter_for
        from sttm.models.configuration import ReductionConfig

        adapter = adapter_for(model)
        of_model = {
            "model": name,
            "weights": fingerprint(model),
            "dtype": str(model.dtype).removeprefix("torch."),
            "newline": getattr(adapter, "newline", None),
            "features": self._features(model),
        }
        found = {}
        for setting in self.settings:
            choices = self.choices(setting)
            if setting.method is not None and self.layer is None:
                choices["layer"] = ReductionConfig.of(adapter, setting.method).layer
            if choices["positions"] == "auto":
                choices["positions"] = adapter.positions
            found[str(setting)] = {"benchmark": "eval", **choices, **of_model}
        return found

    def _features(self, model: Any) -> str | None:
        if self.features is None:
            return None
        from sttm.evaluation.features import FeatureFolder

        FeatureFolder.open(self.features, model, sampling=self.frames)
        return features_of(self.features)


def folder_name(setting: "Setting") -> str:
    """Name the folder of a setting's answers, e.g. ``sttm-0.3``."""
    return re.sub(r"[^\w.+-]+", "-", str(setting))


def by_video(items: "Iterable[Item]") -> list[VideoItems]:
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


def _options(setting: "Setting") -> dict[str, Any]:
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
