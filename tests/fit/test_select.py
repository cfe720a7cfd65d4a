"""Choosing among candidates by exact likelihood on validation data."""

import math

import pytest
import torch

from pyrovae import GaussianMixture, fit
from pyrovae.fit.select import TIE, tied_for_best


def test_the_candidate_best_on_validation_is_chosen_with_its_fit():
    labels = torch.arange(300) % 3
    x = torch.randn(300, 2, dtype=torch.float64) + 10 * labels[:, None]
    train, valid = x[:200], x[200:]
    chosen = fit.select([GaussianMixture(k, 2) for k in (1, 3, 2)], lambda model: fit.em(model, train), valid)
    refits = [fit.em(GaussianMixture(k, 2), train).model.score(valid) for k in (1, 3, 2)]
    assert list(chosen.scores) == refits
    assert chosen.best.model.num_components == (1, 3, 2)[refits.index(max(refits))] != 1
    assert chosen.best.model.score(valid) == max(refits)


@pytest.mark.parametrize("criterion", ["log_likelihood", "bic", "aic"])
@pytest.mark.parametrize(
    ("factors", "first"),
    [
        ((1, 1 + 1e-15, 1), 0),
        ((1 + 1e-15, 1, 1 - 1e-15), 0),
        ((1, 1 + TIE / 2, 1 + TIE / 4), 0),
        ((1, 1 + 3 * TIE, 1 + 2.5 * TIE), 1),
        ((1, 1 + 0.8 * TIE, 1 + 1.6 * TIE), 1),  # within rounding of the best, not of one another in a chain
        ((math.nan, 1, 1), 1),
    ],
)
def test_of_scores_apart_by_rounding_the_first_is_kept(criterion, factors, first, monkeypatch):
    """The score is 2; a higher likelihood and a lower criterion are better."""
    better = iter([2 * factor if criterion == "log_likelihood" else 2 - 2 * (factor - 1) for factor in factors])
    monkeypatch.setattr(
        GaussianMixture, "score" if criterion == "log_likelihood" else criterion, lambda *_: next(better)
    )
    x = torch.randn(20, 2, dtype=torch.float64)
    candidates = [GaussianMixture(1, 2, floor=floor) for floor in (0.3, 0.2, 0.1)]
    chosen = fit.select(candidates, lambda model: fit.closed_form(model, x), x, criterion=criterion)
    assert chosen.best.model.floor == candidates[first].floor


def test_scores_that_are_infinite_tie_with_their_like():
    assert tied_for_best([(-math.inf, "a"), (-math.inf, "b")])[0][1] == "a"
    assert tied_for_best([(-math.inf, "a"), (-3.0, "b")]) == [(-3.0, "b")]


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match=r"`candidates` must hold at least one model, got none"):
        fit.select([], fit.em, torch.zeros(3, 2))


@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_an_information_criterion_chooses_on_the_training_data(criterion):
    """By the formula: three clusters far apart, or four, since AIC charges little for a component."""
    x = torch.randn(300, 2, dtype=torch.float64) + 20 * (torch.arange(300) % 3)[:, None]
    candidates = [GaussianMixture(k, 2, "spherical", floor=0.1) for k in (1, 4, 3)]
    fits = [fit.em(model, x, num_restarts=5).model for model in candidates]
    charge = {"bic": math.log(300), "aic": 2.0}[criterion]
    cost = {m.num_components: charge * m.num_free_parameters - 2 * m.log_prob(x).sum().item() for m in fits}
    chosen = fit.select(candidates, lambda model: fit.em(model, x, num_restarts=5), x, criterion=criterion)
    assert chosen.best.model.num_components == min(cost, key=cost.get) != 1
    assert getattr(chosen.best.model, criterion)(x) == pytest.approx(min(chosen.scores), rel=TIE)


def test_an_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match=r"`criterion` must be .* got 'accuracy'"):
        fit.select([GaussianMixture(1, 2)], fit.closed_form, torch.zeros(3, 2), criterion="accuracy")
