"""One vLLM engine in a process of its own: it is asked in JSON, and answers in JSON."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sttm.nano import make_clip

ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
STOCK = {"VLLM_PLUGINS": ""}  # no plugin at all
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"
IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"


@dataclass(frozen=True)
class Clip:
    """A made video: a still background with a block that moves, and noise.

    Args:
        frames: how many.
        fps: frames per second.
        seed: of its colours.
        size: height and width in pixels, multiples of 28.
        nano: draw one of nano's clips instead, 128 x 128.
    """

    frames: int = 12
    fps: float = 2.0
    seed: int = 0
    size: tuple[int, int] = (112, 168)
    nano: bool = False

    @property
    def num_tokens(self) -> int:
        """Tokens of Qwen's models: 2 frames and 28 x 28 pixels each."""
        return self.frames // 2 * self.size[0] // 28 * self.size[1] // 28

    def pixels(self) -> Any:
        """Draw it: ``(frames, height, width, 3)`` uint8."""
        if self.nano:
            return make_clip(self.seed, self.frames).frames
        rng, (height, width) = np.random.default_rng(self.seed), self.size
        still = rng.integers(0, 255, (1, height // 14, width // 14, 3))
        video = still.repeat(14, 1).repeat(14, 2).repeat(self.frames, 0)
        for t in range(self.frames):
            left = t * 14 % width
            video[t, :, left : left + 28] = rng.integers(0, 255, 3)
        noise = rng.integers(-9, 9, video.shape)  # so that no choice hangs on a tie
        return (video + noise).clip(0, 255).astype(np.uint8)

    def metadata(self) -> dict[str, Any]:
        """Say when its frames were taken, as vLLM wants to know."""
        return {
            "total_num_frames": self.frames,
            "fps": self.fps,
            "duration": self.frames / self.fps,
            "frames_indices": list(range(self.frames)),
            "do_sample_frames": False,
            "video_backend": "opencv",
        }


@dataclass(frozen=True)
class Request:
    """What is asked about videos and images.

    Args:
        prompt: with one placeholder for each of them.
        clips: the videos.
        images: how many images.
        kwargs: the request's ``mm_processor_kwargs``.
        tokens: how many to generate.
    """

    prompt: str
    clips: tuple[Clip, ...] = (Clip(),)
    images: int = 0
    kwargs: tuple[tuple[str, Any], ...] = ()
    tokens: int = 6


@dataclass(frozen=True)
class Answer:
    """What came back.

    Args:
        prompt_tokens: length of the prompt.
        ids: the generated tokens.
        text: the same as text.
        logprobs: of all words, for every generated token.
        cached: tokens of the prompt that lay in the prefix cache.
        positions: of every token that was computed, one list per coordinate.
    """

    prompt_tokens: int
    ids: list[int]
    text: str
    logprobs: list[list[float]]
    cached: int
    positions: list[list[int]]


def turn(question: str, media: str = VIDEO) -> str:
    """Write the first turn of a chat."""
    return f"<|im_start|>user\n{media}{question}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True)
class Engine:
    """Settings of vLLM, hashable.

    Args:
        model: a checkpoint's folder.
        sttm: what ``--hf-overrides`` says about sttm, as JSON; None: nothing.
        rate: ``--video-pruning-rate``.
        options: further settings.
        environment: further variables.
    """

    model: str
    sttm: str | None = None
    rate: float | None = None
    options: tuple[tuple[str, Any], ...] = ()
    environment: tuple[tuple[str, str], ...] = ()

    def settings(self) -> dict[str, Any]:
        """Return the arguments of ``vllm.LLM``."""
        overrides = {} if self.sttm is None else {"sttm": json.loads(self.sttm)}
        common = {
            # vLLM's linear attention on a CPU takes nothing else.
            "dtype": "bfloat16" if "qwen3_5" in Path(self.model).name else "float32",
            "enforce_eager": True,
            "max_model_len": 4096,
            "max_num_seqs": 4,
            "block_size": 32,
            "max_logprobs": -1,
            "limit_mm_per_prompt": {"image": 2, "video": 3},
        }
        rate = {} if self.rate is None else {"video_pruning_rate": self.rate}
        settings = {**common, "model": self.model, "hf_overrides": overrides, **rate}
        return {**settings, **dict(self.options)}

    def ask(self, *requests: Request) -> list[Answer]:
        """Start vLLM, and ask one thing after another; what was asked once is remembered."""
        return _ask(self, requests)


@cache
def _ask(engine: Engine, requests: tuple[Request, ...]) -> list[Answer]:
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "asked.json"), Path(folder, "answered.json")
        asked.write_text(json.dumps([engine.settings(), [asdict(one) for one in requests]]))
        done = subprocess.run(
            [sys.executable, "-m", "tests.vllm.engine", str(asked), str(answered)],
            env={**os.environ, **ENVIRONMENT, **dict(engine.environment)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=600,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stdout[-6000:])
        return [Answer(**one) for one in json.loads(answered.read_text())]


@dataclass
class _Recorder:
    """Notes the positions that the model is called with."""

    parts: list[Any] = field(default_factory=list)

    def watch(self, model: Any) -> None:
        forward = model.forward

        def noting(input_ids: Any, positions: Any, *args: Any, **kwargs: Any) -> Any:
            self.parts.append(positions.clone())
            return forward(input_ids, positions, *args, **kwargs)

        model.forward = noting

    def take(self) -> list[list[int]]:
        parts = [part if part.ndim == 2 else part[None] for part in self.parts]
        self.parts.clear()
        return [[int(x) for part in parts for x in part[row]] for row in range(len(parts[0]))]


def main(asked: str, answered: str) -> None:
    """Answer what a file asks."""
    from vllm import LLM, SamplingParams

    settings, requests = json.loads(Path(asked).read_text())
    llm = LLM(**settings)
    recorder, answers = _Recorder(), []
    if settings.get("tensor_parallel_size", 1) == 1:
        llm.apply_model(recorder.watch)
    for request in requests:
        recorder.parts.clear()
        params = SamplingParams(
            max_tokens=request["tokens"], temperature=0, logprobs=-1, ignore_eos=True
        )
        [output] = llm.generate(_prompt(request), params, use_tqdm=False)
        answers.append(asdict(_answer(output, recorder)))
    Path(answered).write_text(json.dumps(answers))


def _prompt(request: Mapping[str, Any]) -> Any:
    from PIL import Image

    clips = [Clip(**{**clip, "size": tuple(clip["size"])}) for clip in request["clips"]]
    data: dict[str, Sequence[Any]] = {}
    if clips:
        data["video"] = [(clip.pixels(), clip.metadata()) for clip in clips]
    if request["images"]:
        stills = [Clip(1, seed=90 + i).pixels()[0] for i in range(request["images"])]
        data["image"] = [Image.fromarray(still) for still in stills]
    return {
        "prompt": request["prompt"],
        "multi_modal_data": data,
        "mm_processor_kwargs": dict(request["kwargs"]),
    }


def _answer(output: Any, recorder: _Recorder) -> Answer:
    [best] = output.outputs
    return Answer(
        prompt_tokens=len(output.prompt_token_ids),
        ids=list(best.token_ids),
        text=best.text,
        logprobs=[[step[i].logprob for i in sorted(step)] for step in best.logprobs],
        cached=output.num_cached_tokens or 0,
        positions=recorder.take() if recorder.parts else [],
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
