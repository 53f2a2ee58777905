"""What the checksum of a saved video costs: hashing against reading, for one file of a given size.

python benchmarks/saved_video.py --gib 1
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sttm.chat.saved_video import digest

LAYERS = 28


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gib", type=float, default=1.0)
    size = int(parser.parse_args().gib * 2**30 / LAYERS / 2)
    tensors = {f"layer.{i}.keys": torch.randn(size).bfloat16() for i in range(LAYERS)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        save_file(tensors, path)
        del tensors
        for _ in range(3):
            start = time.perf_counter()
            with safe_open(path, framework="pt") as file:
                read = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
            middle = time.perf_counter()
            digest("", read)
            end = time.perf_counter()
            print(f"read {middle - start:.2f} s, checksum {end - middle:.2f} s")


if __name__ == "__main__":
    main()
