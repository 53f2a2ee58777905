"""Tasks that are made: scenes of the generator of nano, and open questions about them."""

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from sttm.errors import ConfigError
from sttm.evaluation.tasks.items import Item
from sttm.nano.grounding import GROUNDING_TASKS, grounding_questions
from sttm.nano.questions import SCENE_TASKS, scene_questions
from sttm.nano.scenes import FIRST_SEED, SCENE_KINDS, make_scene
from sttm.video import Sampling, Video


class Scenes(BaseModel):
    """Which scenes to make.

    Args:
        frames: of each scene.
        count: scenes, dealt to the kinds in turn.
        seed: of the first.
        kinds: of scenes.
        task_types: of questions; a scene about which none of them can be asked is left out.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: int = Field(default=16, ge=1, le=100_000)
    count: int = Field(default=40, ge=1, le=1_000_000)
    seed: int = Field(default=FIRST_SEED, ge=0, lt=2**62)
    kinds: tuple[str, ...] = SCENE_KINDS
    task_types: tuple[str, ...] = SCENE_TASKS

    @field_validator("kinds", "task_types")
    @classmethod
    def _known(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = SCENE_KINDS if info.field_name == "kinds" else (*SCENE_TASKS, *GROUNDING_TASKS)
        if not value or len(set(value)) < len(value) or not set(value) <= set(known):
            raise ConfigError(
                f"{info.field_name}: got {', '.join(value)}, expected different ones of "
                f"{', '.join(known)}."
            )
        return value


def scene_items(task: str, scenes: Scenes) -> list[Item]:
    """Ask every question of the wanted types about every scene."""
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
            for place, question in enumerate(
                [*scene_questions(clip, seed), *grounding_questions(clip, seed)]
            )
            if question.task in scenes.task_types
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
