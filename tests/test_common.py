"""The checks of scikit-learn for estimators, with the default training."""

import pytest
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

# The checks fit noise, and eight clusters to ten rows: clusters that stay empty and
# budgets that end first are expected there, and the warnings are right to say so.
pytestmark = pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.{ConvergenceWarning.__name__}",
    "ignore:The initial partition holds:UserWarning",
)

DEFAULT = VaDEClusterer()
SAMPLED = VaDEClusterer(responsibilities="sampled")
# The checks can not find the seed inside of a pipeline.
BERNOULLI = make_pipeline(
    MinMaxScaler(clip=True), VaDEClusterer(likelihood="bernoulli", random_state=0)
)


def expected_failures(estimator):
    """Some of ours, and some of scikit-learn's own Pipeline."""
    if not isinstance(estimator, Pipeline):
        reason = (
            "Weighted rows come in another order than repeated ones, so the models "
            "agree in distribution only: test_weights.py tests that."
        )
        no_classifier = (
            "scikit-learn's check asks for the classifier tags of what has "
            "predict_proba, also of a clusterer."
        )
        return {
            "check_sample_weight_equivalence_on_dense_data": reason,
            "check_sample_weight_equivalence_on_sparse_data": reason,
            "check_estimator_sparse_array": no_classifier,
            "check_estimator_sparse_matrix": no_classifier,
        }
    reason = "Pipeline.fit replaces its parameter `steps`, whatever they hold."
    return {
        "check_dont_overwrite_parameters": reason,
        "check_estimators_overwrite_params": reason,
        "check_estimators_nan_inf": "Pipeline does not tell that its steps take NaN.",
    }


@parametrize_with_checks(
    [DEFAULT, SAMPLED, BERNOULLI],
    expected_failed_checks=expected_failures,
    xfail_strict=True,
)
def test_estimator(estimator, check):
    check(estimator)


# Fits a frame and transforms an array, to see that the mix does no harm.
MIXES_FRAMES_AND_ARRAYS = pytest.mark.filterwarnings(
    "ignore:X does not have valid feature names",
    "ignore:X has feature names, but",
)


# What scikit-learn runs on its own estimators only.
@pytest.mark.parametrize(
    "check",
    [
        check_dataframe_column_names_consistency,
        check_get_feature_names_out_error,
        pytest.param(
            check_global_output_transform_pandas, marks=MIXES_FRAMES_AND_ARRAYS
        ),
        check_inplace_ensure_writeable,
        check_n_features_in_after_fitting,
        check_param_validation,
        check_set_output_transform,
        pytest.param(check_set_output_transform_pandas, marks=MIXES_FRAMES_AND_ARRAYS),
        check_transformer_get_feature_names_out,
        check_transformer_get_feature_names_out_pandas,
    ],
)
def test_estimator_as_one_of_scikit_learn(check):
    estimator = VaDEClusterer()
    check(type(estimator).__name__, estimator)
