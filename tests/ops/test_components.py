import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sttm.ops import naive
from sttm.ops.components import connected_components, forest_roots, published_groups

LinkList = list[tuple[int, int]]
graphs = st.integers(1, 25).flatmap(
    lambda n: st.tuples(
        st.just(n),
        st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), max_size=30),
    )
)


def ends(links: LinkList) -> tuple[torch.Tensor, torch.Tensor]:
    pairs = torch.tensor(links, dtype=torch.int64).reshape(-1, 2)
    return pairs[:, 0], pairs[:, 1]


@settings(deadline=None)
@given(graphs)
def test_components_equal_their_twin(graph: tuple[int, LinkList]) -> None:
    nodes, links = graph
    assert connected_components(*ends(links), nodes).tolist() == naive.connected_components(
        links, nodes
    )


@settings(deadline=None)
@given(graphs)
def test_published_groups_equal_their_twin(graph: tuple[int, LinkList]) -> None:
    nodes, links = graph
    fast = published_groups(*ends(links), nodes)
    assert fast.tolist() == naive.published_groups(links, nodes)
    assert torch.equal(fast[fast], fast)


@settings(deadline=None)
@given(st.data(), st.integers(1, 40))
def test_roots_equal_their_twin(data: st.DataObject, nodes: int) -> None:
    parent = [data.draw(st.integers(max(0, i - 3), i)) for i in range(nodes)]
    fast = forest_roots(torch.tensor(parent), depth=nodes - 1)
    assert fast.tolist() == naive.forest_roots(parent)


def test_roots_of_the_longest_path_of_every_length() -> None:
    for frames in range(1, 70):
        parent = torch.arange(frames).sub(1).clamp(min=0)
        assert forest_roots(parent, depth=frames - 1).tolist() == [0] * frames


def test_the_published_groups_depend_on_links_elsewhere() -> None:
    near = [(0, 2), (1, 2)]
    chain = [(i, i + 1) for i in range(3, 40)]
    alone = published_groups(*ends(near), 41)[:3].tolist()
    with_chain = published_groups(*ends(near + chain), 41)[:3].tolist()
    assert alone == [0, 1, 0]
    assert with_chain == [0, 0, 0]
    for links in (near, near + chain):
        assert connected_components(*ends(links), 41)[:3].tolist() == [0, 0, 0]


def test_a_long_chain_in_scrambled_order() -> None:
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(1))
    label = connected_components(order[:-1], order[1:], 3000)
    assert label.tolist() == [0] * 3000
