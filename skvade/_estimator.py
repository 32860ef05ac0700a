"""The estimator: its parameters, its attributes, and how it is fitted."""

from __future__ import annotations

from os import PathLike
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClusterMixin, _fit_context
from sklearn.utils import Tags

from skvade._callbacks import CallbackMixin, attach_callbacks
from skvade._checkpoint import read_checkpoint, resume_training, write_checkpoint
from skvade._data.device import default_settings
from skvade._data.process_group import make_process_group
from skvade._data.table import CATEGORICAL
from skvade._data_validation import check_sample_weight, validate_X
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
from skvade._training.stages import first_partial_fit, stage_names, train
from skvade._training.state import TrainingState
from skvade._validation import (
    PARAMETER_CONSTRAINTS,
    check_fit_params,
    check_partial_fit_params,
    check_same_params,
    resumed_params,
    validate_params,
    warn_version_mismatch,
)

__all__ = ["VaDEClusterer"]


class VaDEClusterer(CallbackMixin, PredictionMixin, ClusterMixin, BaseEstimator):
    """Cluster samples with variational deep embedding (VaDE).

    VaDE is a variational autoencoder whose prior in the latent space is a mixture of
    Gaussians, one per cluster [1]_. ``fit`` runs four stages:

    1. It pretrains the encoder to place each sample close to its neighbors [2]_.
    2. It starts the mixture from a partition of the embedded samples.
    3. It warms up the decoder and the variances of the posterior.
    4. It maximizes the evidence lower bound (ELBO) over networks and mixture together.

    All bounds are in nats per sample: sums over the features, averages over the
    samples.

    With the Gaussian likelihood, ``fit`` centers each feature of X and divides X by one
    common scale. The features keep their relative scales, so scale them yourself where
    their units differ. With the Bernoulli likelihood, X is only divided. Of counts, it
    is log1p that is centered and divided. Only the columns of a table with several
    likelihoods have scales of their own. All results, scores included, are in the units
    of X.

    The parameters come in five groups: the model, pretraining, the initial mixture, the
    joint training, and execution.

    Parameters
    ----------
    n_clusters : int or "auto", default=8
        Number of components of the mixture, K. "auto" estimates it after pretraining,
        by the modularity of partitions in the neighbor graph of X. It is then the
        number of groups where ``init`` gives a partition.

    latent_dim : int, default=10
        Dimension of the latent space, L. 10 is the paper's value.

    hidden_layer_sizes : array-like of int, default=(128, 64)
        Widths of the encoder's hidden layers; the decoder has them in reverse order.
        The default is small and quick. The paper uses (500, 500, 2000), which pays on
        images and from 10,000 samples on.

    activation : {"relu", "gelu", "silu", "tanh", "logistic", "identity"}, \
            default="relu"
        Activation of the hidden layers.

    encoder : callable or None, default=None
        Function or class that builds a custom encoder. Called as
        ``encoder(n_features_in, latent_dim)``, it returns a new ``torch.nn.Module``.
        The module maps samples of shape (B, n_features_in) to features of shape (B, H),
        where you choose H. Two linear layers on top give the mean and the variance of
        q(z|x). None builds the default network.

    decoder : callable or None, default=None
        Function or class that builds a custom decoder. Called as
        ``decoder(latent_dim, n_features_in)``, it returns a module that maps points of
        shape (B, latent_dim) to samples of shape (B, n_features_in). None builds the
        default network. See :ref:`custom-networks`. With categories both get the number
        of features of the encoded table, one for each category, as n_features_in.

    likelihood : {"gaussian", "bernoulli", "poisson", "negative_binomial", \
            "multinomial", "categorical"} or list of (str, columns), default="gaussian"
        Distribution of a sample given its latent point. "gaussian" takes any real
        values and learns their noise variance. "bernoulli" needs X in [0, 1], such as
        zeros and ones. The next three need counts, integers from 0; the networks and
        the search for neighbors get log1p of them:

        - "poisson": independent counts, whose variance is their mean;
        - "negative_binomial": the variance is mean + dispersion * mean^2, with a
          learned dispersion of each feature. For counts of genes and of events;
        - "multinomial": the shares of the features in the total of a sample. For words
          of documents and for compositions;
        - "categorical": columns of categories, which are independent given the latent
          point.

        A list of pairs gives each kind of column of a table its own likelihood:
        ``[("gaussian", ["age"]), ("categorical", ["city"])]``. Columns are chosen as in
        :class:`~sklearn.compose.ColumnTransformer`: names, positions, slice, mask, or a
        callable such as :class:`~sklearn.compose.make_column_selector`, which is for
        pandas. Every column needs exactly one likelihood. For the networks a column of
        numbers has unit variance, and two samples of different category the squared
        distance 2.

        In both cases X may be a frame of pandas or polars with columns of strings,
        booleans, integers or categories, or an array of objects or codes. None and NaN
        are missing, and so are categories that were not in ``fit``. Methods that give
        samples give categories back. Dtypes of categories keep their levels and order;
        other columns may get another dtype, such as "int64" in the place of "Int64".

    noise : {"scalar", "feature"}, default="scalar"
        Whether the Gaussian likelihood has one noise variance for all features or one
        for each. The scaling of X is the same. In a table, where each column has a
        scale, "scalar" is the same share of the variance of each Gaussian column.

    size_factor : {"auto", "total", None}, default="auto"
        What the rates of "poisson" and "negative_binomial" are in proportion to.
        "total" is the total of the sample: its depth, length or exposure then tells
        nothing about its cluster. Without a list of likelihoods, a warning then names
        samples without any count. With None the exposure tells something, and the
        counts are absolute.
        "auto" is "total" where all features are counts of one likelihood, and None for
        a single feature, whose share is always one, and in a table with a list of
        likelihoods. There "total" is that of the columns of each part.
        "multinomial" always keeps the total.

    responsibilities : {"expected", "sampled"}, default="expected"
        How q(c|x) is computed. "expected" is the exact maximizer of the ELBO. "sampled"
        is the paper's average of p(c|z) over the draws of z, which gives a looser
        bound.

    covariance_type : {"full", "tied", "diag", "spherical"}, default="diag"
        Covariances of the components in the latent space, by the names of
        :class:`~sklearn.mixture.GaussianMixture`.

        - "diag": a variance of each component along each latent dimension, as in the
          paper;
        - "full": a covariance matrix of each component;
        - "tied": one covariance matrix for all components;
        - "spherical": one variance of each component.

        The posterior q(z|x) is diagonal in any case, so "full" does not always reach a
        higher bound than "diag". Compare their ``score`` on held-out samples.

    reg_covar : float, default=1e-6
        Minimum variance of a component in the latent space. It keeps a component from
        shrinking onto equal samples. With "full" and "tied" it is the minimum of the
        variance of each latent dimension given those before it. That bounds the density
        as with "diag", but the variance in an oblique direction may be lower.

    pretraining : {"neighbors", "autoencoder", "stacked", "vae"}, default="neighbors"
        What the networks learn first. The default separates groups that are connected
        in X but not compact.

        - "neighbors": the encoder places neighbors close together and all other samples
          apart, by the contrastive loss of [2]_ and Adam. Pairs of neighbors are drawn
          by the weight of the first. The decoder learns in the warm-up;
        - "autoencoder": both networks reconstruct X, all layers at once, by stochastic
          gradient descent on the squared error;
        - "stacked": the same, after each pair of layers was trained as a denoising
          autoencoder on the output of the layers below it, as in the paper;
        - "vae": both networks are a variational autoencoder without clusters, trained
          by Adam.

    neighbors : int, sparse matrix or transformer, default=15
        Neighbors that pretraining and "communities" use. No sample is its own neighbor.
        Validation samples and samples of weight zero are left out.

        - int: so many nearest samples by the Euclidean distance of X, at most a third
          of the others. More than 100 features are replaced by 50 principal components.
          Categories, as columns of a table or as indicators among real values, are
          compared by what they have in common with other features, and so are counts
          in a table: one of mere chance tells no samples apart.
          Missing values have the mean and the variance of the feature in similar
          samples, and distances are expected ones. Beyond 30,000 samples the search is
          approximate;
        - a transformer with the interface of
          :class:`~sklearn.neighbors.KNeighborsTransformer`, such as
          ``KNeighborsTransformer(metric="cosine")``. A clone of it is fitted to X, or
          to log1p of counts, with missing values replaced by the mean of the feature;
        - sparse matrix of shape (n_samples, n_samples): the stored entries of a row,
          zeros included, are the neighbors of a sample. Their values have no effect.

    pretrain_max_iter : int or "auto", default="auto"
        Epochs of pretraining. With 0 there is no pretraining, and the mixture starts on
        the embedding of an untrained network.

        - "neighbors": an epoch is 100 steps of 128 pairs. "auto" is one for every 130
          samples, from 10 to 14. Each 1,000 samples beyond 5,000 add one, up to
          200 in all;
        - otherwise an epoch is a pass over X, with "stacked" also for each pair of
          layers. "auto" is 10. On small data, more epochs mix up the groups as the
          reconstruction improves. With tens of thousands of samples 60 epochs pay.

    pretrain_learning_rate_init : float or "auto", default="auto"
        Learning rate of pretraining. Its effect does not depend on the scale of X.

        - "neighbors": that of Adam at the start, from where it falls linearly to zero.
          "auto" is 6e-3;
        - "autoencoder" and "stacked": that of gradient descent, multiplied by
          n_features / 8 with fewer than 8 features. "auto" is 1, increased to at most
          n_features / 100 where three epochs have learned next to nothing;
        - "vae": that of Adam. "auto" is ``learning_rate_init``, or a third of it if
          ``learning_rate`` is "cosine".

    embedding : transformer or None, default=None
        Embedding whose coordinates the encoder learns before the mixture starts. It is
        fitted to X, or to log1p of counts. Any
        transformer works whose ``fit_transform`` gives at most ``latent_dim`` columns;
        the other dimensions start at zero. Examples are ``TSNE()`` with
        ``latent_dim=2`` and ``umap.UMAP(n_components=10, min_dist=0.0, n_jobs=1)``
        (extra ``umap``). The encoder gets X itself, so scale X before ``fit`` and not
        in the transformer.

    embedding_input : {"data", "autoencoder"}, default="data"
        What ``embedding`` is fitted on. "data" is X, missing values replaced by the
        mean of the feature; there is then no pretraining. "autoencoder" is the output
        of the pretrained encoder.

    embedding_max_samples : int, default=20000
        Maximum number of samples that ``embedding`` is fitted on, chosen at random. The
        limit bounds the time of the transformer.

    embedding_max_iter : int, default=50
        Epochs, over these samples, in which the encoder learns the coordinates.

    init : {"communities", "kmeans", "gmm", "random"}, array-like of int or clusterer, \
            default="communities"
        Partition of the pretrained embedding that the mixture starts from. The initial
        weights, means and covariances are those of the groups. Beyond 200,000 samples,
        the partition is one of 200,000 random samples, unless labels are given.

        - "communities": communities of a graph of small groups of samples, linked by
          their neighbors in X and in the embedding, and by their distances. Of several
          such partitions and that of k-means, one of high modularity that agrees with
          the others. Groups of nearly equal size are made even, where that raises
          the mutual information of linked groups. It finds groups at irregular
          distances, where k-means splits and merges them;
        - "kmeans": k-means, the best of ``n_init`` runs;
        - "gmm": a Gaussian mixture of that ``covariance_type`` by
          expectation-maximization, the best of ``n_init`` runs. It is likelier, but
          often a worse partition;
        - "random": the nearest of ``n_clusters`` random samples;
        - array-like of shape (n_samples,): these labels. Samples of a negative label
          belong to no group;
        - a scikit-learn clusterer: the labels that a clone of it gives.

    n_init : int, default=10
        Number of runs of "kmeans" and "gmm". A single run depends on chance.

    warmup_max_iter : int or "auto", default="auto"
        Epochs in which only the decoder and the variances of the posterior are trained.
        Their first gradients would otherwise change the pretrained embedding. "auto"
        makes a twentieth of the steps of ``max_iter``.

    max_iter : int or "auto", default="auto"
        Maximum number of epochs of the joint training. "auto" makes about 600 steps
        and one more for every 10 samples, at most 20,000. With fewer than 60 samples
        it makes fewer.

    batch_size : int or "auto", default="auto"
        Samples per step of the joint training. "auto" is a 16th of the samples, at
        least 128 and at most 256. In the warm-up and in pretraining by reconstruction,
        an epoch of fewer than 8 steps visits samples more than once.

    learning_rate : {"cosine", "constant"}, default="cosine"
        Schedule of the learning rate in the joint training. "cosine" rises linearly in
        the first tenth of the steps, stays at ``learning_rate_init`` up to 0.55 of
        them, and falls to zero along a cosine. In ``partial_fit`` it is a third of
        ``learning_rate_init``. Choose "constant" beside ``tol``.

    learning_rate_init : float, default=4.5e-3
        Learning rate of Adam in the joint training.

    mixture_learning_rate_init : float or None, default=None
        Learning rate of the mixture in the joint training. None uses
        ``learning_rate_init``. A low one keeps the mixture near its start.

    beta : float or "auto", default="auto"
        Weight of the latent terms of the ELBO in training; 1 trains the ELBO itself.
        The reconstruction is a sum over features: the more of them, the more it moves
        samples away from their clusters. So "auto" is n_features / 64, at least 1 and
        at most 10. Scores are the ELBO in any case.

    init_weight : float or "auto", default="auto"
        Weight of the initial partition in the joint training. The cross-entropy of
        q(c|x) with it is added to the latent terms, this many times. With 0 the
        clusters are free to move, as in the paper. "auto" is 1 after pretraining on
        neighbors, whose groups the ELBO alone would merge or empty at times, else 0.

    n_draws : int, default=1
        Draws of z per sample and step in training. More draws make gradients less noisy
        and steps slower.

    tol : float, default=0.0
        The joint training stops when no epoch of the last ``n_iter_no_change`` raised
        the best ELBO by ``tol`` nats per sample. With 0 it always runs for ``max_iter``
        epochs, to the end of the schedule.

    n_iter_no_change : int, default=10
        Number of epochs without improvement after which ``tol`` stops the training.

    early_stopping : bool, default=False
        Whether to hold out a ``validation_fraction`` of the samples. Their ELBO then
        decides when ``tol`` stops the training, and the model with the best one is
        returned, which may be that at the start. All results other than
        ``validation_scores_`` are for all samples.

    validation_fraction : float, default=0.1
        Fraction of the samples that ``early_stopping`` holds out.

    warm_start : bool, default=False
        Whether ``fit`` continues the joint training of a fitted estimator instead of
        starting afresh. The curves are then those of this call alone, and
        ``init_labels_`` are the clusters at its start.

    distributed : bool, default=False
        Whether several processes fit one model, each with its own samples as X, by
        ``torch.distributed``. The caller opens the process group and draws the shares
        at random. All processes get the same model; ``labels_`` and ``init_labels_``
        are of their own samples, while curves and bounds are of all samples. False
        never looks at a process group. See :doc:`/distributed`.

    device : str, default="auto"
        Device to compute on: "cpu", "cuda", "cuda:1", "mps", or "auto" for the first
        available of CUDA, MPS and CPU.

    precision : {"float32", "bfloat16", "float64"}, default="float32"
        Floating-point type of the networks. "bfloat16" applies to the hidden layers
        only. Where the hardware is no faster in it, ``fit`` uses float32 and warns.

    random_state : int, RandomState instance or None, default=None
        Seed of the initial weights, of the order of the samples, of the draws of z and
        of the initial mixture. An int makes results repeat and uses no global
        generator. None draws a seed from NumPy's global generator.

    verbose : int, default=0
        Print a line every ``verbose`` epochs.

    Attributes
    ----------
    labels_ : ndarray of shape (n_samples,)
        Cluster of each training sample. Clusters are numbered by the total weight of
        their samples, the largest first.

    n_clusters_ : int
        Number of clusters, K: ``n_clusters``, or the estimate of "auto".

    weights_ : ndarray of shape (n_clusters_,)
        Mixture weights; they sum to one.

    means_ : ndarray of shape (n_clusters_, latent_dim)
        Means of the components, in the latent space.

    covariances_ : ndarray
        Covariances of the components, in the latent space. The shape is that of
        :class:`~sklearn.mixture.GaussianMixture`:

        - (n_clusters_, latent_dim) if ``covariance_type="diag"``;
        - (n_clusters_, latent_dim, latent_dim) if "full";
        - (latent_dim, latent_dim) if "tied";
        - (n_clusters_,) if "spherical".

    cluster_centers_ : {ndarray, frame} of shape (n_clusters_, n_features_in_)
        The decoded means, in the units of X as ``fit`` got it: logarithms where X holds
        logarithms. Counts are those of a sample of the average total, and categories
        the most probable ones, see ``inverse_transform``.

    noise_variance_ : float or ndarray of shape (n_features_in_,)
        Noise variance of the Gaussian likelihood, in the squared unit of X. One for
        each feature with ``noise="feature"`` and in a table, there NaN for columns of
        another likelihood.

    dispersion_ : ndarray of shape (n_features_in_,)
        Dispersion of each feature under likelihood="negative_binomial". In a table NaN
        for columns of another likelihood.

    categories_ : list of ndarray
        Sorted categories of each categorical column, in the order of the columns. Only
        after a fit to a table.

    lower_bound_ : float
        Mean ELBO of the training samples under the fitted model, the same as ``score``.

    lower_bounds_ : list of float
        Mean ELBO of each epoch of the joint training, while the model was changing.

    reconstruction_terms_ : list of float
        The term E[log p(x|z)] of ``lower_bounds_``; the rest are the latent terms.

    loss_curve_ : list of float
        Negative ELBO of each epoch of the joint training, latent terms weighted by
        ``beta``, with the term of ``init_weight``.

    validation_scores_ : list of float
        Mean ELBO of the validation samples after each epoch. Empty without
        ``early_stopping``.

    pretrain_loss_curve_ : list of float
        Loss of each epoch of pretraining. On neighbors it is the mean contrastive loss;
        log(255) is that of an embedding with all samples in one place. Otherwise it is
        the fraction of the variance of X that the autoencoder leaves unexplained,
        epochs of learning ``embedding`` included.

    embedding_loss_curve_ : list of float
        Fraction of the variance of the coordinates of ``embedding`` that the encoder
        leaves unexplained. Empty without ``embedding``.

    init_labels_ : ndarray of shape (n_samples,)
        Cluster of each sample in the initial partition, numbered as ``labels_``.
        Samples outside of it have the likeliest component of the initial mixture.

    converged_ : bool
        Whether the joint training met ``tol`` within ``max_iter``.

    n_effective_clusters_ : float
        How many clusters are in use: K if all have the same size, fewer if some are
        small or empty. It is the exponential of the entropy of the mean
        responsibilities, from 1 to K.

    n_iter_ : int
        Number of epochs of the joint training.

    n_samples_seen_ : int
        Number of training samples of positive weight, those of the last ``fit`` and of
        every ``partial_fit`` since then.

    n_features_in_ : int
        Number of features seen during ``fit``.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if X had any that are all strings.

    See Also
    --------
    sklearn.mixture.GaussianMixture : A mixture in the space of the data.
    sklearn.cluster.KMeans : Compact clusters in the space of the data.

    Notes
    -----
    Predictions are deterministic and do not depend on the other samples, to the last
    bit. They read ``weights_``, ``means_``, ``covariances_``, ``noise_variance_`` and
    ``dispersion_``.

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
        n_clusters: int | str = 8,
        *,
        # The model
        latent_dim: int = 10,
        hidden_layer_sizes: ArrayLike = (128, 64),
        activation: str = "relu",
        encoder: ModuleFactory | None = None,
        decoder: ModuleFactory | None = None,
        likelihood: Any = "gaussian",
        noise: str = "scalar",
        size_factor: str | None = "auto",
        responsibilities: str = "expected",
        covariance_type: str = "diag",
        reg_covar: float = 1e-6,
        # Pretraining
        pretraining: str = "neighbors",
        neighbors: int | BaseEstimator = 15,
        pretrain_max_iter: int | str = "auto",
        pretrain_learning_rate_init: float | str = "auto",
        embedding: BaseEstimator | None = None,
        embedding_input: str = "data",
        embedding_max_samples: int = 20_000,
        embedding_max_iter: int = 50,
        # The initial mixture
        init: Any = "communities",
        n_init: int = 10,
        warmup_max_iter: int | str = "auto",
        # The joint training
        max_iter: int | str = "auto",
        batch_size: int | str = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float = 4.5e-3,
        mixture_learning_rate_init: float | None = None,
        beta: float | str = "auto",
        init_weight: float | str = "auto",
        n_draws: int = 1,
        tol: float = 0.0,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        # Execution
        warm_start: bool = False,
        distributed: bool = False,
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
        self.noise = noise
        self.size_factor = size_factor
        self.responsibilities = responsibilities
        self.covariance_type = covariance_type
        self.reg_covar = reg_covar
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
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.mixture_learning_rate_init = mixture_learning_rate_init
        self.beta = beta
        self.init_weight = init_weight
        self.n_draws = n_draws
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.distributed = distributed
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

        An interrupt from the keyboard during the joint training ends it with a warning
        and keeps what was learned so far. In an earlier stage, and in a search or
        cross-validation, it reaches the caller. If ``fit`` fails, the estimator stays
        as it was.

        Parameters
        ----------
        X : {array-like, sparse matrix, frame} of shape (n_samples, n_features)
            Training samples. In dense X, NaN is a missing value, as is a masked entry
            of a masked array or ``pandas.NA``. Sparse X is made dense batch by batch,
            or once on the device where that has room for all of it.
        y : object, default=None
            Ignored in training. It only reaches the callbacks set by ``set_callbacks``,
            such as :class:`~sklearn.callback.ScoringMonitor`, to evaluate each epoch.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, in all averages and sums over samples. None gives
            all samples the same weight. Only their ratios matter. Samples of weight
            zero are not trained on, but get a label.

        Returns
        -------
        self : VaDEClusterer
            The fitted estimator.

        Raises
        ------
        TypeError
            If X is a path, a sequence of strings, or a frame yet to be computed.
        ValueError
            If X has infinite or extreme values, or a sample or a feature without any
            value. If there are fewer samples than clusters, values outside [0, 1] with
            the Bernoulli likelihood, or negative or fractional values with one of
            counts. If the columns of a table do not have exactly one likelihood each,
            or one that can not take them. If ``init``, ``sample_weight`` or a fitted
            state does not match. If the loss is not finite.
        """
        resumes = self.warm_start and hasattr(self, "_network_state")
        first = "train" if resumes else None
        n_stages = len(stage_names(self, first))
        group = make_process_group(self.distributed)
        # Outside of the block: callbacks also get the end of a fit that fails.
        context = self._init_callback_context(max_subtasks=n_stages)
        with restore_on_error(self), default_settings(), group.shared_errors():
            samples = validate_X(self, X, reset=not resumes)
            check_same_params(self, samples.shape[1], group)
            weights = check_sample_weight(sample_weight, samples)
            check_fit_params(self, weights, resumes=resumes, group=group)
            if resumes:
                state = resume_fit(self, samples, weights, group)
            else:
                state = init_training(self, samples, weights, group)
            attach_callbacks(self, state, context, X, y, sample_weight)
            self._train(state, first)
        return self

    @_fit_context(prefer_skip_nested_validation=True)
    def resume(
        self,
        path: str | PathLike,
        X: ArrayLike,
        y: object = None,
        sample_weight: ArrayLike | None = None,
    ) -> Self:
        """Continue a fit from a file that a ``Checkpoint`` has written.

        The fit goes on in the stage and the epoch after which the file was written. On
        a CPU, with the same number of threads, it ends with the same attributes as
        without the interruption, to the last bit. The estimator gets the parameters of
        the file. Callbacks that are set on the estimator see the rest of the fit; those
        of the interrupted fit are not in the file.

        Parameters
        ----------
        path : str or path-like
            The file that :class:`~skvade.callbacks.Checkpoint` has written.
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The samples of the fit.
        y : object, default=None
            For callbacks only, as in ``fit``.
        sample_weight : array-like of shape (n_samples,), default=None
            The weights of the fit.

        Returns
        -------
        self : VaDEClusterer
            The fitted estimator.

        Raises
        ------
        OSError
            If the file can not be read: a FileNotFoundError if there is none, an
            IsADirectoryError if it is a folder.
        ValueError
            If the file is damaged or of another version. If X, ``sample_weight``, the
            type of the device, or a parameter that is not at its default differ from
            those of the fit; only ``device`` and ``verbose`` may change. If a parameter
            was an object that the file can not hold, such as ``encoder`` or a clusterer
            as ``init``, and is not set on this estimator.
        """
        saved = read_checkpoint(path)
        params = resumed_params(self, saved.params)
        n_stages = len(stage_names(SimpleNamespace(**params), saved.stage))
        context = self._init_callback_context(max_subtasks=n_stages)
        group = make_process_group(params["distributed"])
        with restore_on_error(self), default_settings(), group.shared_errors():
            self.set_params(**params)
            samples = validate_X(self, X, reset=True)
            weights = check_sample_weight(sample_weight, samples)
            state = resume_training(self, samples, weights, saved, group)
            attach_callbacks(self, state, context, X, y, sample_weight)
            self._train(state, saved.stage)
        return self

    def _train(self, state: TrainingState, first: str | None) -> None:
        """Run the stages, from the one named `first` on, and set the attributes."""
        train(state, first)
        summary = set_fitted_attributes(self, state)
        state.task.end()
        del self._fit_state
        warn_fit_quality(self, state, summary, resumed=state.warm_started)

    def _write_checkpoint(self, path: str | PathLike, is_due: bool) -> bool:
        """Write the state of the fit that is running, at the end of an epoch.

        Of several processes, the first decides whether that is due.
        """
        is_due = self._fit_state.group.broadcast(is_due)
        if is_due:
            write_checkpoint(path, self, self._fit_state)
        return is_due

    def fit_predict(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> NDArray[np.int64]:
        """Fit to X and return the cluster of each sample, as ``predict`` does.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            Training samples.
        y : object, default=None
            For callbacks only, as in ``fit``.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, as in ``fit``.

        Returns
        -------
        labels : ndarray of shape (n_samples,)
            The attribute ``labels_``.
        """
        return self.fit(X, y, sample_weight).labels_

    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: ArrayLike, y: object = None, sample_weight: ArrayLike | None = None
    ) -> Self:
        """Learn from the next samples of a stream, in one pass over them.

        The first call also runs the earlier stages of ``fit`` on its samples, which
        should contain every cluster. It sets the scaling of X and the order of the
        components. Later calls continue from there, or from ``fit``, with the state of
        the optimizer after the last call. ``labels_``, ``init_labels_`` and
        ``lower_bound_`` are those of the latest samples. If a call fails, the estimator
        stays as it was. ``partial_fit`` calls no callbacks: the loop over the chunks is
        your own.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
            The next samples.
        y : object, default=None
            Ignored, present for the interface.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples, as in ``fit``, relative to those of earlier calls.

        Returns
        -------
        self : VaDEClusterer
            The fitted estimator.

        Raises
        ------
        ValueError
            As in ``fit``. If X has another number of features than before, or
            ``early_stopping`` is set.
        """
        group = make_process_group(self.distributed)
        with restore_on_error(self), default_settings(), group.shared_errors():
            check_partial_fit_params(self)
            is_first = not hasattr(self, "_network_state")
            samples = validate_X(self, X, reset=is_first)
            check_same_params(self, samples.shape[1], group)
            weights = check_sample_weight(sample_weight, samples)
            if is_first:
                check_fit_params(self, weights, resumes=False, group=group)
                state = init_training(self, samples, weights, group)
                first_partial_fit(state)
            else:
                state = resume_partial_fit(self, samples, weights, group)
                partial_fit_epoch(state)
            set_fitted_attributes(self, state)
        return self

    def _validate_params(self) -> None:
        validate_params(self)

    @property
    def _n_features_out(self) -> int:
        return self._module_params["latent_dim"]

    def __setstate__(self, state: dict[str, Any]) -> None:
        warn_version_mismatch(self, state)
        super().__setstate__(state)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        is_table = not isinstance(self.likelihood, str)
        is_table = is_table or self.likelihood == CATEGORICAL
        tags.input_tags.sparse = not is_table
        tags.input_tags.string = tags.input_tags.categorical = is_table
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
