"""What all tests share."""

from __future__ import annotations

import os

from hypothesis import settings

# Time limits are pytest-timeout's: Hypothesis's own 200 ms for each example fail on a busy machine for no good reason.
# A change must be able to break CI, luck must not: there the examples are the same each time, elsewhere they are new.
settings.register_profile("poprep", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("poprep")
