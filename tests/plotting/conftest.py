import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest


@pytest.fixture(autouse=True)
def plt():
    """pyplot with a non-interactive backend; figures and settings are reset after."""
    import matplotlib.pyplot as plt

    with mpl.rc_context():
        plt.switch_backend("agg")
        yield plt
        plt.close("all")


@pytest.fixture(scope="module")
def fitted_3d(make_estimator, X):
    return make_estimator(latent_dim=3, early_stopping=True).fit(X)


@pytest.fixture(scope="module")
def fitted_dataframe(make_estimator, X):
    X_df = pd.DataFrame(X, columns=[f"feature {letter}" for letter in "abcde"])
    return make_estimator().fit(X_df), X_df


@pytest.fixture(scope="module")
def fitted_images(make_estimator):
    X = np.random.default_rng(0).uniform(size=(60, 24))
    return make_estimator(n_clusters=4, pretrain_learning_rate_init=1.0).fit(X), X


@pytest.fixture(scope="session")
def get_tile():
    """Get the pixels of one image in a grid of images padded by one blank pixel."""

    def get(ax, row, column, height, width):
        canvas = ax.images[0].get_array()
        top, left = row * (height + 2) + 1, column * (width + 2) + 1
        return canvas[top : top + height, left : left + width]

    return get
