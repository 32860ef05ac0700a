"""The estimator: its parameters, its attributes, and how it is fitted."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin, _fit_context
from sklearn.utils import Tags

from skvade._callbacks import CallbackMixin, attach_callbacks
from skvade._data.device import grad_enabled
from skvade._diagnostics import warn_fit_quality
from skvade._model.custom_networks import ModuleFactory
from skvade._prediction import PredictionMixin
from skvade._state import (
    init_training,
    restore_on_error,
    resume_fit,
    resume_partial_fit,
    set_fitted_attributes,
)
from skvade._training.joint import partial_fit_epoch
from skvade._training.stages import first_partial_fit, n_stages, resume, train
from skvade._validation import (
    PARAMETER_CONSTRAINTS,
    check_fit_params,
    check_partial_fit_params,
    check_sample_weight,
    validate_X,
    warn_version_mismatch,
)

__all__ = ["VaDEClusterer"]


class VaDEClusterer(CallbackMixin, PredictionMixin, ClusterMixin, BaseEstimator):
    """Variational deep embedding: deep clustering with a generative model [1]_.

    A variational autoencoder whose latent prior is a mixture of Gaussians, one per
    cluster. `fit` pretrains an autoencoder, starts the mixture on its embedding, lets
    the decoder and the posterior's variances catch up, and then maximizes the evidence
    lower bound (ELBO) over the networks and the mixture together. All bounds are in
    nats per row: summed over the features, averaged over the rows.

    With the Gaussian likelihood X is centered, feature by feature, and divided by one
    common scale before it meets a network: features keep their relative scales, so
    scale them yourself where their units differ. With the Bernoulli likelihood X is
    only divided. All that comes out, scores included, is in the units of X again.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of components of the mixture, K.

    latent_dim : int, default=10
        Dimension of the latent space, L.

    hidden_layer_sizes : array-like of int, default=(128, 64)
        Widths of the encoder's hidden layers; the decoder mirrors them. The paper uses
        (500, 500, 2000), which is worth its time on images and on 10,000 rows or more.

    activation : {"relu", "gelu", "silu", "tanh", "logistic", "identity"}, \
            default="relu"
        Activation of the hidden layers.

    encoder : callable or None, default=None
        Function or class that builds an encoder of your own. Called as
        ``encoder(n_features_in, latent_dim)``, it returns a new ``torch.nn.Module``
        from rows to features of any width, shape (B, n_features_in) to (B, H). Two
        linear layers on the features give mean and variance of q(z|x).

    decoder : callable or None, default=None
        The same for the decoder: ``decoder(latent_dim, n_features_in)`` is from points,
        (B, latent_dim), to rows, (B, n_features_in). See :ref:`own-networks`.

    likelihood : {"gaussian", "bernoulli"}, default="gaussian"
        Distribution of a row given its latent point. "gaussian" has one learned noise
        variance for all features; "bernoulli" wants X in [0, 1], as for the intensities
        of images.

    pretraining : {"autoencoder", "stacked", "vae"}, default="autoencoder"
        How encoder and decoder first learn to reconstruct X:

        - "autoencoder": all layers at once, by gradient descent on the squared error;
        - "stacked": the same, after each pair of layers has learned by itself to
          denoise what the layers below it give, as in the paper;
        - "vae": as a variational autoencoder without clusters, by Adam.

    pretrain_max_iter : int, default=10
        Epochs of pretraining, and with "stacked" of each pair of layers. 0 skips
        pretraining: the mixture then starts on the embedding of an untrained network.
        More is not better on small data, where the groups get tangled as the
        reconstruction improves; tens of thousands of rows bear 60 epochs.

    pretrain_learning_rate_init : float or "auto", default="auto"
        Learning rate of pretraining, in a unit of its own whatever the scale of X, and
        cut to n_features / 8 of it with fewer than 8 features. "auto" is 1, raised to
        at most n_features / 100 where three epochs have learned next to nothing. With
        "vae" it is Adam's rate as it stands, and "auto" is `learning_rate_init`.

    embedding : transformer or None, default=None
        What the encoder learns to imitate before the mixture is fitted: ``TSNE()`` with
        `latent_dim` 2, ``umap.UMAP(n_components=10, min_dist=0.0, n_jobs=1)`` (extra
        ``umap``), or any transformer whose `fit_transform` gives at most `latent_dim`
        columns; other dimensions start at zero. Neighborhoods often hold the groups
        better. The encoder sees X: scale it before `fit`, not in the transformer.

    embedding_input : {"data", "autoencoder"}, default="data"
        What `embedding` sees: the rows of X, averages where entries are missing, and
        there is no pretraining; or their embedding by the pretrained autoencoder.

    embedding_max_samples : int, default=20000
        Most rows that `embedding` sees, chosen at random.

    embedding_max_iter : int, default=50
        Epochs, over the rows that `embedding` saw, of learning its coordinates.

    init : {"kmeans", "gmm", "random"}, array-like of int or clusterer, default="kmeans"
        What the mixture starts from, on the embedding of the pretrained encoder, or of
        200,000 rows at random if there are more and no labels are given:

        - "kmeans": weights, means and variances of the best of `n_init` partitions;
        - "gmm": expectation-maximization, the best of `n_init` runs, likelier but often
          a worse partition;
        - "random": random rows as means;
        - labels of shape (n_samples,): the moments of that partition. Negative labels
          are rows that belong to no group;
        - a scikit-learn clusterer: the moments of what a clone of it finds.

    n_init : int, default=10
        Restarts of "kmeans" and "gmm". A single one can hide a good embedding.

    warmup_max_iter : int, default=3
        Epochs in which only the decoder and the variances of the posterior learn, so
        that their first gradients cannot pull at the pretrained embedding.

    responsibilities : {"expected", "sampled"}, default="expected"
        How q(c|x) is found. "expected" is the exact maximizer of the bound. "sampled"
        is the paper's average of p(c|z) over the draws of z, a looser bound.

    n_draws : int, default=1
        Draws of z per row and step in training.

    beta : float, default=1.0
        Weight of the latent terms of the bound in training. Below 1 the reconstruction
        counts more and clusters dissolve less; scores are the true bound in any case.

    max_iter : int, default=300
        Most epochs of the last stage.

    batch_size : int or "auto", default="auto"
        Rows per step. "auto" is a 32nd of the rows, at least 16 and at most 256. In
        pretraining and catching up, rows that make fewer than 8 steps are visited
        more than once per epoch.

    learning_rate_init : float, default=1e-3
        Learning rate of Adam in the last stage. On big data a lower rate, such as 2e-4,
        keeps more of what pretraining found.

    mixture_learning_rate_init : float or None, default=None
        Learning rate of the mixture in the last stage; None for `learning_rate_init`.
        Adam's steps do not shrink with `beta`: where the start is good, as on big data,
        1e-5 keeps the mixture near it.

    tol : float, default=0.1
        The last stage has converged when, for `n_iter_no_change` epochs in a row, none
        raised the best ELBO by `tol` nats per row. 0 uses the whole budget.

    n_iter_no_change : int, default=10
        See `tol`.

    early_stopping : bool, default=False
        Whether to hold out a `validation_fraction` of the rows, to let their ELBO
        decide about convergence, and to return the best model by it, the one at the
        start of the last stage included. Other than the trace `validation_scores_`, all
        results are for all rows.

    validation_fraction : float, default=0.1
        Fraction of the rows that `early_stopping` holds out.

    reg_covar : float, default=1e-6
        Least variance of a component in the latent space.

    warm_start : bool, default=False
        Whether `fit` continues the last stage from the fitted state, if there is one,
        instead of starting afresh. The curves are then of this call alone, and
        `init_labels_` are the clusters at its start.

    device : str, default="auto"
        Where to compute: "cpu", "cuda", "cuda:1", "mps", or "auto" for the first of
        CUDA, MPS and CPU that is there.

    precision : {"float32", "bfloat16", "float64"}, default="float32"
        Arithmetic of the networks. "bfloat16" uses it in the hidden layers only; where
        the hardware is no faster in it, float32 takes its place, and `fit` warns.

    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, of the order of the rows, of the draws of z and of
        the initial mixture. An int uses no global generator; None draws from NumPy's.

    verbose : int, default=0
        Print a line every `verbose` epochs.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,)
        Cluster of each row; they are numbered by the weight of their rows, most first.

    weights_ : ndarray of shape (n_clusters,)
        Mixture weights; they sum to one.

    means_ : ndarray of shape (n_clusters, latent_dim)
        Means of the components, in the latent space.

    covariances_ : ndarray of shape (n_clusters, latent_dim)
        Variances of the components.

    cluster_centers_ : ndarray of shape (n_clusters, n_features_in_)
        The decoded means, in the units of X.

    noise_variance_ : float
        Noise variance of the Gaussian likelihood, in the squared unit of X.

    lower_bound_ : float
        Mean ELBO of the training rows under the fitted model, the same as `score`.

    lower_bounds_ : list of float
        Mean ELBO of each epoch of the last stage, while the model was changing.

    reconstruction_terms_ : list of float
        The part E[log p(x|z)] of `lower_bounds_`; the rest are the latent terms.

    loss_curve_ : list of float
        Negative bound of each epoch of the last stage, latent terms weighed by `beta`.

    validation_scores_ : list of float
        Mean ELBO of the rows held out, each epoch. Empty without `early_stopping`.

    pretrain_loss_curve_ : list of float
        Fraction of the variance of X that the autoencoder left unexplained, each epoch
        of pretraining and of imitating `embedding`.

    embedding_loss_curve_ : list of float
        The same of the coordinates to imitate. Empty without `embedding`.

    init_labels_ : ndarray of shape (n_samples,)
        Cluster of each row under the initial mixture alone, numbered as `labels_`.

    converged_ : bool
        Whether the last stage met `tol` within `max_iter`.

    n_effective_clusters_ : float
        How many clusters of equal size would be as varied: the exponential of the
        entropy of the mean responsibilities, from 1 to K.

    n_iter_ : int
        Epochs of the last stage.

    n_samples_seen_ : int
        Rows of positive weight that were learned from: those of the last `fit` and of
        every `partial_fit` since then.

    n_features_in_ : int
        Number of features seen during fit.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X had any that are all strings.

    See Also
    --------
    sklearn.mixture.GaussianMixture : A mixture in the space of the data.
    sklearn.cluster.KMeans : Compact clusters in the space of the data.

    Notes
    -----
    Predictions are deterministic: to the last bit the same, whatever rows come along.

    References
    ----------
    .. [1] Z. Jiang, Y. Zheng, H. Tan, B. Tang and H. Zhou (2017). "Variational deep
       embedding: an unsupervised and generative approach to clustering." IJCAI.

    Examples
    --------
    >>> from sklearn.datasets import make_blobs
    >>> from skvade import VaDEClusterer
    >>> X, y = make_blobs(n_samples=300, n_features=5, centers=3, random_state=0)
    >>> model = VaDEClusterer(n_clusters=3, random_state=0).fit(X)
    >>> model.predict_proba(X).shape
    (300, 3)
    >>> model.transform(X).shape
    (300, 10)
    """

    _parameter_constraints: dict = PARAMETER_CONSTRAINTS

    def __init__(
        self,
        n_clusters: int = 8,
        *,
        latent_dim: int = 10,
        hidden_layer_sizes: ArrayLike = (128, 64),
        activation: str = "relu",
        encoder: ModuleFactory | None = None,
        decoder: ModuleFactory | None = None,
        likelihood: str = "gaussian",
        pretraining: str = "autoencoder",
        pretrain_max_iter: int = 10,
        pretrain_learning_rate_init: float | str = "auto",
        embedding: BaseEstimator | None = None,
        embedding_input: str = "data",
        embedding_max_samples: int = 20_000,
        embedding_max_iter: int = 50,
        init: Any = "kmeans",
        n_init: int = 10,
        warmup_max_iter: int = 3,
        responsibilities: str = "expected",
        n_draws: int = 1,
        beta: float = 1.0,
        max_iter: int = 300,
        batch_size: int | str = "auto",
        learning_rate_init: float = 1e-3,
        mixture_learning_rate_init: float | None = None,
        tol: float = 0.1,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        reg_covar: float = 1e-6,
        warm_start: bool = False,
        device: str = "auto",
        precision: str = "float32",
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ) -> None:
        self.n_clusters = n_clusters
        self.latent_dim = latent_dim
        self.hidden_layer_sizes = hidden_layer_sizes
        self.activation = activation
        self.encoder = encoder
        self.decoder = decoder
        self.likelihood = likelihood
        self.pretraining = pretraining
        self.pretrain_max_iter = pretrain_max_iter
        self.pretrain_learning_rate_init = pretrain_learning_rate_init
        self.embedding = embedding
        self.embedding_input = embedding_input
        self.embedding_max_samples = embedding_max_samples
        self.embedding_max_iter = embedding_max_iter
        self.init = init
        self.n_init = n_init
        self.warmup_max_iter = warmup_max_iter
        self.responsibilities = responsibilities
        self.n_draws = n_draws
        self.beta = beta
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.mixture_learning_rate_init = mixture_learning_rate_init
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.reg_covar = reg_covar
        self.warm_start = warm_start
        self.device = device
        self.precision = precision
        self.random_state = random_state
        self.verbose = verbose

    # --- Fitting --------------------------------------------------------------------

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn networks and mixture from X.

        An interrupt from the keyboard during the last stage ends it with a warning,
        keeps what was learned so far and does not reach the caller; in an earlier stage
        it does. If fit fails, the estimator stays as it was.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows. Sparse ones are made dense batch by batch, never as a whole.
            NaN is a missing entry, in dense rows.
        y : object, default=None
            Never learned from. It only reaches the callbacks set by `set_callbacks`,
            such as :class:`~sklearn.callback.ScoringMonitor`, to judge each epoch by.
        sample_weight : array-like of shape (n_samples,), default=None
            What each row counts, in all that is averaged or summed over rows; None for
            all alike. Only the ratios matter. Rows of weight zero are as if they were
            not there, except that they get a label.

        Returns
        -------
        self : VaDEClusterer
            The fitted estimator.

        Raises
        ------
        ValueError
            If a row or a feature of X has no value at all; if X or its weights do not
            suit a parameter: fewer rows than clusters, values outside [0, 1] for the
            Bernoulli likelihood, an `init` or a fitted state that does not match; or if
            training meets a loss that is not finite.
        """
        resumes = self.warm_start and hasattr(self, "_network_state")
        # Before the state to go back to: callbacks are told of the end of a failure.
        context = self._init_callback_context(max_subtasks=n_stages(self, resumes))
        with restore_on_error(self), grad_enabled():
            samples = validate_X(self, X, reset=not resumes)
            weights = check_sample_weight(sample_weight, samples)
            check_fit_params(self, weights, resumes=resumes)
            if resumes:
                state = resume_fit(self, samples, weights)
            else:
                state = init_training(self, samples, weights)
            attach_callbacks(self, state, context, X, y, sample_weight)
            if resumes:
                resume(state)
            else:
                train(state)
            summary = set_fitted_attributes(self, state)
            state.task.end()
            warn_fit_quality(
                self, state.module.prior, state.history, summary, resumed=resumes
            )
        return self

    def fit_predict(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """Fit to X and return the cluster of each row, the same as `predict` of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training rows.
        y : object, default=None
            For callbacks only, as in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            What each row counts, as in `fit`.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            The attribute `labels_`.
        """
        return self.fit(X, y, sample_weight).labels_

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn from the next samples of a stream, in one pass over them.

        The first call runs all stages of `fit` before the last one, on the samples it
        gets: give it enough to find the clusters in. It also decides about the scaling
        of X and the order of the components. Later calls go on from there, or from
        `fit`, with the optimizer's state of the last call. `labels_`, `init_labels_`
        and `lower_bound_` are of the latest samples. If a call fails, the estimator
        stays as it was. Callbacks are not called: the loop over the chunks is the
        caller's.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The next samples.
        y : object, default=None
            Ignored, present for the interface.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, as in `fit`, beside those of earlier calls.

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
        with restore_on_error(self), grad_enabled():
            check_partial_fit_params(self)
            is_first = not hasattr(self, "_network_state")
            samples = validate_X(self, X, reset=is_first)
            weights = check_sample_weight(sample_weight, samples)
            if is_first:
                check_fit_params(self, weights, resumes=False)
                state = init_training(self, samples, weights)
                first_partial_fit(state)
            else:
                state = resume_partial_fit(self, samples, weights)
                partial_fit_epoch(state)
            set_fitted_attributes(self, state)
        return self

    @property
    def _n_features_out(self) -> int:
        return self._module_params["latent_dim"]

    def __setstate__(self, state: dict[str, Any]) -> None:
        warn_version_mismatch(self, state)
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
