"""Products that know half of their result: triangular and symmetric matrices, in blocks; and a choice among equals.

Data come dimension first, (D, n), so that every reduction over D runs along contiguous memory, also for small D.
"""

import torch
from torch import Tensor

BLOCK = 196  # rows of a block: few enough to skip nearly half of the products, enough to keep them efficient
EQUAL = 16  # times the relative precision: scores that are no further apart than this are equal
CHUNK_FLOATS = {"cpu": 2**19, "cuda": 2**26}  # numbers held for a chunk of data: on a CPU they stay in its cache


def chunk_rows(floats_per_datum: int, smallest: int, device: torch.device) -> int:
    """Data in a chunk whose intermediate values are small, but not so few that adding up its sums costs more."""
    return max(smallest, CHUNK_FLOATS.get(device.type, CHUNK_FLOATS["cuda"]) // floats_per_datum, 1)


def first_largest(scores: Tensor, dim: int) -> Tensor:
    """Index of the first of the largest scores along a dimension; those that differ by rounding alone are equal."""
    largest = scores.amax(dim, keepdim=True)
    rounding = EQUAL * torch.finfo(scores.dtype).eps * largest.abs()
    return (scores >= largest - rounding).byte().argmax(dim)


def identity_like(matrices: Tensor) -> Tensor:
    """The identity (D, D), of the size, type and device of matrices (..., D, D)."""
    return torch.eye(matrices.shape[-1], dtype=matrices.dtype, device=matrices.device)


def log_det(lower: Tensor) -> Tensor:
    """log|L| of lower-triangular matrices (..., D, D) with a positive diagonal, shape (...)."""
    return lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def lower_triangular_product(lower: Tensor, x: Tensor) -> Tensor:
    """L x for a lower-triangular L (D, D) and x (D, n): the blocks above the diagonal are never multiplied."""
    blocks = range(0, len(lower), BLOCK)
    return torch.cat([lower[start : start + BLOCK, : start + BLOCK] @ x[: start + BLOCK] for start in blocks])


def symmetric_product(a: Tensor, b: Tensor) -> Tensor:
    """a bᵀ (D, D) for a, b (D, n) whose product is symmetric: lower blocks are multiplied, upper ones copied."""
    result = a.new_empty(len(a), len(b))
    for start in range(0, len(a), BLOCK):
        stop = start + BLOCK
        result[start:stop, :stop] = a[start:stop] @ b[:stop].T
        result[:start, start:stop] = result[start:stop, :start].T
    return result


def signed(vectors: Tensor) -> Tensor:
    """Vectors, the columns of (D, L), with the sign that makes the largest entry of each positive."""
    largest = vectors.gather(0, first_largest(vectors.abs(), 0)[None])
    return vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors)
