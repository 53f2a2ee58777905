"""Groups from links: trees of parents, connected components, the published early stop."""

import torch


def forest_roots(parent: torch.Tensor, depth: int) -> torch.Tensor:
    """Follow every node to its root by pointer jumping.

    Args:
        parent: ``(M,)`` int64; roots point at themselves.
        depth: no path to a root is longer than this many steps.

    Returns:
        ``(M,)`` int64.
    """
    root, reach = parent, 1
    while reach < depth:
        root, reach = root[root], 2 * reach
    return root


def connected_components(a: torch.Tensor, b: torch.Tensor, num_nodes: int) -> torch.Tensor:
    """Label every node with the smallest index of its connected component.

    Hooks the roots of linked trees onto the smaller label, then flattens all trees; a logarithmic
    number of rounds in practice.

    Args:
        a: ``(E,)`` int64, one end of every link.
        b: ``(E,)`` int64, the other end.
        num_nodes: ``M``.

    Returns:
        ``(M,)`` int64.
    """
    label = torch.arange(num_nodes, device=a.device)
    while True:
        label_a, label_b = label[a], label[b]
        apart = (label_a != label_b).nonzero().squeeze(1)
        if apart.shape[0] == 0:
            return label
        a, b = a[apart], b[apart]
        low = torch.minimum(label_a[apart], label_b[apart])
        high = torch.maximum(label_a[apart], label_b[apart])
        label = label.scatter_reduce(0, high, low, "amin")
        label = _flatten(label)


def _flatten(label: torch.Tensor) -> torch.Tensor:
    while True:
        jumped = label[label]
        if torch.equal(jumped, label):
            return label
        label = jumped


def published_groups(a: torch.Tensor, b: torch.Tensor, num_nodes: int) -> torch.Tensor:
    """Label nodes as the published code does, which stops before components are complete.

    Links (0, 2) and (1, 2) alone give [0, 1, 0], but [0, 0, 0] when an unrelated long chain
    exists elsewhere: the result is not local. Only for comparing with published numbers.

    Args:
        a: ``(E,)`` int64, one end of every link.
        b: ``(E,)`` int64, the other end.
        num_nodes: ``M``.

    Returns:
        ``(M,)`` int64: the smallest index of the node's group.
    """
    label = torch.arange(num_nodes, device=a.device)
    while True:
        low = torch.minimum(label[a], label[b])
        label = label.scatter_reduce(0, a, low, "amin").scatter_reduce(0, b, low, "amin")
        label = label[label]
        if torch.equal(label, label[label]):
            return label
