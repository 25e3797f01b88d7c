"""What a pass did: counted per connector while it runs, and at its end the summary and the exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import msgspec

from poprep_cli.engine.redact import Redactor
from poprep_cli.engine.state import named
from poprep_cli.errors import ExitCode, PoprepError


class Note(msgspec.Struct, frozen=True):
    """A message that was not simply delivered: what became of it, and why, in the server's words."""

    uidl: str
    outcome: str
    why: str


class ConnectorReport(msgspec.Struct):
    """One connector's pass. Counts are of messages, `octets` of content delivered; written by its threads, read by any."""

    connector: str
    reason: str = "ok"
    listed: int = 0
    new: int = 0
    received: int = 0
    delivered: int = 0
    deferred: int = 0
    rejected: int = 0
    deleted: int = 0
    held: int = 0
    oversize: int = 0
    octets: int = 0
    seconds: float = 0.0
    messages: list[Note] = msgspec.field(default_factory=list)
    advice: list[str] = msgspec.field(default_factory=list)
    remarks: Counter[str] = msgspec.field(default_factory=Counter)  # what was odd with messages that were delivered
    errors: list[PoprepError] = msgspec.field(default_factory=list)
    done: bool = False
    say: Callable[[int, str], None] = lambda _level, _text: None
    level: int = 1  # the highest that anybody listens to
    log: Callable[[int, str], None] = lambda _level, _text: None  # to the log alone
    redactor: Redactor = msgspec.field(default_factory=Redactor)

    def __post_init__(self) -> None:
        self.say = self.redactor.over(self.say, self.level)

    @property
    def exit_code(self) -> ExitCode:
        """The exit code of this connector alone."""
        if self.errors:
            return self.errors[0].exit_code
        return ExitCode.PARTIAL if self.deferred or self.rejected or self.oversize else ExitCode.OK

    def fail(self, error: PoprepError) -> None:
        """Note the error that ended the pass, or another one after it."""
        if not self.errors:
            self.reason = error.reason
        self.errors.append(error)
        # Nobody asks where it came from, and the calls would live as long as it, with their journals and buffers.
        error.__traceback__ = error.__cause__ = error.__context__ = None

    def note(self, uidl: bytes, outcome: str, why: str) -> None:
        """Note what became of a message that was not simply delivered, and say it."""
        self.say(1, f"{outcome} {named(uidl)}: {why}")
        self.messages.append(Note(named(uidl), outcome, why))

    @property
    def notes(self) -> list[str]:
        """The remarks as sentences, such as "3 messages with NULs in them"."""
        return [f"{count} message{'' if count == 1 else 's'} {what}" for what, count in self.remarks.items()]

    def log_end(self) -> None:
        """Write into the log what is told to people at the end of a run. What is concealed then, is concealed here."""
        for error in self.errors:
            self.log(1, f"error: {error}" + (f" ({error.hint})" if error.hint else ""))
        busy = self.new or self.delivered or self.messages or self.errors
        for note in self.notes:
            self.log(1, note)
        for advice in self.advice:
            self.log(1 if busy and self.reason != "not due" else 3, advice)

    def conceal(self) -> None:
        """Mask every secret that the redactor knows in all that has been gathered to be told."""
        text = self.redactor.conceal
        self.messages = [Note(text(note.uidl), note.outcome, text(note.why)) for note in self.messages]
        self.advice = [text(advice) for advice in self.advice]
        for error in self.errors:
            error.args = (text(str(error)),)
            error.hint = text(error.hint) if error.hint else None

    def as_dict(self) -> dict[str, object]:
        """Return the connector's part of the --json document."""
        return {
            "connector": self.connector,
            "exit_code": int(self.exit_code),
            "reason": self.reason if self.errors or self.exit_code == ExitCode.OK else "partial",
            "errors": [{"message": str(error), "hint": error.hint} for error in self.errors],
            "listed": self.listed,
            "new": self.new,
            "delivered": self.delivered,
            "deferred": self.deferred,
            "rejected": self.rejected,
            "deleted": self.deleted,
            "held": self.held,
            "octets": self.octets,
            "seconds": round(self.seconds, 3),
            "messages": [{"uidl": note.uidl, "outcome": note.outcome, "why": note.why} for note in self.messages],
            "advice": self.advice,
            "notes": self.notes,
        }
