"""Tests against private instances of real servers, and those instances."""

import pytest

# Their assertions tell what they saw, as those in test modules do.
pytest.register_assert_rewrite("tests.real.passes", "tests.real.postfix", "tests.real.raw")
