"""A visit to a connector: its lock, its journal, its status and its access to servers, for as long as something is done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from poprep_cli.config.model import Connector
from poprep_cli.engine import clock, files, quiet, status
from poprep_cli.engine.access import Access
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import Journal
from poprep_cli.engine.store import Store
from poprep_cli.errors import PoprepError, StateError, Stopped
from poprep_cli.net.stop import Stop


class Surroundings(msgspec.Struct, frozen=True):
    """What every connector's visit shares: where things are and what the command line asked for."""

    state_dir: Path
    config_path: Path
    dry_run: bool = False
    due_now: bool = False
    force: bool = False
    rescan: bool = False


class Visit:
    """Used as `with visit:`, which takes the lock, replays the journal, and at its end saves the status.

    On the way out of an error the lines to the servers are dropped, so that nothing is committed. `dry_run` takes no lock
    and writes nothing. `smtp_opened` is for the pass to set, once the SMTP server has let us in. `recalls` says that
    the first listing is compared with that of the last quiet pass, and the journal was not read for it.
    """

    def __init__(self, connector: Connector, surroundings: Surroundings, report: ConnectorReport, stop: Stop) -> None:
        state_dir, name = surroundings.state_dir, connector.name
        self.connector = connector
        self.surroundings = surroundings
        self.report = report
        self.stop = stop
        self.mailbox = f"{connector.pop3.user}@{connector.pop3.address}"  # whose state it should be
        self.began = clock.now()
        self.spool = state_dir / "held" / name
        self.held = Store(self.spool)
        self.badmail = Store(state_dir / "badmail" / name)
        self._status_path = state_dir / f"{name}.status.json"
        self.status = status.load(self._status_path)
        self.access = Access(
            connector,
            surroundings.config_path,
            self.status,
            report,
            stop,
            lambda: self.journal,
            force=surroundings.force,
        )
        self.smtp_opened = False
        self.recalls = False
        self._hurries = False
        self._journal_path = state_dir / f"{name}.jsonl"
        self._journal: Journal | None = None
        self._signature = ""  # of the journal, when it was read or put off
        self._begun = False
        self._lock: files.Lock | None = None

    @property
    def journal(self) -> Journal:
        """The journal, while the visit lasts. It is read when it is first asked for, if `with` has not done it."""
        if self._journal is None:
            if not self._begun:
                raise RuntimeError("the visit has not begun")
            self._journal = self._replayed()
        return self._journal

    def _replayed(self) -> Journal:
        journal = Journal(self._journal_path, self.mailbox)
        if journal.skipped:
            self.report.advice.append(f"{journal.path}: {journal.skipped} unreadable lines were skipped")
        return journal

    def note_attempt(self) -> None:
        """Save that the connector was tried, before it is: a pass that is killed counts, too."""
        self.status.last_attempt = clock.stamp(self.began)
        self.status.latest = max(self.status.latest, self.status.last_attempt)
        self.save_status()

    def log_in_ahead(self) -> None:
        """Have `with` log in while it reads the journal, if that is a large one: servers take as long to look at large mailboxes.

        Where a memo of the last pass holds the journal is not read, until the listing is another one. For a pass, which
        is going to log in in any case. Held mail comes first, so with any there is neither.
        """
        self._hurries = True

    def _recalls(self) -> bool:
        """Have the listing compared with that of the last quiet pass. Return whether there is anything to compare it with."""
        recalled = quiet.recall(self.status.quiet, self._signature, self.began, self.status.latest)
        if self.surroundings.force or self.surroundings.rescan or self.surroundings.dry_run:
            recalled = ""
        self.access.expect(quiet.digest_of_rules(self.connector), recalled)
        return bool(recalled)

    def memorize(self) -> None:
        """Keep a memo for the next pass: nothing was to be done about the listing, by what is in the journal."""
        changed = self._signature != quiet.signature(self._journal_path)
        if not self.access.digest or changed or self.journal.skipped:  # of what was skipped every pass tells
            return
        until = quiet.lasts_until(self.journal.entries, self.connector, self.began)
        listed = self.report.listed
        self.status.quiet = quiet.Memo(self.access.digest, self._signature, clock.stamp(self.began), until, listed)

    def save_status(self) -> None:
        """Replace the status file, so that what is known by now outlives a kill."""
        status.save(self._status_path, self.status)

    def __enter__(self) -> Self:
        state_dir, name = self.surroundings.state_dir, self.connector.name
        if not self.surroundings.dry_run:
            files.make_folder(state_dir)
            self._lock = files.Lock(state_dir / f"{name}.lock", f"connector {name}")
        try:
            self._begun = True
            self._signature = quiet.signature(self._journal_path)
            ahead = self._hurries and bool(self._signature) and not self.held.paths()
            if ahead and not self.surroundings.dry_run:
                self.note_attempt()
            self.access.resolve()
            self.recalls = ahead and self._recalls()
            if ahead and not self.recalls:
                self.access.begin()
            if not self.recalls:
                self._journal = self._replayed()
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.access.close()
        if self._journal is not None:
            self._journal.close()
        try:
            if self._lock is not None:
                failure = error if isinstance(error, PoprepError) else None
                self.access.settle(failure, delivered=self.smtp_opened, now=self.began)
                self.save_status()
        finally:
            if self._lock is not None:
                self._lock.release()


def survivable(error: PoprepError, stop: Stop) -> PoprepError:
    """Return an error after which the other session still ends properly; raise a signal or a full disk."""
    if stop.tripped or isinstance(error, StateError | Stopped):
        raise error
    return error


@contextmanager
def told(report: ConnectorReport, stop: Stop) -> Iterator[None]:
    """Put the error that ends the block, if one does, into `report`, which is complete and free of secrets afterwards."""
    began = time.monotonic()
    try:
        yield
    except PoprepError as error:
        report.fail(Stopped() if stop.tripped and not isinstance(error, StateError) else error)
    finally:
        report.conceal()
        report.seconds = time.monotonic() - began
        report.log_end()
        report.done = True
