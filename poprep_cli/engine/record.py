"""A connector's journal by itself, under its lock: for those who look at it or change it, and contact nobody."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from poprep_cli.config.model import Connector
from poprep_cli.engine import files
from poprep_cli.engine.state import Journal
from poprep_cli.engine.store import Store


@contextmanager
def locked_journal(connector: Connector, state_dir: Path) -> Iterator[Journal]:
    """Give the journal while nobody else works on the connector. Raises StateLocked, StateError.

    Where there is no state folder yet none is made.
    """
    mailbox = f"{connector.pop3.user}@{connector.pop3.address}"
    path = state_dir / f"{connector.name}.jsonl"
    if not state_dir.exists():
        yield Journal(path, mailbox)
        return
    files.make_folder(state_dir)
    lock = files.Lock(state_dir / f"{connector.name}.lock", f"connector {connector.name}")
    try:
        journal = Journal(path, mailbox)
        try:
            yield journal
        finally:
            journal.close()
    finally:
        lock.release()


def held_keys(connector: Connector, state_dir: Path) -> set[bytes]:
    """Return the keys of the messages that wait in the spool."""
    return {item.slip.message_uidl for item in Store(state_dir / "held" / connector.name).items()}
