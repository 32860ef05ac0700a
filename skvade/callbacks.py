"""Callbacks for ``set_callbacks``, beside those of scikit-learn."""

from __future__ import annotations

import time
import warnings
from numbers import Integral, Real
from os import PathLike
from pathlib import Path
from typing import Any

from sklearn.utils import check_scalar

__all__ = ["Checkpoint"]


class Checkpoint:
    """Write the state of a fit to a file, from which ``resume`` goes on.

    The file appears under its name when it is complete and on the disk, and then takes
    the place of the former one. So there is always a file that loads, whenever the
    process is killed. If a file can not be written, a warning says why, once for each
    fit, and the fit goes on.

    Set it on the :class:`~skvade.VaDEClusterer` itself, not on a pipeline or a search.
    Where several processes fit one model, set it in each of them. The first writes the
    states of all to one file, which all must be able to read for ``resume``.

    Parameters
    ----------
    path : str or path-like
        Name of the file, in a folder that exists. Two fits need two names.

    every : int, default=1
        Number of epochs after which a file is written, those of all stages counted.

    min_interval : float, default=0.0
        Minimum number of seconds between two files, and before the first. It limits
        the share of the time that writing takes.

    See Also
    --------
    skvade.VaDEClusterer.resume : Continue the fit.

    Notes
    -----
    The file holds the networks and the mixture, the state of the optimizer, the random
    streams, the curves and the indices of the validation samples. Until the mixture
    starts, it also holds the neighbors. It does not hold X. It is a zip file of NumPy
    arrays and of JSON, and loads without executing code.

    A process that is killed during a write may leave a file behind whose name ends in
    ".tmp". It has no use.

    Examples
    --------
    >>> import tempfile
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> from skvade.callbacks import Checkpoint
    >>> X, y = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(3, pretrain_max_iter=5, max_iter=5, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/fit.npz"
    ...     model = model.set_callbacks(Checkpoint(path, every=2)).fit(X)
    ...     resumed = VaDEClusterer().resume(path, X)
    >>> bool((resumed.labels_ == model.labels_).all())
    True
    """

    def __init__(
        self, path: str | PathLike, every: int = 1, min_interval: float = 0.0
    ) -> None:
        check_scalar(every, "every", Integral, min_val=1)
        check_scalar(min_interval, "min_interval", Real, min_val=0)
        self.path = Path(path)
        self.every = every
        self.min_interval = min_interval

    def setup(self, estimator: Any, context: Any) -> None:
        """Check that the estimator can be saved, and the name of the file.

        Parameters
        ----------
        estimator : VaDEClusterer
            The estimator to be fitted.
        context : CallbackContext
            The task "fit".
        """
        name = type(estimator).__name__
        if not hasattr(estimator, "_write_checkpoint"):
            raise TypeError(
                f"Checkpoint writes the state of a VaDEClusterer. Got {name} instead. "
                "Set it on the clusterer within, before the fit."
            )
        if not self.path.parent.is_dir() or self.path.is_dir():
            raise ValueError(
                f"The path of a Checkpoint must be the name of a file in a folder that "
                f"exists. Got {str(self.path)!r} instead. Create the folder, or choose "
                "another name."
            )
        self._n_epochs = 0  # since the last file
        self._last_time = time.monotonic()
        self._has_warned = False

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        """Do nothing.

        Parameters
        ----------
        estimator : VaDEClusterer
            The estimator that is fitted.
        context : CallbackContext
            The task that begins.
        """

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Write the file after an epoch, if it is time to.

        Parameters
        ----------
        estimator : VaDEClusterer
            The estimator that is fitted.
        context : CallbackContext
            The task that ends.
        """
        if context.task_name != "epoch":
            return
        self._n_epochs += 1
        seconds = time.monotonic() - self._last_time
        is_due = self._n_epochs >= self.every and seconds >= self.min_interval
        if self._write(estimator, is_due):
            self._n_epochs, self._last_time = 0, time.monotonic()

    def teardown(self, estimator: Any, context: Any) -> None:
        """Do nothing; the last file stays.

        Parameters
        ----------
        estimator : VaDEClusterer
            The estimator that was fitted.
        context : CallbackContext
            The task "fit".
        """

    def _write(self, estimator: Any, is_due: bool) -> bool:
        """Write the file if that is due; tell whether it was tried."""
        try:
            return estimator._write_checkpoint(self.path, is_due)
        except OSError as error:
            if not self._has_warned:
                self._has_warned = True
                warnings.warn(
                    f"The checkpoint {str(self.path)!r} can not be written: "
                    f"{error.strerror or error}. The fit goes on; the last complete "
                    "file, if there is one, is unchanged.",
                    stacklevel=2,
                )
            return True
