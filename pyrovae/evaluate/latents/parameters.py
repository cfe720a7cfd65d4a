"""Comparing two fits, up to what a likelihood cannot tell apart: the order of components, rotations of latents."""

import torch
from torch import Tensor


def match_components(means: Tensor, reference: Tensor) -> Tensor:
    """The order of components in which two mixtures' means lie closest.

    Args:
        means: Of one mixture, shape (K, D).
        reference: Of the other, shape (K, D).

    Returns:
        Indices of shape (K,): ``means[indices]`` stands beside ``reference``, with the smallest sum of squared
        distances over all permutations; distances that agree to 1e-9 of the largest are equal.

    Raises:
        ValueError: If the shapes differ.

    Example:
        >>> reference = torch.tensor([[0.0, 0.0], [5.0, 5.0]])
        >>> match_components(torch.tensor([[5.1, 5.0], [0.0, 0.2]]), reference)
        tensor([1, 0])

    Reference:
        Kuhn (1955), The Hungarian method for the assignment problem.
    """
    from scipy.optimize import linear_sum_assignment

    if means.ndim != 2 or means.shape != reference.shape:
        raise ValueError(
            f"`means` and `reference` must both have shape (K, D), got {tuple(means.shape)} and "
            f"{tuple(reference.shape)}."
        )
    pairs = reference.detach().double().cpu()[:, None] - means.detach().double().cpu()
    distances = pairs.square().sum(-1)
    _, order = linear_sum_assignment((distances / distances.max()).nan_to_num().round(decimals=9).numpy())
    return torch.as_tensor(order, device=means.device)


def principal_angles(weight: Tensor, reference: Tensor) -> Tensor:
    """Angles between the subspaces that two sets of columns span: zero where a latent space is the same.

    Args:
        weight: Columns of one basis, shape (D, L).
        reference: Of the other, shape (D, M).

    Returns:
        Angles in radians, in descending order, shape (min(L, M),), float64.

    Raises:
        ValueError: If the columns have different lengths.

    Example:
        >>> axes = torch.eye(3)
        >>> principal_angles(axes[:, :2], axes[:, 1:]).rad2deg().round()
        tensor([90.,  0.], dtype=torch.float64)

    Reference:
        Björck and Golub (1973), Numerical methods for computing angles between linear subspaces.
    """
    from scipy.linalg import subspace_angles

    if weight.ndim != 2 or reference.ndim != 2 or len(weight) != len(reference):
        raise ValueError(
            f"`weight` and `reference` must have shapes (D, L) and (D, M), got {tuple(weight.shape)} and "
            f"{tuple(reference.shape)}."
        )
    bases = (basis.detach().double().cpu().numpy() for basis in (weight, reference))
    return torch.from_numpy(subspace_angles(*bases))
