"""Whose fault it is that a message was not accepted: its own, or the server's, which ages and condemns no mail."""

from __future__ import annotations

from poprep_cli.engine.filing import Filing, reason
from poprep_cli.engine.letters import Job
from poprep_cli.engine.store import Item
from poprep_cli.errors import ReplyError
from poprep_cli.net.transaction import Outcome, Verdict
from poprep_cli.protocol.smtp import NOT_SENT

ALIKE = 3  # so many first messages refused alike and none accepted: it is not the messages
_TOO_LARGE = ("5.2.3", "5.3.4")  # RFC 3463: for this recipient, for this system
_NOT_LET_IN = 530  # RFC 3207 4, RFC 4954 6: TLS or a login is wanted first


class Judgement:
    """One pass's. What can't be judged yet is held, until something is accepted or the pass ends."""

    def __init__(self, filing: Filing) -> None:
        self._filing = filing
        self._accepted = False
        self._refused: list[tuple[Job, Item, tuple[str, int, str]]] = []
        self._deferred: list[Item] = []

    def accept(self) -> None:
        """Note that the server takes mail, so what it does not take is the fault of each message."""
        self._accepted = True
        self._settle_refused()
        deferred, self._deferred = self._deferred, []
        for item in deferred:
            self._filing.deferred(item)

    def defer(self, job: Job, outcome: Outcome) -> None:
        """Hold what is deferred, as the server's fault or the message's own, which may become clear only later."""
        # Refused recipients wait beside the deferred ones until the message is settled as a whole.
        item = self._filing.keep(job, outcome.deferred + outcome.rejected)
        if any(verdict.reply.code == 421 for verdict in outcome.deferred):
            self._filing.still_held(item)
        elif self._accepted or all(verdict.stage == "rcpt" for verdict in outcome.deferred):
            self._filing.deferred(item)
        else:
            self._deferred.append(item)

    def reject(self, job: Job, verdicts: tuple[Verdict, ...], server: str) -> None:
        """Have a refused message filed, unless it may be the server's fault. Raises ReplyError once that is clear."""
        item = self._filing.keep(job, verdicts)
        if self._accepted or all(map(_is_its_own, verdicts)):
            self._filing.refused(item, fresh=job.item is None)
            return
        first = verdicts[0]
        self._refused.append((job, item, (first.stage, first.reply.code, first.reply.enhanced)))
        if first.reply.code == _NOT_LET_IN:
            raise ReplyError(
                f"{server} takes no mail from us: {reason(verdicts)}",
                reply=first.reply,
                hint="it wants a login (smtp.user, smtp.password) or TLS (smtp.tls); the mail is held and tried again",
            )
        alike = {kind for _, _, kind in self._refused}
        if len(alike) > 1:
            self._settle_refused()
        elif len(self._refused) >= ALIKE:
            raise ReplyError(
                f"{server} refuses every message alike: {reason(verdicts)}",
                reply=first.reply,
                hint="this looks like the server's or the configuration's fault, so no mail was given up; it is held and tried again",
            )

    def settle(self) -> None:
        """Decide what is still open at the end of the pass: too few refusals to be the server's fault, and no acceptance."""
        self._settle_refused()
        self.leave_open()

    def leave_open(self) -> None:
        """Leave held what was refused or deferred: it is, or may be, the server's fault."""
        refused, self._refused = self._refused, []
        deferred, self._deferred = self._deferred, []
        for item in (*(item for _, item, _ in refused), *deferred):
            self._filing.still_held(item)

    def _settle_refused(self) -> None:
        refused, self._refused = self._refused, []
        for job, item, _ in refused:
            self._filing.refused(item, fresh=job.item is None)


def _is_its_own(verdict: Verdict) -> bool:
    """Whether a refusal is certainly about this message: it is too large, or was refused on this side."""
    return verdict.reply.command is NOT_SENT or verdict.reply.enhanced in _TOO_LARGE
