"""What nano answers when its vision tower skips frames and patches that have hardly changed.

    python benchmarks/tower.py --scenes 40 --out benchmarks/results/tower.json

Every scene of the needle benchmark is encoded in several ways, and asked with all tokens and with a
tenth of them. Told are the share of patches that went through the tower, how far the features are
from those of the whole tower, and which answers were lost and won against it (McNemar's test).
"tome" is the alternative that lost: patches merge inside the tower, as ToMe does.
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from sttm import STTM, FrameEncoding, VideoChat
from sttm.evaluation.environment import environment
from sttm.evaluation.statistics import mcnemar
from sttm.models.transformers_api import POOLED
from sttm.nano import NANO_LAYER, NANO_POSITIONS, load, make_scene, scene_questions
from sttm.nano.scenes import FIRST_SEED

KINDS = ("static", "texture", "pan", "cut")
WAYS: dict[str, Any] = {
    "whole": FrameEncoding(),
    **{f"dedupe {t}": FrameEncoding(dedupe=t) for t in (4, 8, 16, 32)},
    **{f"reuse {t}": FrameEncoding(reuse=t) for t in (4, 8, 16, 32)},
    **{f"tome {share}": share for share in (0.5, 0.25)},
}


def tower_layers(model: Any) -> Any:
    return model.model.vision_tower.encoder.layers


@contextmanager
def counting(model: Any) -> Iterator[list[int]]:
    """Count the patches that go through the layers' MLPs."""
    counts: list[int] = []
    handles = [
        layer.mlp.register_forward_pre_hook(
            lambda m, args: counts.append(args[0].shape[:-1].numel())
        )
        for layer in tower_layers(model)
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def tome(model: Any, share: float) -> Iterator[None]:
    """Behind the first layer, merge patches until ``share`` is left; give all back at the end."""
    layers, state = tower_layers(model), {}

    def merge(module: Any, args: Any, hidden: torch.Tensor) -> torch.Tensor:
        group = torch.arange(hidden.shape[1]).expand(hidden.shape[:2]).clone()
        size = torch.ones(hidden.shape[:2])
        while hidden.shape[1] > share * group.shape[1]:
            count = min(hidden.shape[1] // 2, hidden.shape[1] - int(share * group.shape[1]))
            hidden, size, group = merge_once(hidden, size, group, count)
        state["group"] = group
        return hidden

    def unmerge(module: Any, args: Any, hidden: torch.Tensor) -> torch.Tensor:
        return hidden.gather(1, state["group"][..., None].expand(-1, -1, hidden.shape[2]))

    handles = [
        layers[0].register_forward_hook(merge, prepend=True),
        layers[-1].register_forward_hook(unmerge, prepend=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def merge_once(
    hidden: torch.Tensor, size: torch.Tensor, group: torch.Tensor, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Merge the ``count`` patches of even place that are most like one of odd place into it."""
    unit = torch.nn.functional.normalize(hidden, dim=-1)
    best, target = (unit[:, ::2] @ unit[:, 1::2].mT).max(-1)
    order = best.argsort(-1, descending=True)
    rows = torch.arange(len(hidden))[:, None]
    new = torch.empty(hidden.shape[:2], dtype=torch.long)
    kept = order[:, count:].sort(-1).values
    evens, odds = kept.shape[1], hidden.shape[1] // 2
    new[:, 1::2] = torch.arange(evens, evens + odds)
    new[rows, 2 * kept] = torch.arange(evens)
    gone = order[:, :count]
    new[rows, 2 * gone] = evens + target[rows, gone]
    total = torch.zeros(len(hidden), evens + odds).scatter_add_(1, new, size)
    index = new[..., None].expand(hidden.shape)
    weighted = hidden * (size / total.gather(1, new))[..., None]
    merged = torch.zeros(len(hidden), evens + odds, hidden.shape[2]).scatter_add_(
        1, index, weighted
    )
    return merged, total, new.gather(1, group)


def measure(
    model: Any, processor: Any, kind: str, args: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """Answer all questions about the scenes of a kind in every way."""
    options: dict[str, Any] = {"layer": NANO_LAYER, "positions": NANO_POSITIONS}
    chats = {keep: VideoChat(model, processor, STTM(keep=keep), **options) for keep in args.keep}
    chats[1.0] = VideoChat(model, processor)
    ways = {name: way for name, way in WAYS.items() if name in ("whole", *args.ways)}
    found: dict[str, Any] = {w: {"patches": 0, "error": [], "right": {}} for w in ways}
    for seed in range(FIRST_SEED, FIRST_SEED + args.scenes):
        scene = make_scene(seed, args.frames, kind=kind)
        questions, whole = scene_questions(scene, seed), None
        for name, way in ways.items():
            chat, merging = chats[1.0], isinstance(way, float)
            chat.encoding = FrameEncoding() if merging else way
            with counting(model) as counts, tome(model, way) if merging else nullcontext():
                encoded = chat.encode(scene.frames)
            own, row = encoded.features[POOLED], found[name]
            whole = own if whole is None else whole
            row["patches"] += sum(counts)
            row["error"].append(float((own - whole).norm() / whole.norm()))
            for keep, other in chats.items():
                video = other.prefill(encoded)
                row["right"].setdefault(keep, []).extend(
                    video.ask(q.text, max_new_tokens=4).text.strip(" .").lower() == q.answer.lower()
                    for q in questions
                )
    for chat in chats.values():
        chat.close()
    return {name: summary(row, found["whole"]) for name, row in found.items()}


def summary(row: dict[str, Any], whole: dict[str, Any]) -> dict[str, Any]:
    answers = {}
    for keep, right in row["right"].items():
        pairs = list(zip(whole["right"][keep], right, strict=True))
        lost, won = sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)
        accuracy = round(100 * sum(right) / len(right), 1)
        answers[str(keep)] = {"right": accuracy, "lost": lost, "won": won, "p": mcnemar(lost, won)}
    return {
        "patches": round(row["patches"] / whole["patches"], 3),
        "error": round(sum(row["error"]) / len(row["error"]), 4),
        "questions": len(row["right"][1.0]),
        "answers": answers,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--scenes", type=int, default=40, help="of each kind")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--keep", type=float, nargs="+", default=[0.1])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    model, processor = load()
    kinds = {}
    for kind in args.kinds:
        kinds[kind] = measure(model, processor, kind, args)
        for name, row in kinds[kind].items():
            print(kind, name, json.dumps(row), flush=True)
    facts = {"machine": environment(model.device), "scenes": args.scenes, "frames": args.frames}
    args.out.write_text(json.dumps({**facts, "kinds": kinds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
