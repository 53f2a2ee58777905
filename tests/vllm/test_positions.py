"""Positions travel with features exactly, whatever the dtype and the chunks."""

import pytest
import torch

from sttm.vllm.positions import COLUMNS, pack, place_rows, unpack

WIDTH = 8
# Text, an image of 4, text, a merged video of 6, text, another of 3, text.
MEDIA = torch.tensor([0] * 3 + [1] * 4 + [0] * 2 + [1] * 6 + [0] * 2 + [1] * 3 + [0] * 2).bool()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_position_up_to_65535_is_exact(dtype: torch.dtype) -> None:
    every = torch.arange(65536).expand(3, -1)
    columns = pack(every, torch.empty(0, dtype=dtype))
    assert columns.shape == (65536, COLUMNS)
    assert columns.dtype == dtype
    assert torch.equal(unpack(columns), every)


def given() -> tuple[torch.Tensor, list[torch.Tensor], torch.Tensor]:
    """Positions before, the features of all media, and the positions they should give."""
    torch.manual_seed(0)
    positions = torch.arange(len(MEDIA)).expand(3, -1) * 10
    first, second = torch.randint(0, 900, (3, 6)), torch.randint(0, 900, (3, 3))
    wanted = positions.clone()
    wanted[:, 9:15] = 81 + first  # the text before the video has position 80
    wanted[:, 17:20] = 161 + second
    rows = [torch.zeros(4, WIDTH), *(torch.zeros(p.shape[1], WIDTH) for p in (first, second))]
    rows[1:] = [torch.cat([r, pack(p, r)], 1) for r, p in zip(rows[1:], (first, second))]
    return positions, rows, wanted


def window(rows: list[torch.Tensor], start: int, stop: int) -> list[torch.Tensor]:
    """Return what vLLM hands over for the tokens from start to stop."""
    found = []
    for part, at in zip(rows, (3, 9, 17)):
        piece = part[max(start - at, 0) : max(stop - at, 0)]
        found += [piece] if len(piece) else []
    return found


@pytest.mark.parametrize("size", [1, 2, 5, 7, 22])
def test_chunks_do_not_matter(size: int) -> None:
    positions, rows, wanted = given()
    for start in range(0, len(MEDIA), size):
        chunk = window(rows, start, start + size)
        for _ in range(2):  # a chunk that is computed again changes nothing
            positions = place_rows(positions, MEDIA, chunk, WIDTH, start)
    assert torch.equal(positions, wanted)


def test_a_cached_beginning_is_left_alone() -> None:
    positions, rows, wanted = given()
    placed = place_rows(positions, MEDIA, window(rows, 12, 22), WIDTH, 12)
    assert torch.equal(placed[:, 12:], wanted[:, 12:])
    assert torch.equal(placed[:, :12], positions[:, :12])


def test_a_video_at_the_very_start_begins_at_zero() -> None:
    rows = [pack(torch.full((3, 2), 7), torch.zeros(1))]
    media = torch.tensor([True, True, False])
    placed = place_rows(torch.zeros(3, 3, dtype=torch.int64), media, rows, 0, 0)
    assert placed[:, :2].tolist() == [[7, 7]] * 3
