"""The checks of scikit-learn for estimators, with each way of training."""

import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.utils.estimator_checks import (
    check_dataframe_column_names_consistency,
    check_get_feature_names_out_error,
    check_global_output_transform_pandas,
    check_inplace_ensure_writeable,
    check_n_features_in_after_fitting,
    check_param_validation,
    check_set_output_transform,
    check_set_output_transform_pandas,
    check_transformer_get_feature_names_out,
    check_transformer_get_feature_names_out_pandas,
    parametrize_with_checks,
)

from skvade import VaDEClusterer

# The checks fit noise, and eight clusters to ten samples: empty clusters and training
# that ends at max_iter are expected there, and the warnings are right.
pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}",
    "ignore:The initial partition holds:UserWarning",
)

# The default budgets make thousands of steps on any number of samples: here fewer.
DEFAULT = VaDEClusterer(pretrain_max_iter=1, warmup_max_iter=1, max_iter=5)
# What is not the default: all options that the checks can tell apart, at once. The
# checks do not set the random_state of a step of a pipeline.
BERNOULLI = make_pipeline(
    MinMaxScaler(clip=True),
    VaDEClusterer(
        hidden_layer_sizes=(16,),
        likelihood="bernoulli",
        responsibilities="sampled",
        pretraining="autoencoder",
        init="kmeans",
        n_init=1,
        warmup_max_iter=1,
        max_iter=5,
        random_state=0,
    ),
)


def expected_failures(estimator):
    """Give the checks that the estimator, or scikit-learn's Pipeline, cannot pass."""
    if not isinstance(estimator, Pipeline):
        reason = (
            "Weighted samples come in another order than repeated ones, so the models "
            "agree in distribution only: test_weights.py tests that."
        )
        no_classifier = (
            "The check requires classifier tags of every estimator with "
            "predict_proba, also of a clusterer."
        )
        return {
            "check_sample_weight_equivalence_on_dense_data": reason,
            "check_sample_weight_equivalence_on_sparse_data": reason,
            "check_estimator_sparse_array": no_classifier,
            "check_estimator_sparse_matrix": no_classifier,
        }
    reason = "Pipeline.fit replaces its parameter `steps`."
    return {
        "check_dont_overwrite_parameters": reason,
        "check_estimators_overwrite_params": reason,
        "check_estimators_nan_inf": "Pipeline has no tag that its steps accept NaN.",
    }


@parametrize_with_checks(
    [DEFAULT, BERNOULLI],
    expected_failed_checks=expected_failures,
    xfail_strict=True,
)
def test_estimator(estimator, check):
    check(estimator)


# They fit a DataFrame and transform an array.
MIXES_DATAFRAMES_AND_ARRAYS = pytest.mark.filterwarnings(
    "ignore:X does not have valid feature names",
    "ignore:X has feature names, but",
)


# Checks that scikit-learn runs on its own estimators only.
@pytest.mark.parametrize(
    "check",
    [
        check_dataframe_column_names_consistency,
        check_get_feature_names_out_error,
        pytest.param(
            check_global_output_transform_pandas, marks=MIXES_DATAFRAMES_AND_ARRAYS
        ),
        check_inplace_ensure_writeable,
        check_n_features_in_after_fitting,
        check_param_validation,
        check_set_output_transform,
        pytest.param(
            check_set_output_transform_pandas, marks=MIXES_DATAFRAMES_AND_ARRAYS
        ),
        check_transformer_get_feature_names_out,
        check_transformer_get_feature_names_out_pandas,
    ],
)
def test_estimator_by_the_internal_checks_of_scikit_learn(check):
    check(type(DEFAULT).__name__, clone(DEFAULT))
