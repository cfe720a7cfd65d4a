"""Probabilistic principal component analysis: z ~ Normal(0, I), x ~ Normal(Wz + μ, σ²I), with σ² ≥ ε."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, pad

from pyrovae.engine.checks import check_positive
from pyrovae.models.base import Missing
from pyrovae.models.floors import NOISE_FLOOR, ON_FLOOR, degenerate, two_digits, variance_or_one
from pyrovae.models.linear_algebra import chunk_rows, first_largest, signed, symmetric_product
from pyrovae.models.linear_gaussian import LinearGaussian
from pyrovae.models.sklearn_bridge import pca_parameters

if TYPE_CHECKING:
    import sklearn.decomposition

MOST_LOST = 100.0  # squared mean over variance up to which moments about zero lose two digits of sixteen, at most


class PPCA(LinearGaussian):
    """Probabilistic PCA, exact likelihood and posterior.

    Args:
        latent_dim: L, from 0 (one spherical Gaussian) to D − 1.
        data_shape: ``(D,)``.
        floor: ε, the lower bound of σ², in squared units of the data.  Left out, a fit takes it from the data: 1e-6
            times the mean variance of a dimension; until then it is 1e-6.  Beside a given σ² it is 1e-6 of that.
        noise_variance: A given σ², at least ``floor``, which no fit changes; learned if left out.
        missing: ``"nan"`` lets a NaN stand for a value that was not observed: fits by EM, densities and posteriors are
            then those of the observed values.
        encoder: For a learned q(z|x): a module, x → distribution over z.  With ``networks.LinearGaussianEncoder``
            the model is a linear variational autoencoder.  Left out, the guide is the exact posterior, and the ELBO log
            p(x).
        dtype: Type of the parameters; float64 unless you say otherwise.

    Raises:
        ValueError: If ``latent_dim`` is not in [0, D − 1], or ``noise_variance`` below the floor.

    Example:
        >>> ppca = PPCA(latent_dim=2, data_shape=(5,))
        >>> ppca.posterior(torch.zeros(4, 5)).mean.shape
        torch.Size([4, 2])

    Reference:
        Tipping and Bishop (1999), Probabilistic principal component analysis.
    """

    # The program z → x, the posterior of z and the sums of the E step are those of LinearGaussian (linear_gaussian.py).
    noise_is_shared = True

    def __init__(
        self,
        latent_dim: int,
        data_shape: int | tuple[int, ...],
        floor: float | None = None,
        *,
        noise_variance: float | None = None,
        missing: Missing = "error",
        encoder: nn.Module | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        if noise_variance is not None:
            check_positive("noise_variance", noise_variance)
            floor = NOISE_FLOOR * noise_variance if floor is None else floor
        super().__init__(latent_dim, data_shape, floor, missing=missing, encoder=encoder, dtype=dtype)
        if noise_variance is not None and noise_variance < self.floor:
            raise ValueError(f"`noise_variance` must be at least the floor, {self.floor:g}, got {noise_variance}.")
        self.noise_is_given = noise_variance is not None
        if noise_variance is not None:
            with torch.no_grad():
                super()._set_noise(torch.tensor(noise_variance, dtype=torch.float64))
            self.model.fix_noise()
        if self.config is not None:
            self.config["noise_variance"] = noise_variance

    @classmethod
    def from_sklearn(cls, estimator: "sklearn.decomposition.PCA") -> "PPCA":
        """The model whose log p(x) is the score of a fitted ``sklearn.decomposition.PCA``.

        It is not the maximum of the likelihood, which ``fit.closed_form`` gives: PCA divides by N − 1, and for N < D it
        averages the noise over N − L directions in place of D − L.

        Raises:
            TypeError: If it is another estimator.
            ValueError: If it is not fitted, or leaves no noise.
        """
        return cls._holding(*pca_parameters(estimator))

    @property
    def num_free_parameters(self) -> int:
        """D L − L(L−1)/2 for W up to rotation, D for μ, 1 for σ² unless it is given."""
        return super().num_free_parameters - int(self.noise_is_given)

    @torch.no_grad()
    def degeneracies(self, statistics: dict[str, Tensor]) -> list[str]:
        """A learned σ² at the floor, though the data vary by more."""
        whole = self.noise_variance + self.weight.square().sum(1).mean()
        at_floor = degenerate(self.noise_variance, ON_FLOOR, whole, self.floor) and not self.noise_is_given
        return [f"the noise is at the floor, {self.floor:g}"] if at_floor else []

    def _set_noise_from(self, residuals: Tensor, observed: Tensor) -> None:
        self._set_noise(residuals.sum() / observed.sum())

    def _set_noise(self, variance: Tensor) -> None:
        if not self.noise_is_given:
            super()._set_noise(variance)

    @torch.no_grad()
    def maximum_likelihood(self, x: Tensor, weight: Tensor | None = None, *, beta: float = 1.0) -> None:
        """Set the parameters to the global maximum: W = U(Λ − σ²I)₊^½ on the L leading eigenvectors of the covariance.

        σ² is the mean of the D − L discarded eigenvalues, zeros included, and at least ε, unless it is given.  The
        covariance divides by N.  For N < D the eigenvectors come from the N×N Gram matrix.

        With a ``beta`` the objective is E[log p(x|z)] − β KL, at the best q.  Divided by β, it is log p(x) under the
        noise s = βσ², plus a term that depends on s alone.  So W = U(Λ − βσ²I)₊^½, and latents whose eigenvalue is
        below βσ² collapse.  If ℓ latents remain, σ² = (sum of the other eigenvalues) / (D − βℓ).

        Args:
            x: Data, shape (N, D), nothing missing.
            weight: What each datum counts for, shape (N,); not W, which is ``self.weight``.
            beta: The weight of the KL.

        Raises:
            ValueError: If a value is missing, or ``beta`` is not positive.

        Reference:
            Tipping and Bishop (1999); Lucas et al. (2019), Don't blame the ELBO! A linear VAE perspective on posterior
            collapse, for a given σ².
        """
        check_positive("beta", beta)
        mean, values, directions = _spectrum(x, weight, self.latent_dim)
        if not self.floor_is_given:
            self._hold_floor(two_digits(NOISE_FLOOR * variance_or_one(values.sum().item() / self.num_dims, mean)))
        noise = self.noise_variance.double() if self.noise_is_given else self._best_noise(values, beta)
        self._set_noise(noise)
        kept = (values[: self.latent_dim] - beta * noise).clamp_min(0).sqrt()
        self.model.mean.copy_(mean)
        self.model.weight.copy_(signed(directions) * kept)
        self.match_guide()

    def _best_noise(self, values: Tensor, beta: float) -> Tensor:
        """The σ² ≥ ε of the highest objective, given all eigenvalues (D,) in descending order.

        With β = 1 that is the mean of the D − L smallest eigenvalues (Tipping and Bishop's σ²), or ε if that is more.
        With another β fewer latents may be worth their KL, so the best σ² for 0, …, L of them are compared.
        """
        tail = values.sum() - torch.cat([values.new_zeros(1), values[: self.latent_dim].cumsum(0)])
        active = torch.arange(self.latent_dim + 1, dtype=values.dtype, device=values.device)
        left = self.num_dims - beta * active
        candidates = (tail / left).where(left > 0, self.floor).clamp_min(self.floor)  # stationary for so many latents
        scaled = beta * candidates[:, None]
        leading = torch.maximum(values[: self.latent_dim], scaled)  # the L leading eigenvalues of WWᵀ + βσ²I
        rest = values.sum() - values[: self.latent_dim].sum()
        log_det = leading.log().sum(1) + (self.num_dims - self.latent_dim) * scaled[:, 0].log()
        fit = (values[: self.latent_dim] / leading).sum(1) + rest / scaled[:, 0]
        objective = -0.5 * beta * (log_det + fit) + 0.5 * (beta - 1) * self.num_dims * scaled[:, 0].log()
        return candidates[first_largest(objective, 0)]  # of equals, that of the fewest latents


Piece = tuple[Tensor, Tensor | None]  # a chunk of data, and their weights


def _spectrum(x: Tensor, weight: Tensor | None, number: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (D,), all eigenvalues (D,) in descending order and ``number`` leading eigenvectors of the covariance.

    Products are of the type of ``x``, and added up over chunks in float64.
    """
    num_dims = x.shape[1]
    count = len(x) if weight is None else weight.double().sum()
    mean = torch.stack([_column_sums(*piece) for piece in _pieces(x, weight)]).sum(0) / count
    if mean.isnan().any():
        raise ValueError("`data` must have nothing missing for a closed form, got NaN; use fit.em.")
    if len(x) < num_dims:
        deviations = x.double() - mean
        deviations = deviations if weight is None else deviations * weight.sqrt()[:, None]
        values, vectors = torch.linalg.eigh(deviations @ deviations.T / count)
        directions = normalize(deviations.T @ vectors.flip(1)[:, :number], dim=0)
    else:
        values, vectors = torch.linalg.eigh(_covariance(x, weight, mean, count))
        directions = vectors.flip(1)[:, :number]
    values = pad(values.flip(0).clamp_min(0), (0, max(0, num_dims - len(values))))[:num_dims]
    return mean, values, pad(directions, (0, number - directions.shape[1]))


def _column_sums(chunk: Tensor, weight: Tensor | None) -> Tensor:
    return chunk.sum(0).double() if weight is None else weight.double() @ chunk.double()


def _covariance(x: Tensor, weight: Tensor | None, mean: Tensor, count: Tensor | int) -> Tensor:
    """The covariance (D, D): in float64 by moments about zero, which save a pass, unless the mean is large."""
    if x.dtype == torch.float64:
        pieces = [(x, None)] if weight is None else _pieces(x, weight)
        covariance = _second_moments(pieces, None) / count - mean.outer(mean)
        if mean.square().sum() < MOST_LOST * covariance.trace():
            return covariance
    return _second_moments(_pieces(x, weight), mean.to(x.dtype)) / count


def _pieces(x: Tensor, weight: Tensor | None) -> Sequence[Piece]:
    """The data in chunks, with their weights."""
    chunks = x.split(chunk_rows(x.shape[1], 8 * x.shape[1], x.device))
    weights = [None] * len(chunks) if weight is None else weight.split(len(chunks[0]))
    return list(zip(chunks, weights, strict=True))


def _second_moments(pieces: Sequence[Piece], shift: Tensor | None) -> Tensor:
    """Σ w (x − shift)(x − shift)ᵀ over chunks, (D, D), float64."""
    total = torch.zeros((), dtype=torch.float64)
    changed = shift is not None or pieces[0][1] is not None
    room = torch.empty_like(pieces[0][0][: None if changed else 0])  # for every chunk in turn: fresh memory is slow
    for chunk, weight in pieces:
        rows = chunk if shift is None else torch.sub(chunk, shift, out=room[: len(chunk)])
        if weight is not None:
            rows = torch.mul(rows, weight.sqrt()[:, None], out=room[: len(chunk)])
        total = total.to(rows.device) + symmetric_product(rows.T, rows.T).double()
    return total
