"""Variational deep embedding as a scikit-learn estimator."""

from skvade._estimator import VaDEClusterer
from skvade._version import __version__

__all__ = ["VaDEClusterer", "__version__"]
