from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.poll.world import World, make


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = make(tmp_path)
    with made.pop3, made.smtp:
        yield made


@pytest.fixture
def by_data(world: World) -> None:
    """Have mail sent by DATA, one message in flight."""
    world.smtp.chunking = False
