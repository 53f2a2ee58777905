"""Ask several questions about one video with any supported model.

python examples/ask_many.py clip.mp4 Qwen/Qwen2.5-VL-7B-Instruct "What happens?" "Who is there?"
"""

import sys

from transformers import AutoModelForImageTextToText, AutoProcessor

import sttm


def main(path: str, name: str, questions: list[str]) -> None:
    """Watch once, ask all."""
    model = AutoModelForImageTextToText.from_pretrained(name, dtype="auto", device_map="auto")
    processor = AutoProcessor.from_pretrained(name)
    video = sttm.VideoChat(model, processor, sttm.STTM(keep=0.3)).watch(path)
    print(f"{video.tokens_in} -> {video.tokens_out} video tokens")
    for question in questions:
        answer = video.ask(question)
        print(f"{question}\n  {answer.text}  ({answer.prompt_tokens} tokens, {answer.ttft:.2f} s)")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
