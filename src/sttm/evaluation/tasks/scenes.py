"""The needle task: scenes of the generator of nano, and its open questions about them."""

from pydantic import BaseModel, ConfigDict, Field, field_validator

from sttm.errors import ConfigError
from sttm.evaluation.tasks.items import Item
from sttm.nano.questions import scene_questions
from sttm.nano.scenes import FIRST_SEED, SCENE_KINDS, make_scene
from sttm.video import Sampling, Video


class Scenes(BaseModel):
    """Which scenes to make.

    Args:
        frames: of each scene.
        count: scenes, dealt to the kinds in turn.
        seed: of the first.
        kinds: of scenes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(default=16, ge=1, le=100_000)
    count: int = Field(default=40, ge=1, le=1_000_000)
    seed: int = Field(default=FIRST_SEED, ge=0, lt=2**62)
    kinds: tuple[str, ...] = SCENE_KINDS

    @field_validator("kinds")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or len(set(value)) < len(value) or not set(value) <= set(SCENE_KINDS):
            names = ", ".join(SCENE_KINDS)
            raise ConfigError(f"kinds: got {', '.join(value)}, expected different ones of {names}.")
        return value


def scene_items(task: str, scenes: Scenes) -> list[Item]:
    """Ask every question about every scene."""
    items = []
    for index in range(scenes.count):
        kind, seed = scenes.kinds[index % len(scenes.kinds)], scenes.seed + index
        clip = make_scene(seed, scenes.frames, kind=kind)
        video_id = f"{kind}-{scenes.frames}-{seed}"
        made = {"frames": str(scenes.frames), "kind": kind, "seed": str(seed)}
        items += [
            Item(
                task=task,
                question_id=f"{video_id}-{place}",
                video_id=video_id,
                video=None,
                question=question.text,
                answer=question.answer,
                groups={"task_type": question.task, "kind": kind},
                extra=made,
            )
            for place, question in enumerate(scene_questions(clip, seed))
        ]
    return items


def scene_video(item: Item) -> Video:
    """Make the video of an item of `scene_items`: all its frames, one per second."""
    frames = int(item.extra["frames"])
    clip = make_scene(int(item.extra["seed"]), frames, kind=item.extra["kind"])
    indices = tuple(range(frames))
    return Video(
        frames=clip.frames,
        timestamps=tuple(index / clip.fps for index in indices),
        indices=indices,
        duration=frames / clip.fps,
        fps=clip.fps,
        total_frames=frames,
        path="",
        sampling=Sampling(fps=clip.fps, max_frames=frames),
    )
