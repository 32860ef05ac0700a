"""Variational deep embedding as a scikit-learn estimator."""

from skvade._vade import VaDEClusterer

__all__ = ["VaDEClusterer", "__version__"]
__version__ = "0.1.0"
