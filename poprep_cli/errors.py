"""The exception tree and the exit codes: what went wrong, how bad it is, and what the user can do about it.

Every error that a user may meet is a `PoprepError`. It carries the exit code that cron sees, a hint that says what to
do, and whether trying again later may help. The codes are those of sysexits.h where that has one.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """Process exit codes, a part of the contract with those who script poprep."""

    OK = 0
    PARTIAL = 1
    USAGE = 2
    UNAVAILABLE = 69
    SOFTWARE = 70
    IOERR = 74
    TEMPFAIL = 75
    PROTOCOL = 76
    NOPERM = 77
    CONFIG = 78
    INTERRUPTED = 130
    TERMINATED = 143


_SEVERITY = (
    ExitCode.INTERRUPTED,
    ExitCode.TERMINATED,
    ExitCode.SOFTWARE,
    ExitCode.IOERR,
    ExitCode.CONFIG,
    ExitCode.NOPERM,
    ExitCode.PROTOCOL,
    ExitCode.UNAVAILABLE,
    ExitCode.TEMPFAIL,
    ExitCode.PARTIAL,
    ExitCode.OK,
)


def most_severe(codes: Iterable[int]) -> ExitCode:
    """Return the code that speaks for several connectors; `ExitCode.OK` if there are none.

    A signal outranks everything, then 70, 74, 78, 77, 76, 69, 75, 1, 0.
    """
    return min((ExitCode(code) for code in codes), key=_SEVERITY.index, default=ExitCode.OK)


class PoprepError(Exception):
    """The base of all errors that are told to the user in one sentence.

    `str(error)` is that sentence, without a full stop and never with a secret in it; `hint` says what to do, if there
    is something to do; `temporary` says whether a later pass may succeed without anybody's help.
    """

    exit_code: ClassVar[ExitCode] = ExitCode.SOFTWARE
    temporary: ClassVar[bool] = False
    reason: ClassVar[str] = "error"

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class ConfigError(PoprepError):
    """The configuration can't be used. The message names file, line and key where there are any."""

    exit_code = ExitCode.CONFIG
    reason = "config"


class StateError(PoprepError):
    """The state folder can't be read or written: a full disk, a wrong owner, a symbolic link."""

    exit_code = ExitCode.IOERR
    reason = "state"


class StateLocked(StateError):  # noqa: N818 - the name of a condition, not of a fault
    """Another run works on this connector at this moment."""

    exit_code = ExitCode.TEMPFAIL
    temporary = True
    reason = "locked"


class UidlStorm(PoprepError):  # noqa: N818 - the name of an event
    """Most known messages are gone and there are others, which may be the same ones under new UIDLs."""

    exit_code = ExitCode.TEMPFAIL
    reason = "uidl-storm"


class ConnectionFailed(PoprepError):  # noqa: N818 - the name of an event
    """The network failed: no address, refused, timed out, or dropped in the middle."""

    exit_code = ExitCode.TEMPFAIL
    temporary = True
    reason = "connection"


class TlsError(PoprepError):
    """TLS is required and can't be had: not offered, the handshake failed, the certificate is not trusted."""

    exit_code = ExitCode.PROTOCOL
    reason = "tls"


class LocalProtocolError(PoprepError):
    """We were about to send what the protocol forbids, such as a line break inside an argument."""

    exit_code = ExitCode.SOFTWARE
    reason = "local-protocol"


class RemoteProtocolError(PoprepError):
    """The server sent what the protocol forbids: garbage, an endless line, a reply that nobody asked for."""

    exit_code = ExitCode.PROTOCOL
    reason = "protocol"


class AuthenticationFailed(PoprepError):  # noqa: N818 - the name of an event
    """The server refused the credentials, or no enabled method could be used.

    `rejected_by` is the protocol, POP3 or SMTP, on which credentials were sent and refused; "" if none were sent.
    """

    exit_code = ExitCode.NOPERM
    reason = "authentication"

    def __init__(self, message: str, *, hint: str | None = None, rejected_by: str = "") -> None:
        super().__init__(message, hint=hint)
        self.rejected_by = rejected_by


class ReplyError(PoprepError):
    """The server understood and said no. `reply` is what it said, as a core's reply object."""

    exit_code = ExitCode.UNAVAILABLE
    reason = "refused"

    def __init__(self, message: str, *, reply: object, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.reply = reply


class TemporaryReplyError(ReplyError):
    """The server said no for now: 4yz, [IN-USE], [LOGIN-DELAY], [SYS/TEMP]."""

    exit_code = ExitCode.TEMPFAIL
    temporary = True
    reason = "refused-for-now"


class Stopped(PoprepError):  # noqa: N818 - the name of an event
    """A signal ended the pass. `signal_number` says which; the exit code is 128 plus it, as shells have it."""

    exit_code = ExitCode.INTERRUPTED
    temporary = True
    reason = "stopped"

    def __init__(self, message: str = "stopped by a signal") -> None:
        super().__init__(message)
