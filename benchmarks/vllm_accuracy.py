"""nano answers the needle task inside vLLM, with every method at every budget.

    .venv-vllm/bin/python -m benchmarks.vllm_accuracy --out out/vllm-needle
    sttm eval report out/vllm-needle --against sttm --out out/vllm-needle-report

vLLM's own pruning does not know nano's architecture: EVS and VidCom2 are this library's, inside the
plugin. An engine per method answers all budgets, which are the requests' own. Answers are kept as
they come, in the folders that `sttm eval run` writes; a run that was cut off goes on.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from tests.vllm.checkpoints import make
from tests.vllm.engine import ENVIRONMENT

from sttm.evaluation.config import EvalConfig, by_video, folder_name
from sttm.evaluation.environment import environment
from sttm.evaluation.record import ANSWERS, RUN, AnswerRecord, read_answer
from sttm.evaluation.result_log import ResultLog
from sttm.evaluation.specs import ALL, Setting, make_settings
from sttm.evaluation.tasks import Item, get_task
from sttm.evaluation.tasks.scenes import scene_video
from sttm.files import write_json

TEMPLATE = "<|im_start|>user\n<video>\n{}<|im_end|>\n<|im_start|>assistant\n"
NEW_TOKENS = 6
PER_FRAME = 64


class Engine:
    """vLLM with nano.

    Args:
        checkpoint: nano's folder, with names of weights that vLLM knows.
        method: of the plugin; `ALL`: vLLM as it is.
    """

    def __init__(self, checkpoint: str, method: str) -> None:
        from vllm import LLM, SamplingParams

        merged: dict[str, Any] = {
            "video_pruning_rate": 0.5,
            "hf_overrides": {"sttm": {"method": method}},
        }
        self._llm = LLM(
            model=checkpoint,
            dtype="float32",
            enforce_eager=True,
            max_model_len=4096,
            max_num_seqs=16,
            block_size=32,
            limit_mm_per_prompt={"image": 0, "video": 1},
            **({} if method == ALL else merged),
        )
        self._greedy = SamplingParams(max_tokens=NEW_TOKENS, temperature=0)
        self._video_token = self._llm.llm_engine.model_config.hf_config.video_token_index

    def ask(
        self, setting: Setting, config: EvalConfig, items: Sequence[Item]
    ) -> Iterator[AnswerRecord]:
        """Ask about one video: the first question prefills it, the others find it there."""
        video = scene_video(items[0])
        metadata = {
            "total_num_frames": len(video.frames),
            "fps": video.fps,
            "duration": video.duration,
            "frames_indices": list(video.indices),
            "do_sample_frames": False,
        }
        budget = {} if setting.method is None else {"sttm_keep": setting.keep}
        prompts: list[Any] = [
            {
                "prompt": TEMPLATE.format(config.task.prompt(item)),
                "multi_modal_data": {"video": [(video.frames, metadata)]},
                "mm_processor_kwargs": budget,
            }
            for item in items
        ]
        outputs = [
            output
            for part in (prompts[:1], prompts[1:])
            for output in self._llm.generate(part, self._greedy, use_tqdm=False)
        ]
        for item, output in zip(items, outputs, strict=True):
            text = output.outputs[0].text.strip()
            yield AnswerRecord(
                question_id=item.question_id,
                video_id=item.video_id,
                question=item.question,
                options=item.options,
                expected=item.answer,
                groups=item.groups,
                extra=item.extra,
                **vars(read_answer(config.task, item, text, config.parser)),
                text=text,
                tokens_in=len(video.frames) * PER_FRAME,
                tokens_out=list(output.prompt_token_ids).count(self._video_token) - 1,  # newline
                setting=str(setting),
            )


def answer(config: EvalConfig, label: str, checkpoint: str, out: Path) -> None:
    """Answer what is missing, with one method."""
    videos = by_video(config.task.items(None))
    machine = environment(torch.device("cpu"))
    about = {"task": config.task.model_dump(mode="json", by_alias=True), **machine}
    engine: Engine | None = None
    for setting in (each for each in config.settings if each.label == label):
        folder = out / folder_name(setting)
        folder.mkdir(parents=True, exist_ok=True)
        identity = {
            "benchmark": "eval",
            **config.choices(setting),
            "model": "nano",
            "engine": f"vllm {version('vllm')}",
            "dtype": "float32",
        }
        asked = " ".join(sys.argv[1 : sys.argv.index("--only")])
        command = f"python -m benchmarks.vllm_accuracy {asked}"
        write_json(folder / RUN, {"command": command, "machine": machine})
        with ResultLog(folder / ANSWERS, identity, about, AnswerRecord) as log:
            for video in videos:
                if any(item.question_id not in log.known for item in video.items):
                    engine = engine or Engine(checkpoint, label)
                    log.add(engine.ask(setting, config, video.items))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", nargs="+", default=["sttm", "evs", "vidcom2"])
    parser.add_argument("--keep", nargs="+", type=float, default=[1.0, 0.5, 0.3, 0.2, 0.1])
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs=2, help=argparse.SUPPRESS)  # a label and a checkpoint
    args = parser.parse_args()
    task = get_task("needle")
    scenes = task.scenes.model_copy(update={"count": args.scenes, "frames": args.frames})
    config = EvalConfig(
        task.model_copy(update={"scenes": scenes}),
        tuple(make_settings(args.methods, args.keep)),
        layer=0,
        positions="reassigned",
        max_new_tokens=NEW_TOKENS,
    )
    if args.only is not None:
        label, checkpoint = args.only
        answer(config, label, checkpoint, args.out)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = make("nano", Path(name, "nano"))
        for label in dict.fromkeys(setting.label for setting in config.settings):
            command = [sys.executable, "-m", "benchmarks.vllm_accuracy", *sys.argv[1:]]
            subprocess.run(
                [*command, "--only", label, str(folder)],
                env={**os.environ, **ENVIRONMENT},
                check=True,
            )


if __name__ == "__main__":
    main()
