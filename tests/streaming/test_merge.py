"""Chunk by chunk, the tokens are those of the naive twin and of the whole video's plan."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import sttm
from sttm.errors import ConfigError
from sttm.grid import VideoGrid
from sttm.methods import VideoFeatures
from sttm.ops import naive
from sttm.ops.naive_stream import Stream
from sttm.plan import MergePlan
from sttm.streaming import StreamMemory, StreamTokens, merge_same_places
from tests.ops.merge_cases import is_close_call, make_video, settings_of, videos

THRESHOLDS = st.sampled_from([None, -0.5, 0.0, 0.3, 0.7, 0.95])


def methods(spatial: float | None, temporal: float | None, **options: object) -> sttm.STTM:
    return sttm.STTM(spatial_threshold=spatial, temporal_threshold=temporal, **options)  # type: ignore[arg-type]


def stream_in_chunks(
    x: torch.Tensor, grid: VideoGrid, method: sttm.STTM, chunks: list[int], window: int | None
) -> tuple[StreamTokens, MergePlan]:
    """Push chunks of these numbers of frames, and the rest in one; return tokens and plan."""
    stream = sttm.StreamingSTTM(method, grid.height, grid.width, window=window, record=True)
    frames, emitted, at = x.view(grid.frames, -1, x.shape[1]), [], 0
    for count in [*chunks, grid.frames]:
        part = frames[at : at + count].flatten(0, 1)
        at += count
        if len(part):
            emitted.append(stream.push(part))
    pending = stream.pending()
    rest = stream.flush()
    assert rest is not None
    assert pending is not None
    assert torch.equal(rest.features, pending.features)
    assert stream.frames == grid.frames
    tokens = StreamTokens.join(*emitted, rest)
    assert stream.num_tokens == len(tokens)
    return tokens, stream.plan()


@settings(max_examples=80, deadline=None)
@given(
    videos(),
    THRESHOLDS,
    THRESHOLDS,
    st.booleans(),
    st.sampled_from(["most_similar", "top_left"]),
    st.lists(st.integers(1, 3), max_size=4),
    st.sampled_from([None, 4, 9]),
)
def test_a_window_over_the_video_gives_the_plan_of_the_whole(
    video: tuple[torch.Tensor, VideoGrid],
    spatial: float | None,
    temporal: float | None,
    weighted: bool,
    parent: str,
    chunks: list[int],
    window: int | None,
) -> None:
    x, grid = video
    method = methods(spatial, temporal, weighted=weighted, parent=parent)
    tokens, plan = stream_in_chunks(x, grid, method, chunks, window)
    whole = method.plan(VideoFeatures(x, grid))
    assert torch.equal(plan.group, whole.group)
    assert torch.equal(plan.anchor, whole.anchor)
    torch.testing.assert_close(plan.weight, whole.weight, rtol=1e-6, atol=0)
    assert torch.equal(tokens.anchor, whole.anchor)
    assert torch.equal(tokens.box, whole.info["boxes"])
    torch.testing.assert_close(tokens.features, whole.apply(x), rtol=1e-5, atol=1e-6)
    if not weighted:
        assert torch.equal(tokens.share.round().long(), whole.info["cells"])


@settings(max_examples=80, deadline=None)
@given(
    videos(multiple=2),
    THRESHOLDS,
    THRESHOLDS,
    st.booleans(),
    st.sampled_from(["most_similar", "top_left"]),
    st.integers(1, 3),
    st.integers(1, 3),
)
def test_every_window_is_that_of_the_naive_twin(
    video: tuple[torch.Tensor, VideoGrid],
    spatial: float | None,
    temporal: float | None,
    weighted: bool,
    parent: str,
    window: int,
    step: int,
) -> None:
    x, grid = video
    method = methods(spatial, temporal, weighted=weighted, parent=parent, per_head=2)
    options = settings_of(method)
    if is_close_call(naive.merge(x, grid.frames, grid.height, grid.width, options), options):
        return
    twin = Stream(options, window)
    stream = sttm.StreamingSTTM(method, grid.height, grid.width, window=window)
    frames, emitted = x.view(grid.frames, -1, x.shape[1]), []
    for start in range(0, grid.frames, step):
        part = frames[start : start + step]
        for frame in part:
            twin.push(frame.view(grid.height, grid.width, -1))
        emitted.append(stream.push(part.flatten(0, 1)))
        assert stream.num_tokens == (len(twin.groups) if temporal is None else twin.closed)
    rest = stream.flush()
    assert rest is not None
    tokens = StreamTokens.join(*emitted, rest)
    assert [tuple(box) for box in tokens.box.tolist()] == [g.cells[0].box for g in twin.groups]
    wanted = torch.stack([group.mean(weighted) for group in twin.groups])
    torch.testing.assert_close(tokens.features.double(), wanted, rtol=1e-5, atol=1e-5)


def test_no_token_waits_longer_than_the_window() -> None:
    grid = VideoGrid(40, 4, 4)
    x = make_video("static", grid, 8, seed=1).view(40, 16, 8)
    stream = sttm.StreamingSTTM(methods(None, 0.5), 4, 4, window=8)
    counts = [len(stream.push(frame)) for frame in x]
    assert counts == ([0] * 7 + [16]) * 5
    endless = sttm.StreamingSTTM(methods(None, 0.5), 4, 4, window=None)
    assert sum(len(endless.push(frame)) for frame in x) == 0
    assert len(endless.flush() or ()) == 16


def test_a_flush_ends_all_groups() -> None:
    x = make_video("static", VideoGrid(2, 4, 4), 8, seed=1)
    stream = sttm.StreamingSTTM(methods(None, 0.5), 4, 4)
    assert stream.flush() is None
    assert stream.pending() is None
    for begun in (0, 16):
        assert len(stream.push(x)) == 0
        rest = stream.flush()
        assert rest is not None
        assert rest.anchor.tolist() == [2 * begun + i for i in range(16)]
        assert rest.share.tolist() == [2.0] * 16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_come_out_as_they_went_in(dtype: torch.dtype) -> None:
    grid = VideoGrid(6, 5, 7)
    x = make_video("smooth", grid, 8, seed=3).to(dtype)
    method = methods(0.6, 0.6)
    tokens, plan = stream_in_chunks(x, grid, method, [1, 2], None)
    whole = method.plan(VideoFeatures(x, grid))
    assert torch.equal(plan.group, whole.group)
    assert tokens.features.dtype == dtype
    torch.testing.assert_close(tokens.features, whole.apply(x))


def test_a_full_memory_merges_its_oldest_tokens() -> None:
    grid = VideoGrid(60, 4, 4)
    x = make_video("smooth", grid, 8, seed=5)
    stream = sttm.StreamingSTTM(methods(None, None), 4, 4, record=True)
    memory = StreamMemory(100, 4, 4)
    whole: MergePlan | None = None
    for part in torch.split(x, 5 * 16):
        new = stream.push(part)
        plan = memory.add(new)
        assert memory.tokens is not None
        assert len(memory.tokens) <= 100
        before = MergePlan.identity(len(new))
        if whole is not None:  # what was there, and the new tokens behind it
            label = torch.cat([whole.group, whole.num_out + before.group])
            before = MergePlan.from_labels(label, torch.cat([whole.weight, before.weight]))
        whole = before.compose(plan)
        youngest = x[: stream.frames * 16][-50:]
        assert torch.equal(memory.tokens.features[-50:], youngest)  # not touched
    assert whole is not None
    assert memory.tokens is not None
    torch.testing.assert_close(whole.check().apply(x), memory.tokens.features)
    assert torch.equal(whole.anchor, memory.tokens.anchor)
    assert torch.equal(whole.sizes.float(), memory.tokens.share)


def test_the_most_similar_of_a_place_merge_first() -> None:
    features = torch.tensor([[1.0, 0], [0, 1], [1, 0.1], [0, 1], [1, 1]])
    box = torch.tensor([[0, 0, 0, 1, 1], [0, 0, 1, 1, 2], [1, 0, 0, 1, 1], [2, 0, 1, 1, 2],
                        [3, 0, 0, 1, 1]])  # fmt: skip
    tokens = StreamTokens(
        features, torch.arange(5), torch.tensor([1.0, 1, 3, 1, 1]), box, features[:, :0]
    )
    assert merge_same_places(tokens, 4).group.tolist() == [0, 1, 2, 1, 3]
    three = merge_same_places(tokens, 3)
    assert three.group.tolist() == [0, 1, 0, 1, 2]
    merged = tokens.merge(three)
    torch.testing.assert_close(merged.features[0], torch.tensor([1.0, 0.075]))
    assert merged.share.tolist() == [4, 2, 1]
    assert merge_same_places(tokens, 4, oldest=3).group.tolist() == [0, 1, 0, 2, 3]
    with pytest.raises(ConfigError, match="keep: got 1 of 5 tokens, expected at least 2"):
        merge_same_places(tokens, 1)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (sttm.STTM(keep=0.3), "keep: got 0.3 for a stream"),
        (sttm.STTM(criterion="distortion", max_distortion=0.1), "criterion: got 'distortion'"),
        (sttm.STTM(linking="components"), "linking: got 'components'"),
        (sttm.STTM(max_tokens=0.5), "max_tokens: got 0.5 for a stream, expected a count"),
        (sttm.get_method("random", keep=0.5), "expected sttm.STTM with thresholds"),
        (None, "expected sttm.STTM with thresholds"),
    ],
)
def test_methods_that_need_the_whole_video_are_refused(method: sttm.STTM, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        sttm.StreamingSTTM(method, 4, 4)


def test_bad_input_is_refused() -> None:
    with pytest.raises(ConfigError, match="window: got 0"):
        sttm.StreamingSTTM(sttm.STTM(), 4, 4, window=0)
    with pytest.raises(ConfigError, match="max_tokens: got 79, expected at least 80"):
        StreamMemory(79, 4, 4)
    stream = sttm.StreamingSTTM(sttm.STTM(per_head=2), 4, 4)
    with pytest.raises(ConfigError, match="expected \\(16, C\\)"):
        stream.push(torch.zeros(15, 8))
    with pytest.raises(ConfigError, match="expected \\(16, C\\)"):
        stream.push(torch.zeros(17, 8))
    with pytest.raises(ConfigError, match="2 heads for 7 channels"):
        stream.push(torch.zeros(16, 7))
    with pytest.raises(ConfigError, match="NaN"):
        stream.push(torch.full((16, 8), torch.nan))
    with pytest.raises(ConfigError, match="record=True"):
        stream.plan()
    stream.push(torch.ones(16, 8))
    with pytest.raises(ConfigError, match="got 4 channels behind frames of 8"):
        stream.push(torch.ones(16, 4))


def test_what_is_pushed_along_is_merged_by_the_same_groups() -> None:
    made = torch.Generator().manual_seed(0)
    video, along = (torch.randn(12 * 16, n, generator=made) for n in (8, 3))
    video[32:64] = video[:32]
    method = methods(0.2, 0.3, weighted=True)
    merger = sttm.StreamingSTTM(method, 4, 4, window=None, record=True)
    parts = [merger.push(video[:48], along[:48]), merger.push(video[48:], along[48:])]
    rest = merger.pending()
    assert rest is not None
    tokens, plan = StreamTokens.join(*parts, rest), merger.plan()
    assert 84 < len(tokens) < len(video)
    torch.testing.assert_close(tokens.along, plan.apply(along))
    memory = StreamMemory(84, 4, 4)
    again = memory.add(tokens)
    assert memory.tokens is not None
    assert len(memory.tokens) < len(tokens)
    torch.testing.assert_close(memory.tokens.along, again.apply(plan.apply(along)))
