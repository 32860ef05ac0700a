"""Visualize a fitted estimator with scikit-learn Displays, which require matplotlib."""

from skvade.plotting._clusters import ClusterSamplesDisplay
from skvade.plotting._curves import TrainingCurveDisplay
from skvade.plotting._latent_space import LatentSpaceDisplay
from skvade.plotting._reconstruction import ReconstructionDisplay
from skvade.plotting._responsibility import ResponsibilityDisplay

__all__ = [
    "ClusterSamplesDisplay",
    "LatentSpaceDisplay",
    "ReconstructionDisplay",
    "ResponsibilityDisplay",
    "TrainingCurveDisplay",
]
