"""FID equals the Fréchet distance of two Gaussians, by a dense witness; greys, ranges and absences are handled."""

import sys

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import nn

from pyrovae import PPCA, data, evaluate, fit
from pyrovae.data import Observations

torchmetrics = pytest.importorskip("torchmetrics", reason="torchmetrics is not installed: pip install 'pyrovae[fid]'")


class Classifier(nn.Module):
    """A small feature module, in float64."""

    def __init__(self, channels=1):
        super().__init__()
        self.convolution = nn.Conv2d(channels, 4, 3, stride=2)
        self.dropout = nn.Dropout(0.5)
        self.double()

    def forward(self, images):
        return self.dropout(self.convolution(images).tanh().mean((2, 3)))


def witness(a, b):
    """|m − m'|² + tr(C + C' − 2 (CC')^½), dense, by scipy."""
    a, b = a.double().numpy(), b.double().numpy()
    c, d = np.cov(a.T), np.cov(b.T)
    root = scipy.linalg.sqrtm(c @ d).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(c + d - 2 * root)


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(40, 1, 8, 8, generator=generator).double(), torch.rand(
        30, 1, 8, 8, generator=generator
    ).double() ** 2


def test_equals_the_dense_witness(images):
    module = Classifier().train()
    a, b = images
    with torch.no_grad():
        module.eval()
        expected = witness(module(a), module(b))
        module.train()
    found = evaluate.fid(a, b, module, batch_size=7)
    assert found == pytest.approx(expected, rel=1e-6)
    assert expected > 1e-7  # far above the rounding of the square roots, so that the comparison says something
    assert module.training


def test_two_gaussians_by_their_formula():
    """Pixels are the features: diagonal Gaussians differ by Σ (m − m')² + (s − s')²."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(500, 4, generator=generator, dtype=torch.float64)
    noise = noise - noise.mean(0)
    noise = noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T @ noise / 499)).T  # mean 0 and covariance 1, exactly
    mean, scale = torch.tensor([[0.4, 0.5, 0.6, 0.5], [0.5, 0.5, 0.5, 0.6]]), torch.tensor([[0.05] * 4, [0.02] * 4])
    a, b = ((m + s * noise).reshape(-1, 1, 2, 2) for m, s in zip(mean.double(), scale.double(), strict=True))
    expected = (mean[0] - mean[1]).square().sum() + (scale[0] - scale[1]).square().sum()
    assert evaluate.fid(a, b, nn.Flatten()) == pytest.approx(expected.item(), rel=1e-6)
    assert evaluate.fid(a, a, nn.Flatten()) == pytest.approx(0, abs=1e-9)


def test_real_features_are_kept(images):
    a, b = images
    module = Classifier()
    distance = evaluate.FID(a, module)
    first, again = distance(b), distance(b)
    assert first == again == evaluate.fid(a, b, module)
    assert distance(a) == pytest.approx(0, abs=1e-9)


def test_greys_become_three_channels_for_inception(images, monkeypatch):
    """The Inception network, stood in for by one that records what it is given."""
    seen = []

    class Recorder(nn.Module):
        num_features = 3

        def forward(self, x):
            seen.append(x)
            return x.mean((2, 3))

    from torchmetrics.image import fid as theirs

    genuine = theirs.FrechetInceptionDistance
    monkeypatch.setattr(theirs, "FrechetInceptionDistance", lambda feature, **kw: genuine(Recorder(), **kw))
    evaluate.fid(*images)
    assert all(x.shape[1:] == (3, 8, 8) and x.dtype == torch.float32 for x in seen)
    torch.testing.assert_close(torch.cat(seen)[:40, 2:].double(), images[0], rtol=0, atol=1e-6)


def test_history_measures_what_the_model_generates():
    d = data.load("digits", dtype=torch.float64)
    models = [fit.closed_form(PPCA(q, (64,)), d.train).model for q in (1, 2, 20)]
    distance = evaluate.FID(d.test, nn.Flatten())
    history = evaluate.FIDHistory(distance, num_images=200, every=2, seed=4)
    for epoch, model in enumerate(models, 1):
        history(epoch, model)
    assert history.epochs == [1, 3]
    generated = models[2].sample_means(200, seed=4)[0].clamp(0, 1)
    expected = distance(generated.reshape(-1, 1, 8, 8))
    assert history.values[1] == pytest.approx(expected, rel=1e-9)
    assert history.values[1] < history.values[0]


def test_history_goes_back_to_the_reference_space():
    plain, logit = data.load("digits", dtype=torch.float64), data.load("digits", transform="logit", dtype=torch.float64)
    model = fit.closed_form(PPCA(5, (64,)), logit.train).model
    distance = evaluate.FID(plain.test, nn.Flatten())
    history = evaluate.FIDHistory(distance, logit.train.space, generate="samples", num_images=50)
    history(1, model)
    x = logit.train.space.transform.inv(model.sample(50)[0]).clamp(0, 1)
    assert history.values == [pytest.approx(distance(x.reshape(-1, 1, 8, 8)), rel=1e-9)]


def test_history_measures_what_a_function_makes_of_the_model():
    """Reconstructions: through more latents they are nearer to the data."""
    d = data.load("digits", dtype=torch.float64)
    distance = evaluate.FID(d.test, nn.Flatten())
    history = evaluate.FIDHistory(distance, generate=lambda model: evaluate.reconstruct_means(model, d.test))
    models = [fit.closed_form(PPCA(q, (64,)), d.train).model for q in (2, 40)]
    for epoch, model in enumerate(models, 1):
        history(epoch, model)
    rebuilt = evaluate.reconstruct_means(models[0], d.test).clamp(0, 1)
    assert history.values[0] == pytest.approx(distance(rebuilt.reshape(-1, 1, 8, 8)), rel=1e-9)
    assert history.values[1] < 0.1 * history.values[0]


@pytest.mark.parametrize(
    ("real", "generated", "message"),
    [
        (torch.zeros(3, 4), None, r"`real` must be at least 2 images of shape \(N, channels, height, width\), got"),
        (torch.zeros(1, 1, 4, 4), None, r"`real` must be at least 2 images .* got shape \(1, 1, 4, 4\)"),
        (255 * torch.ones(3, 1, 4, 4), None, r"`real` must have values in \[0, 1\], got \[255, 255\]"),
        (torch.ones(3, 1, 4, 4), torch.ones(3, 3, 4, 4), r"`generated` must be .* shape \(N, 1, 4, 4\), got"),
        (torch.ones(3, 1, 4, 4), -torch.ones(3, 1, 4, 4), r"`generated` must have values in .*clamp"),
    ],
)
def test_refuses(real, generated, message):
    with pytest.raises(ValueError, match=message):
        evaluate.fid(real, real if generated is None else generated, nn.Flatten())


def test_refuses_what_gives_no_features_and_odd_channels(images):
    with pytest.raises(ValueError, match=r"`feature` must give features of shape \(N, F\), got \(1, 1, 8, 8\)"):
        evaluate.FID(images[0], nn.Identity())
    with pytest.raises(ValueError, match="`real` must have 1 or 3 channels for the Inception network, got 2"):
        evaluate.FID(torch.zeros(3, 2, 4, 4))
    with pytest.raises(ValueError, match="image_shape"):
        evaluate.FID(Observations(torch.zeros(3, 4)))
    with pytest.raises(ValueError, match="`every` must be a whole number of at least 1, got 0"):
        evaluate.FIDHistory(evaluate.FID(images[0], nn.Flatten()), every=0)
    with pytest.raises(ValueError, match='`generate` must be "means", "samples" or a function of the model, got True'):
        evaluate.FIDHistory(evaluate.FID(images[0], nn.Flatten()), generate=True)


def test_absences_are_said_in_a_sentence(images, monkeypatch):
    from torchmetrics.image import fid as theirs

    def unreachable(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(theirs, "FrechetInceptionDistance", unreachable)
    with pytest.raises(OSError, match=r"`feature` None needs the weights .* could not be downloaded .no network.*put"):
        evaluate.FID(images[0])
    monkeypatch.setitem(sys.modules, "torchmetrics.image.fid", None)
    with pytest.raises(ImportError, match=r"FID needs torchmetrics.*pip install 'pyrovae\[fid\]'"):
        evaluate.FID(images[0], nn.Flatten())


@pytest.fixture(scope="module")
def digit_features():
    """Hidden units of a classifier trained on the training digits."""
    d = data.load("digits")
    torch.manual_seed(0)
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
    classifier = nn.Sequential(hidden, nn.Linear(32, 10))
    optimizer = torch.optim.Adam(classifier.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(classifier(d.train.x), d.train.labels).backward()
        optimizer.step()
    assert (classifier(d.test.x).argmax(1) == d.test.labels).float().mean() > 0.9
    return hidden


def test_a_classifier_ranks_digits_before_models_before_noise(digit_features):
    d = data.load("digits")
    distance = evaluate.FID(d.train, digit_features)
    generated = [fit.closed_form(PPCA(q, (64,)), d.train).model.sample(359)[0] for q in (30, 2)]
    ranked = [distance(x.clamp(0, 1).reshape(-1, 1, 8, 8)) for x in (d.test.x, *generated, torch.rand(359, 64))]
    assert ranked == sorted(ranked)
    assert ranked[1] > 3 * ranked[0]
