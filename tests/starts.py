"""How the fits of the tests start, see `conftest.py`."""

import pytest

# For tests of what does not depend on the start, in a module that has every one.
one_start = pytest.mark.parametrize("start", ["autoencoder"], indirect=True)
