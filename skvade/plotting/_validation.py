"""Input validation shared by the Displays."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

__all__ = [
    "check_fitted_attributes",
    "check_image_shape",
    "check_n_samples",
    "check_no_categories",
    "covariance_matrices",
]


def check_fitted_attributes(
    estimator: BaseEstimator, names: Sequence[str], display_name: str
) -> None:
    """Check that an estimator is fitted and has the attributes that a Display reads.

    Parameters
    ----------
    estimator : BaseEstimator
        Estimator to check.
    names : sequence of str
        Names of the required public attributes and methods.
    display_name : str
        Name of the Display class, for the error message.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If the estimator lacks one of the attributes.
    """
    check_is_fitted(estimator)
    missing = [name for name in names if not hasattr(estimator, name)]
    if missing:
        raise TypeError(
            f"{display_name} requires an estimator with the attribute {missing[0]!r}. "
            f"Got a {type(estimator).__name__}, which does not have it. Pass a fitted "
            "VaDEClusterer; for a Pipeline, pass the last step, with X as "
            "transformed by the steps before it."
        )


def check_no_categories(estimator: BaseEstimator, display_name: str) -> None:
    """Check that the samples of an estimator are numbers.

    Parameters
    ----------
    estimator : BaseEstimator
        Fitted estimator.
    display_name : str
        Name of the Display class, for the error message.

    Raises
    ------
    ValueError
        If columns of X are categories.
    """
    if len(getattr(estimator, "categories_", [])):
        raise ValueError(
            f"{display_name} draws numbers. Got a {type(estimator).__name__} of a "
            "table with categories. Plot columns of its cluster_centers_, or of what "
            "its method sample gives."
        )


def covariance_matrices(estimator: BaseEstimator, display_name: str) -> NDArray:
    """Give the covariance matrix of each component of an estimator.

    Parameters
    ----------
    estimator : BaseEstimator
        Fitted estimator.
    display_name : str
        Name of the Display class, for the error message.

    Returns
    -------
    covariances : ndarray of shape (n_clusters, latent_dim, latent_dim)
        From `covariances_` in the shape of the estimator's `covariance_type`.

    Raises
    ------
    ValueError
        If the type is none of scikit-learn's, or the shape is not that of the type.
    """
    n_clusters, latent_dim = estimator.means_.shape
    covariances = np.asarray(estimator.covariances_)
    covariance_type = estimator.covariance_type
    shapes = {
        "full": (n_clusters, latent_dim, latent_dim),
        "tied": (latent_dim, latent_dim),
        "diag": (n_clusters, latent_dim),
        "spherical": (n_clusters,),
    }
    if covariances.shape != shapes.get(covariance_type):
        raise ValueError(
            f"{display_name} draws components with covariances_ in the shapes of "
            f"scikit-learn, {shapes}. Got covariance_type={covariance_type!r} and "
            f"shape {covariances.shape} instead. Fit again if the parameter has "
            "changed; else plot samples of the estimator's own `sample`."
        )
    if covariance_type == "spherical":
        return covariances[:, None, None] * np.eye(latent_dim)
    if covariance_type == "diag":
        return covariances[:, :, None] * np.eye(latent_dim)
    return np.broadcast_to(covariances, shapes["full"])


def check_n_samples(n_samples: Any) -> None:
    """Check that the number of samples to plot is a positive integer.

    Parameters
    ----------
    n_samples : object
        Value to check.

    Raises
    ------
    ValueError
        If `n_samples` is not an int of at least 1.
    """
    # `check_scalar` accepts True, and reports the type of a wrong value without it.
    is_int = isinstance(n_samples, Integral) and not isinstance(n_samples, bool)
    if not is_int or n_samples < 1:
        raise ValueError(
            f"n_samples must be an int of at least 1. Got {n_samples!r} instead."
        )


def check_image_shape(image_shape: Any, n_features: int) -> None:
    """Check that the features of a sample can be reshaped to an image.

    Parameters
    ----------
    image_shape : object
        Value to check.
    n_features : int
        Number of features of a sample.

    Raises
    ------
    ValueError
        If `image_shape` is neither None nor (height, width) or (height, width, 3)
        with `n_features` values in total.
    """
    if image_shape is None:
        return
    shape = tuple(np.atleast_1d(image_shape))
    are_positive_ints = all(isinstance(n, Integral) and int(n) > 0 for n in shape)
    is_grayscale = len(shape) == 2
    is_rgb = len(shape) == 3 and shape[2] == 3
    if not are_positive_ints or not (is_grayscale or is_rgb):
        raise ValueError(
            "image_shape must be (height, width) or (height, width, 3), of positive "
            f"ints, or None for profiles. Got {image_shape!r} instead."
        )
    if math.prod(shape) != n_features:
        raise ValueError(
            f"image_shape={image_shape!r} holds {math.prod(shape)} values, but X has "
            f"n_features={n_features}. Pass the shape that the images had before they "
            "were flattened."
        )
