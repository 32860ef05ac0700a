"""Random fits: results are finite and consistent, or an error or a warning is clear."""

import pytest
from fuzzing import CASES, run_case
from hypothesis import HealthCheck, Phase, given, settings


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)
@given(case=CASES)
def test_random_fits(case):
    run_case(case)
