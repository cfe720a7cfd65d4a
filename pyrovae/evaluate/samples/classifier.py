"""A classifier trained on the labels of the data: its hidden layers are features for :class:`FID`.

The Inception network was made for photographs, and its weights must be downloaded.  For digits a small network that
knows digits judges better.  Its initial weights change the distance, so train one for each of a few seeds.
"""

from collections.abc import Callable

import torch
from torch import nn

from pyrovae.data import Observations
from pyrovae.engine.seeding import seeded
from pyrovae.models.base import check_whole


def train_classifier(
    build: Callable[[], nn.Sequential],
    data: Observations,
    *,
    num_epochs: int = 5,
    batch_size: int = 100,
    lr: float = 3e-3,
    seed: int = 0,
) -> nn.Sequential:
    """Train a network to tell the labels of data, by Adam on the cross-entropy.

    Args:
        build: Makes the network, data → a score for every class (N, num_classes).  It is called with the seed set, so
            that the seed decides the initial weights, too.  Lazy modules may be used.
        data: N labelled data, classes from 0; ``data.images()`` for a network with convolutions.
        num_epochs: Passes over the data.
        batch_size: Data in a step.
        lr: Learning rate.
        seed: Seed of the initial weights and of the order of the data.

    Returns:
        The network in evaluation mode; ``network[:-1]``, all but its last layer, gives features for :class:`FID`.

    Raises:
        ValueError: If the data have no labels, or a number is out of range.

    Example:
        >>> from pyrovae import data
        >>> digits = data.load("digits")
        >>> def build():
        ...     return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
        >>> network = train_classifier(build, digits.train)
        >>> bool((network(digits.test.x).argmax(1) == digits.test.labels).float().mean() > 0.8)
        True
    """
    if data.labels is None:
        raise ValueError("`data` must have labels for a classifier to learn, got none; set `labels`.")
    for name, value in (("num_epochs", num_epochs), ("batch_size", batch_size)):
        check_whole(name, value)
    with seeded(seed):
        network = build()
        network(data.x[:2])  # lazy modules learn their sizes here
        optimizer = torch.optim.Adam(network.parameters(), lr=lr)
        for _ in range(num_epochs):
            for batch in torch.randperm(len(data)).split(batch_size):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(data.x[batch]), data.labels[batch]).backward()
                optimizer.step()
    return network.eval()
