"""Encode videos once, for any number of runs: a file of features for each."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from sttm.attachment import attach
from sttm.chat import VideoChat
from sttm.errors import ConfigError, SttmError, VideoError, WriteError
from sttm.evaluation.executor import Execute, Loader, Worker, run_jobs
from sttm.evaluation.features.manifest import (
    MANIFEST,
    SUFFIX,
    VIDEOS,
    Manifest,
    StoredVideo,
    checksum,
    file_name,
    settings_of,
)
from sttm.evaluation.features.replay import record
from sttm.evaluation.features.stored import to_bytes
from sttm.evaluation.result_log import ResultLog
from sttm.evaluation.trouble import naming, told
from sttm.files import write_bytes
from sttm.methods import Method, Signal, VideoFeatures
from sttm.plan import MergePlan
from sttm.video import Sampling, Video, read_video


@dataclass(frozen=True)
class VideoJob:
    """One video to encode; can be pickled if ``find`` can.

    Args:
        video_id: unique among the jobs.
        find: gives the file, or its frames; raises `VideoError` if there is none.
        path: the file, if it is known without a search.
    """

    video_id: str
    find: Callable[[], Path | Video]
    path: Path | None = None

    @classmethod
    def of_file(cls, path: Path, video_id: str | None = None) -> "VideoJob":
        """Make the job of a file, whose name without its suffix is the id."""
        return cls(path.stem if video_id is None else video_id, partial(Path, path), path)


@dataclass(frozen=True)
class Failure:
    """A video that was not encoded.

    Args:
        video_id: of the video.
        error: what is wrong with it, on one line with its name.
    """

    video_id: str
    error: str


Outcome = StoredVideo | Failure


@dataclass(frozen=True)
class ExtractPlan:
    """How videos are to be encoded; can be pickled.

    Args:
        out: the folder; workers on other machines must see it, too.
        sampling: of the frames.
        attention: store the vision tower's attention, too.
    """

    out: Path
    sampling: Sampling = field(default_factory=Sampling)
    attention: bool = False

    def settings(self, model: Any, processor: Any) -> dict[str, Any]:
        """Return what the features depend on, for the manifest."""
        return settings_of(model, processor, self.sampling, self.attention)

    def extractor(self, model: Any, processor: Any) -> "Extractor":
        """Get ready to encode; what `Extractor` refuses is refused here."""
        return Extractor(self, model, processor)


def ready(plan: ExtractPlan, load: Loader) -> Worker[VideoJob, Outcome]:
    """Load the model where the work is done; return what turns a job into its outcome.

    Args:
        plan: how to encode.
        load: gives the model and its processor.
    """
    extractor = plan.extractor(*load())

    def attempt(job: VideoJob) -> list[Outcome]:
        try:
            with naming(job.video_id):
                return [extract_video(extractor, job)]
        except WriteError:  # the next video would fare no better
            raise
        except SttmError as error:
            return [Failure(job.video_id, told(job.video_id, error))]

    return attempt


class _Observer(Method):
    """A method that requires the vision tower's attention and keeps all tokens."""

    name: ClassVar[str] = "observer"
    requires: ClassVar[frozenset[Signal]] = frozenset({"tower_attention"})

    def plan(self, video: VideoFeatures) -> MergePlan:
        """Keep all tokens."""
        return MergePlan.identity(video.grid.num_tokens, video.device)


class Extractor:
    """A model that is ready to encode videos.

    Args:
        plan: how.
        model: a supported transformers video model.
        processor: its processor.

    Raises:
        UnsupportedModelError: no such model, or its tower's attention cannot be read.
    """

    def __init__(self, plan: ExtractPlan, model: Any, processor: Any) -> None:
        self.plan = plan
        self.chat = VideoChat(model, processor)
        if plan.attention:
            attach(model, _Observer()).detach()  # refuse now what cannot be read later


def extract_video(extractor: Extractor, job: VideoJob) -> StoredVideo:
    """Decode and encode one video, and store its features: the whole file or nothing.

    Raises:
        VideoError: the video cannot be read.
        WriteError: the features cannot be written.
    """
    plan, start = extractor.plan, time.perf_counter()
    found = job.find()
    if isinstance(found, Video):
        video = found
    else:
        video = read_video(found, **asdict(plan.sampling), warn=False)  # it is in the record
    with attach(extractor.chat.model, _Observer()) if plan.attention else nullcontext():
        frames = record(extractor.chat, video)
    content = to_bytes(frames)
    file = file_name(job.video_id)
    write_bytes(plan.out / file, content, kept="The videos before it are kept.")
    status = found.stat() if isinstance(found, Path) else None
    return StoredVideo(
        video_id=job.video_id,
        file=file,
        size=len(content),
        sha256=checksum(content),
        source=video.path,
        source_size=0 if status is None else status.st_size,
        source_modified=0 if status is None else status.st_mtime_ns,
        frames=len(video),
        timestamps=[round(time, 6) for time in video.timestamps],
        warnings=list(video.warnings),
        seconds=round(time.perf_counter() - start, 6),
    )


class Extraction:
    """A folder of features that is being filled; a context manager.

    Args:
        plan: how.
        jobs: the videos.
        settings: of `ExtractPlan.settings`.
        info: what else to note in the manifest, e.g. the model's name and the machine.

    Raises:
        ConfigError: the folder is of other settings, in use, or cannot be written; an id comes
            twice.

    Attributes:
        known: videos that are there already.
        todo: the others.
    """

    def __init__(
        self,
        plan: ExtractPlan,
        jobs: Sequence[VideoJob],
        settings: Mapping[str, Any],
        info: Mapping[str, Any],
    ) -> None:
        _refuse_twins(jobs)
        self._plan = plan
        _make_folder(plan.out / VIDEOS)
        if _has_header(plan.out / MANIFEST):
            Manifest.read(plan.out).check_settings(settings)
        self._journal: ResultLog[StoredVideo] = ResultLog(
            plan.out / MANIFEST, settings, info, StoredVideo, replaceable=lambda _: True
        )
        # Nobody else writes here now: what lies about half written is of a run that was killed.
        for path in (plan.out / VIDEOS).glob(f".*{SUFFIX}.*"):
            with suppress(OSError):
                path.unlink()
        self.known = [self._journal.known[job.video_id] for job in jobs if self._is_done(job)]
        done = {video.video_id for video in self.known}
        self.todo = [job for job in jobs if job.video_id not in done]

    def run(
        self, load: Loader, *, stop: bool = False, execute: Execute[VideoJob, Outcome] = run_jobs
    ) -> Iterator[Outcome]:
        """Encode what is not there yet.

        Args:
            load: gives the model and its processor; called where the work is done.
            stop: at the first video that cannot be read.
            execute: where that is; elsewhere than here, plan, ``load`` and jobs are pickled.

        Yields:
            each video as it is stored, and each that cannot be read.

        Raises:
            VideoError: a video cannot be read, and ``stop`` is set.
            WriteError: the features cannot be written.
        """
        if not self.todo:
            return
        for outcome in execute(partial(ready, self._plan, load), self.todo):
            if isinstance(outcome, StoredVideo):
                self._journal.add([outcome])
            elif stop:
                raise VideoError(f"{outcome.error} (--on-error skip goes on without it)")
            yield outcome

    def __enter__(self) -> "Extraction":
        return self

    def __exit__(self, *error: Any) -> None:
        self._journal.__exit__(*error)

    def _is_done(self, job: VideoJob) -> bool:
        """Whether the features are there, and of a file that is as large as it was."""
        stored = self._journal.known.get(job.video_id)
        if stored is None or not stored.is_complete(self._plan.out):
            return False
        if job.path is None or not job.path.is_file():
            return True
        return job.path.stat().st_size == stored.source_size


def _has_header(path: Path) -> bool:
    """Whether a manifest was begun; a run may have been killed before that."""
    return path.is_file() and b"\n" in path.read_bytes()


def _refuse_twins(jobs: Sequence[VideoJob]) -> None:
    seen: dict[str, VideoJob] = {}
    for job in jobs:
        other = seen.setdefault(job.video_id, job)
        if other is not job:
            raise ConfigError(
                f"videos: got {other.path or 'one'} and {job.path or 'another'} with the same id "
                f"{job.video_id!r}, expected different names. Rename one, or extract them into "
                "different folders."
            )


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be made ({error.strerror}). Choose another --out."
        ) from error


def verify(folder: Path) -> Iterator[tuple[StoredVideo, str]]:
    """Read every file of a folder of features again.

    Yields:
        each video, and what is wrong with its file; nothing if it is what was written.

    Raises:
        ConfigError: no such folder.
    """
    for stored in Manifest.read(folder).videos.values():
        problem = ""
        try:
            stored.read(folder)
        except VideoError as error:
            problem = str(error)
        yield stored, problem
