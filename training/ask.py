"""Build packed batches: clips, their questions, positions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sttm.nano.clips import Clip, make_clip
from sttm.nano.questions import SCENE_TASKS, Question, make_questions, scene_questions
from sttm.nano.scenes import make_scene
from training.crowd import crowd
from training.data import HELD_OUT, Batches, batch_generator, train_clip, train_scene
from training.labels import IGNORE, CellBatch, cell_batch
from training.model import GRID
from training.packing import Packed
from training.scenery import with_scenes
from training.text import END, build_tokenizer, prefix_text, question_text

TASK_WEIGHT = {"digit": 1.0, "colour": 1.0, "quadrant": 1.0, "count": 4.0, "order": 3.0}
TASK_WEIGHT |= {"background": 1.5, "texture": 1.5, "pan": 6.0, "relation": 2.0}
SLOTS = 32  # the longest clip, in frames; with scenes twice as many
CELLS = GRID * GRID
Question_ = TypeVar("Question_", bound="Asked")


class Asked(Protocol):
    """A question of any generator."""

    @property
    def task(self) -> str:
        """What it asks for."""

    @property
    def text(self) -> str:
        """The question."""

    @property
    def answer(self) -> str:
        """The answer."""


@dataclass
class Block:
    """Tokens of one block with the label after each token and the question it belongs to."""

    ids: list[int]
    labels: list[int]
    questions: list[int]


class Packer:
    """Turns clips and questions into a packed batch."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def tokens(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return found

    def block(self, numbers: Sequence[int], questions: Sequence[Asked]) -> Block:
        """One question, or several as the turns of a conversation."""
        ids: list[int] = []
        answers: list[tuple[int, int, int]] = []  # first label, end, number
        for turn, number in enumerate(numbers):
            ids += self.tokens(question_text(questions[number].text, first=turn == 0))
            begin = len(ids)
            ids += self.tokens(questions[number].answer + END)
            answers.append((begin, len(ids), number))
        labels, owners = [IGNORE] * len(ids), [-1] * len(ids)
        for begin, end, number in answers:
            labels[begin - 1 : end - 1] = ids[begin:end]
            owners[begin - 1 : end - 1] = [number] * (end - begin)
        return Block(ids[:-1], labels[:-1], owners[:-1])

    def pack(
        self,
        cells: CellBatch,
        questions: Sequence[Sequence[Asked]],
        groups: list[list[list[int]]],
        slots: list[list[int]],
        *,
        system: bool = False,
    ) -> Packed:
        """Pack clips of one length.

        Args:
            cells: the clips and what is in their cells.
            questions: of each clip.
            groups: of each clip, the questions that share a block.
            slots: of each clip, the place of every frame on the time axis, and at the end
                the number of places; ``[0, 1, ..., T]`` is the plain case.
            system: put the system prompt first.
        """
        prefix = self.tokens(prefix_text(system))
        rows = [
            [self.block(numbers, asked) for numbers in group]
            for group, asked in zip(groups, questions, strict=True)
        ]
        width = max(sum(len(b.ids) for b in row) for row in rows)
        ids, labels = np.zeros((len(rows), width), np.int64), np.full((len(rows), width), IGNORE)
        owners, blocks = np.full((len(rows), width), -1), np.full((len(rows), width), -1)
        positions = np.zeros((len(rows), width), np.int64)
        for i, row in enumerate(rows):
            at = 0
            for number, block in enumerate(row):
                place = slice(at, at + len(block.ids))
                ids[i, place], labels[i, place] = block.ids, block.labels
                owners[i, place], blocks[i, place] = block.questions, number
                first = len(prefix) + slots[i][-1] * CELLS + 1
                positions[i, place] = np.arange(first, first + len(block.ids))
                at = place.stop
        return Packed(
            frames=cells.frames,
            prefix=torch.tensor(prefix),
            context_positions=torch.stack([_context(len(prefix), s) for s in slots]),
            ids=torch.from_numpy(ids),
            positions=torch.from_numpy(positions),
            blocks=torch.from_numpy(blocks),
            labels=torch.from_numpy(labels),
            questions=torch.from_numpy(owners),
            tasks=[[q.task for q in asked] for asked in questions],
            cells=cells.labels,
        )


def _context(prefix: int, slots: list[int]) -> Tensor:
    frames = torch.tensor(slots[:-1])[:, None] * CELLS + torch.arange(CELLS)
    newline = torch.tensor([slots[-1] * CELLS])
    return torch.cat([torch.arange(prefix), prefix + frames.flatten(), prefix + newline])


@dataclass(frozen=True)
class Recipe:
    """What the batches of a stage hold.

    Attributes:
        frames: one of these (clip length, clips per batch) is drawn for each batch.
        needles: one of these counts is drawn for each clip; None leaves it to ``make_clip``.
        questions: at most this many about one clip.
        gaps: share of batches whose frames stand at random places of a longer time axis.
        crowd: crowded frames for the tower beside each batch.
        tasks: ask only these.
        talk: share of questions that follow another one in the same conversation.
        scenes: share of clips that are scenes; as many frames of scenes join the crowded ones.
    """

    frames: tuple[tuple[int, int], ...]
    needles: tuple[int | None, ...] = (None,)
    questions: int = 9
    gaps: float = 0.0
    talk: float = 0.0
    crowd: int = 0
    tasks: tuple[str, ...] = SCENE_TASKS
    scenes: float = 0.0


class AskBatches(Batches):
    """Packed batches of a recipe."""

    def __init__(
        self, recipe: Recipe, seed: int, stage: str, first: int, steps: int, rank: int = 0
    ) -> None:
        super().__init__(seed, stage, first, steps, rank)
        self.recipe = recipe

    @cached_property
    def packer(self) -> Packer:
        return Packer(build_tokenizer())

    def __getitem__(self, index: int) -> Packed:
        rng, recipe = self.generator(index), self.recipe
        longest = 2 * SLOTS if recipe.scenes else SLOTS
        shared = batch_generator(self.seed, self.stage, self.first + index)  # all processes agree
        frames, count = recipe.frames[int(shared.integers(len(recipe.frames)))]
        gaps = rng.random() < recipe.gaps
        clips, asked, groups, slots = [], [], [], []
        for _ in range(count):
            needles = recipe.needles[int(rng.integers(len(recipe.needles)))]
            scene = recipe.scenes > 0 and rng.random() < recipe.scenes
            clip = train_scene(rng, frames) if scene else train_clip(rng, frames, needles)
            asked_of = questions_about(clip, int(rng.integers(2**31)))
            questions = choose(
                [q for q in asked_of if q.task in recipe.tasks], rng, recipe.questions
            )
            clips.append(clip)
            asked.append(questions)
            groups.append(_conversations(len(questions), rng, recipe.talk))
            slots.append(_slots(frames, rng, longest) if gaps else list(range(frames + 1)))
        packed = self.packer.pack(
            cell_batch(clips), asked, groups, slots, system=rng.random() < 0.15
        )
        if recipe.crowd == 0:
            return packed
        crowded = crowd(train_clip(rng, recipe.crowd, 0), rng)
        if recipe.scenes == 0:
            return dataclasses.replace(packed, crowd=cell_batch([crowded]))
        return dataclasses.replace(packed, crowd=with_scenes(crowded, rng))


def questions_about(clip: Clip, seed: int) -> list[Question]:
    """All questions about a clip or a scene."""
    return scene_questions(clip, seed) if clip.kind else make_questions(clip, seed)


def choose(
    questions: Sequence[Question_],
    rng: np.random.Generator,
    most: int,
    weights: Mapping[str, float] = TASK_WEIGHT,
) -> list[Question_]:
    """A random choice without replacement in which hard tasks come up more often."""
    weight = np.array([weights.get(q.task, 1.0) for q in questions])
    count = min(most, len(questions))
    order = rng.choice(len(questions), size=count, replace=False, p=weight / weight.sum())
    return [questions[i] for i in order]


def _conversations(count: int, rng: np.random.Generator, talk: float) -> list[list[int]]:
    groups: list[list[int]] = []
    for number in range(count):
        if groups and len(groups[-1]) < 3 and rng.random() < talk:
            groups[-1].append(number)
        else:
            groups.append([number])
    return groups


def _slots(frames: int, rng: np.random.Generator, longest: int) -> list[int]:
    total = int(rng.integers(frames, max(longest, frames) + 1))
    chosen = sorted(rng.choice(total, size=frames, replace=False).tolist())
    return [*chosen, total]


def held_out(
    packer: Packer, frames: int, count: int, first: int = 0, *, scenes: bool = False
) -> Packed:
    """Held-out clips or scenes with all their questions, each in a block of its own."""
    seeds = range(HELD_OUT + first, HELD_OUT + first + count)
    clips = [make_scene(seed, frames) if scenes else make_clip(seed, frames) for seed in seeds]
    asked = [questions_about(clip, clip.seed) for clip in clips]
    groups = [[[i] for i in range(len(questions))] for questions in asked]
    return packer.pack(cell_batch(clips), asked, groups, [list(range(frames + 1))] * count)
