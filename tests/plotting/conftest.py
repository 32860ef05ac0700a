import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest


@pytest.fixture(autouse=True)
def plt():
    """pyplot without windows; figures and settings are the caller's again after it."""
    import matplotlib.pyplot as plt

    with mpl.rc_context():
        plt.switch_backend("agg")
        yield plt
        plt.close("all")


@pytest.fixture(scope="module")
def fitted_3d(tiny, X):
    return tiny(latent_dim=3, early_stopping=True).fit(X)


@pytest.fixture(scope="module")
def fitted_frame(tiny, X):
    frame = pd.DataFrame(X, columns=[f"feature {letter}" for letter in "abcde"])
    return tiny().fit(frame), frame


@pytest.fixture(scope="module")
def fitted_images(tiny):
    X = np.random.default_rng(0).uniform(size=(60, 24))
    return tiny(n_clusters=4, pretrain_learning_rate_init=1.0).fit(X), X


@pytest.fixture(scope="session")
def tile():
    """Pixels of an image in a grid whose images are one blank pixel from the edge."""

    def cut(ax, row, column, height, width):
        canvas = ax.images[0].get_array()
        top, left = row * (height + 2) + 1, column * (width + 2) + 1
        return canvas[top : top + height, left : left + width]

    return cut
