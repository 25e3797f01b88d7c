"""The AUTH command of the embedded SMTP server: PLAIN, LOGIN and CRAM-MD5 (RFC 4954, RFC 4616, RFC 2195)."""

from __future__ import annotations

import hmac
from base64 import b64decode, b64encode
from binascii import Error
from collections.abc import Callable
from hashlib import md5
from secrets import token_hex
from typing import TYPE_CHECKING

from poprep_cli.embedded.channel import Channel
from poprep_cli.embedded.sessions import Command
from poprep_cli.embedded.smtp_faults import Stage
from poprep_cli.embedded.smtp_replies import Stages, is_reply

if TYPE_CHECKING:
    from poprep_cli.embedded.smtp import SmtpServer

RESPONSE = "AUTH response"  # the verb under which the session's record has what the client answers to a challenge
MAX_LINE = 510  # octets without CRLF of the AUTH command itself (RFC 5321 4.5.3.1.4)

_ACCEPTED = b"235 2.7.0 authenticated\r\n"
_REFUSED = b"535 5.7.8 user name or password is wrong\r\n"
_NOT_NOW = b"503 5.5.1 not now\r\n"
_NO_BASE64 = b"501 5.5.2 that is not base64\r\n"

Check = Callable[[list[bytes], bytes], bool]


class Authentication:
    """Whether the client of one session has logged in, and the exchange by which it does."""

    def __init__(self, server: SmtpServer, channel: Channel, stages: Stages) -> None:
        self._server = server
        self._channel = channel
        self._stages = stages
        self._write = channel.write
        self._done = False
        self._checks: dict[str, Check] = {
            "PLAIN": self._plain,
            "LOGIN": self._login,
            "CRAM-MD5": self._cram_md5,
        }

    @property
    def missing(self) -> bool:
        """Whether the client must log in before it may send mail."""
        return self._server.user is not None and not self._done

    @property
    def keywords(self) -> tuple[bytes, ...]:
        """What the reply to EHLO says about it, if anything."""
        if not self._offered:
            return ()
        return (b"AUTH " + " ".join(self._server.mechanisms).encode(),)

    @property
    def _offered(self) -> bool:
        return self._server.user is not None and (self._channel.session.tls or self._server.auth_in_clear)

    def forget(self) -> None:
        """Forget who logged in: what came before TLS is void (RFC 3207 4.2)."""
        self._done = False

    def run(self, argument: bytes, *, possible: bool) -> None:
        """Answer AUTH, and go through the exchange to its end. It is not `possible` before EHLO and between MAIL and the end."""
        name, _, initial = argument.partition(b" ")
        mechanism = name.decode("ascii", "replace").upper()
        objection = self._objection(mechanism, argument, possible=possible)
        if objection:
            self._write(objection)
            return
        challenges = _challenges(mechanism)
        if initial and mechanism == "CRAM-MD5":
            self._write(b"501 5.7.0 here the server speaks first\r\n")
            return
        # What it announces and does not know it refuses, unless the faults say otherwise.
        check = self._checks.get(mechanism, lambda _responses, _challenge: False)
        self._exchange(check, challenges, argument, [initial] if initial else [])

    def _objection(self, mechanism: str, argument: bytes, *, possible: bool) -> bytes | None:
        if self._server.user is None:
            return b"502 5.5.1 no AUTH here\r\n"
        if self._done or not possible:
            return _NOT_NOW
        if not self._offered:
            return b"538 5.7.11 not without TLS\r\n"
        if len(b"AUTH " + argument) > MAX_LINE:
            return b"500 5.5.6 the line is too long\r\n"
        if mechanism not in self._server.mechanisms:
            return b"504 5.5.4 no such mechanism\r\n"
        return None

    def _exchange(self, check: Check, challenges: list[bytes], argument: bytes, encoded: list[bytes]) -> None:
        """Ask until every challenge has its response, then give the verdict; the faults may say something else."""
        responses: list[bytes] = []
        stage: Stage = "auth"
        said = argument
        while True:
            for octets in encoded:
                response = _decoded(octets)
                if response is None:
                    self._write(_NO_BASE64)
                    return
                responses.append(response)
            reply = self._stages.choose(stage, said, self._usual(check, challenges, responses))
            self._write(reply)
            self._done = is_reply(reply, b"2")
            if not is_reply(reply, b"3"):
                return
            stage, said = "auth-response", self._channel.line()
            session = self._channel.session
            session.commands.append(Command(RESPONSE, said, session.tls, session.batches))
            if said == b"*":
                self._write(b"501 5.7.0 cancelled\r\n")
                return
            encoded = [said]

    def _usual(self, check: Check, challenges: list[bytes], responses: list[bytes]) -> bytes:
        if len(responses) < len(challenges):
            return b"334 " + b64encode(challenges[len(responses)]) + b"\r\n"
        return _ACCEPTED if check(responses, challenges[0]) else _REFUSED

    def _plain(self, responses: list[bytes], _: bytes) -> bool:
        identity, _, rest = responses[0].partition(b"\0")
        user, _, password = rest.partition(b"\0")
        return identity in (b"", user) and self._is_right(user, password)

    def _login(self, responses: list[bytes], _: bytes) -> bool:
        return self._is_right(responses[0], responses[1])

    def _cram_md5(self, responses: list[bytes], challenge: bytes) -> bool:
        user, _, digest = responses[0].rpartition(b" ")
        wanted = hmac.new(self._server.password, challenge, md5).hexdigest().encode()
        return user == self._server.user and hmac.compare_digest(digest, wanted)

    def _is_right(self, user: bytes, password: bytes) -> bool:
        return user == self._server.user and hmac.compare_digest(password, self._server.password)


def _challenges(mechanism: str) -> list[bytes]:
    """Return what the server says before each response: nothing, a prompt, or what is to be digested."""
    if mechanism == "LOGIN":
        return [b"Username:", b"Password:"]
    return [b"<%s@demo.invalid>" % token_hex(8).encode()] if mechanism == "CRAM-MD5" else [b""]


def _decoded(response: bytes) -> bytes | None:
    """Return what is in a response, None if it is not base64; "=" is an empty one (RFC 4954 4)."""
    try:
        return b"" if response == b"=" else b64decode(response, validate=True)
    except Error:
        return None
