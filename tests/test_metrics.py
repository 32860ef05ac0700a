from itertools import permutations

import numpy as np
import pandas as pd
import pytest

from skvade.metrics import clustering_accuracy


def best_accuracy(y_true, y_pred):
    """Give the accuracy under the best of all one-to-one maps to classes."""
    clusters = np.unique(y_pred)
    # An empty class for each cluster that is matched to none.
    targets = [*np.unique(y_true), *(-1 - clusters)]
    return max(
        np.mean(y_true == np.asarray(match)[np.searchsorted(clusters, y_pred)])
        for match in permutations(targets, len(clusters))
    )


@pytest.mark.parametrize("n_classes, n_clusters", [(3, 3), (4, 2), (2, 4), (1, 3)])
@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_that_of_the_best_map(n_classes, n_clusters, seed):
    rng = np.random.default_rng(seed)
    y_true = rng.integers(n_classes, size=25)
    y_pred = rng.integers(n_clusters, size=25)

    expected = best_accuracy(y_true, y_pred)
    assert clustering_accuracy(y_true, y_pred) == pytest.approx(expected)
    assert clustering_accuracy(y_pred, y_true) == pytest.approx(expected)


def test_match_is_optimal_where_a_greedy_one_is_not():
    # Greedy takes the 5 samples shared by class 0 and cluster 0 and is left with 0;
    # crossing over keeps 4 + 4.
    y_true = [0] * 9 + [1] * 4
    y_pred = [0] * 5 + [1] * 4 + [0] * 4
    assert clustering_accuracy(y_true, y_pred) == pytest.approx(8 / 13)


def test_accuracy_is_invariant_to_permuted_labels():
    rng = np.random.default_rng(0)
    y = rng.integers(5, size=100)
    assert clustering_accuracy(y, rng.permutation(5)[y]) == 1.0


@pytest.mark.parametrize("as_type", [list, np.asarray, pd.Series])
def test_labels_of_any_discrete_type(as_type):
    y_true = as_type(["cat", "cat", "dog", "dog"])
    for y_pred in ([1, 1, 0, 0], [1.0, 1.0, -1.0, -1.0], [True, True, False, False]):
        accuracy = clustering_accuracy(y_true, as_type(y_pred))
        assert type(accuracy) is float
        assert accuracy == 1.0


def test_negative_label_counts_as_a_cluster():
    assert clustering_accuracy([0, 0, 1, 1], [0, -1, 1, 1]) == 0.75


def test_accuracy_of_one_cluster_is_the_fraction_of_the_largest_class():
    assert clustering_accuracy([0, 0, 0, 1, 2], [7] * 5) == pytest.approx(0.6)


@pytest.mark.parametrize(
    "y_true, y_pred, message",
    [
        ([0, 1, 2], [0, 1], "inconsistent numbers of samples"),
        ([], [], "minimum of 1 is required"),
        (
            np.zeros((3, 2)),
            np.zeros(3),
            r"y_true must be 1D. Got an array of shape \(3, 2\)",
        ),
        ([0, 1], [0.5, 1], "y_pred must hold discrete labels"),
        ([0, 1], [np.nan, 1], "y_pred contains NaN"),
    ],
)
def test_invalid_labels(y_true, y_pred, message):
    with pytest.raises(ValueError, match=message):
        clustering_accuracy(y_true, y_pred)
