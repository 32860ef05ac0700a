"""The estimator: its parameters, its attributes, and how it is fitted."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin, _fit_context
from sklearn.utils import Tags

from skvade._callbacks import CallbackMixin, attach_callbacks
from skvade._data.device import default_settings
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
    """Variational deep embedding: deep clustering with a generative model.

    A variational autoencoder whose latent prior is a mixture of Gaussians, one per
    cluster [1]_. `fit` runs four stages: it pretrains the encoder on the neighbors of
    each sample [2]_, starts the mixture from a partition of its embedding, warms up the
    decoder and the variances of the posterior, and then maximizes the evidence lower
    bound (ELBO) over the networks and the mixture together. All bounds are in nats per
    sample: summed over the features, averaged over the samples.

    With the Gaussian likelihood each feature of X is centered, and X is divided by one
    common scale, before it enters the networks: features keep their relative scales, so
    scale them yourself where their units differ. With the Bernoulli likelihood X is
    only divided. All results, scores included, are in the units of X.

    Parameters
    ----------
    n_clusters : int, default=8
        Number of components of the mixture, K.

    latent_dim : int, default=10
        Dimension of the latent space, L.

    hidden_layer_sizes : array-like of int, default=(128, 64)
        Widths of the encoder's hidden layers; the decoder mirrors them. The paper uses
        (500, 500, 2000), which pays on images and from 10,000 samples on.

    activation : {"relu", "gelu", "silu", "tanh", "logistic", "identity"}, \
            default="relu"
        Activation of the hidden layers.

    encoder : callable or None, default=None
        Function or class that builds a custom encoder. Called as
        ``encoder(n_features_in, latent_dim)``, it returns a new ``torch.nn.Module``
        that maps samples of shape (B, n_features_in) to features of shape (B, H), H of
        your choice. Two linear layers on top give mean and variance of q(z|x).

    decoder : callable or None, default=None
        The same for the decoder: ``decoder(latent_dim, n_features_in)`` returns a
        module that maps points of shape (B, latent_dim) to samples of shape
        (B, n_features_in). See :ref:`own-networks`.

    likelihood : {"gaussian", "bernoulli"}, default="gaussian"
        Distribution of a sample given its latent point. "gaussian" has one learned
        noise variance for all features; "bernoulli" needs X in [0, 1], as for the
        intensities of images.

    pretraining : {"neighbors", "autoencoder", "stacked", "vae"}, default="neighbors"
        What the networks learn first:

        - "neighbors": the encoder puts neighbors close together and all other samples
          apart, by the contrastive loss of [2]_ and Adam. Pairs of neighbors are drawn
          by the weight of the first. The decoder learns in the warm-up;
        - "autoencoder": to reconstruct X, all layers at once, by stochastic gradient
          descent on the squared error;
        - "stacked": the same, after each pair of layers was trained as a denoising
          autoencoder on the output of the layers below it, as in the paper;
        - "vae": as a variational autoencoder without clusters, by Adam.

    neighbors : int, sparse matrix or transformer, default=15
        Neighbors that pretraining and "communities" use.

        - int: so many nearest samples, by the Euclidean distance of X, at most a third
          of the others. Of missing entries it is the expected squared distance, by mean
          and variance of the entry among the 15 nearest of at most 5,000 samples, by
          the features that both have. More than 100 features are replaced by 50
          principal components. Beyond 30,000 samples the search is approximate;
        - a transformer with the interface of
          :class:`~sklearn.neighbors.KNeighborsTransformer`, such as
          ``KNeighborsTransformer(metric="cosine")``: what a clone of it gives for X,
          missing entries replaced by the mean of the feature;
        - sparse matrix of shape (n_samples, n_samples): the entries that are stored in
          a row, zeros included, are the neighbors of a sample; their values do not
          count.

        No sample is its own neighbor. Samples that are held out, or of weight zero, are
        left out.

    pretrain_max_iter : int or "auto", default="auto"
        Epochs of pretraining. 0 skips it: the mixture then starts on the embedding of
        an untrained network.

        - "neighbors": epochs of 100 steps, each with 128 pairs. "auto" is 20, increased
          by the square root of n_samples / 5,000 beyond these;
        - else epochs over X, with "stacked" of each pair of layers, too. "auto" is 10.
          More is not better on small data, where groups get mixed up as the
          reconstruction improves; with tens of thousands of samples 60 epochs pay.

    pretrain_learning_rate_init : float or "auto", default="auto"
        Learning rate of pretraining, independent of the scale of X.

        - "neighbors": of Adam at the start, from where it falls linearly to zero;
          "auto" is 5e-3;
        - "autoencoder" and "stacked": multiplied by n_features / 8 with fewer than 8
          features. "auto" is 1, increased to at most n_features / 100 where three
          epochs have learned next to nothing;
        - "vae": of Adam; "auto" is `learning_rate_init`, a third of it where
          `learning_rate` is "cosine".

    embedding : transformer or None, default=None
        Embedding whose coordinates the encoder learns before the mixture is fitted:
        ``TSNE()`` with `latent_dim` 2, ``umap.UMAP(n_components=10, min_dist=0.0,
        n_jobs=1)`` (extra ``umap``), or any transformer whose `fit_transform` gives at
        most `latent_dim` columns; the other dimensions start at zero. Embeddings of
        neighborhoods often separate groups better. The encoder gets X itself: scale it
        before `fit`, not in the transformer.

    embedding_input : {"data", "autoencoder"}, default="data"
        What `embedding` is fitted on: X, missing entries replaced by the mean of the
        feature, and there is no pretraining; or the embedding of X by the pretrained
        autoencoder.

    embedding_max_samples : int, default=20000
        Maximum number of samples that `embedding` is fitted on, chosen at random.

    embedding_max_iter : int, default=50
        Epochs, over these samples, of learning the coordinates.

    init : {"communities", "kmeans", "gmm", "random"}, array-like of int or clusterer, \
            default="communities"
        Partition of the pretrained embedding that the mixture starts from: its weights,
        means and variances are those of the groups. With more than 200,000 samples, and
        unless labels are given, it is a partition of as many random ones.

        - "communities": communities of a graph of small groups of samples, linked by
          neighbors in X and in the embedding, and by their distances. Of several such
          partitions, and that of k-means, one of high modularity that agrees with the
          others;
        - "kmeans": k-means, the best of `n_init` runs;
        - "gmm": a Gaussian mixture by expectation-maximization, the best of `n_init`
          runs; likelier, but often a worse partition;
        - "random": the nearest of `n_clusters` random samples;
        - array-like of shape (n_samples,): these labels. Negative labels stand for
          noise: such samples belong to no group;
        - a scikit-learn clusterer: the labels that a clone of it gives.

    n_init : int, default=10
        Number of runs of "kmeans" and "gmm". With a single one chance decides.

    warmup_max_iter : int or "auto", default="auto"
        Epochs in which only the decoder and the variances of the posterior are trained,
        so that their first gradients do not change the pretrained embedding. "auto"
        makes a twentieth of the steps of `max_iter`.

    responsibilities : {"expected", "sampled"}, default="expected"
        How q(c|x) is computed. "expected" is the exact maximizer of the ELBO. "sampled"
        is the paper's average of p(c|z) over the draws of z, which gives a looser
        bound.

    n_draws : int, default=1
        Draws of z per sample and step in training.

    beta : float or "auto", default="auto"
        Weight of the latent terms of the ELBO in training. "auto" is n_features / 64,
        at least 1 and at most 10: the reconstruction is a sum over features, and the
        more of them, the more it moves the encoder away from the clusters. Scores are
        the ELBO in any case.

    init_weight : float or "auto", default="auto"
        Weight of the initial partition in the last stage: the cross-entropy of q(c|x)
        with it counts as so many latent terms. With 0 the clusters are free to move, as
        in the paper. "auto" is 1 after pretraining on neighbors, else 0: groups of
        neighbors are better clusters than those that the ELBO alone moves to.

    max_iter : int or "auto", default="auto"
        Maximum number of epochs of the last stage. "auto" makes about 2,000 steps and
        one more for every 10 samples, at most 20,000; fewer with less than 200 samples.

    batch_size : int or "auto", default="auto"
        Samples per step. "auto" is a 32nd of the samples, at least 64 and at most 256.
        In pretraining by reconstruction and in the warm-up, samples that make fewer
        than 8 steps are visited more than once per epoch.

    learning_rate : {"cosine", "constant"}, default="cosine"
        Schedule of the learning rate in the last stage. "cosine" rises linearly in the
        first tenth of `max_iter`, is `learning_rate_init` up to its middle, and falls
        to zero along a cosine. In `partial_fit` it is a third of `learning_rate_init`.

    learning_rate_init : float, default=3e-3
        Learning rate of Adam in the last stage.

    mixture_learning_rate_init : float or None, default=None
        Learning rate of the mixture in the last stage; None for `learning_rate_init`.

    tol : float, default=0.0
        The last stage has converged when, for `n_iter_no_change` epochs in a row, none
        raised the best ELBO by `tol` nats per sample. With 0 it runs for `max_iter`
        epochs, to the end of the schedule.

    n_iter_no_change : int, default=10
        See `tol`.

    early_stopping : bool, default=False
        Whether to hold out a `validation_fraction` of the samples, to let their ELBO
        decide about convergence, and to return the model with the best one, that at the
        start of the last stage included. Other than `validation_scores_`, all results
        are for all samples.

    validation_fraction : float, default=0.1
        Fraction of the samples that `early_stopping` holds out.

    reg_covar : float, default=1e-6
        Minimum variance of a component in the latent space.

    warm_start : bool, default=False
        Whether `fit` continues the last stage from the fitted state, if there is one,
        instead of starting afresh. The curves are then of this call alone, and
        `init_labels_` are the clusters at its start.

    device : str, default="auto"
        Device to compute on: "cpu", "cuda", "cuda:1", "mps", or "auto" for the first
        available of CUDA, MPS and CPU.

    precision : {"float32", "bfloat16", "float64"}, default="float32"
        Floating-point type of the networks. "bfloat16" is used in the hidden layers
        only; where the hardware is no faster in it, float32 takes its place, with a
        warning.

    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, of the order of the samples, of the draws of z and
        of the initial mixture. An int uses no global generator; None draws from
        NumPy's.

    verbose : int, default=0
        Print a line every `verbose` epochs.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,)
        Cluster of each training sample. Clusters are numbered by the total weight of
        their samples, the largest first.

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
        Mean ELBO of the training samples under the fitted model, the same as `score`.

    lower_bounds_ : list of float
        Mean ELBO of each epoch of the last stage, while the model was changing.

    reconstruction_terms_ : list of float
        The term E[log p(x|z)] of `lower_bounds_`; the rest are the latent terms.

    loss_curve_ : list of float
        Negative ELBO of each epoch of the last stage, latent terms weighted by `beta`
        and `init_weight`.

    validation_scores_ : list of float
        Mean ELBO of the validation samples after each epoch. Empty without
        `early_stopping`.

    pretrain_loss_curve_ : list of float
        Mean contrastive loss of each epoch of pretraining on neighbors; log(255) is
        that of an embedding with all samples in one place. Else the fraction of the
        variance of X that the autoencoder left unexplained, each epoch of pretraining
        and of learning `embedding`.

    embedding_loss_curve_ : list of float
        Fraction of the variance of the coordinates of `embedding` that the encoder left
        unexplained. Empty without `embedding`.

    init_labels_ : ndarray of shape (n_samples,)
        Cluster of each sample in the initial partition, numbered as `labels_`. Samples
        outside of it have the likeliest component of the initial mixture.

    converged_ : bool
        Whether the last stage met `tol` within `max_iter`.

    n_effective_clusters_ : float
        Exponential of the entropy of the mean responsibilities: the number of clusters
        of equal size that have the same entropy, from 1 to K.

    n_iter_ : int
        Number of epochs of the last stage.

    n_samples_seen_ : int
        Number of training samples of positive weight, those of the last `fit` and of
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
    Predictions are deterministic and do not depend on the other samples, to the last
    bit. They read `weights_`, `means_`, `covariances_` and `noise_variance_`.

    References
    ----------
    .. [1] Z. Jiang, Y. Zheng, H. Tan, B. Tang and H. Zhou (2017). "Variational deep
       embedding: an unsupervised and generative approach to clustering." IJCAI.
    .. [2] S. Damrich, N. Böhm, F. A. Hamprecht and D. Kobak (2023). "From t-SNE to UMAP
       with contrastive learning." ICLR.

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
        pretraining: str = "neighbors",
        neighbors: int | BaseEstimator = 15,
        pretrain_max_iter: int | str = "auto",
        pretrain_learning_rate_init: float | str = "auto",
        embedding: BaseEstimator | None = None,
        embedding_input: str = "data",
        embedding_max_samples: int = 20_000,
        embedding_max_iter: int = 50,
        init: Any = "communities",
        n_init: int = 10,
        warmup_max_iter: int | str = "auto",
        responsibilities: str = "expected",
        n_draws: int = 1,
        beta: float | str = "auto",
        init_weight: float | str = "auto",
        max_iter: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float = 3e-3,
        mixture_learning_rate_init: float | None = None,
        tol: float = 0.0,
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
        self.neighbors = neighbors
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
        self.init_weight = init_weight
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
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
        """Fit networks and mixture to X.

        An interrupt from the keyboard during the last stage ends it with a warning,
        keeps what was learned so far and does not reach the caller; in an earlier
        stage, and in a search or cross-validation, it does. If fit fails, the estimator
        stays as it was.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training samples. A sparse X is made dense batch by batch, or once on the
            device where that has room for all of it.
            NaN is a missing entry, in a dense X; so is what a masked array leaves out.
        y : object, default=None
            Ignored in training. It only reaches the callbacks set by `set_callbacks`,
            such as :class:`~sklearn.callback.ScoringMonitor`, to evaluate each epoch.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, in all averages and sums over samples; None for
            equal ones. Only their ratios matter. Samples of weight zero are not trained
            on, but get a label.

        Returns
        -------
        self : VaDEClusterer
            The fitted estimator.

        Raises
        ------
        ValueError
            If a sample or a feature of X is missing as a whole; if X or its weights do
            not suit a parameter: fewer samples than clusters, values outside [0, 1] for
            the Bernoulli likelihood, an `init` or a fitted state that does not match;
            or if training meets a loss that is not finite.
        """
        resumes = self.warm_start and hasattr(self, "_network_state")
        # Outside of the block: callbacks also get the end of a fit that fails.
        context = self._init_callback_context(max_subtasks=n_stages(self, resumes))
        with restore_on_error(self), default_settings():
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
            warn_fit_quality(self, state, summary, resumed=resumes)
        return self

    def fit_predict(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """Fit to X and return the cluster of each sample, the same as `predict` of X.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training samples.
        y : object, default=None
            For callbacks only, as in `fit`.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, as in `fit`.

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
        with restore_on_error(self), default_settings():
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
