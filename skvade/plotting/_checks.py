"""The words of the Displays: what they reject and why."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

__all__ = ["check_has", "check_image_shape", "check_n_samples"]


def check_has(estimator: BaseEstimator, names: Sequence[str], display: str) -> None:
    """Reject what is not fitted, or not of the kind that a Display reads.

    Raises
    ------
    NotFittedError
        If the estimator is not fitted.
    TypeError
        If it lacks one of the public names.
    """
    check_is_fitted(estimator)
    missing = [name for name in names if not hasattr(estimator, name)]
    if missing:
        raise TypeError(
            f"{display} reads {missing[0]!r} of the estimator. Got a "
            f"{type(estimator).__name__}, which lacks it. Give a fitted VaDEClusterer; "
            "of a Pipeline, give its last step, with rows as that step sees them."
        )


def check_n_samples(n_samples: Any) -> None:
    """Reject a number of rows to show that is none.

    Raises
    ------
    ValueError
        If it is not an int of at least 1.
    """
    is_int = isinstance(n_samples, Integral) and not isinstance(n_samples, bool)
    if not is_int or n_samples < 1:
        raise ValueError(
            f"n_samples must be an int of at least 1. Got {n_samples!r} instead."
        )


def check_image_shape(image_shape: Any, n_features: int) -> None:
    """Reject a shape that the features do not fill.

    Raises
    ------
    ValueError
        If it is neither None nor (height, width) nor (height, width, 3) of as many
        values as there are features.
    """
    if image_shape is None:
        return
    shape = tuple(np.atleast_1d(image_shape))
    are_counts = all(isinstance(n, Integral) and int(n) > 0 for n in shape)
    if not are_counts or len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise ValueError(
            "image_shape must be (height, width), (height, width, 3), of positive "
            f"ints, or None for profiles. Got {image_shape!r} instead."
        )
    if math.prod(shape) != n_features:
        raise ValueError(
            f"image_shape={image_shape!r} holds {math.prod(shape)} values, but a row "
            f"has n_features={n_features}. Give the shape that the images had before "
            "they became rows."
        )
