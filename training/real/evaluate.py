"""Compare reductions of the trained model on held-out videos and cut-outs.

    python -m training.real.evaluate --methods random sttm --keep 1 0.5 0.3 0.2 0.1 0.05
    python -m training.real.evaluate --checkpoint build/real/mrope.pt --methods random sttm \
        --positions survived reassigned merged

Frames go through tower, projector and decoder as a user's would: every clip is encoded once, and a
`sttm.VideoChat` for each setting prefills and answers. Answers are appended to a file and not asked
again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sttm.budget import read_keep
from sttm.chat import VideoChat
from sttm.chat.batch import ask_many
from sttm.evaluation.render import markdown_table
from sttm.evaluation.specs import ALL, Setting, make_settings
from sttm.evaluation.statistics import Bootstrap, Estimate, Tally
from training.data import batch_generator
from training.real import model as small
from training.real import smollm
from training.real.clips import (
    FRAMES,
    LONGEST,
    SIZES,
    Clip,
    compose,
    random_runs,
    random_shot,
    render,
)
from training.real.mrope import place_question
from training.real.pool import RUNS
from training.real.questions import TASKS, Question, make_questions
from training.real.sources import Material
from training.real.train import STAGES, WORK

LAYER = 0  # as for nano: a reduction behind the layers that read the video would cost nothing
LONGEST_ANSWER = 6  # tokens
Answer = dict[str, Any]
Key = tuple[str, int, int]
SURVIVED = "survived"


@dataclass(frozen=True)
class ClipSet:
    """Which clips to compose.

    Args:
        material: of what.
        sizes: of needles, in pixels: the smallest and the largest.
        longest: frames that a needle is there, at most.
    """

    material: Material
    sizes: tuple[int, int] = SIZES
    longest: int = LONGEST

    @property
    def name(self) -> str:
        """What tells it from others."""
        half = "held-out" if self.material.held_out else "seen"
        return f"{half}-{self.sizes[0]}-{self.sizes[1]}px-{self.longest}"

    def clip(self, seed: int) -> tuple[Clip, list[Question]]:
        """Compose a clip, with its questions."""
        rng = batch_generator(seed, "clips", int(self.material.held_out))
        shots = [random_shot(rng, self.material) for _ in range(3)]
        runs = [random_runs(rng, self.material, RUNS, self.sizes, self.longest) for _ in shots]
        clip, _ = compose(rng, shots, runs)
        return clip, make_questions(clip, rng)


@dataclass(frozen=True)
class Run:
    """A setting with the positions of what it leaves, see `sttm.attach`."""

    setting: Setting
    positions: str = SURVIVED

    def __str__(self) -> str:
        return (
            f"{self.setting}" if self.positions == SURVIVED else f"{self.setting} {self.positions}"
        )

    def references(self, against: str | None) -> dict[str, str]:
        """Name the runs that this one is compared with, by the column that tells it.

        Args:
            against: label of a method to compare with at the same budget and positions.
        """
        other = (
            {}
            if against is None
            else {against: replace(self, setting=replace(self.setting, label=against))}
        )
        named = {ALL: ALL, **other, SURVIVED: replace(self, positions=SURVIVED)}
        return {f"less {name}": str(run) for name, run in named.items()}


def make_runs(settings: Sequence[Setting], positions: Sequence[str]) -> list[Run]:
    """Cross settings with positions; all tokens have theirs in any case."""
    whole = [Run(setting) for setting in settings if setting.method is None]
    return whole + [Run(s, p) for p in positions for s in settings if s.method is not None]


def chats_for(
    model: Any, processor: Any, runs: Sequence[Run], layer: int | None = LAYER
) -> dict[Run, VideoChat]:
    """Hold a chat with the model for each run, none of which may depend on the question.

    Args:
        model: of transformers.
        processor: the model's own.
        runs: what to compare.
        layer: where videos are reduced; None for the layer of each method.
    """
    return {
        run: VideoChat(model, processor)
        if run.setting.method is None
        else VideoChat(model, processor, run.setting.method, layer=layer, positions=run.positions)
        for run in runs
    }


@torch.no_grad()
def answers(
    chats: Mapping[Run, VideoChat],
    clips: Sequence[int],
    test: ClipSet,
    known: Mapping[Key, Answer],
) -> Iterator[Answer]:
    """Answer what is not known yet.

    Args:
        chats: with one model, one for each run.
        clips: their seeds.
        test: which clips.
        known: answers that are there, by run, clip and question.

    Yields:
        one answer per run, clip and question.
    """
    for seed in clips:
        clip, questions = test.clip(seed)
        last = len(questions) - 1  # a run that was cut off before it is asked again
        todo = [run for run in chats if (str(run), seed, last) not in known]
        if not todo or not questions:
            continue
        encoded = next(iter(chats.values())).encode(
            render(clip, test.material), fps=1.0, max_frames=FRAMES
        )
        for run in todo:
            video = place_question(chats[run].prefill(encoded))
            texts = ask_many(video, [q.text for q in questions], max_new_tokens=LONGEST_ANSWER)
            for i, (question, text) in enumerate(zip(questions, texts, strict=True)):
                yield {
                    "setting": str(run),
                    "clip": seed,
                    "index": i,
                    "task": question.task,
                    "question": question.text,
                    "expected": question.answer,
                    "answer": text,
                    "right": text == question.answer,
                    "tokens": [video.tokens_in, video.tokens_out],
                }


def rows(
    found: Sequence[Answer],
    runs: Sequence[Run],
    tasks: Sequence[str] = TASKS,
    against: str | None = None,
) -> list[dict[str, Any]]:
    """Average answers by run: every task, their mean, and how far it is from other runs.

    Args:
        found: the answers.
        runs: in the order of the rows.
        tasks: that count; what the model cannot do with all tokens tells nothing.
        against: label of a method that others are compared with at equal budgets.

    Returns:
        for each run its label and budget, retention, accuracies, the mean over tasks with its 95 %
        interval, and with theirs the paired differences to all tokens, to ``against``, and to the
        same setting with positions that survived.
    """
    found = [answer for answer in found if answer["task"] in tasks]
    clips = sorted({answer["clip"] for answer in found})
    place = {seed: i for i, seed in enumerate(clips)}
    tasks = [task for task in tasks if any(a["task"] == task for a in found)]
    bootstrap = Bootstrap(len(clips))
    tallies: dict[str, Tally] = {}
    table = []
    for run in runs:
        own = [answer for answer in found if answer["setting"] == str(run)]
        triples = [(place[a["clip"]], tasks.index(a["task"]), bool(a["right"])) for a in own]
        tallies[str(run)] = Tally.count(triples, len(clips), len(tasks))
        *per_task, mean = bootstrap.accuracies(tallies[str(run)])
        row: dict[str, Any] = {
            "setting": str(run),
            "retention": float(np.mean([a["tokens"][1] / a["tokens"][0] for a in own])),
            "asked": len(own),
            **{task: round(e.value, 4) for task, e in zip(tasks, per_task, strict=True)},
            "mean": _rounded(mean),
        }
        table.append(row)
    for run, row in zip(runs, table, strict=True):
        for column, other in run.references(against).items():
            if other in tallies and other != str(run):
                difference = bootstrap.differences(tallies[str(run)], tallies[other])[-1]
                row[column] = _rounded(difference)
    return table


def _rounded(estimate: Estimate) -> list[float]:
    return [round(v, 4) for v in (estimate.value, estimate.low, estimate.high)]


def text_table(table: Sequence[Mapping[str, Any]]) -> str:
    """Lay rows out for people, in percent."""

    def cell(value: Any) -> str:
        if isinstance(value, list):
            return "{:.1f} [{:.1f}, {:.1f}]".format(*(100 * v for v in value))
        return f"{100 * value:.1f}" if isinstance(value, float) else str(value)

    columns = list(dict.fromkeys(column for row in table for column in row))
    return markdown_table(columns, [[cell(row.get(c, "")) for c in columns] for row in table])


def load(path: Path) -> tuple[Any, Any]:
    """Load the model that a checkpoint belongs to, and its processor."""
    state = torch.load(path, weights_only=True)
    if state["stage"] in {stage.name for stage in smollm.STAGES}:
        return smollm.load(state)
    return small.load(path)


def read_layer(text: str) -> int | None:
    """Read a layer; the word "default" stands for that of each method."""
    return None if text == "default" else int(text)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare reductions on held-out clips.")
    parser.add_argument("--checkpoint", type=Path, default=WORK / f"{STAGES[-1].name}.pt")
    parser.add_argument("--methods", nargs="+", default=["random"])
    parser.add_argument("--keep", nargs="+", type=read_keep, default=[1.0, 0.1])
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--clips", type=int, default=300)
    parser.add_argument("--layer", type=read_layer, default=LAYER, help="a number, or 'default'")
    parser.add_argument("--positions", nargs="+", default=[SURVIVED])
    parser.add_argument("--against", help="a method to compare with at equal budgets")
    parser.add_argument("--seen", action="store_true", help="videos and cut-outs of training")
    parser.add_argument("--sizes", nargs=2, type=int, default=SIZES, help="of needles, in pixels")
    parser.add_argument("--longest", type=int, default=LONGEST, help="frames of a needle")
    parser.add_argument("--out", type=Path, default=WORK / "evaluation")
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main() -> None:
    """Answer, and print the table."""
    args = parse()
    torch.set_num_threads(args.threads)
    runs = make_runs(make_settings(args.methods, args.keep), args.positions)
    test = ClipSet(Material(held_out=not args.seen), tuple(args.sizes), args.longest)
    where = {LAYER: "", None: "-default-layer"}.get(args.layer, f"-layer-{args.layer}")
    name = f"{args.checkpoint.stem}-{test.name}{where}"
    path = args.out / f"{name}.jsonl"
    args.out.mkdir(parents=True, exist_ok=True)
    lines = path.read_text().splitlines() if path.exists() else []
    known = {(a["setting"], a["clip"], a["index"]): a for a in map(json.loads, lines)}
    model, processor = load(args.checkpoint)
    chats = chats_for(model, processor, runs, args.layer)
    clips = range(args.clips)
    with path.open("a", buffering=1) as file:  # whole lines, whenever the process ends
        for answer in answers(chats, clips, test, known):
            known[answer["setting"], answer["clip"], answer["index"]] = answer
            file.write(json.dumps(answer) + "\n")
    labels = {str(run) for run in runs}
    used = [a for a in known.values() if a["setting"] in labels and a["clip"] in clips]
    table = rows(used, runs, args.tasks, args.against)
    (args.out / f"{name}.json").write_text(json.dumps(table, indent=1) + "\n")
    print(text_table(table))


if __name__ == "__main__":
    main()
