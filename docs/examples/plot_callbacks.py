"""
==============
Watching a fit
==============

scikit-learn's callbacks can watch :class:`~skvade.VaDEClusterer` while it is fitted:
draw a progress bar, score each epoch, stop training, or keep the model of an epoch.
None of them changes what is learned.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.datasets import load_digits

from skvade import VaDEClusterer

X, y = load_digits(return_X_y=True)
X = X / 16

# %%
# A progress bar, and a score per epoch
# -------------------------------------
# Set callbacks, then fit. ``ProgressBar`` needs the extra ``progress``.
# ``ScoringMonitor`` computes scores of scikit-learn after each epoch, here against the
# classes: they reach the callbacks as ``y``, and are not learned from.
metrics = {"ARI": "adjusted_rand_score", "NMI": "normalized_mutual_info_score"}
monitor = ScoringMonitor(scoring=[*metrics.values()])
model = VaDEClusterer(n_clusters=10, max_iter=40, random_state=0)
model.set_callbacks(ProgressBar(), monitor).fit(X, y)

# %%
# The bars move in a terminal or a notebook; the above is how they look in the end.
# Below ``fit`` are the stages that have epochs, numbered as they come. Number 1, which
# has none, starts the mixture.
#
# The monitor's log holds a score for every task that ended with a model. Those of the
# last stage make a curve to lay beside the bound.
TRAINING = (0, 3)  # where the last stage stands: the fourth task of the fit
rows = monitor.get_logs().data
log = [row for row in rows if row["parent_task_id_path"] == TRAINING]
epochs = np.arange(len(log)) + 1

fig, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
axes[0].plot(epochs, model.lower_bounds_)
axes[0].set(xlabel="epoch", ylabel="ELBO in nats per row")
for (name, metric), style in zip(metrics.items(), ["-", "--"], strict=True):
    axes[1].plot(epochs, [row[metric] for row in log], style, label=name)
axes[1].set(xlabel="epoch", ylabel="agreement with the classes")
axes[1].legend()
fig.suptitle("What is maximized, and what it does to the clusters")


# %%
# Stopping when one likes
# -----------------------
# A callback of one's own is any class with these four methods. A hook gets what it has
# in its signature: here the model as it is after the epoch, ready to predict. When it
# returns True at the end of an epoch, the stage ends. Stopped so early, a cluster is
# still wider than the others, as ``fit`` warns.
class StopWhenSettled:
    """Stop when hardly a row changes its cluster from one epoch to the next."""

    def __init__(self, share=0.005):
        self.share = share

    def setup(self, estimator, context):
        self.labels = None

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        if context.task_name != "epoch" or context.parent.task_name != "train":
            return False
        before, self.labels = self.labels, fitted_estimator.predict(X)
        return before is not None and np.mean(before != self.labels) <= self.share

    def teardown(self, estimator, context):
        del self.labels


model.set_callbacks(StopWhenSettled()).fit(X)
print(f"stopped after {model.n_iter_} of {model.max_iter} epochs")


# %%
# Snapshots
# ---------
# What a hook gets is a model of its own: it can be kept, pickled, or trained further.
# A cluster has the same number in all of them; the finished model numbers its clusters
# anew, the largest first.
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


snapshots = Snapshots(epochs=(1, 10, 40))
model.set_callbacks(snapshots).fit(X)

fig, axes = plt.subplots(3, 10, figsize=(8, 3), layout="constrained")
for row, (epoch, snapshot) in zip(axes, snapshots.models.items(), strict=True):
    for ax, center in zip(row, snapshot.cluster_centers_, strict=True):
        ax.imshow(center.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
    row[0].set_ylabel(f"epoch {epoch}")
fig.suptitle("The decoded means of the clusters")
