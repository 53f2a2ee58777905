"""nano's accuracy with all tokens and reduced, on the same held-out clips, through VideoChat.

python benchmarks/nano_accuracy.py --frames 8 16 32 --clips 60
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from machine import environment

import sttm
from sttm.nano.clips import Clip, make_clip
from sttm.nano.model import load
from sttm.nano.questions import TASKS, make_questions

FIRST_SEED = 30_000_000  # no clip of training, of its log or of its report
METHODS: dict[str, sttm.Method | None] = {
    "all tokens": None,
    "sttm 0.80/0.60": sttm.STTM(spatial_threshold=0.80, temporal_threshold=0.60),
    "sttm keep 0.30": sttm.STTM(keep=0.30),
    "sttm keep 0.10": sttm.STTM(keep=0.10),
    "random keep 0.30": sttm.get_method("random", keep=0.30),
    "random keep 0.10": sttm.get_method("random", keep=0.10),
}


def tally(chat: sttm.VideoChat, clips: list[Clip]) -> tuple[dict[str, list[bool]], list[float]]:
    """Answer every question of every clip on one prefill per clip."""
    right: dict[str, list[bool]] = defaultdict(list)
    retention = []
    for clip in clips:
        video = chat.watch(clip.frames, fps=clip.fps, max_frames=len(clip.frames))
        retention.append(video.retention)
        for question in make_questions(clip, clip.seed):
            answer = video.ask(question.text, max_new_tokens=6)
            right[question.task].append(answer.text == question.answer)
    return right, retention


def main() -> None:
    """Print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[8, 16, 32])
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--layers", type=int, nargs="+", default=[0])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/nano_accuracy.json"))
    args = parser.parse_args()
    model, processor = load()
    rows: list[dict[str, object]] = []
    print(f"| frames | layer | method | retention | {' | '.join(TASKS)} |")
    print("|---" * (4 + len(TASKS)) + "|")
    for frames in args.frames:
        clips = [make_clip(FIRST_SEED + i, frames) for i in range(args.clips)]
        for layer in args.layers:
            for name in args.methods:
                chat = sttm.VideoChat(model, processor, METHODS[name], layer=layer)
                right, kept = tally(chat, clips)
                share = sum(kept) / len(kept)
                accuracy = {task: sum(right[task]) / len(right[task]) for task in TASKS}
                count = {task: len(right[task]) for task in TASKS}
                rows.append(
                    {
                        "frames": frames,
                        "layer": layer,
                        "method": name,
                        "retention": round(share, 4),
                        "accuracy": {task: round(value, 4) for task, value in accuracy.items()},
                        "questions": count,
                    }
                )
                cells = " | ".join(f"{accuracy[task]:.2f} ({count[task]})" for task in TASKS)
                print(f"| {frames} | {layer} | {name} | {share:.3f} | {cells} |", flush=True)
    machine = environment(torch.device("cpu"))
    settings = {"first_seed": FIRST_SEED, "clips": args.clips}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    report = {"machine": machine, "settings": settings, "rows": rows}
    args.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
