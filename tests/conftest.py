"""What all tests share."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Time limits are pytest-timeout's: Hypothesis's own 200 ms for each example fail on a busy machine for no good reason.
# A change must be able to break CI, luck must not: there the examples are the same each time, elsewhere they are new.
settings.register_profile("poprep", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("poprep")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes, unless -m asks for it."""
    if "kills" in (config.option.markexpr or ""):
        return
    left_out = [item for item in items if item.get_closest_marker("kills") is not None]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
