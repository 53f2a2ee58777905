"""One of several processes with one store: python -m tests.chat.sharing DIR SEED.

Whatever the others do, each video that it is given is the one that it asked for.
"""

import random
import sys
import warnings
from pathlib import Path

import torch

import sttm
from sttm.chat import VideoStore
from tests.models.methods import PairMerge

from .tiny import bundle, clip

VIDEOS = 4
STEPS = 25


def main(folder: Path, seed: int) -> None:
    warnings.simplefilter("error")  # nothing is ever half-written or damaged
    torch.set_num_threads(1)
    tiny = bundle("llava_onevision")
    chat = sttm.VideoChat(tiny.model, tiny.processor, PairMerge(), layer=1)
    wanted = [chat.watch(clip(4, seed=i)).cache.layers[-1].keys for i in range(VIDEOS)]
    size = chat.watch(clip(4)).nbytes
    chance = random.Random(seed)
    for _ in range(STEPS):
        # Room for about two, so that each deletes what the other one reads.
        store = VideoStore(folder, memory_bytes=0, disk_bytes=3 * size + 8000)
        which = chance.randrange(VIDEOS)
        found = store.watch(chat, clip(4, seed=which))
        assert torch.equal(found.cache.layers[-1].keys, wanted[which])
        if chance.random() < 0.2:
            store.remove(store.key(chat, clip(4, seed=which)))
        store.collect()
        assert store.verify() == []


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
