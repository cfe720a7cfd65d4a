"""What a fit returns: it can be done again, and pickled without its data."""

import copy
import pickle

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO

from pyrovae import PPCA, VAE, Execution, GaussianMixture, fit
from pyrovae.data import Observations, Space
from pyrovae.fit.result import Refit

D = 3


def data(num_data=60, seed=0):
    return torch.randn(num_data, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def vae():
    return VAE(1, D, hidden=(4,)).double()


def by_svi(x, **options):
    return fit.svi(vae(), x, **{"num_epochs": 2, "batch_size": 20, **options})


FITS = {
    "svi": by_svi,
    "em": lambda x, **options: fit.em(GaussianMixture(2, D, floor=0.1), x, tolerance=1e-2, **options),
    "closed form": lambda x, **options: fit.closed_form(PPCA(1, D), x, beta=0.5, **options),
}


def stored(result):
    return pickle.loads(pickle.dumps(result))


def assert_same(result, other):
    assert torch.equal(result.trace, other.trace)
    for name, value in result.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[name]), name


@pytest.mark.parametrize("kind", FITS)
def test_a_refit_is_the_fit_of_that_seed_with_all_other_arguments(kind):
    """The third seed is that of the first fit."""
    result = FITS[kind](data(), **({} if kind == "closed form" else {"seed": 3}))
    assert_same(result.refit(3), result)
    assert_same(result.refit(3).refit(3), result)
    if kind != "closed form":
        assert not torch.equal(result.refit(4).trace, result.trace)


@pytest.mark.parametrize("kind", FITS)
def test_a_pickled_result_is_refitted_to_data_that_are_given(kind):
    x = data()
    result = FITS[kind](x)
    loaded = stored(stored(result))
    assert_same(loaded, result)
    assert repr(loaded) == repr(result)
    assert loaded.space == result.space
    with pytest.raises(ValueError, match=r"`data` must be given to refit a result that was pickled.*refit\(seed, data"):
        loaded.refit(0)
    assert_same(loaded.refit(0, x), result)
    assert_same(loaded.refit(0, data=x), result)


@pytest.mark.filterwarnings("ignore:SVI ended in a degenerate fit")  # there is nothing in noise to be found
@pytest.mark.parametrize("kind", FITS)
def test_the_size_of_a_pickled_result_does_not_grow_with_the_data(kind):
    """But for the trace; fifty times the data alone would add 70 kB."""
    sizes = []
    for x in (data(), data().repeat(50, 1)):
        result = FITS[kind](x, **({"valid": x} if kind == "svi" else {"sample_weight": torch.ones(len(x))}))
        sizes.append(len(pickle.dumps(result)) - 8 * len(result.trace))
    assert abs(sizes[1] - sizes[0]) < 1000  # a sentence more or less


def test_validation_data_and_weights_are_left_out_as_well():
    x, weight = data(), torch.linspace(0.5, 2, 60)
    validated, weighted = by_svi(x, valid=x), FITS["em"](x, sample_weight=weight)
    with pytest.raises(ValueError, match=r"`valid` must be given to refit"):
        stored(validated).refit(0, x)
    with pytest.raises(ValueError, match=r"`data` and `sample_weight` must be given to refit"):
        stored(weighted).refit(0)
    assert_same(stored(validated).refit(0, x, valid=x), validated)
    assert_same(stored(weighted).refit(0, x, sample_weight=weight), weighted)


def test_arguments_that_cannot_be_pickled_are_asked_for_when_they_are_needed():
    x, epochs = data(), []

    def make(parameters, lr):
        return torch.optim.SGD(parameters, lr=lr)

    options = {"optimizer": make, "callback": lambda epoch, model: epochs.append(epoch)}
    result = by_svi(x, **options, elbo=Trace_ELBO(num_particles=2), execution=Execution(compile=False))
    loaded = stored(result)
    with pytest.raises(ValueError, match=r"`optimizer` and `callback` must be given to refit"):
        loaded.refit(0, x)
    assert_same(loaded.refit(0, x, **options), result)
    assert_same(loaded.refit(0, x, optimizer=make, callback=None), result)
    assert epochs == [1, 2, 1, 2]
    assert loaded.refit.arguments["execution"] == Execution(compile=False)


def test_a_copy_in_memory_keeps_the_data():
    result = by_svi(data())
    for copied in (copy.copy(result), copy.deepcopy(result)):
        assert_same(copied.refit(0), result)


@pytest.mark.parametrize("support", ["boolean", "real"])
def test_data_are_seen_through_the_space_of_a_pickled_result(support):
    """What a scoreboard does; masses take no transform, not even one that does nothing."""
    observations = Observations((data() > 0).double(), space=Space("answers", support))
    loaded = stored(by_svi(observations))
    assert torch.equal(observations.in_space(loaded.space).x, observations.x)


def test_two_results_of_one_pickle_do_not_share_names_in_the_param_store():
    """Else the second would not train in stock Pyro."""
    result = by_svi(data())
    first, second = stored(result).model, stored(result).model
    assert len({each._pyro_name for each in (result.model.model, first.model, second.model)}) == 3
    assert not pyro.get_param_store().keys()


def test_other_arguments_may_be_changed():
    result = by_svi(data())
    assert len(result.refit(0, num_epochs=5).trace) == 5
    assert isinstance(result.refit, Refit)


@pytest.mark.parametrize("name", ["compile", "num_shards", "distributed", "precision", "memory_budget"])
@pytest.mark.parametrize("method", [fit.svi, fit.em])
def test_keywords_that_moved_say_where_they_are(method, name):
    message = rf"`{name}` of {method.__name__}\(\) is now a field of Execution: pass execution=Execution\({name}=...\)"
    with pytest.raises(TypeError, match=message):
        method(vae(), data(), **{name: None})


def test_warnings_point_to_the_line_that_called():
    with pytest.warns(fit.ConvergenceWarning) as caught:
        fit.em(GaussianMixture(2, D, floor=0.1), data(), max_iterations=1, tolerance=1e-12)
    assert caught[0].filename == __file__
