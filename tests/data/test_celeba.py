"""CelebA: faces cut and resized as torchvision would, in the established parts, from the whole set or from a few."""

import hashlib
import os

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms

from pyrovae.data import load
from pyrovae.data.celeba import decode

FILES = [f"{number:06d}.jpg" for number in range(1, 11)]
PARTS = [0, 0, 0, 0, 0, 0, 1, 1, 2, 2]


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.delenv("PYROVAE_DATA", raising=False)
    monkeypatch.setenv("PYROVAE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path):
    """Ten faces of noise on one colour each, two of which the partition does not list or have."""
    folder = tmp_path / "root" / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    generator = np.random.default_rng(0)
    for number, file in enumerate([*FILES, "unlisted.jpg"]):
        pixels = generator.integers(0, 60, size=(218, 178, 3), dtype=np.uint8) + np.uint8(15 * number)
        Image.fromarray(pixels).save(folder / "img_align_celeba" / file)
    lines = [f"{file} {part}" for file, part in zip(FILES, PARTS, strict=True)]
    (folder / "list_eval_partition.txt").write_text("\n".join(["absent.jpg 1", *lines]) + "\n")
    return tmp_path / "root"


def pixels(part):
    return (part.images().x * 256).floor()


def test_faces_come_in_their_parts_channels_first(root):
    d = load("celeba", root=root)
    assert d.name == "celeba"
    assert [len(part) for part in d] == [6, 2, 2]
    for part in d:
        assert (part.data_shape, part.image_shape) == ((12288,), (3, 64, 64))
        assert (part.space.reference, part.space.support, part.space.levels) == ("celeba, (v + u)/256", "real", 256)
        assert part.x.dtype == torch.float32
        assert part.labels is None
    brightness = torch.cat([pixels(part).mean((1, 2, 3)) for part in d])
    assert (brightness.diff() > 10).all()  # in the order of the list


def test_faces_are_cut_and_resized_as_torchvision_does(root):
    view = transforms.Compose([transforms.CenterCrop(148), transforms.Resize(64)])
    for row, file in enumerate(FILES[:6]):
        path = root / "celeba" / "img_align_celeba" / file
        with Image.open(path) as image:
            expected = np.asarray(view(image)).transpose(2, 0, 1)
        np.testing.assert_array_equal(decode(path), expected)
        np.testing.assert_array_equal(pixels(load("celeba", root=root).train)[row].numpy(), expected)


def test_the_whole_set_is_read_by_torchvision(root, monkeypatch):
    """torchvision verifies its lists by md5; here those of a set of ten."""
    folder, numbers = root / "celeba", range(10)
    header = f"10\n{' '.join('abcd')}\n"
    texts = {
        "list_eval_partition.txt": "".join(f"{FILES[i]} {PARTS[-1 - i]}\n" for i in numbers),  # another partition
        "identity_CelebA.txt": "".join(f"{file} 1\n" for file in FILES),
        "list_attr_celeba.txt": header + "".join(f"{file} 1 -1 1 1\n" for file in FILES),
        "list_bbox_celeba.txt": header + "".join(f"{file} 1 2 3 4\n" for file in FILES),
        "list_landmarks_align_celeba.txt": header + "".join(f"{file} 1 2 3 4\n" for file in FILES),
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    sums = [("", hashlib.md5(text.encode()).hexdigest(), name) for name, text in texts.items()]
    monkeypatch.setattr(datasets.CelebA, "file_list", sums)
    monkeypatch.setattr("pyrovae.data.celeba._listed", lambda path: pytest.fail("torchvision's lists were not used"))
    train, valid, test = map(pixels, load("celeba", root=root))
    assert (len(train), len(valid), len(test)) == (6, 2, 2)
    assert test.mean() < valid.mean() < train.mean()
    monkeypatch.setattr(datasets.CelebA, "file_list", [(*sums[0][:1], "0" * 32, sums[0][2]), *sums[1:]])
    monkeypatch.setattr("pyrovae.data.celeba._listed", lambda path: [FILES[:1], FILES[1:2], FILES[2:4]])
    assert [len(part) for part in load("celeba", root=root)] == [1, 1, 2]


def test_faces_are_decoded_once(root, cache, monkeypatch):
    first = load("celeba", root=root)
    (kept,) = (cache / "celeba").iterdir()
    assert np.load(kept).dtype == np.uint8
    with monkeypatch.context() as patched:
        patched.setattr("pyrovae.data.celeba.decode", lambda path: pytest.fail("decoded again"))
        again = load("celeba", root=root)
    assert all(torch.equal(a.x, b.x) for a, b in zip(first, again, strict=True))
    face = root / "celeba" / "img_align_celeba" / FILES[0]
    for time, channel in enumerate((0, 2), 1):  # files of one size, as only bitmaps are
        Image.new("RGB", (178, 218), tuple(200 * (c == channel) for c in range(3))).save(face, format="BMP")
        os.utime(face, (time, time))
        assert pixels(load("celeba", root=root).train)[0].mean((1, 2)).argmax() == channel


def test_a_few_of_each_part(root):
    assert [len(part) for part in load("celeba", root=root, max_images=5)] == [3, 1, 1]
    assert [len(part) for part in load("celeba", root=root, max_images=100)] == [6, 2, 2]


def test_models_of_other_readings(root):
    plain = load("celeba", root=root, dequantize=False, dtype=torch.float64).train
    assert torch.equal((plain.x * 255).round(), pixels(load("celeba", root=root).train).flatten(1).double())


def test_absent_files_are_said_in_a_sentence(tmp_path, root):
    with pytest.raises(FileNotFoundError, match=r"'celeba' needs files .* img_align_celeba/\*.jpg, and list_eval_par"):
        load("celeba", root=tmp_path / "nowhere")
    (root / "celeba" / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"'celeba' needs files"):
        load("celeba", root=root)


def test_refuses(root):
    folder = root / "celeba"
    with pytest.raises(
        ValueError, match="`max_images` must be a whole number of at least 3, one a part, or None, got 2"
    ):
        load("celeba", root=root, max_images=2)
    with pytest.raises(ValueError, match="`max_images` must be None for 'digits', got 9"):
        load("digits", max_images=9)
    Image.new("RGB", (178, 200)).save(folder / "img_align_celeba" / FILES[3])
    with pytest.raises(ValueError, match=r"an aligned image of 178×218 pixels, got .*000004.jpg'.*it has 178×200"):
        load("celeba", root=root)
    (folder / "list_eval_partition.txt").write_text(f"{FILES[0]} 0\n{FILES[1]} 1\n")
    with pytest.raises(ValueError, match=r"must have images of every part .* got 1 to train, 1 to valid, 0 to test"):
        load("celeba", root=root)
    (folder / "list_eval_partition.txt").write_text(f"{FILES[0]} 7\n")
    with pytest.raises(ValueError, match="a text file of one image and its part, 0, 1 or 2, a line, got"):
        load("celeba", root=root)
