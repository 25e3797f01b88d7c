"""One letter on its way through an SMTP or LMTP session: its envelope as commands, and what the replies mean.

No I/O: `Submission` sends the commands and brings the replies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from poprep_cli.errors import LocalProtocolError
from poprep_cli.protocol import smtp as core
from poprep_cli.protocol.smtp import Command, Reply
from poprep_cli.protocol.wire import printable


class Letter(Protocol):
    """What is delivered: an envelope and mail data. Paths are without < and >; the null reverse path is b""."""

    @property
    def reverse_path(self) -> bytes:
        """Whom the server tells when it can't deliver."""

    @property
    def forward_paths(self) -> tuple[bytes, ...]:
        """The recipients."""

    @property
    def octets(self) -> int:
        """The size of the content for SIZE (RFC 1870 5), without dot-stuffing and terminator."""

    @property
    def eight_bit(self) -> bool:
        """Whether the content has octets over 127."""

    def wire(self) -> Iterable[bytes]:
        """Return the mail data in parts, dot-stuffed; the last part ends with the terminator, CRLF.CRLF."""

    def plain(self) -> Iterable[bytes]:
        """Return the content in parts, not dot-stuffed, each line ended by CRLF, the last one too."""


class Verdict(msgspec.Struct, frozen=True):
    """What became of one recipient, by which reply, at which stage: "size", "mail", "rcpt", "data" or "end-of-data"."""

    path: bytes
    reply: Reply
    stage: str


class Outcome(msgspec.Struct, frozen=True):
    """What became of a letter, recipient by recipient.

    `in_doubt`, if not empty, says why the server's answer to the end of data is not known. Recipients without a verdict
    may have got the letter then, or not.
    """

    accepted: tuple[Verdict, ...]
    deferred: tuple[Verdict, ...]
    rejected: tuple[Verdict, ...]
    in_doubt: str = ""


class Transaction:
    """The commands of one letter that are left to send, and what the replies mean for each recipient.

    With `chunking` the content goes by BDAT (RFC 3030), a command for each chunk, in place of DATA.
    """

    __slots__ = (
        "_verdicts",
        "answered",
        "chunk_refused",
        "commands",
        "complete",
        "go_ahead",
        "letter",
        "paths",
        "refused",
        "sent",
    )

    def __init__(self, letter: Letter, extensions: dict[str, str], *, reset: bool, chunking: bool = False) -> None:
        self.letter = letter
        self.commands: list[Command] = []  # empty if all recipients were refused here
        self.sent = 0
        self.answered = 0
        self.paths: list[bytes] = []  # those that RCPT accepted; before its reply there is none
        self.refused: Reply | None = None  # the reply to MAIL, if that was it
        self.go_ahead = False  # 354
        self.complete = False  # whether the last chunk is among the commands
        self.chunk_refused = False  # whether a chunk was: the server discards the rest
        self._verdicts: tuple[list[Verdict], list[Verdict], list[Verdict]] = ([], [], [])
        self._compose(extensions, reset=reset, chunking=chunking)

    @property
    def finished(self) -> bool:
        """Whether nothing is outstanding and nothing useful is left to send."""
        if self.answered < self.sent:
            return False
        if self.sent == len(self.commands) or self.refused is not None:
            return True
        return self.commands[self.sent].verb == "DATA" and not self.paths

    @property
    def answer_due(self) -> Command | None:
        """The command that the next reply answers, None if no reply is to come."""
        return self.commands[self.answered] if self.answered < self.sent else None

    @property
    def decided(self) -> bool:
        """Whether each recipient has its verdict."""
        return sum(map(len, self._verdicts)) >= len(dict.fromkeys(self.letter.forward_paths))

    @property
    def accepted(self) -> bool:
        """Whether the content was, for somebody."""
        return bool(self._verdicts[0])

    def chunk(self, octets: int, *, last: bool) -> Command:
        """Return the command for the next chunk, which is sent at once."""
        command = core.bdat(octets, last=last)
        self.commands.append(command)
        self.sent += 1
        self.complete = last
        return command

    def window(self, size: int) -> list[Command]:
        """Return the next commands, at most `size`, and count them as sent."""
        group = self.commands[self.sent : self.sent + size]
        self.sent += len(group)
        return group

    def take(self, reply: Reply) -> bool:
        """Take the reply to the next command; return whether it is one that this command can have."""
        self.answered += 1
        refusal = not reply.positive and (reply.transient or reply.permanent)
        verb = reply.command.verb
        if verb == "DATA":
            self.go_ahead = reply.code == 354
            if refusal and self.refused is None:
                self.settle(tuple(self.paths), reply, "data")
            return self.go_ahead or refusal
        if verb == "BDAT":
            return self._take_chunk(reply)
        if verb == "RSET":
            return reply.positive or reply.code == 421
        if verb == "MAIL":
            self.refused = None if reply.positive else reply
            if refusal:
                self.settle(self._asked(), reply, "mail")
            return reply.positive or refusal
        path = _path_of(reply.command)
        if self.refused is None and reply.positive:
            self.paths.append(path)
        elif self.refused is None and refusal:
            self.settle((path,), reply, "rcpt")
        return reply.positive or refusal

    def _take_chunk(self, reply: Reply) -> bool:
        """Take the reply to a chunk. One that is for nobody has no meaning, not even if it is positive."""
        if not (reply.positive or reply.transient or reply.permanent):
            return False
        if self.paths and not self.chunk_refused:
            self.chunk_refused = not reply.positive
            if self.chunk_refused or reply.command.line.endswith(b" LAST\r\n"):
                self.settle(tuple(self.paths), reply, "end-of-data")
        return True

    def cut_short(self, reply: Reply) -> None:
        """Take a 421, to whichever command: it stands for all recipients that have no verdict yet."""
        stages = {"RCPT": "rcpt", "DATA": "data"}
        settled = {verdict.path for verdicts in self._verdicts for verdict in verdicts}
        rest = tuple(path for path in self._asked() if path not in settled)
        self.settle(rest, reply, stages.get(reply.command.verb, "mail"))

    def settle(self, paths: tuple[bytes, ...], reply: Reply, stage: str) -> bool:
        """Note the verdict of `reply` for each path; return whether it is one."""
        accepted, deferred, rejected = self._verdicts
        kind = accepted if reply.positive else deferred if reply.transient else rejected if reply.permanent else None
        if kind is None:
            return False
        kind.extend(Verdict(path, reply, stage) for path in paths)
        return True

    def outcome(self, in_doubt: str = "") -> Outcome:
        """Return the verdicts so far."""
        accepted, deferred, rejected = self._verdicts
        return Outcome(tuple(accepted), tuple(deferred), tuple(rejected), in_doubt)

    def _asked(self) -> tuple[bytes, ...]:
        return tuple(_path_of(command) for command in self.commands if command.verb == "RCPT")

    def _compose(self, extensions: dict[str, str], *, reset: bool, chunking: bool) -> None:
        """Make the commands. What the server is known to refuse gets its verdict here, and so does what can't be sent."""
        letter = self.letter
        everybody = tuple(dict.fromkeys(letter.forward_paths))  # a recipient gets one copy
        limit = extensions.get("SIZE", "")
        if limit.isdecimal() and 0 < int(limit) < letter.octets:
            text = f"the message has {letter.octets} octets, the server takes at most {int(limit)}"
            self.settle(everybody, _refusal(552, "5.3.4", text), "size")
            return
        utf8 = "SMTPUTF8" in extensions
        if not letter.reverse_path.isascii() and not utf8:
            self.settle(everybody, _needs_smtputf8(letter.reverse_path), "mail")
            return
        recipients: list[Command] = []
        sent: list[bytes] = []
        for path in everybody:
            if not path.isascii() and not utf8:
                self.settle((path,), _needs_smtputf8(path), "mail")
                continue
            try:
                recipients.append(core.rcpt(path))
                sent.append(path)
            except LocalProtocolError as error:
                self.settle((path,), _refusal(553, "5.1.3", str(error)), "rcpt")
        try:
            mail = core.mail(
                letter.reverse_path,
                size=letter.octets if "SIZE" in extensions else None,
                body_8bit=letter.eight_bit and "8BITMIME" in extensions,
                smtputf8=utf8 and not (letter.reverse_path + b"".join(sent)).isascii(),
            )
        except LocalProtocolError as error:
            self.settle(tuple(sent), _refusal(553, "5.1.7", str(error)), "mail")
            return
        if recipients:
            end = () if chunking else (core.data(),)
            self.commands = [*([core.rset()] if reset else ()), mail, *recipients, *end]


def _path_of(command: Command) -> bytes:
    return command.line[len(b"RCPT TO:<") : -len(b">\r\n")]


def _needs_smtputf8(path: bytes) -> Reply:
    return _refusal(550, "5.6.7", f"{printable(path, 100)} is not ASCII, and the server doesn't announce SMTPUTF8")


def _refusal(code: int, enhanced: str, text: str) -> Reply:
    return Reply(code, enhanced, (f"{enhanced} {text}".encode(),), core.NOT_SENT)
