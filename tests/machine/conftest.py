from tests.poll.conftest import world

__all__ = ["world"]
