"""Learning from rows that come a few at a time."""

from __future__ import annotations

from typing import Self

from numpy.typing import ArrayLike
from sklearn.base import _fit_context

from skvade._checks import check_rows, check_streams, check_values, checked_weight
from skvade._fitted import FittedVaDE
from skvade._fitting import adopt, fresh_run, next_run, unchanged_on_error
from skvade._run import gradients
from skvade._training import begin_stream, continue_stream

__all__ = ["StreamingVaDE"]


class StreamingVaDE(FittedVaDE):
    """A fitted estimator that goes on learning."""

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn from the next rows of a stream, in one pass over them.

        The first call does all that `fit` does before its last stage, with the rows it
        gets: give it enough to find the clusters in. It also decides about the unit of
        X and the numbers of the components. Later calls go on from there, or from
        `fit`, with the optimizer as the last call left it. `labels_`, `init_labels_`
        and `lower_bound_` are of the latest rows. If a call fails, the estimator stays
        as it was. Callbacks are not called: the loop over the chunks is the caller's.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The next rows.
        y : object, default=None
            Ignored, present for the interface.
        sample_weight : array-like of shape (n_samples,), default=None
            What each row counts, as in `fit`, beside the rows of earlier calls.

        Returns
        -------
        self : VaDEClusterer
            The fitted estimator.

        Raises
        ------
        ValueError
            As in `fit`; if X has another number of features than before; or with
            `early_stopping`.
        """
        with unchanged_on_error(self), gradients():
            check_streams(self)
            first = not hasattr(self, "_parameters")
            X = self._validated(X, reset=first)
            weight = checked_weight(sample_weight, X)
            if first:
                check_rows(self, X, weight, warm=False)
                begin_stream(run := fresh_run(self, X, weight))
            else:
                check_values(self, X)
                continue_stream(run := next_run(self, X, weight))
            adopt(self, run)
        return self
