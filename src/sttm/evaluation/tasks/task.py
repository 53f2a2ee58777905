"""A benchmark: a YAML file, and what can be done with it."""

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from sttm.errors import ConfigError, VideoError, unknown_name
from sttm.evaluation.tasks.download import Download
from sttm.evaluation.tasks.items import LETTERS, Item
from sttm.evaluation.tasks.loader import Layout, Reading, load
from sttm.evaluation.tasks.media import take_out
from sttm.evaluation.tasks.metrics import Metric, MetricRule, Scored, compute
from sttm.evaluation.tasks.parsers import OFFICIAL_PARSERS, parse
from sttm.evaluation.tasks.prompts import Prompt, subtitle_context
from sttm.evaluation.tasks.readers import READERS
from sttm.evaluation.tasks.scenes import Scenes, scene_items, scene_video
from sttm.evaluation.tasks.spans import parse_span
from sttm.evaluation.tasks.submission import Submission
from sttm.video import Sampling, Video

FOLDER = Path(__file__).parent
PARSERS = ("clean", "published", "official", "official-alternative")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Parsing(_Frozen):
    """How letters are read out of answers.

    Args:
        default: of `PARSERS`.
        published_letters: what the authors' expression looks for, e.g. ``"ABCD"``.
        official: name of the benchmark's own rule in `OFFICIAL_PARSERS`; None if it has none, or
            one that guesses at random where it finds nothing.
        alternative: a second one, where the benchmark's own scripts differ; None if they agree.
        spans: answers to open questions are spans of seconds.
        official_skips: the benchmark's own script leaves answers without a letter out of its
            accuracy, instead of counting them as wrong.
    """

    default: str = "clean"
    published_letters: str = "ABCD"
    official: str | None = None
    alternative: str | None = None
    official_skips: bool = False
    spans: bool = False

    @property
    def own(self) -> dict[str, str]:
        """The benchmark's own rules, by the name of the parser."""
        named = {"official": self.official, "official-alternative": self.alternative}
        return {parser: rule for parser, rule in named.items() if rule is not None}

    @field_validator("default", "official", "alternative")
    @classmethod
    def _known(cls, value: str | None, info: ValidationInfo) -> str | None:
        known: Iterable[str] = PARSERS if info.field_name == "default" else OFFICIAL_PARSERS
        if value is not None and value not in known:
            raise unknown_name(f"{info.field_name} parser", value, known)
        return value


class Expected(_Frozen):
    """How much the published data holds; None where the number was not published.

    Args:
        questions, videos: in all.
        subtitles: videos that have a subtitle file.
        per_video: questions about each video.
        groups: questions by group and its values.
    """

    questions: int | None = None
    videos: int | None = None
    subtitles: int | None = None
    per_video: int | None = None
    groups: dict[str, dict[str, int]] = Field(default_factory=dict)


class Task(_Frozen):
    """A benchmark.

    Args:
        name: short, lower case.
        version: counts up when items, prompts, parsing or metrics change: answers of different
            versions do not compare.
        title: for people.
        description: what it asks.
        source: whom to cite.
        notes: what a user should know.
        frames: how the paper samples its videos.
        prompts: by style; "published" is the authors' of STTM, "official" the benchmark's.
        parsing: how letters are read out of answers.
        metrics: by name; the first is the one that the authors of STTM report.
        groups: what accuracies are split by.
        reader: name of the reader of its files; "scenes" for a task that is made.
        layout: its files.
        scenes: what to make, with the reader "scenes".
        download: how to get the files.
        expected: how much there is in the published data.
        answers: "required", "optional" where some are hidden.
        subtitles: put them in front of the question.
        submission: how to hand in answers, where a server has the right ones.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$")
    version: int = Field(ge=1)
    title: str
    description: str
    source: str = ""
    notes: str = ""
    frames: Sampling = Sampling()
    prompts: dict[str, Prompt] = Field(min_length=1)
    parsing: Parsing = Parsing()
    metrics_by_name: dict[str, MetricRule] = Field(alias="metrics", min_length=1)
    groups: tuple[str, ...] = ()
    reader: str
    layout: Layout = Layout()
    scenes: Scenes = Scenes()
    download: tuple[Download, ...] = ()
    expected: Expected = Expected()
    answers: str = Field(default="required", pattern="^(required|optional)$")
    subtitles: bool = False
    submission: Submission | None = None

    @field_validator("reader")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in (*READERS, "scenes"):
            raise unknown_name("reader", value, (*READERS, "scenes"))
        return value

    @property
    def made(self) -> bool:
        """Whether its videos are made when they are needed: no data root."""
        return self.reader == "scenes"

    def read(self, data_root: Path | None, *, videos: bool = True) -> Reading:
        """Read the questions and look for their videos; what is wrong is noted, not raised.

        Args:
            data_root: the folder that holds the data sets, or the task's own folder or file; None
                only for a task that is made.
            videos: look for the videos too.
        """
        if self.made:
            return Reading(items=scene_items(self.name, self.scenes))
        if data_root is None:
            raise ConfigError(
                f"{self.name}: got no data root, expected the folder that holds its files. "
                f"`sttm eval validate {self.name} --data-root DIR` tells how to get them."
            )
        return load(
            self.name,
            READERS[self.reader],
            self.layout,
            data_root,
            videos=videos,
            subtitles=self.subtitles,
            hidden_answers=self.answers == "optional",
        )

    def items(self, data_root: Path | None, *, videos: bool = True) -> list[Item]:
        """Read the questions, in the order of the files.

        A video that is not there leaves ``Item.video`` None: `video` raises for it.

        Args:
            data_root: see `read`.
            videos: look for the videos too; at least one must be there.

        Raises:
            ConfigError: files are missing, or rows malformed; see `read` to go on without.
        """
        found = self.read(data_root, videos=videos)
        problems = [problem for problem in found.problems if problem.kind != "video"]
        without = sum(item.video is None for item in found.items)
        if videos and not self.made and found.items and without == len(found.items):
            problems += [problem for problem in found.problems if problem.kind == "video"][:1]
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise ConfigError(
                f"{self.name}: {problems[0].where}: {problems[0].text}{more}. "
                f"`sttm eval validate {self.name} --data-root {data_root}` lists everything that "
                "is wrong, and how to get the files."
            )
        return found.items

    def video(self, item: Item) -> Path | Video:
        """Return what `VideoChat.encode` takes for an item.

        A video inside a zip is taken out first, into ``.videos`` beside the zip, and stays there.
        A made one comes as frames.

        Raises:
            VideoError: there is none.
            ConfigError: it cannot be taken out of its zip.
        """
        if self.made:
            return scene_video(item)
        if item.video is None:
            raise VideoError(
                f"{item.task}: got no video for {item.video_id!r}, expected its file in the data "
                f"root. See `sttm eval validate {item.task}`."
            )
        return take_out(item.video)

    def context(self, item: Item, times: Sequence[float] = ()) -> str:
        """Return the text between the video and every question about it, for `VideoChat.encode`.

        Args:
            item: of this task.
            times: seconds at which frames were sampled; subtitles that show then are given.

        Returns:
            subtitles, or nothing for a task without.

        Raises:
            VideoError: the subtitle file cannot be read.
        """
        if not self.subtitles:
            return ""
        return subtitle_context(item.subtitles and take_out(item.subtitles), times)

    def prompt(self, item: Item, style: str = "published") -> str:
        """Write the user's turn, without the video and without `context`.

        Raises:
            UnknownNameError: the task has no such style.
        """
        if style not in self.prompts:
            raise unknown_name("prompt style", style, self.prompts)
        return self.prompts[style].render(item)

    def parse(self, text: str, item: Item, parser: str | None = None) -> str | None:
        """Read the answer out of what a model wrote.

        Args:
            text: the model's answer.
            item: what it was asked.
            parser: "clean", "published" (the authors' of STTM, quirks included), "official" (the
                benchmark's own) or "official-alternative" (a second one of the benchmark); None for
                the task's default.

        Returns:
            a letter; of an open question the text or the span, as ``item.answer`` if it is that;
            None if there is no answer.

        Raises:
            ConfigError: the task has no such parser.
        """
        name = parser or self.parsing.default
        if name not in PARSERS:
            raise unknown_name("parser", name, PARSERS)
        own = self.parsing.own
        if name.startswith("official") and name not in own and item.options:
            raise ConfigError(
                f"parser: got {name!r}, which {self.name} has none of that always gives the same "
                f"answer. Expected {', '.join(map(repr, ('clean', 'published', *own)))}."
            )
        if self.parsing.spans and not item.options:
            return parse_span(text, item)
        return parse(text, item, name, published_letters=self.parsing.published_letters, own=own)

    def right(self, answer: str | None, item: Item, parser: str | None = None) -> bool | None:
        """Say whether a parsed answer is right.

        Args:
            answer: what `parse` gave.
            item: what was asked.
            parser: what read it; see `parse`.

        Returns:
            False where there is no answer. None, which is not counted, if the right one is hidden,
            or there is no answer and the benchmark's own script (the parser "official") leaves
            those out.
        """
        skips = (parser or self.parsing.default) == "official" and self.parsing.official_skips
        if item.answer is None or (answer is None and skips):
            return None
        return answer == item.answer

    def metrics(self, scored: Iterable[Scored], items: Iterable[Item] = ()) -> dict[str, Metric]:
        """Compute the task's metrics; the first is the one that the authors of STTM report.

        Args:
            scored: items with whether they were answered right; None where there is no answer
                (skipped, an error), which is counted as missing and never as wrong.
            items: all that were meant to be answered; those not in ``scored`` are missing.
        """
        return compute(self.metrics_by_name, self.groups, list(scored), list(items))


def list_tasks() -> tuple[str, ...]:
    """List the names of the tasks that sttm brings, sorted."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.yaml")))


def get_task(name: str | Path) -> Task:
    """Load a task by its name, or from a YAML file.

    Args:
        name: one of `list_tasks`, or the path of a file that ends in ``.yaml`` or ``.yml``.

    Raises:
        UnknownNameError: no such task.
        ConfigError: the file cannot be read, or is no task.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return _load(path)
    if str(name) not in list_tasks():
        raise unknown_name("task", str(name), list_tasks())
    return _bundled(str(name))


@cache
def _bundled(name: str) -> Task:
    return _load(FOLDER / f"{name}.yaml")


def _load(path: Path) -> Task:
    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(
            f"{path}: cannot be read as a task ({' '.join(str(error).split())}). Expected a YAML "
            "file such as those in sttm/evaluation/tasks."
        ) from error
    if not isinstance(content, Mapping):
        raise ConfigError(f"{path}: got no mapping, expected the fields of a task.")
    try:
        return Task.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'task'}: {e['msg']}" for e in error.errors()
        )
        raise ConfigError(
            f"{path}: {wrong}. Fix these fields; docs/eval-tasks.md names all."
        ) from error


__all__ = ["LETTERS", "PARSERS", "Expected", "Parsing", "Task", "get_task", "list_tasks"]
