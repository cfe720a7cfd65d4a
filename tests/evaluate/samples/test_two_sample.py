"""The kernel two-sample test: its statistic by brute force, its level under equality, its power."""

import itertools
import math

import pytest
import torch

from pyrovae.evaluate import two_sample_test


def brute_force(x, y, bandwidth):
    def kernel(a, b):
        return math.exp(-(a - b).square().sum().item() / (2 * bandwidth**2))

    within = [
        sum(kernel(a, b) for a, b in itertools.permutations(each, 2)) / (len(each) * (len(each) - 1)) for each in (x, y)
    ]
    return sum(within) - 2 * sum(kernel(a, b) for a in x for b in y) / (len(x) * len(y))


def test_the_statistic_is_the_unbiased_estimate():
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randn(5, 3, dtype=torch.float64) + 100.0
    y[:, 1] -= 99.5
    for bandwidth in (0.7, 3.0, 100.0):
        found = two_sample_test(x, y, bandwidth=bandwidth, num_permutations=1).statistic
        assert found == pytest.approx(brute_force(x, y, bandwidth), abs=1e-10)


def test_the_default_bandwidth_is_the_median_distance():
    x, y = torch.randn(2, 6, 2, dtype=torch.float64)
    distances = torch.pdist(torch.cat([x, y]))
    assert two_sample_test(x, y, num_permutations=1).bandwidth == pytest.approx(distances.median().item(), rel=1e-9)


def test_equal_distributions_are_refused_as_often_as_the_level_says():
    level, repeats = 0.2, 200
    refused = sum(
        two_sample_test(*torch.randn(2, 20, 4), num_permutations=99, seed=seed).p_value <= level
        for seed in range(repeats)
    )
    deviation = math.sqrt(repeats * level * (1 - level))  # the test is exact: a binomial count
    assert abs(refused - repeats * level) < 4 * deviation


def test_another_distribution_is_noticed():
    x, y = torch.randn(100, 5), torch.randn(80, 5) * 1.5
    found = two_sample_test(x, y)
    assert found.p_value == 1 / 501
    assert found.statistic > 5 * found.null_deviation
    assert "p = " in str(found)


def test_the_null_deviation_is_that_of_fresh_data():
    statistics = torch.tensor([two_sample_test(*torch.randn(2, 30, 3), bandwidth=2.0).statistic for _ in range(200)])
    spread = statistics.std().item()
    found = two_sample_test(*torch.randn(2, 30, 3), bandwidth=2.0).null_deviation
    assert 0.6 < found / spread < 1.6  # a skewed statistic, its deviation known to about 10%


def test_follows_the_seed_and_leaves_the_world_alone():
    x, y = torch.randn(2, 20, 2)
    state = torch.get_rng_state()
    assert two_sample_test(x, y, seed=1) == two_sample_test(x, y, seed=1)
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(3, 4), {}, "of one shape"),
        (torch.zeros(1, 2), torch.zeros(3, 2), {}, "at least 2 data"),
        (torch.zeros(3, 2), torch.zeros(3, 2), {}, "all data are equal"),
        (torch.zeros(3, 2), torch.ones(3, 2), {"bandwidth": -1.0}, "`bandwidth` must be a positive number"),
        (torch.zeros(3, 2), torch.ones(3, 2), {"num_permutations": 0}, "`num_permutations`"),
    ],
)
def test_bad_arguments_are_named(x, y, options, message):
    with pytest.raises(ValueError, match=message):
        two_sample_test(x, y, **options)
