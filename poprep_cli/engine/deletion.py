"""The end of a POP3 session: what the policy says is deleted, QUIT commits it, and only then is it recorded."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from poprep_cli.config.model import Connector
from poprep_cli.engine import clock, files
from poprep_cli.engine.message import receive
from poprep_cli.engine.plan import Step, plan
from poprep_cli.engine.report import ConnectorReport, Note
from poprep_cli.engine.state import Journal
from poprep_cli.errors import ReplyError
from poprep_cli.net.maildrop import Maildrop
from poprep_cli.protocol.wire import printable


class Deletion:
    """Ends one session. Deciding again after the delivery is what makes new mail deletable in the session that moved it."""

    def __init__(
        self, maildrop: Maildrop, journal: Journal, connector: Connector, report: ConnectorReport, spool: Path
    ) -> None:
        self._maildrop = maildrop
        self._journal = journal
        self._connector = connector
        self._report = report
        self._spool = spool

    def run(self, fetched: Collection[bytes]) -> None:
        """Delete what is due and QUIT. `fetched` are the UIDLs that this pass has read.

        Raises ReplyError if the server did not commit, ConnectionFailed, RemoteProtocolError, StateError; nothing is
        recorded as deleted then, and the next pass deletes it.
        """
        self._journal.sync()  # what QUIT commits must not be forgotten by a power cut
        server_copy, limits = self._connector.server_copy, self._connector.limits
        due = plan(self._maildrop.listed, self._journal.entries, (), server_copy, limits, clock.now())
        # What came short a moment ago waits: the second read is another session's.
        agreed = [step for step in due.verify if step.listed.uidl not in fetched and self._agrees(step)]
        steps = (*due.delete, *agreed)
        replies = self._maildrop.delete([step.listed.number for step in steps])
        for step in steps:
            reply = replies[step.listed.number]
            if not reply.ok:
                self._report.messages.append(
                    Note(printable(step.listed.uidl), "delivered, not yet deleted", str(reply))
                )
        self._commit([step for step in steps if replies[step.listed.number].ok])

    def _commit(self, marked: list[Step]) -> None:
        answer = self._maildrop.quit()
        if not marked:
            return
        if not answer.ok:
            raise ReplyError(
                f"{self._maildrop.server} did not commit {len(marked)} deletions: {answer}",
                reply=answer,
                hint="the next pass deletes them; nothing is sent twice",
            )
        now = clock.stamp(clock.now())
        for step in marked:
            self._journal.record(step.listed.uidl, "deleted", now)
            self._report.say(1, f"deleted {printable(step.listed.uidl)} from the server: {step.reason}")
        self._report.deleted += len(marked)
        self._journal.flush()

    def _agrees(self, step: Step) -> bool:
        """Read a message again that came short; only if it is the same again may it be deleted."""
        entry = self._journal.entries[step.listed.uidl]
        for _, reply in self._maildrop.retrieve([step.listed], lambda _message, _wait: True):
            if not reply.ok:
                return False
            files.make_folder(self._spool)
            again = receive(step.listed.uidl, self._maildrop.parts(reply), self._spool / "again.part")
            again.discard()
            if again.octets < step.listed.size:
                self._maildrop.confirm(step.listed)
            return again.octets == entry.octets and again.fingerprint == entry.fingerprint
        return False
