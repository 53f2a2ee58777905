import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.ops import clustering, naive_field
from sttm.ops.clustering import cluster_centres, density_peaks, squared_distances


def points(n: int, seed: int, channels: int = 3) -> torch.Tensor:
    return torch.randn(n, channels, generator=torch.Generator().manual_seed(seed))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), st.integers(1, 14), st.integers(0, 999), st.data())
def test_clusters_equal_their_twin(n: int, neighbours: int, seed: int, data: st.DataObject) -> None:
    x = points(n, seed)
    count = data.draw(st.integers(1, n))
    peaks = density_peaks(x, neighbours, count)
    expected = naive_field.density_peaks(x.double().tolist(), neighbours, count)
    assert peaks.centre[peaks.label].tolist() == expected
    assert cluster_centres(x[None], neighbours, [count])[0].tolist() == expected


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.sampled_from([torch.float32, torch.float16]), st.data())
def test_every_cluster_holds_its_centre(n: int, dtype: torch.dtype, data: st.DataObject) -> None:
    # Rounded, so that many points are equal.
    x = points(n, n).round().to(dtype)
    count = data.draw(st.integers(1, n))
    peaks = density_peaks(x, 3, count)
    assert peaks.centre.shape == (count,)
    assert bool((peaks.centre.diff() > 0).all())
    assert peaks.label[peaks.centre].tolist() == [*range(count)]
    assert bool(torch.isfinite(peaks.log_density).all())


def test_batches_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.stack([points(9, seed) for seed in range(4)])
    peaks = density_peaks(x, 3, 4)
    for i in range(4):
        assert torch.equal(peaks.label[i], density_peaks(x[i], 3, 4).label)
    whole = cluster_centres(x, 3, [1, 2, 9, 4])
    monkeypatch.setattr(clustering, "piece_rows", lambda *_: 3)
    assert torch.equal(whole, cluster_centres(x, 3, [1, 2, 9, 4]))


def test_two_clouds_and_a_stray_point() -> None:
    x = torch.tensor([0.0, 0.1, 0.2, 5.0, 5.1, 5.2, 100.0])[:, None] * 0.1
    peaks = density_peaks(x, 3, 2)  # each point and two others
    assert peaks.label.tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert peaks.centre.tolist() == [1, 4]


def test_only_of_equal_points_one_counts_as_denser() -> None:
    """As with the authors' code without its noise: two that are each other's nearest are peaks."""
    x = torch.tensor([9.0, 5.0, 0.1, 0.0])[:, None]
    assert density_peaks(x, 2, 2).centre.tolist() == [2, 3]
    x = torch.tensor([9.0, 5.0, 0.0, 0.0])[:, None]
    assert density_peaks(x, 2, 2).centre.tolist() == [0, 2]


def test_equal_points_are_exactly_alike() -> None:
    x = points(5, 0, 64).repeat(3, 1) + 1000.0
    square = squared_distances(x)
    assert torch.equal(square, square.T)
    assert bool((square[:5, 5:10].diagonal() == 0.0).all())
    expected = torch.cdist(x.double(), x.double(), compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(square, expected**2 / 64, atol=1e-9, rtol=1e-6)


def test_large_features_do_not_underflow() -> None:
    x = points(20, 0) * 1e4
    assert torch.equal(density_peaks(x, 3, 20).centre, torch.arange(20))
    assert len(set(density_peaks(x, 3, 5).log_density.tolist())) == 20
