"""Accuracy of nano by task and clip length, on clips that training never saw.

    python -m training.eval_nano --json build/nano/accuracy.json

Answers are read from packed questions (``training/packing.py``), which give the same logits as
separate prompts; ``--generate N`` asks N clips through processor and ``generate`` as well.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
from pathlib import Path

import torch
import transformers
from transformers import LlavaOnevisionForConditionalGeneration, LlavaOnevisionProcessor

from sttm.nano.clips import Clip, make_clip
from sttm.nano.model import weights_path
from sttm.nano.questions import SCENE_TASKS
from sttm.nano.scenes import make_scene
from training.ask import Packer, questions_about
from training.codec import through_codec
from training.labels import cell_batch
from training.packing import ATTENTION, answers_right, packed_logits

FIRST_SEED = 20_000_000  # of the clips of the report; the log of training uses 10_000_000 on
Tally = dict[str, list[bool]]


def clips_of(frames: int, count: int, crf: int | None, *, scenes: bool = False) -> list[Clip]:
    """Held-out clips or scenes, as generated or as decoded from their mp4."""
    make = make_scene if scenes else make_clip
    clips = [make(FIRST_SEED + i, frames) for i in range(count)]
    return clips if crf is None else [through_codec(clip, crf) for clip in clips]


@torch.no_grad()
def packed_tally(
    model: LlavaOnevisionForConditionalGeneration, packer: Packer, clips: list[Clip]
) -> Tally:
    """Right or wrong for every question of every clip, by task."""
    tally: Tally = {task: [] for task in SCENE_TASKS}
    for i in range(0, len(clips), 4):
        part = clips[i : i + 4]
        asked = [questions_about(clip, clip.seed) for clip in part]
        groups = [[[j] for j in range(len(questions))] for questions in asked]
        slots = [list(range(len(clip.frames) + 1)) for clip in part]
        batch = packer.pack(cell_batch(part), asked, groups, slots)
        for task, right in answers_right(packed_logits(model, batch)[0], batch):
            tally[task].append(right)
    return tally


@torch.no_grad()
def generated_tally(
    model: LlavaOnevisionForConditionalGeneration,
    processor: LlavaOnevisionProcessor,
    clips: list[Clip],
) -> Tally:
    """The same through chat template, processor and ``generate``, one prompt per question."""
    tally: Tally = {task: [] for task in SCENE_TASKS}
    for clip in clips:
        for question in questions_about(clip, clip.seed):
            content = [{"type": "video"}, {"type": "text", "text": question.text}]
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            inputs = processor(text=[text], videos=[clip.frames], return_tensors="pt")
            out = model.generate(**inputs, max_new_tokens=8)
            answer = processor.decode(
                out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True
            )
            tally[question.task].append(answer.strip() == question.answer)
    return tally


def summary(tally: Tally) -> dict[str, dict[str, float]]:
    """Accuracy, its standard error and the number of questions, by task."""
    found = {}
    for task, hits in tally.items():
        if hits:
            mean = sum(hits) / len(hits)
            error = math.sqrt(mean * (1 - mean) / len(hits))
            found[task] = {"accuracy": mean, "error": error, "n": len(hits)}
    return found


def table(report: dict[str, dict[str, dict[str, float]]]) -> str:
    """The report as a markdown table: rows are clip lengths, cells ``accuracy (n)``."""
    columns = [task for task in SCENE_TASKS if any(task in tasks for tasks in report.values())]
    lines = [f"| clips | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    for name, tasks in report.items():
        cells = [
            f"{tasks[task]['accuracy']:.3f} ({int(tasks[task]['n'])})" if task in tasks else "-"
            for task in columns
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--clips", type=int, default=100, help="clips per cell")
    parser.add_argument("--frames", type=int, nargs="*", default=[1, 4, 8, 16, 32])
    parser.add_argument("--mp4-frames", type=int, nargs="*", default=[16, 32])
    parser.add_argument("--scene-frames", type=int, nargs="*", default=[8, 16, 32, 64])
    parser.add_argument("--crf", type=int, default=20)
    parser.add_argument("--generate", type=int, default=0, help="clips asked through generate")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--weights", type=Path, default=weights_path())
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def main() -> None:
    """Print the table and write the JSON report."""
    args = parse()
    torch.set_num_threads(args.threads)
    model = LlavaOnevisionForConditionalGeneration.from_pretrained(args.weights).float().eval()
    processor = LlavaOnevisionProcessor.from_pretrained(args.weights)
    report = {}
    if args.generate:
        clips = clips_of(8, args.generate, None)
        report["8 frames, generate"] = summary(generated_tally(model, processor, clips))
    model.set_attn_implementation({"text_config": ATTENTION})
    packer = Packer(processor.tokenizer)
    for frames in args.frames:
        clips = clips_of(frames, args.clips, None)
        report[f"{frames} frames"] = summary(packed_tally(model, packer, clips))
    for frames in args.mp4_frames:
        clips = clips_of(frames, args.clips, args.crf)
        report[f"{frames} frames, mp4"] = summary(packed_tally(model, packer, clips))
    print(table(report))
    about_scenes = {}
    for frames in args.scene_frames:
        clips = clips_of(frames, args.clips, None, scenes=True)
        about_scenes[f"{frames} frames"] = summary(packed_tally(model, packer, clips))
    if about_scenes:
        print(f"\nScenes:\n\n{table(about_scenes)}")
    if args.json:
        facts = {
            "first_seed": FIRST_SEED,
            "clips": args.clips,
            "crf": args.crf,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "machine": platform.machine(),
            "bytes": (args.weights / "model.safetensors").stat().st_size,
        }
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(
            json.dumps({**facts, "accuracy": report, "scenes": about_scenes}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
