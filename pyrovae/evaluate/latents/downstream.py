"""What codes are good for: classes found again from z alone, by neighbours, by a linear map, by clusters."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrovae.engine.checks import check_whole
from pyrovae.evaluate.latents.encoding import Encoding, check_encoding


@dataclass(frozen=True)
class Downstream:
    """How well classes are found again from codes; shares in [0, 1], higher is better.

    Attributes:
        nearest_neighbour_accuracy: Share of data whose nearest coded neighbour(s) have their class.
        linear_probe_accuracy: Share of data that a multinomial logistic regression on standardised codes gets right.
        adjusted_rand_index: Agreement of k-means clusters with classes, 0 for random clusters and 1 for the classes.
        normalized_mutual_information: Of the same clusters and classes, in [0, 1].
        majority_share: Share of the most frequent class, the accuracy of knowing nothing.
        num_data: Data that the accuracies were measured on; none was used to train what judged it.
    """

    nearest_neighbour_accuracy: float
    linear_probe_accuracy: float
    adjusted_rand_index: float
    normalized_mutual_information: float
    majority_share: float
    num_data: int

    def __str__(self) -> str:
        rows = [
            ("nearest-neighbour accuracy", self._with_error(self.nearest_neighbour_accuracy)),
            ("linear-probe accuracy", self._with_error(self.linear_probe_accuracy)),
            ("accuracy of the largest class", f"{self.majority_share:.3f}"),
            ("k-means, adjusted Rand index", f"{self.adjusted_rand_index:.3f}"),
            ("k-means, normalised mutual information", f"{self.normalized_mutual_information:.3f}"),
        ]
        return "\n".join(f"{name:<39}{value}" for name, value in rows) + f"\nN = {self.num_data:,}"

    def _with_error(self, accuracy: float) -> str:
        """The accuracy with its binomial standard error: of one more right and one more wrong, as none is certain."""
        share = (accuracy * self.num_data + 1) / (self.num_data + 2)
        return f"{accuracy:.3f} ± {math.sqrt(share * (1 - share) / self.num_data):.3f}"


def downstream(
    encoding: Encoding,
    test: Encoding | None = None,
    *,
    num_neighbours: int = 1,
    num_clusters: int | None = None,
    num_folds: int = 5,
    seed: int = 0,
) -> Downstream:
    """How well the classes of the data are found again from the means of q(z|x) alone.

    Three judges, all of scikit-learn: nearest neighbours and k-means by the Euclidean distance of the codes as they
    are, whose scale the prior has set; logistic regression on codes standardised by the data that train it.

    Args:
        encoding: Codes with labels, as :func:`pyrovae.evaluate.encode` gives; data of label −1 are left out.
        test: Held-out codes.  If given, the judges are trained on ``encoding`` and measured on these; if not, they are
            cross-validated, each fold with its share of every class.
        num_neighbours: Neighbours that vote.
        num_clusters: Of k-means, by default the number of classes; clusters never see a label.
        num_folds: Folds of the cross-validation.
        seed: Of the folds and of k-means.

    Returns:
        The result, which prints as a table.

    Raises:
        TypeError: If an argument is no encoding.
        ValueError: If labels are missing, or fewer than two classes have the data that the folds need.

    Example:
        >>> import torch
        >>> labels = torch.arange(40) % 2
        >>> codes = Encoding(10.0 * labels[:, None] + torch.linspace(0, 1, 40)[:, None], torch.ones(40, 1), labels)
        >>> result = downstream(codes)
        >>> result.linear_probe_accuracy, result.adjusted_rand_index
        (1.0, 1.0)

    Reference:
        Hubert and Arabie (1985), Comparing partitions (adjusted Rand index).
    """
    from sklearn.cluster import KMeans
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
    from sklearn.neighbors import KNeighborsClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    codes, labels = _codes(encoding, "encoding")
    held_out = None if test is None else (codes, labels, *_codes(test, "test"))
    parts = [held_out] if held_out else list(_folds(codes, labels, num_folds, seed))
    neighbours = KNeighborsClassifier(num_neighbours)
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))
    seen = np.concatenate([held_labels for *_, held_labels in parts])
    held = np.concatenate([held_codes for _, _, held_codes, _ in parts])
    clusters = KMeans(num_clusters or len(np.unique(labels)), n_init=10, random_state=seed).fit(codes).predict(held)
    return Downstream(
        nearest_neighbour_accuracy=_accuracy(neighbours, parts),
        linear_probe_accuracy=_accuracy(probe, parts),
        adjusted_rand_index=float(adjusted_rand_score(seen, clusters)),
        normalized_mutual_information=float(normalized_mutual_info_score(seen, clusters)),
        majority_share=float(np.unique(seen, return_counts=True)[1].max() / len(seen)),
        num_data=len(seen),
    )


def _codes(encoding: Encoding, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Means (N, L), float64, and labels (N,) of the data that have one."""
    check_encoding(encoding, name)
    if encoding.labels is None:
        raise ValueError(f"`{name}` must have labels, got none; encode Observations with labels.")
    labels = encoding.labels.cpu().numpy()
    known = labels >= 0
    if len(np.unique(labels[known])) < 2:
        raise ValueError(f"`{name}` must have data of at least two classes, got labels {np.unique(labels).tolist()}.")
    return encoding.flat.mean.detach().cpu().double().numpy()[known], labels[known]


def _folds(codes: np.ndarray, labels: np.ndarray, num_folds: int, seed: int) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Codes and labels to train on, codes and labels held out, fold by fold."""
    from sklearn.model_selection import StratifiedKFold

    fewest = int(np.unique(labels, return_counts=True)[1].min())
    check_whole("num_folds", num_folds, 2, fewest, hint="the largest is the size of the smallest class")
    for train, held in StratifiedKFold(num_folds, shuffle=True, random_state=seed).split(codes, labels):
        yield codes[train], labels[train], codes[held], labels[held]


def _accuracy(judge: Any, parts: Any) -> float:
    """Share of held-out data that the judge, trained on the others, gets right."""
    right = [judge.fit(codes, labels).predict(held) == truth for codes, labels, held, truth in parts]
    return float(np.concatenate(right).mean())
