"""One SASL exchange, on whatever protocol: makes the mechanism, carries challenges and responses in base64."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING

import msgspec

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.net.stream import Stream
from poprep_cli.protocol.sasl.mechanism import CramMd5, Credentials, External, Login, Mechanism, Plain
from poprep_cli.protocol.sasl.methods import Candidate

if TYPE_CHECKING:
    from poprep_cli.protocol import pop3, smtp

MAX_CHALLENGE = 65_536


class Trial(msgspec.Struct):
    """A login by `method` alone, and what came of it; it is filled in on the way, so that it tells also of one that failed.

    `candidates` are all enabled methods as this server's announcements judge them, () if the login did not come that far;
    `announcements` is what a `Memory` is compared with. If the method was tried in vain `why` says why: `reply` is the
    server's, None if there was none, and with `local` it can't be done on this system.
    """

    method: str
    candidates: tuple[Candidate, ...] = ()
    announcements: str = ""
    reply: pop3.Reply | smtp.Reply | None = None
    why: str = ""
    local: bool = False


class Turn(msgspec.Struct, frozen=True):
    """What the server said. With a challenge (base64) it goes on; without one it is the end, good or bad.

    A challenge with `ok` is a +OK of POP3, which old servers use to go on in the middle, and which else is the end.
    """

    challenge: bytes | None
    ok: bool


def mechanisms(
    method: str,
    credentials: Credentials,
    stream: Stream,
    *,
    misses_binding: bool = False,
    unknown: set[str],
) -> Iterator[Mechanism]:
    """Yield the mechanism of a method, ready for its exchange on `stream`; the caller takes the next if there is one.

    There is a second one only where the server refused a -PLUS method because it does not know the type of channel
    binding: the same with the other type. `unknown` are the types of which that is known already; it is added to.

    `misses_binding`: a -PLUS method would have been used, but the server announced none. SCRAM then says so (RFC 5802 6, the
    flag "y"), and a server whose announcement was tampered with notices.
    Raises LocalProtocolError if this system can't do it, with the reason.
    """
    if not method.startswith("scram-"):
        yield _without_binding(method, credentials, stream)
        return
    import secrets

    from poprep_cli.protocol.sasl.scram import Scram

    plus = method.endswith("-plus")
    found = _bindings(stream, unknown) if plus or misses_binding else []
    if plus and not found:
        raise LocalProtocolError("the TLS session has no channel binding")
    for binding in found if plus else (found[0] if found else None,):
        scram = Scram(method.upper(), credentials, secrets.token_urlsafe(24), binding)
        yield scram
        if binding is None or not scram.unknown_binding:
            return
        unknown.add(binding[0])


def is_bindable(stream: Stream) -> bool:
    """Return whether the TLS session of `stream` has what the -PLUS methods bind to."""
    return bool(_bindings(stream, ()))


def _bindings(stream: Stream, unknown: Collection[str]) -> list[tuple[str, bytes]]:
    """Return the types of channel binding, with the data, in the order of trying.

    tls-unique is the one that all servers must know (RFC 5802 6.1), and the only one that Cyrus knows, with TLS 1.3 as well;
    others refuse it there, where RFC 9266 does not want it any more.
    """
    found = (("tls-unique", stream.unique_binding()), ("tls-server-end-point", stream.channel_binding()))
    return sorted(((kind, data) for kind, data in found if data), key=lambda binding: binding[0] in unknown)


def _without_binding(method: str, credentials: Credentials, stream: Stream) -> Mechanism:
    """Return the mechanism of a method other than SCRAM."""
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
    from poprep_cli.net.ntlm import Ntlm

    return Ntlm(method.upper(), credentials, stream.channel_binding())


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

    Raises RemoteProtocolError if the server breaks the mechanism, or says yes before it proved itself, and
    LocalProtocolError for a response that must not be sent; the exchange is cancelled then. Raises TlsError if the
    server says that this is not its end of the TLS session.
    """
    initial = mechanism.start()
    fits = initial is not None and 4 * ((len(initial) + 2) // 3) <= initial_allowed
    held = None if fits else initial
    turn = begin(initial if fits else None)
    while turn.challenge is not None and not (turn.ok and held is None and mechanism.done):
        try:
            response = held if held is not None else mechanism.respond(_decoded(turn.challenge))
        except (LocalProtocolError, RemoteProtocolError):
            if not turn.ok:
                answer(None)
            raise
        held = None
        turn = answer(response)
    if turn.ok:
        mechanism.check_end()
    return turn.ok


def _decoded(challenge: bytes) -> bytes:
    import base64
    import binascii

    if len(challenge) > MAX_CHALLENGE:
        raise RemoteProtocolError("the server's challenge is too long")
    try:
        return base64.b64decode(challenge.strip(), validate=True)
    except binascii.Error:
        # LOGIN prompts come in clear text from some servers, and their content does not matter.
        return challenge
