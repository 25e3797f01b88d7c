"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# Time limits are pytest-timeout's: Hypothesis's own 200 ms for each example fail on a busy machine for no good reason.
settings.register_profile("poprep", deadline=None)
settings.load_profile("poprep")
