"""One SASL exchange, on whatever protocol: makes the mechanism, carries challenges and responses in base64."""

from __future__ import annotations

import base64
import binascii
import secrets
from collections.abc import Callable
from typing import NamedTuple

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.net.stream import Stream
from poprep_cli.protocol.sasl.mechanism import CramMd5, Credentials, External, Login, Mechanism, Plain

MAX_CHALLENGE = 65_536


class Turn(NamedTuple):
    """What the server said. With a challenge (base64) it goes on; without one it is the end, good or bad.

    A challenge with `ok` is a +OK of POP3, which old servers use to go on in the middle, and which else is the end.
    """

    challenge: bytes | None
    ok: bool


def make(method: str, credentials: Credentials, stream: Stream) -> Mechanism:
    """Return the mechanism of a method, ready for its exchange on `stream`.

    Raises LocalProtocolError if this system can't do it, with the reason.
    """
    if method == "external":
        return External(credentials)
    if method == "plain":
        return Plain(credentials)
    if method == "login":
        return Login(credentials)
    if method == "cram-md5":
        cram = CramMd5(credentials)
        try:
            cram.start()
        except ValueError as error:
            raise LocalProtocolError("this system has no MD5") from error
        return cram
    if method in ("ntlm", "msn"):
        from poprep_cli.net.ntlm import Ntlm

        return Ntlm(method.upper(), credentials, stream.channel_binding())
    from poprep_cli.protocol.sasl.scram import Scram

    binding = stream.channel_binding() if method.endswith("-plus") else None
    if method.endswith("-plus") and binding is None:
        raise LocalProtocolError("the TLS session has no channel binding")
    return Scram(method.upper(), credentials, secrets.token_urlsafe(24), binding)


def exchange(
    mechanism: Mechanism,
    begin: Callable[[bytes | None], Turn],
    answer: Callable[[bytes | None], Turn],
    *,
    initial_allowed: int,
) -> bool:
    """Run the exchange and return whether the server accepted.

    `begin` sends AUTH with an initial response or without; `answer` sends a response, or cancels with None: raw octets,
    which they put into base64. An initial response of more than `initial_allowed` octets in base64 waits for the server's
    first challenge.

    Raises RemoteProtocolError if the server breaks the mechanism, or says yes before it proved itself; the exchange is
    cancelled then.
    """
    initial = mechanism.start()
    fits = initial is not None and 4 * ((len(initial) + 2) // 3) <= initial_allowed
    held = None if fits else initial
    turn = begin(initial if fits else None)
    while turn.challenge is not None and not (turn.ok and held is None and mechanism.done):
        try:
            response = held if held is not None else mechanism.respond(_decoded(turn.challenge))
        except RemoteProtocolError:
            if not turn.ok:
                answer(None)
            raise
        held = None
        turn = answer(response)
    if turn.ok:
        mechanism.check_end()
    return turn.ok


def _decoded(challenge: bytes) -> bytes:
    if len(challenge) > MAX_CHALLENGE:
        raise RemoteProtocolError("the server's challenge is too long")
    try:
        return base64.b64decode(challenge.strip(), validate=True)
    except binascii.Error:
        # LOGIN prompts come in clear text from some servers, and their content does not matter.
        return challenge
