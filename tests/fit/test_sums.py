"""Sums of parts, merged, are the sums of all; one M step of them is that of the whole."""

import pickle
from itertools import pairwise

import pytest
import torch

from pyrovae import PPCA, VAE, BernoulliMixture, FactorAnalysis, GaussianMixture, PPCAMixture, fit

pytestmark = pytest.mark.filterwarnings("ignore::pyrovae.fit.FitWarning")
D = 4
MODELS = {
    **{form: lambda form=form: GaussianMixture(2, D, form) for form in ("full", "tied", "diag", "spherical")},
    **{f"{form}, missing": lambda form=form: GaussianMixture(2, D, form, missing="nan") for form in ("full", "diag")},
    "PPCA": lambda: PPCA(2, D),
    "PPCA, missing": lambda: PPCA(2, D, missing="nan"),
    "factor analysis": lambda: FactorAnalysis(1, D),
    "factor analysis, missing": lambda: FactorAnalysis(1, D, missing="nan"),
    "PPCA mixture": lambda: PPCAMixture(2, 1, D),
    "Bernoulli": lambda: BernoulliMixture(2, D),
    "Bernoulli, missing": lambda: BernoulliMixture(2, D, missing="nan"),
}


@pytest.fixture(params=MODELS)
def started(request):
    """A model at its start, and data; where values may be missing, one is, and the other parts are complete."""
    model = MODELS[request.param]()
    x = torch.randn(60, D, dtype=torch.float64)
    x = (x > 0).to(x) if model.support == "boolean" else x
    if model.missing == "nan":
        x[55, 1] = torch.nan
    model.initialize(x)
    return model, x


@pytest.mark.parametrize("order", [(0, 20, 21, 60), (0, 50, 60)])
def test_merged_sums_are_those_of_all(started, order):
    model, x = started
    weight = torch.rand(len(x), dtype=torch.float64)
    for w in (None, weight):
        cuts = [slice(a, b) for a, b in pairwise(order)]
        parts = [fit.expected_statistics(model, x[at], None if w is None else w[at]) for at in cuts]
        whole = fit.expected_statistics(model, x, w)
        for given in ([{}, *parts], [*reversed(parts), {}]):
            total = fit.merge(pickle.loads(pickle.dumps(given)))
            assert total.keys() == whole.keys()
            for name, value in whole.items():
                torch.testing.assert_close(total[name], value, rtol=1e-11, atol=1e-10)
        assert all(value.dtype == torch.float64 for value in whole.values())
    assert whole["count"].item() == pytest.approx(weight.sum().item())


def test_one_iteration_by_hand_is_one_of_em(started):
    model, x = started
    expected = fit.em(model, x, warm_start=True, max_iterations=1, tolerance=10, accelerate=False)
    merged = fit.merge(fit.expected_statistics(model, part) for part in x.split(25))
    assert merged["log_prob"] / merged["count"] == pytest.approx(expected.trace[0].item())
    model.maximize(merged)
    for own, value in zip(model.parameters(), expected.model.parameters(), strict=True):
        torch.testing.assert_close(own, value, rtol=1e-9, atol=1e-9)


def test_merging_leaves_what_it_is_given():
    first, second = {"count": torch.tensor(2.0)}, {"count": torch.tensor(3.0)}
    assert fit.merge([first, second, first])["count"] == 7
    assert (first["count"], second["count"]) == (2, 3)
    assert fit.merge([]) == {}


def test_a_chunk_may_be_complete_where_another_is_not():
    """Of linear models with missing values: the sums of both have one shape, whichever comes first."""
    x = torch.randn(90, D, dtype=torch.float64)
    x[50, 2] = torch.nan
    model, options = FactorAnalysis(1, D, missing="nan"), {"max_iterations": 4, "tolerance": 1e-12, "accelerate": False}
    expected = fit.em(model, x, **options).trace
    for data in (x, x.flip(0)):
        torch.testing.assert_close(fit.em(model, data, chunk_size=20, **options).trace, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda x: fit.merge([fit.expected_statistics(GaussianMixture(k, D), x) for k in (1, 2)]),
            ValueError,
            r"`parts` must be sums of one model, got .*'mass': \(2,\).* in place 1 after .*'mass': \(1,\)",
        ),
        (lambda x: fit.expected_statistics(VAE(2, D), x), TypeError, r"`model` must be a TractableModel, .* got VAE"),
        (lambda x: fit.expected_statistics(PPCA(1, D), x[:, :3]), ValueError, r"`data` must have shape \(N, 4\), got"),
        (
            lambda x: fit.expected_statistics(PPCA(1, D), x, torch.ones(3)),
            ValueError,
            r"`sample_weight` must have shape \(9,\), one entry a datum, got \(3,\)",
        ),
        (
            lambda x: fit.expected_statistics(PPCA(1, D), x, -torch.ones(9)),
            ValueError,
            r"`sample_weight` must be finite and not negative, got values in \[-1, -1\]",
        ),
    ],
)
def test_what_cannot_be_summed_is_refused_in_one_sentence(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call(torch.randn(9, D, dtype=torch.float64))
    assert "\n" not in str(caught.value)
