"""SCRAM-SHA-1 and SCRAM-SHA-256, with and without channel binding (RFC 5802, 7677).

The server is believed only after its signature was checked.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError, TlsError
from poprep_cli.protocol.sasl.mechanism import Credentials
from poprep_cli.protocol.sasl.saslprep import saslprep

MIN_ITERATIONS = 4096  # RFC 5802 5.1
MAX_ITERATIONS = 1_000_000  # more is an attack on our time
MAX_MESSAGE = 65_536

# RFC 5802 7: a nonce of printable characters, salt, iterations, and extensions that may be ignored (those of m may not).
_SERVER_FIRST = r"r=([!-+\--~]+),s=([A-Za-z0-9+/]+={0,2}),i=([1-9][0-9]{0,19})((?:,[A-Za-z]=[^\0,]+)*)"
_SERVER_FINAL = r"v=([A-Za-z0-9+/]+={0,2})((?:,[A-Za-z]=[^\0,]+)*)"
_ITERATIONS = r"(?:^|,)i=([0-9]{1,20})(?:,|$)"


class Scram:
    """One SCRAM exchange. `name` is one of SCRAM-SHA-1, SCRAM-SHA-256, or these with -PLUS.

    `unknown_binding` says afterwards that the server refused because it does not know this type of channel binding.
    """

    def __init__(
        self,
        name: str,
        credentials: Credentials,
        nonce: str,
        channel_binding: tuple[str, bytes] | None = None,
    ) -> None:
        """Prepare the exchange; `channel_binding` is the type (RFC 5929, such as tls-unique) and the data, for -PLUS.

        Without -PLUS in the name the data are not sent, only that there would be some: the flag "y" (RFC 5802 6).
        Raises LocalProtocolError if name or password can't be prepared (SASLprep, RFC 4013).
        """
        self.name = name
        try:
            user, self._password = saslprep(credentials.user), saslprep(credentials.password).encode()
        except ValueError as error:
            raise LocalProtocolError(f"{name} can't be used with this user name or password: {error}") from error
        if not user:
            raise LocalProtocolError(f"{name} needs a user name")
        kind, data = channel_binding or ("", b"")
        bound = channel_binding is not None and name.endswith("-PLUS")
        self._header = f"p={kind},," if bound else "n,," if channel_binding is None else "y,,"
        self._binding = self._header.encode() + (data if bound else b"")
        self._nonce = nonce
        self._bare = f"n={user.replace('=', '=3D').replace(',', '=2C')},r={nonce}"
        self._signature = b""  # which proves that the server knows the password
        self._alarm = _alarm(name) if channel_binding is not None else ""
        self.unknown_binding = False
        self._stage = 0
        self._proved = False

    def start(self) -> bytes | None:
        """Return client-first-message."""
        return (self._header + self._bare).encode()

    def respond(self, challenge: bytes) -> bytes:
        """Return client-final-message to server-first-message, and nothing to server-final-message once it is checked.

        A server-error (RFC 5802 7) is acknowledged too: the refusal that follows says more, and a success is not believed.
        Raises TlsError for the one that says that the server sees another TLS session than we do: another method would
        only give somebody in between what this one denies him.
        """
        if len(challenge) > MAX_MESSAGE:
            raise RemoteProtocolError(f"the server's {self.name} message is too long")
        try:
            text = challenge.decode()
        except UnicodeDecodeError as error:
            raise RemoteProtocolError(f"the server's {self.name} message is not UTF-8") from error
        self._stage += 1
        if self._alarm and self._stage <= 2 and text.partition(",")[0] == self._alarm:
            raise TlsError(
                f"somebody is between us and the server: {self.name} was refused with {self._alarm[2:]}",
                hint="if a TLS proxy of your own stands there, take the scram-...-plus methods out of auth",
            )
        if self._stage <= 2 and text.startswith("e="):
            self._stage = 2
            self.unknown_binding = text.partition(",")[0] == "e=unsupported-channel-binding-type"
            return b""
        try:
            if self._stage == 1:
                return self._first(text)
            if self._stage == 2:
                self._last(text)
                self._proved = True
                return b""
        except ValueError as error:
            raise RemoteProtocolError(
                f"the server's {self.name} message does not prove that it knows the password"
            ) from error
        raise RemoteProtocolError(f"the server sent one {self.name} message too many")

    def _first(self, text: str) -> bytes:
        found = re.search(_ITERATIONS, text)
        if found is None or not MIN_ITERATIONS <= int(found[1]) <= MAX_ITERATIONS:
            raise RemoteProtocolError(
                f"the server wants {found[1] if found else 'no'} {self.name} iterations; "
                f"allowed are {MIN_ITERATIONS} to {MAX_ITERATIONS}"
            )
        first = re.fullmatch(_SERVER_FIRST, text)
        if first is None or not _are_optional(first[4], "rsi"):
            raise ValueError("no server-first-message")
        if not first[1].startswith(self._nonce) or first[1] == self._nonce:
            raise ValueError("the nonce is not ours with the server's behind it")
        return self._final(text, first[1], b64decode(first[2], validate=True), int(first[3]))

    def _final(self, server_first: str, nonce: str, salt: bytes, iterations: int) -> bytes:
        """Return client-final-message, and know what the server's signature has to be (RFC 5802 3)."""
        import hashlib
        import hmac

        digest = "sha256" if self.name.startswith("SCRAM-SHA-256") else "sha1"
        salted = hashlib.pbkdf2_hmac(digest, self._password, salt, iterations)
        client_key = hmac.digest(salted, b"Client Key", digest)
        without_proof = f"c={b64encode(self._binding).decode()},r={nonce}"
        signed = f"{self._bare},{server_first},{without_proof}".encode()
        signature = hmac.digest(hashlib.new(digest, client_key).digest(), signed, digest)
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        self._signature = hmac.digest(hmac.digest(salted, b"Server Key", digest), signed, digest)
        return f"{without_proof},p={b64encode(proof).decode()}".encode()

    def _last(self, text: str) -> None:
        """Check server-final-message. Raises ValueError."""
        import hmac

        found = re.fullmatch(_SERVER_FINAL, text)
        if found is None or not _are_optional(found[2], "v"):
            raise ValueError("no server-final-message")
        if not hmac.compare_digest(b64decode(found[1], validate=True), self._signature):
            raise ValueError("the signature is wrong")

    @property
    def done(self) -> bool:
        """Whether the server's last message was answered."""
        return self._stage >= 2

    def check_end(self) -> None:
        """Raise RemoteProtocolError unless the server's signature was checked (RFC 5802 3)."""
        if not self._proved:
            raise RemoteProtocolError(f"the server said yes without the {self.name} proof that it knows the password")


def _alarm(name: str) -> str:
    """Return the server-error (RFC 5802 7) which says that the two ends don't see the same TLS session."""
    return "e=channel-bindings-dont-match" if name.endswith("-PLUS") else "e=server-does-support-channel-binding"


def _are_optional(extensions: str, before: str) -> bool:
    """Whether a message may be read without its extensions: none is mandatory, and none is there twice."""
    names = [*before, *(part[0] for part in extensions.split(",") if part)]
    return "m" not in names and len(names) == len(set(names))
