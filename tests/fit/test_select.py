"""Choosing among candidates by exact likelihood on validation data."""

import pytest
import torch

from pyrovae import GaussianMixture, fit


def test_the_candidate_best_on_validation_is_chosen_with_its_fit():
    labels = torch.arange(300) % 3
    x = torch.randn(300, 2, dtype=torch.float64) + 10 * labels[:, None]
    train, valid = x[:200], x[200:]
    chosen = fit.select([GaussianMixture(k, 2) for k in (1, 3, 2)], lambda model: fit.em(model, train), valid)
    assert chosen.best.model.num_components == 3
    assert chosen.best.model.score(valid) == max(chosen.scores) == chosen.scores[1]
    refits = [fit.em(GaussianMixture(k, 2), train).model.score(valid) for k in (1, 3, 2)]
    assert list(chosen.scores) == refits


def test_no_candidates_are_refused():
    with pytest.raises(ValueError, match=r"`candidates` must hold at least one model, got none"):
        fit.select([], fit.em, torch.zeros(3, 2))


@pytest.mark.parametrize("criterion", ["bic", "aic"])
def test_an_information_criterion_chooses_on_the_training_data(criterion):
    """Three clusters far apart: a fourth component gains less than its parameters cost."""
    x = torch.randn(300, 2, dtype=torch.float64) + 20 * (torch.arange(300) % 3)[:, None]
    candidates = [GaussianMixture(k, 2, "spherical", floor=0.1) for k in (1, 4, 3)]
    chosen = fit.select(candidates, lambda model: fit.em(model, x, num_restarts=5), x, criterion=criterion)
    assert chosen.best.model.num_components == 3
    assert min(chosen.scores) == getattr(chosen.best.model, criterion)(x)


def test_an_unknown_criterion_is_refused():
    with pytest.raises(ValueError, match=r"`criterion` must be .* got 'accuracy'"):
        fit.select([GaussianMixture(1, 2)], fit.closed_form, torch.zeros(3, 2), criterion="accuracy")
