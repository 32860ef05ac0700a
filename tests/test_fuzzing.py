"""Random fits: results are finite and consistent, or an error or a warning is clear."""

import pytest
from fuzzing import CASES, TABLES, run_case, run_table
from hypothesis import HealthCheck, Phase, given, settings

REPEATABLE = settings(
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)


@pytest.mark.filterwarnings("ignore")
@settings(REPEATABLE, max_examples=100)
@given(case=CASES)
def test_random_fits(case):
    run_case(case)


@pytest.mark.filterwarnings("ignore")
@settings(REPEATABLE, max_examples=50)
@given(case=TABLES)
def test_random_fits_of_tables(case):
    run_table(case)
