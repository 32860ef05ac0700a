"""
===========
Watch a fit
===========

Callbacks: a progress bar, a score per epoch, and snapshots of the model.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_digits

from skvade import VaDEClusterer

X, y = load_digits(return_X_y=True)
X = X / 16


# %%
# A callback of your own
# ----------------------
# It is any class with these four methods. A method gets the arguments that its
# signature names. ``fitted_estimator`` is the model as it is after the epoch: a copy,
# which can predict, be kept, or be pickled. Where ``on_fit_task_end`` returns True at
# the end of an epoch, the stage ends there.
class Snapshots:
    """Keep the model after some of the epochs of training."""

    def __init__(self, epochs):
        self.epochs = epochs

    def setup(self, estimator, context):
        self.models = {}

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator):
        in_training = context.parent and context.parent.task_name == "train"
        if in_training and context.task_id + 1 in self.epochs:
            self.models[context.task_id + 1] = fitted_estimator

    def teardown(self, estimator, context):
        pass


# %%
# A progress bar, and a score per epoch
# -------------------------------------
# ``ProgressBar`` needs the extra ``progress``. ``ScoringMonitor`` computes scores of
# scikit-learn after each epoch, here against the classes. ``y`` reaches the callbacks,
# and is not used in training.
metrics = {"ARI": "adjusted_rand_score", "NMI": "normalized_mutual_info_score"}
monitor = ScoringMonitor(scoring=[*metrics.values()])
snapshots = Snapshots(epochs=(1, 10, 60))
model = VaDEClusterer(n_clusters=10, random_state=0)
model.set_callbacks(ProgressBar(), monitor, snapshots).fit(X, y)

# %%
# The bars move in a terminal or a notebook. Above is how they look in the end. Below
# ``fit`` are the stages that have epochs.
#
# The log of the monitor holds the scores of every epoch that ended with a model. Those
# of the last stage make a curve, here beside the bound. The bound rises throughout. The
# agreement with the classes changes little: the partition that training starts from
# decides most of it.
TRAINING = (0, 3)  # the last stage is the fourth task of the fit
log = [row for row in monitor.get_logs().data if row["parent_task_id_path"] == TRAINING]
epochs = np.arange(len(log)) + 1

fig, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
axes[0].plot(epochs, model.lower_bounds_)
axes[0].set(xlabel="epoch", ylabel="ELBO in nats per sample")
for (name, metric), style in zip(metrics.items(), ["-", "--"], strict=True):
    axes[1].plot(epochs, [row[metric] for row in log], style, label=name)
axes[1].set(xlabel="epoch", ylabel="agreement with the classes")
axes[1].legend()
fig.suptitle("What is maximized, and what it does to the clusters")

# %%
# The snapshots: the decoded means of the clusters. A cluster has the same number in all
# of them. The finished model numbers its clusters by size.
n_rows = len(snapshots.models)
fig, axes = plt.subplots(n_rows, 10, figsize=(8, n_rows), layout="constrained")
for row, (epoch, snapshot) in zip(axes, snapshots.models.items(), strict=True):
    for ax, center in zip(row, snapshot.cluster_centers_, strict=True):
        ax.imshow(center.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"epoch {epoch}")
fig.suptitle("The decoded means of the clusters")
