"""Models of p(x|z, y): encoded and decoded at the labels that they ask for."""

import pytest
import torch

from pyrovae import VAE, Gaussian, data, evaluate, plots


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module")
def vae():
    torch.manual_seed(0)
    return VAE(2, (64,), Gaussian("decoder"), hidden=(16,), num_classes=10).eval()


def test_encoded_and_reconstructed_by_the_labels_of_the_data(vae, digits, monkeypatch):
    x, y = digits.test.x, digits.test.labels
    q = vae.encoder(x, y)
    monkeypatch.setattr("pyrovae.evaluate.latents.encoding.ENCODED_FLOATS", 64 * 50)
    monkeypatch.setattr("pyrovae.evaluate.samples.decoding.DECODED", 70)
    encoding = evaluate.encode(vae, digits.test)
    torch.testing.assert_close(encoding.mean, q.mean.detach())
    assert (encoding.mean - vae.encoder(x, (y + 1) % 10).mean).abs().max() > 1e-3
    expected = vae.decoder(q.mean, y).mean.detach()
    torch.testing.assert_close(evaluate.reconstruct_means(vae, digits.test), expected)


def test_decoded_at_one_label_or_one_for_each_z(vae):
    z, y = torch.randn(3, 4, 2), torch.arange(12).reshape(3, 4) % 10
    torch.testing.assert_close(
        evaluate.decode_means(vae, z, y), vae.decoder(z.flatten(0, 1), y.flatten()).mean.detach().unflatten(0, (3, 4))
    )
    threes = torch.full((12,), 3)
    sigma = vae.decoder(z.flatten(0, 1), threes).stddev.detach().unflatten(0, (3, 4))
    torch.testing.assert_close(evaluate.decode_deviations(vae, z, 3), sigma)
    assert evaluate.decode_samples(vae, z, 3).shape == (3, 4, 64)
    centre = evaluate.manifold_means(vae, 3, labels=7)[1, 1]
    torch.testing.assert_close(centre, evaluate.decode_means(vae, torch.zeros(2), 7))


def test_pictures_of_a_class(vae, digits):
    for figure in (
        plots.manifold({"VAE": vae}, digits.test, num_steps=3, labels=4),
        plots.clouds_and_manifolds({"VAE": vae}, digits.test, num_steps=3, labels=4),
        plots.strips({"VAE": vae}, digits.test),
        plots.sigma_maps({"VAE": vae}, digits.test),
        plots.reconstructions({"VAE": vae}, digits.test),
        plots.latents({"VAE": vae}, digits.test),
    ):
        assert figure._repr_png_()
    cloud, _ = plots.clouds_and_manifolds({"VAE": vae}, digits.test, num_steps=3, labels=4).axes
    assert [points.get_label() for points in cloud.collections] == ["4"]


def test_refuses(vae, digits):
    with pytest.raises(ValueError, match=r"`labels` must be given to a model of p\(x\|z, y\), got None"):
        evaluate.decode_means(vae, torch.zeros(2))
    with pytest.raises(ValueError, match=r"`labels` must have shape \(3,\), one for each z, got \(2,\)"):
        evaluate.decode_means(vae, torch.zeros(3, 2), torch.tensor([1, 2]))
    with pytest.raises(ValueError, match="must carry labels"):
        evaluate.encode(vae, digits.test.x)
    with pytest.raises(ValueError, match="`labels` must be left out"):
        evaluate.decode_means(VAE(2, (64,)), torch.zeros(2), 3)
