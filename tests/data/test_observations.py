"""Observations and spaces: Jacobians against autograd, densities that agree across views, and what is refused."""

import copy
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import AffineTransform, ComposeTransform, ExpTransform, Normal, TransformedDistribution
from torch.utils.data import DataLoader, TensorDataset

from pyrovae import PPCA
from pyrovae.data import DataSet, Observations, Space, as_observations


def positive(n=6, dims=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = 0.1 + torch.rand(n, dims, generator=generator, dtype=torch.float64)
    return Observations(x.to(dtype), labels=torch.arange(n), space=Space("metres", "real"))


def affine(dims=3):
    return AffineTransform(torch.arange(dims).double(), torch.tensor([2.0, -0.5, 3.0]).double()[:dims])


def log_transform():
    return ComposeTransform([AffineTransform(0.0, 4.0), ExpTransform().inv])


def jacobian_log_abs_det(transform, x):
    return torch.stack(
        [torch.linalg.slogdet(torch.autograd.functional.jacobian(transform, row)).logabsdet for row in x]
    )


@pytest.mark.parametrize("transform", [affine(), log_transform()])
def test_log_abs_det_is_that_of_the_autograd_jacobian(transform):
    data = positive()
    view = data.transformed(transform, "a view")
    torch.testing.assert_close(view.x, transform(data.x))
    torch.testing.assert_close(view.log_abs_det, jacobian_log_abs_det(transform, data.x))
    assert view.space.transform_name == "a view"
    assert view.space.comparable_with(data.space)


def test_two_transforms_compose_and_their_jacobians_add():
    data = positive()
    view = data.transformed(log_transform(), "log").transformed(affine(), "affine of log")
    torch.testing.assert_close(view.log_abs_det, jacobian_log_abs_det(view.space.transform, data.x))
    torch.testing.assert_close(view.in_space(data.space).x, data.x)


def test_a_density_is_the_same_number_whichever_view_it_is_computed_in():
    data = positive()
    view = data.transformed(log_transform(), "log")
    base = Normal(torch.zeros(3).double(), 1.0)
    by_jacobian = base.log_prob(view.x).sum(1) + view.log_abs_det
    by_torch = TransformedDistribution(base, [log_transform().inv]).log_prob(data.x).sum(1)
    torch.testing.assert_close(by_jacobian, by_torch)


def test_in_space_goes_from_view_to_view_through_the_reference():
    data = positive()
    one, other = data.transformed(log_transform(), "log"), data.transformed(affine(), "affine")
    moved = one.in_space(other.space)
    torch.testing.assert_close(moved.x, other.x)
    torch.testing.assert_close(moved.log_abs_det, other.log_abs_det)
    assert moved.space == other.space
    assert one.in_space(one.space) is one
    back = moved.in_space(data.space)
    torch.testing.assert_close(back.x, data.x)
    assert back.log_abs_det.abs().max() == 0
    assert torch.equal(back.labels, data.labels)


def test_in_space_keeps_the_dtype_and_float64_jacobians():
    data = positive(dtype=torch.float32)
    view = data.transformed(log_transform(), "log")
    assert (view.x.dtype, view.log_abs_det.dtype) == (torch.float32, torch.float64)
    back = view.in_space(data.space)
    assert (back.x.dtype, back.log_abs_det.dtype) == (torch.float32, torch.float64)
    torch.testing.assert_close(back.x, data.x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_in_space_works_wherever_the_data_are():
    view = positive().transformed(affine(), "affine")
    moved = view.to("cuda").in_space(positive().space)
    assert moved.x.is_cuda
    assert moved.log_abs_det.is_cuda
    torch.testing.assert_close(moved.x.cpu(), positive().x)


def test_in_space_refuses_another_reference_and_another_support():
    data = positive()
    with pytest.raises(
        ValueError, match=r"`space` must be a view of 'metres' \(real\), got 'feet' \(real\); no Jacobian"
    ):
        data.in_space(Space("feet", "real"))
    with pytest.raises(ValueError, match=r"got 'metres' \(boolean\)"):
        data.in_space(Space("metres", "boolean"))


def test_integers_have_bits_of_their_own_and_no_jacobian():
    data = Observations(torch.rand(4, 3).round(), space=Space("v as v/1", "integer"))
    torch.testing.assert_close(data.bits_per_dim(torch.tensor(-6 * math.log(2))), torch.tensor(2.0))
    with pytest.raises(ValueError, match="`transform` needs continuous data, got a space of integer values"):
        data.transformed(affine(), "affine")


def test_transformed_refuses_boolean_data():
    with pytest.raises(ValueError, match="`transform` needs continuous data"):
        Observations(torch.ones(2, 3), space=Space("bits", "boolean")).transformed(affine(), "affine")


def test_observations_survive_copies():
    view = positive().transformed(affine(), "affine")
    for twin in (copy.deepcopy(view), pickle.loads(pickle.dumps(view))):
        assert twin.space == view.space
        torch.testing.assert_close(twin.in_space(positive().space).x, positive().x)


def test_subsets_carry_everything_along():
    view = positive().transformed(affine(), "affine")
    mask = view.labels % 2 == 1
    for index in (slice(1, None, 2), mask, mask.nonzero().flatten()):
        part = view[index]
        assert part.labels.tolist() == [1, 3, 5]
        assert torch.equal(part.x, view.x[1::2])
        assert torch.equal(part.log_abs_det, view.log_abs_det[1::2])
        assert part.space is view.space


def test_images_are_a_view_of_the_flat_data():
    data = Observations(torch.arange(24.0).reshape(2, 12), image_shape=(1, 3, 4))
    assert data.images().data_shape == (1, 3, 4)
    assert data.num_dims == data.images().num_dims == 12
    assert torch.equal(data.images().x.flatten(1), data.x)
    with pytest.raises(ValueError, match="`image_shape` of these observations is None"):
        positive().images()


def test_resampled_draws_differ_and_have_the_right_mean():
    grey = torch.linspace(0, 1, 5, dtype=torch.float64).expand(20_000, 5)
    data = Observations(grey, space=Space("bits", "boolean"), resample=True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, other = data.draw(), data.draw()
    assert set(one.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(one, other)
    standard_error = (grey[0] * (1 - grey[0]) / len(grey)).sqrt()
    assert ((one.mean(0) - grey[0]).abs() <= 5 * standard_error).all()  # 5 standard errors; exact at 0 and 1
    index = torch.tensor([3, 1])
    assert data.draw(index).shape == (2, 5)
    assert torch.equal(positive().draw(index), positive().x[index])


def test_fixed_binarizes_once_and_leaves_the_global_state_alone():
    data = Observations(torch.full((50, 4), 0.5), space=Space("bits", "boolean"), resample=True)
    before = torch.get_rng_state()
    fixed = data.fixed(seed=1)
    assert torch.equal(torch.get_rng_state(), before)
    assert not fixed.resample
    assert torch.equal(fixed.x, data.fixed(seed=1).x)
    assert not torch.equal(fixed.x, data.fixed(seed=2).x)
    assert torch.equal(fixed.draw(), fixed.x)
    assert positive().fixed().x is not None
    plain = positive()
    assert plain.fixed() is plain


def test_bits_per_dim():
    log_prob = torch.zeros(
        4, dtype=torch.float64
    )  # the uniform density on [0, 1)^D: every level costs log2(levels) bits
    pixels = Observations(torch.zeros(4, 3), space=Space("pixels", "real", levels=256))
    torch.testing.assert_close(pixels.bits_per_dim(log_prob), torch.full((4,), 8.0, dtype=torch.float64))
    coins = Observations(torch.zeros(4, 3), space=Space("coins", "boolean"))
    torch.testing.assert_close(coins.bits_per_dim(log_prob - 3 * math.log(2)), torch.ones(4, dtype=torch.float64))
    assert positive().bits_per_dim(log_prob) is None


def test_data_set_iterates_train_valid_test():
    train, valid, test = positive(6), positive(5), positive(4)
    assert [len(part) for part in DataSet("toy", train, valid, test)] == [6, 5, 4]
    assert [part is None for part in DataSet("toy", train, None, test)] == [False, True, False]


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"`x` must have shape \(N, \*data_shape\), got \(3,\)"):
        Observations(torch.zeros(3))
    with pytest.raises(ValueError, match=r"`labels` must have shape \(3,\), one entry a datum, got \(2,\)"):
        Observations(torch.zeros(3, 2), labels=torch.zeros(2))
    with pytest.raises(ValueError, match=r"`log_abs_det` must have shape \(3,\)"):
        Observations(torch.zeros(3, 2), log_abs_det=torch.zeros(3, 2))


GIVEN = np.array([[1.0, 2.0], [3.0, 4.5], [5.0, 6.0]])


@pytest.mark.parametrize(
    "given",
    [
        GIVEN,
        GIVEN.astype(">f8"),
        GIVEN.tolist(),
        pd.DataFrame(GIVEN),
        np.asfortranarray(GIVEN),
        GIVEN[::-1][::-1],
        TensorDataset(torch.as_tensor(GIVEN)),
        DataLoader(TensorDataset(torch.as_tensor(GIVEN)), batch_size=2),
        DataLoader(torch.as_tensor(GIVEN), batch_size=2),
    ],
    ids=["array", "big-endian", "list", "pandas", "Fortran", "strided", "Dataset", "DataLoader", "of a tensor"],
)
def test_data_in_any_form_are_the_same(given):
    assert torch.equal(as_observations(given).x, torch.as_tensor(GIVEN))
    ppca = PPCA(1, 2)
    assert torch.equal(ppca.log_prob(given), ppca.log_prob(torch.as_tensor(GIVEN)))


def test_masked_cells_are_missing_and_columns_keep_their_names():
    masked = np.ma.array(GIVEN, mask=GIVEN == 4.5)
    assert as_observations(masked, allow_nan=True).x.isnan().nonzero().tolist() == [[1, 1]]
    frame = pd.DataFrame(GIVEN, columns=["u", 2020]).astype({"u": "Int64"})
    frame.loc[0, "u"] = pd.NA
    found = as_observations(frame, allow_nan=True)
    assert found.names == ("u", "2020")
    assert found.x.isnan().nonzero().tolist() == [[0, 0]]


def test_a_dataset_brings_its_labels():
    found = as_observations(TensorDataset(torch.as_tensor(GIVEN), torch.tensor([2, 0, 1])))
    assert found.labels.tolist() == [2, 0, 1]
    assert as_observations(TensorDataset(torch.as_tensor(GIVEN), torch.zeros(3))).labels is None


def test_as_observations_wraps_tensors_and_passes_observations_through():
    data = positive()
    assert as_observations(data) is data
    assert as_observations(data.x).x is data.x


@pytest.mark.parametrize(
    ("data", "error", "match"),
    [
        (torch.zeros(3), ValueError, r"`x` must have shape \(N, \*data_shape\), got \(3,\)"),
        ("abc", TypeError, "`x` must be Observations, a torch.Tensor, an array, a pandas table, .* got str"),
        (None, TypeError, "`x` must be Observations, .* got NoneType"),
        ([[1.0], [2.0, 3.0]], ValueError, "`x` must be numbers in rows of one length"),
        ([["a"]], ValueError, "`x` must be numbers in rows of one length"),
        (np.array([["a"]]), TypeError, "`x` must hold numbers, got <U1"),
        (pd.DataFrame({"a": ["u"], "b": [1.0]}), TypeError, "`x` must hold numbers, got .* in column 'a'; drop it"),
        (np.ma.array([[1.0, 2.0]], mask=[[True, False]]), ValueError, "`x` must be finite, got NaN"),
        (TensorDataset(torch.zeros(0, 2)), ValueError, "`x` must hold at least one datum, got an empty DataLoader"),
        (torch.zeros(3, 2, dtype=torch.int64), TypeError, "`x` must be of a floating-point type, got torch.int64"),
        (torch.zeros(0, 2), ValueError, r"`x` must hold at least one datum, got shape \(0, 2\)"),
        (torch.tensor([[0.0], [math.nan], [math.inf]]), ValueError, "`x` must be finite, got .* 2 of 3 .* in row 1"),
    ],
)
def test_as_observations_refuses(data, error, match):
    with pytest.raises(error, match=match):
        as_observations(data, "x")
