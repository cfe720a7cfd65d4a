"""load: splits, noise, spaces, files of one's own, and one sentence for whatever goes wrong."""

import copy
import gzip
import hashlib
import itertools
import os
import pickle
import random
import struct
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from scipy.io import savemat
from sklearn.datasets import load_digits
from torch.distributions import Normal, TransformedDistribution

from pyrovae import VAE, DiscretizedLogistic
from pyrovae.data import load

REAL = os.environ.get("PYROVAE_DATA")
real_data = pytest.mark.skipif(not REAL, reason="PYROVAE_DATA is not set")


@pytest.fixture(autouse=True)
def folders(monkeypatch, tmp_path):
    """No data but what a test puts there, a cache of its own, and no network."""

    def offline(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.delenv("PYROVAE_DATA", raising=False)
    monkeypatch.setenv("PYROVAE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(urllib.request, "urlopen", offline)


@pytest.fixture
def table(tmp_path):
    """A path to 50 rows whose first column numbers them."""
    x = np.random.default_rng(0).normal(size=(50, 3))
    x[:, 0] = np.arange(50)
    np.save(tmp_path / "table.npy", x)
    return tmp_path / "table.npy"


@pytest.fixture
def pixels(tmp_path):
    """A path to 400 images of 5×4 with every one of 256 grey levels."""
    v = np.random.default_rng(0).integers(0, 256, size=(400, 5, 4), dtype=np.uint8)
    v.flat[:256] = np.arange(256)
    np.save(tmp_path / "pixels.npy", v)
    return tmp_path / "pixels.npy"


def rows(part):
    return part.x[:, 0].int().tolist()


def integers(part):
    return (part.x * part.space.levels).floor()


# Splits


@pytest.mark.parametrize("split", [None, "random", "contiguous"])
def test_splits_are_disjoint_and_cover_everything(table, split):
    d = load(table, split=split)
    parts = [rows(part) for part in d]
    assert [len(part) for part in parts] == [30, 10, 10]
    assert sorted(itertools.chain(*parts)) == list(range(50))
    assert (parts == [list(range(30)), list(range(30, 40)), list(range(40, 50))]) == (split == "contiguous")


def test_random_splits_follow_the_seed(table):
    assert rows(load(table, seed=3).test) == rows(load(table, seed=3).test)
    assert rows(load(table, seed=3).test) != rows(load(table, seed=4).test)


def test_num_valid_takes_from_train_and_never_from_test(table):
    default, larger, none = load(table), load(table, num_valid=15), load(table, num_valid=0)
    assert [len(part) for part in larger] == [25, 15, 10]
    assert none.valid is None
    assert len(none.train) == 40
    for split in ("random", "contiguous"):
        tests = [rows(load(table, split=split, num_valid=n).test) for n in (0, 15)]
        assert len(tests[0]) == len(tests[1]) == 10
    assert len(default.test) == 10


def test_digits_by_default():
    d = load()
    assert d.name == "digits"
    assert [len(part) for part in d] == [1079, 359, 359]
    for part in d:
        assert part.data_shape == (64,)
        assert part.image_shape == (1, 8, 8)
        assert part.x.dtype == torch.float32
        assert part.labels.dtype == torch.int64
    bunch = load_digits()
    key = lambda v, label: sorted(map(tuple, np.column_stack([v, label]).tolist()))  # noqa: E731
    everything = torch.cat([integers(part) for part in d]).numpy(), torch.cat([part.labels for part in d]).numpy()
    assert key(*everything) == key(bunch.data, bunch.target)


# Noise and spaces


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("u", [0.0, 0.5, 1 - 2**-53])
def test_dequantized_values_stay_in_their_cells(monkeypatch, pixels, dtype, u):
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, u, dtype=torch.float64))
    for name, v in (
        (pixels, torch.from_numpy(np.load(pixels)).flatten(1)),
        ("digits", torch.from_numpy(load_digits().data)),
    ):
        d = load(name, split="contiguous", dtype=dtype)
        x = torch.cat([part.x for part in d])
        assert x.dtype == dtype
        assert x.min() >= 0
        assert x.max() < 1
        for at in (dtype, torch.float64):
            assert torch.equal((x.to(at) * d.train.space.levels).floor().int(), v.int())


def test_noise_is_uniform_and_follows_the_seed():
    d = load("digits", dtype=torch.float64)
    u = torch.cat([part.x * 17 - integers(part) for part in d]).flatten()
    assert (u.mean() - 1 / 2).abs() <= 5 * (1 / 12 / len(u)) ** 0.5  # 5 standard errors
    assert ((u**2).mean() - 1 / 3).abs() <= 5 * (4 / 45 / len(u)) ** 0.5
    assert torch.equal(d.train.x, load("digits", dtype=torch.float64).train.x)
    assert not torch.equal(d.train.x, load("digits", dtype=torch.float64, seed=1).train.x)


def test_noise_belongs_to_the_datum_whatever_the_split(pixels):
    one, other = (torch.cat([part.x for part in load(pixels, split=split)]) for split in ("random", "contiguous"))
    assert set(map(tuple, one.tolist())) == set(map(tuple, other.tolist()))


def test_spaces_say_what_was_done(pixels, table):
    spaces = {
        "digits, (v + u)/17": load("digits").train.space,
        "digits, v/16 without noise": load("digits", dequantize=False).train.space,
        "digits, binarized by Bernoulli(v/16)": load("digits", observations="binary").train.space,
        "pixels.npy, (v + u)/256": load(pixels).train.space,
        "table.npy, as given": load(table).train.space,
    }
    for reference, space in spaces.items():
        assert space.reference == reference
        assert space.support == ("boolean" if "Bernoulli" in reference else "real")
        assert space.levels == (int(reference.split("/")[1]) if "+ u" in reference else None)
        assert [space.comparable_with(other) for other in spaces.values()].count(True) == 1


def test_without_noise_pixels_are_exact_fractions(pixels):
    d = load(pixels, dequantize=False, dtype=torch.float64, split="contiguous")
    v = torch.from_numpy(np.load(pixels)).flatten(1)
    assert torch.equal(torch.cat([part.x for part in d]), v.double() / 255)


def test_the_global_random_state_is_not_touched(pixels):
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # noqa: NPY002
    load("digits", transform="logit")
    load(pixels, observations="binary", resample=True)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002
    assert random.getstate() == before[2]


# Transforms


@pytest.mark.parametrize("transform", ["logit", "standardize"])
def test_log_abs_det_is_that_of_the_autograd_jacobian(transform):
    d, plain = load("digits", transform=transform, dtype=torch.float64), load("digits", dtype=torch.float64)
    assert d.train.space.transform is d.valid.space.transform is d.test.space.transform
    for part, reference in zip(d, plain, strict=True):
        torch.testing.assert_close(part.x, part.space.transform(reference.x))
        for row in range(3):
            jacobian = torch.autograd.functional.jacobian(part.space.transform, reference.x[row])
            torch.testing.assert_close(part.log_abs_det[row], torch.linalg.slogdet(jacobian).logabsdet)


def test_logit_is_the_formula():
    d, plain = load("digits", transform="logit", alpha=0.05, dtype=torch.float64), load("digits", dtype=torch.float64)
    p = 0.05 + 0.9 * plain.test.x
    torch.testing.assert_close(d.test.x, p.log() - (1 - p).log())
    torch.testing.assert_close(d.test.log_abs_det, (0.9 / (p * (1 - p))).log().sum(1))


def test_standardize_uses_the_training_split_and_leaves_constants_alone(tmp_path):
    x = np.random.default_rng(0).normal(7.0, 3.0, size=(40, 3))
    x[:, 1] = 0.1
    np.save(tmp_path / "x.npy", x)
    d = load(tmp_path / "x.npy", transform="standardize", split="contiguous", dtype=torch.float64)
    train = torch.from_numpy(x[:24])
    torch.testing.assert_close(d.train.x.mean(0), torch.zeros(3).double(), atol=1e-12, rtol=0)
    torch.testing.assert_close(d.train.x.std(0, correction=0), torch.tensor([1.0, 0.0, 1.0]).double())
    mean, std = train.mean(0), train.std(0, correction=0)
    torch.testing.assert_close(d.test.x[:, 0], (torch.from_numpy(x[32:, 0]) - mean[0]) / std[0])
    torch.testing.assert_close(d.test.log_abs_det, (-std[0].log() - std[2].log()).expand(8))


def test_views_of_one_reference_agree_on_a_density():
    plain, logit, standard = (load("digits", transform=t, dtype=torch.float64) for t in (None, "logit", "standardize"))
    reference = logit.test.in_space(plain.test.space)
    torch.testing.assert_close(reference.x, plain.test.x)
    moved = reference.in_space(standard.test.space)
    torch.testing.assert_close(moved.x, standard.test.x)
    torch.testing.assert_close(moved.log_abs_det, standard.test.log_abs_det)

    mean, std = plain.train.x.mean(0), plain.train.x.std(0, correction=0)
    here = Normal(0.0, 1.0).log_prob(moved.x).sum(1) + moved.log_abs_det
    torch.testing.assert_close(here, Normal(mean, std).log_prob(plain.test.x).sum(1))
    there = TransformedDistribution(Normal(torch.zeros(64).double(), 1.0), [logit.test.space.transform.inv])
    here = Normal(0.0, 1.0).log_prob(logit.test.x).sum(1) + logit.test.log_abs_det
    torch.testing.assert_close(here, there.log_prob(plain.test.x).sum(1))


@pytest.mark.parametrize("transform", ["logit", "standardize"])
def test_transformed_data_survive_copies(transform):
    part, plain = load("digits", transform=transform, dtype=torch.float64).test, load("digits").test
    for twin in (copy.deepcopy(part), pickle.loads(pickle.dumps(part))):
        torch.testing.assert_close(twin.in_space(plain.space).x.float(), plain.x)


# Binary observations


def test_static_binarization_is_a_seeded_sample_of_the_grey_values():
    d = load("digits", observations="binary", split="contiguous", dtype=torch.float64)
    x = torch.cat([part.x for part in d])
    p = torch.from_numpy(load_digits().data) / 16
    assert set(x.unique().tolist()) == {0.0, 1.0}
    assert (x[p == 0] == 0).all()
    assert (x[p == 1] == 1).all()
    assert ((x - p).sum()).abs() <= 5 * (p * (1 - p)).sum().sqrt()  # 5 standard errors
    assert torch.equal(d.train.x, load("digits", observations="binary", split="contiguous").train.x.double())


def test_resampled_train_is_grey_and_the_rest_as_in_the_static_set():
    static, d = load("digits", observations="binary"), load("digits", observations="binary", resample=True)
    assert (d.train.resample, d.valid.resample, d.test.resample) == (True, False, False)
    assert torch.equal(d.valid.x, static.valid.x)
    assert torch.equal(d.test.x, static.test.x)
    assert torch.equal(d.train.x, load("digits", dequantize=False).train.x)
    assert d.train.space == static.train.space
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = torch.stack([d.train.draw() for _ in range(20)]).double()
    assert not torch.equal(draws[0], draws[1])
    p = d.train.x.double()
    assert (draws.mean(0) - p).sum().abs() <= 5 * ((p * (1 - p)).sum() / 20).sqrt()  # 5 standard errors


def test_integers_are_the_levels_themselves(pixels):
    d = load(pixels, observations="integer", split="contiguous")
    v = torch.cat([part.x for part in d]).double() * 255
    torch.testing.assert_close(v, torch.from_numpy(np.load(pixels)).flatten(1).double(), rtol=0, atol=1e-4)
    assert (d.train.space.support, d.train.space.reference) == ("integer", "pixels.npy, integers v as v/255")
    assert d.train.space.levels == 256
    vae = VAE(1, d.train.data_shape, DiscretizedLogistic(), hidden=(4,))
    assert vae.as_input(d.train).shape == d.train.x.shape
    digits = load("digits", observations="integer")
    assert torch.equal(digits.train.x, load("digits", dequantize=False).train.x)
    with pytest.raises(ValueError, match="the 256 levels 0, 1/255, …, 1, got values"):
        VAE(1, (64,), DiscretizedLogistic(), hidden=(4,)).as_input(digits.train)


@pytest.mark.parametrize(("dtype", "kind"), [(np.float64, "values as given"), (bool, "only zeros and ones")])
def test_data_without_grey_levels_have_no_integers(tmp_path, dtype, kind):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).integers(0, 2, size=(20, 6)).astype(dtype))
    with pytest.raises(ValueError, match=f"`observations` must not be 'integer' for 'x.npy', which holds {kind}"):
        load(tmp_path / "x.npy", observations="integer")


def test_own_binary_data(tmp_path):
    x = np.random.default_rng(0).integers(0, 2, size=(20, 6))
    np.save(tmp_path / "bits.npy", x.astype(np.uint8))
    np.save(tmp_path / "floats.npy", x.astype(np.float64))
    np.save(tmp_path / "grey.npy", (x + 0.5) / 2)
    bits, floats = load(tmp_path / "bits.npy"), load(tmp_path / "floats.npy", observations="binary")
    assert torch.equal(bits.train.x, floats.train.x)
    assert (bits.train.space.reference, bits.train.space.support) == ("bits.npy, as given", "boolean")
    assert load(tmp_path / "floats.npy").train.space.support == "real"
    grey = load(tmp_path / "grey.npy", observations="binary", resample=True)
    assert grey.train.space.reference == "grey.npy, binarized by Bernoulli(x)"
    assert grey.train.x.unique().tolist() == [0.25, 0.75]
    assert set(grey.test.x.unique().tolist()) <= {0.0, 1.0}


# Files of one's own


def test_csv_npy_and_npz_give_the_same_data(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 2))
    kind = np.array(["b", "a"] * 10)
    np.save(tmp_path / "x.npy", x)
    np.savez(tmp_path / "x.npz", x=x, labels=kind)
    lines = [f"{a!r},{k},{b!r}" for (a, b), k in zip(x.tolist(), kind, strict=True)]
    (tmp_path / "x.csv").write_text("\n".join(["height, Class,width", *lines]))
    (tmp_path / "bare.CSV").write_text("\n".join(f"{a!r},{b!r}" for a, b in x.tolist()))
    sets = [load(tmp_path / name, dtype=torch.float64) for name in ("x.npy", "x.npz", "x.csv", "bare.CSV")]
    for d in sets:
        assert torch.equal(d.test.x, sets[0].test.x)
        assert d.test.image_shape is None
    assert sets[0].test.labels is sets[3].test.labels is None
    assert torch.equal(sets[1].train.labels, sets[2].train.labels)
    assert set(sets[1].train.labels.tolist()) == {0, 1}
    assert load("x.csv", root=tmp_path).name == "x.csv"
    whole = load(tmp_path / "x.csv", split="contiguous", num_valid=0)
    assert whole.train.labels.tolist()[:4] == [1, 0, 1, 0]


def test_integer_labels_stay_and_missing_ones_are_minus_one(tmp_path):
    np.savez(tmp_path / "x.npz", x=np.zeros((6, 1)), y=np.array([7, 3, 7, 3, 7, 3]))
    assert load(tmp_path / "x.npz", split="contiguous").train.labels.tolist() == [7, 3, 7, 3]
    (tmp_path / "x.csv").write_text("0,1,target\n" + "1,2,b\n1.5,2,\n1,3,a\n1,2,b\n1,2,a\n")
    d = load(tmp_path / "x.csv", split="contiguous", num_valid=0)
    assert d.train.labels.tolist() == [1, -1, 0, 1]
    assert d.train.x.shape == (4, 2)


def test_npz_parts_are_kept(tmp_path):
    parts = {"train": np.full((12, 2), 0.0), "test": np.full((4, 2), 2.0)}
    labels = {f"{part}_labels": np.full(len(x), int(x[0, 0])) for part, x in parts.items()}
    np.savez(tmp_path / "two.npz", **parts, **labels)
    np.savez(tmp_path / "three.npz", **parts, valid=np.full((3, 2), 1.0))
    two, three = load(tmp_path / "two.npz"), load(tmp_path / "three.npz")
    assert [len(part) for part in two] == [10, 2, 4]
    assert [part.x.unique().tolist() for part in two] == [[0.0], [0.0], [2.0]]
    assert two.test.labels.tolist() == [2, 2, 2, 2]
    assert [len(part) for part in three] == [12, 3, 4]
    assert [part.x.unique().tolist() for part in three] == [[0.0], [1.0], [2.0]]
    assert load(tmp_path / "two.npz", num_valid=0).valid is None


def test_arrays_of_images_know_their_shape(tmp_path, pixels):
    assert load(pixels).train.image_shape == (1, 5, 4)
    x = np.random.default_rng(0).random((10, 3, 2, 4))
    np.save(tmp_path / "rgb.npy", x)
    d = load(tmp_path / "rgb.npy", dtype=torch.float64, split="contiguous")
    assert d.train.x.shape == (6, 24)
    assert torch.equal(d.train.images().x, torch.from_numpy(x[:6]))
    assert d.train.space.reference == "rgb.npy, as given"


# Known sets, from tiny files of the same format


def write_idx(path, array):
    header = struct.pack(f">{array.ndim + 1}i", 0x0800 + array.ndim, *array.shape)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(header + array.tobytes())


def write_mnist(root, folder="MNIST"):
    rng = np.random.default_rng(0)
    for part, n in (("train", 12), ("t10k", 5)):
        images = rng.integers(0, 256, size=(n, 28, 28), dtype=np.uint8)
        images[:, 0, 0] = np.arange(n)
        write_idx(root / folder / "raw" / f"{part}-images-idx3-ubyte", images)
        write_idx(root / folder / "raw" / f"{part}-labels-idx1-ubyte", np.arange(n, dtype=np.uint8))


@pytest.mark.parametrize(
    ("name", "folder"), [("mnist", "MNIST"), ("fashion_mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_unpacked_files_are_used_in_place(tmp_path, name, folder):
    write_mnist(tmp_path / "data", folder)
    d = load(name, root=tmp_path / "data")
    assert not (tmp_path / "cache").exists()
    assert d.train.image_shape == (1, 28, 28)
    assert d.train.space.reference == f"{name}, (v + u)/256"
    assert [integers(part)[:, 0].tolist() for part in d] == [list(range(10)), [10, 11], list(range(5))]
    assert [part.labels.tolist() for part in d] == [list(range(10)), [10, 11], list(range(5))]
    drawn = load(name, root=tmp_path / "data", split="random", num_valid=4)
    assert drawn.test.labels.tolist() == list(range(5))
    assert sorted(drawn.train.labels.tolist() + drawn.valid.labels.tolist()) == list(range(12))
    assert load(name, root=tmp_path / "data", num_valid=0).valid is None


def test_gz_files_are_unpacked_into_the_cache_once(monkeypatch, tmp_path):
    write_mnist(tmp_path / "data")
    raw, resources = tmp_path / "data" / "MNIST" / "raw", []
    for path in sorted(raw.iterdir()):
        packed = gzip.compress(path.read_bytes())
        (raw / f"{path.name}.gz").write_bytes(packed)
        resources.append((f"{path.name}.gz", hashlib.md5(packed).hexdigest()))
        path.unlink()
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", resources)
    monkeypatch.setenv("PYROVAE_DATA", str(tmp_path / "data"))
    before = sorted(raw.iterdir())
    d = load("mnist")
    assert sorted(raw.iterdir()) == before
    cache = tmp_path / "cache" / "MNIST" / "raw"
    assert {path.name for path in cache.iterdir()} == {path.with_suffix("").name for path in before}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["MNIST"]  # no scratch folder is left
    monkeypatch.delenv("PYROVAE_DATA")
    assert torch.equal(load("mnist").train.x, d.train.x)

    (raw / before[0].name).write_bytes(b"half a download")  # its md5 is wrong, and there is no network
    monkeypatch.setenv("PYROVAE_CACHE", str(tmp_path / "another"))
    with pytest.raises(FileNotFoundError, match="neither found nor downloaded"):
        load("mnist", root=tmp_path / "data")


def test_offline_without_files_says_what_to_put_where(monkeypatch, tmp_path, capsys):
    files = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    sentence = (
        "`name` 'fashion_mnist' needs files that could be neither found nor downloaded; put {files} into {folder}, "
        "or set the environment variable PYROVAE_DATA to a folder that holds FashionMNIST/raw."
    )
    for setting, root in (("cache", None), ("data", tmp_path / "data")):
        with pytest.raises(FileNotFoundError) as caught:
            load("fashion_mnist", root=root)
        assert str(caught.value) == sentence.format(
            files=", ".join(files), folder=tmp_path / setting / "FashionMNIST" / "raw"
        )
        assert "no network in tests" in str(caught.value.__cause__)
    assert list((tmp_path / "cache").iterdir()) == []
    assert capsys.readouterr().out == ""
    monkeypatch.delenv("PYROVAE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "xdg" / "pyrovae" / "KMNIST" / "raw")):
        load("kmnist")


def test_frey_is_contiguous_and_its_frames_stand_upright(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, size=(410, 28, 20), dtype=np.uint8)
    frames[:, 0, 1] = np.arange(410) % 256
    (tmp_path / "frey").mkdir()
    savemat(tmp_path / "frey" / "frey_rawface.mat", {"ff": frames.reshape(410, 560).T})
    d = load("frey", root=tmp_path)
    assert [len(part) for part in d] == [10, 200, 200]
    assert d.test.image_shape == (1, 28, 20)
    assert d.test.labels is None
    assert torch.equal(torch.cat([integers(part) for part in d]).reshape(410, 28, 20), torch.from_numpy(frames).float())
    drawn = load("frey", root=tmp_path, split="random")
    assert [len(part) for part in drawn] == [10, 200, 200]
    assert not torch.equal(drawn.test.x, d.test.x)


def test_amat_and_npz_give_the_same_binarized_mnist(tmp_path):
    rng = np.random.default_rng(0)
    parts = {part: rng.integers(0, 2, size=(n, 784)) for part, n in (("train", 6), ("valid", 3), ("test", 2))}
    (tmp_path / "npz").mkdir()
    np.savez(tmp_path / "npz" / "binarized_mnist.npz", **{part: x.astype(np.uint8) for part, x in parts.items()})
    (tmp_path / "amat" / "binarized_mnist").mkdir(parents=True)
    for part, x in parts.items():
        np.savetxt(tmp_path / "amat" / "binarized_mnist" / f"binarized_mnist_{part}.amat", x, fmt="%d")
    one, other = (load("binarized_mnist", root=tmp_path / kind) for kind in ("npz", "amat"))
    for x, a, b in zip(parts.values(), one, other, strict=True):
        assert torch.equal(a.x, torch.from_numpy(x).float())
        assert torch.equal(a.x, b.x)
        assert a.labels is None
        assert a.image_shape == (1, 28, 28)
        assert (a.space.reference, a.space.support) == ("binarized MNIST (Larochelle)", "boolean")
    with pytest.raises(ValueError, match="`observations` must be 'binary' or None for 'binarized_mnist'"):
        load("binarized_mnist", root=tmp_path / "npz", observations="continuous")
    with pytest.raises(ValueError, match=r"`resample` must be False .* got True for 'binarized_mnist'"):
        load("binarized_mnist", root=tmp_path / "npz", resample=True)
    with pytest.raises(ValueError, match="`split` and `num_valid` must be None for 'binarized_mnist'"):
        load("binarized_mnist", root=tmp_path / "npz", num_valid=3)


# Whatever goes wrong


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (
            {"name": "minst"},
            "`name` must be one of digits, mnist, .*, frey, celeba, or a path to a .csv, .tsv or .txt table .*, got",
        ),
        ({"name": "data.xlsx"}, "a .npy or a .npz file, got 'data.xlsx'"),
        ({"observations": "grey"}, '`observations` must be None, "continuous", "binary" or "integer", got \'grey\''),
        ({"transform": "log"}, '`transform` must be None, "logit" or "standardize", got \'log\''),
        ({"split": "last"}, '`split` must be None, "random" or "contiguous", got \'last\''),
        ({"dtype": torch.float16}, "`dtype` must be None, torch.float32 or torch.float64, got torch.float16"),
        ({"transform": "logit", "alpha": 0.5}, r"`alpha` must be in \(0, 0.5\), got 0.5"),
        ({"observations": "binary", "transform": "logit"}, "`transform` must be None for binary observations"),
        ({"observations": "integer", "transform": "logit"}, "`transform` must be None for integer observations"),
        ({"observations": "integer", "resample": True}, "`resample` must be False unless observations='binary'"),
        ({"resample": True}, "`resample` must be False unless .* got True for 'digits' with continuous observations"),
        ({"num_valid": 1438}, "`num_valid` must be .* leaves data to train, got 1438 of 1797 with 359 to test"),
        ({"num_valid": -1}, "`num_valid` must be a whole number .* got -1"),
        ({"num_valid": 0.1}, "`num_valid` must be a whole number .* got 0.1"),
    ],
)
def test_options_are_checked(arguments, match):
    with pytest.raises(ValueError, match=match):
        load(**arguments)


@pytest.mark.parametrize("name", ["frey", "binarized_mnist"])
def test_files_that_are_not_there(tmp_path, name):
    place = tmp_path / "cache" / name
    with pytest.raises(
        FileNotFoundError, match=rf"`name` '{name}' needs files .* into {place}, or set .* PYROVAE_DATA"
    ):
        load(name)
    with pytest.raises(FileNotFoundError, match=r"`name` must be a file that exists, got '.*nowhere\.csv'"):
        load(tmp_path / "nowhere.csv")


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("x.csv", "1,2\n3,5\n" * 2, "`name` must hold at least 5 data to be split, got 4 in 'x.csv'"),
        ("x.npy", "junk", "an .npy file of one numeric array, got '.*x.npy', which cannot be read as such"),
        ("x.npz", "junk", "an .npz file of numeric arrays, got '.*x.npz', which cannot be read as such"),
        ("frey_rawface.mat", "junk", "a MATLAB file with `ff` .* got '.*frey_rawface.mat', which cannot be read"),
        ("binarized_mnist.npz", "junk", "an .npz file .* got '.*binarized_mnist.npz', which cannot be read"),
        ("MNIST/raw/train-images-idx3-ubyte", "junk", "a folder of whole idx files, got '.*raw', which cannot be read"),
    ],
)
def test_broken_files_are_named(tmp_path, file, content, match):
    write_mnist(tmp_path)
    (tmp_path / file).write_text(content)
    known = {"frey_rawface.mat": "frey", "binarized_mnist.npz": "binarized_mnist"}
    name = "mnist" if file.startswith("MNIST") else known.get(file, tmp_path / file)
    with pytest.raises(ValueError, match=match):
        load(name, root=tmp_path)


def test_amat_files_of_anything_else_are_refused(tmp_path):
    for part in ("train", "valid", "test"):
        (tmp_path / f"binarized_mnist_{part}.amat").write_text("0 1 1\n")
    with pytest.raises(ValueError, match=r"a text file of 784 zeros and ones a line, got '.*_train\.amat'"):
        load("binarized_mnist", root=tmp_path)
    for part in ("train", "valid", "test"):
        (tmp_path / f"binarized_mnist_{part}.amat").write_text("2 " * 784)
    with pytest.raises(ValueError, match=r"zeros and ones, got .* \(it holds other values\)"):
        load("binarized_mnist", root=tmp_path)


@pytest.mark.parametrize(
    ("arrays", "match"),
    [
        ({"z": np.zeros((9, 2))}, r"with key x \(and labels\), or train, test .* got '.*x.npz' with z; rename"),
        ({"x": np.zeros(9)}, r"data of shape \(N, D\), \(N, H, W\) or \(N, C, H, W\), got \(9,\)"),
        ({"x": np.zeros((0, 2))}, r"data of shape .* got \(0, 2\)"),
        ({"train": np.zeros((9, 2)), "test": np.zeros((9, 3))}, r"data of shape .* got \(9, 3\)"),
        ({"x": np.full((9, 2), "a")}, "`name` must hold numbers, got <U1"),
        ({"x": np.zeros((9, 2), dtype=object)}, "an .npz file of numeric arrays, .* allow_pickle"),
        ({"x": np.zeros((9, 2)), "labels": np.zeros(8)}, r"one label a datum, got labels of shape \(8,\) for 9 data"),
        ({"x": np.full((9, 2), np.inf)}, "`x.npz` must be finite, got NaN or infinity in 9 of 9 data, first in row 0"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, arrays, match):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=match):
        load(tmp_path / "x.npz")


def test_values_outside_the_unit_interval_have_no_logit_and_are_no_probabilities(table):
    with pytest.raises(ValueError, match="`transform` must be 'standardize' or None for values outside"):
        load(table, transform="logit")
    with pytest.raises(ValueError, match=r"`observations` must be 'continuous' for values outside .* got 'binary'"):
        load(table, observations="binary")


# Real data


@real_data
def test_mnist_keeps_its_established_split():
    d = load("mnist", root=REAL)
    assert [len(part) for part in d] == [50_000, 10_000, 10_000]
    cache = Path(os.environ["PYROVAE_CACHE"])
    root = cache if (cache / "MNIST").exists() else REAL
    train, test = (torchvision.datasets.MNIST(root, train=part) for part in (True, False))
    for part, raw in zip(d, (train.data[:50_000], train.data[50_000:], test.data), strict=True):
        assert part.x.max() < 1
        assert torch.equal(integers(part), raw.flatten(1).float())
    assert torch.equal(torch.cat([d.train.labels, d.valid.labels]), train.targets)
    assert torch.equal(d.test.labels, test.targets)


@real_data
def test_binarized_mnist_is_a_sample_of_nothing_but_zeros_and_ones():
    d = load("binarized_mnist", root=REAL)
    assert [len(part) for part in d] == [50_000, 10_000, 10_000]
    for part in d:
        assert ((part.x == 0) | (part.x == 1)).all()
        assert 0.12 < part.x.mean() < 0.14  # about 13 % of the pixels of MNIST are ink


@real_data
def test_frey_faces_are_a_video():
    d, drawn = load("frey", root=REAL), load("frey", root=REAL, split="random")
    for each in (d, drawn):
        assert [len(part) for part in each] == [1565, 200, 200]
    step = lambda part: (part.x[1:] - part.x[:-1]).pow(2).mean()  # noqa: E731
    assert step(d.test) < step(drawn.test)  # neighbours look alike
    image = d.test.images().x
    across = [image.diff(dim=dim).abs().mean() for dim in (2, 3)]
    assert max(across) < 0.1  # smooth along rows and columns: neither scrambled nor transposed
