"""What a SASL mechanism is, and the simple ones: EXTERNAL, PLAIN, LOGIN, CRAM-MD5."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.protocol.sasl.methods import WORKSTATION

if TYPE_CHECKING:
    import hashlib

MAX_CRAM_CHALLENGE = 4096


class Credentials(msgspec.Struct, frozen=True):
    """Who logs in, and by which secret. `repr` leaves the secret out.

    `domain` and `workstation`, the name that this computer gives itself, are NTLM's.
    """

    user: str
    password: str
    domain: str = ""
    workstation: str = WORKSTATION

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r}, domain={self.domain!r}, workstation={self.workstation!r})"


class Mechanism(Protocol):
    """One exchange in progress. Octets are raw: base64 is the protocol's affair (RFC 4422 4).

    `name` is what AUTH names.
    """

    name: str

    def start(self) -> bytes | None:
        """Return the initial response, or None where the server speaks first."""

    def respond(self, challenge: bytes) -> bytes:
        """Return the response to a challenge. Raises RemoteProtocolError for one that makes no sense."""

    @property
    def done(self) -> bool:
        """Whether all that the client has to say was said: until then a +OK is a challenge of an old server."""

    def check_end(self) -> None:
        """Raise RemoteProtocolError if the server may not say +OK yet, because it has not proved itself."""


class External(msgspec.Struct):
    """EXTERNAL (RFC 4422 A): the client certificate says who it is."""

    credentials: Credentials
    name: str = "EXTERNAL"

    def start(self) -> bytes | None:
        """Return the authorization identity."""
        return self.credentials.user.encode()

    def respond(self, challenge: bytes) -> bytes:
        """Return the identity to a server that asks for it by an empty challenge."""
        if challenge:
            raise RemoteProtocolError("the server sent a challenge where EXTERNAL has none")
        return self.credentials.user.encode()

    @property
    def done(self) -> bool:
        """Whether all was said."""
        return True

    def check_end(self) -> None:
        """Return: there is nothing to prove."""


class Plain(msgspec.Struct):
    """PLAIN (RFC 4616): identity, name and password in one message."""

    credentials: Credentials
    name: str = "PLAIN"

    def start(self) -> bytes | None:
        """Return the message."""
        if "\0" in self.credentials.user + self.credentials.password:
            raise LocalProtocolError("a user name or password with NUL in it can't be sent by PLAIN")
        return b"\0".join((b"", self.credentials.user.encode(), self.credentials.password.encode()))

    def respond(self, challenge: bytes) -> bytes:
        """Raise: PLAIN has no challenge."""
        raise RemoteProtocolError(f"the server sent a challenge of {len(challenge)} octets where PLAIN has none")

    @property
    def done(self) -> bool:
        """Whether all was said."""
        return True

    def check_end(self) -> None:
        """Return: there is nothing to prove."""


class Login(msgspec.Struct):
    """LOGIN: the name, then the password, each to a prompt whose text varies. It was never more than a draft."""

    credentials: Credentials
    name: str = "LOGIN"
    _asked: int = 0

    def start(self) -> bytes | None:
        """Return None: the server prompts first."""
        return None

    def respond(self, challenge: bytes) -> bytes:
        """Return the name to the first prompt and the password to the second, whatever they say."""
        self._asked += 1
        if self._asked > 2:
            raise RemoteProtocolError(
                f"the server prompted again ({len(challenge)} octets) where LOGIN has two prompts"
            )
        return (self.credentials.user if self._asked == 1 else self.credentials.password).encode()

    @property
    def done(self) -> bool:
        """Whether all was said."""
        return self._asked >= 2

    def check_end(self) -> None:
        """Return: there is nothing to prove."""


class CramMd5(msgspec.Struct):
    """CRAM-MD5 (RFC 2195): an HMAC of the server's challenge. `start` raises ValueError where there is no MD5 (FIPS)."""

    credentials: Credentials
    name: str = "CRAM-MD5"
    _answered: bool = False

    def start(self) -> bytes | None:
        """Return None: the server speaks first."""
        _md5()
        return None

    def respond(self, challenge: bytes) -> bytes:
        """Return the name and the keyed digest of the challenge."""
        import hmac

        if self._answered or not challenge or len(challenge) > MAX_CRAM_CHALLENGE:
            raise RemoteProtocolError("the server's CRAM-MD5 challenge is empty, too long, or one too many")
        self._answered = True
        digest = hmac.new(self.credentials.password.encode(), challenge, _md5).hexdigest()
        return self.credentials.user.encode() + b" " + digest.encode("ascii")

    @property
    def done(self) -> bool:
        """Whether all was said."""
        return self._answered

    def check_end(self) -> None:
        """Raise RemoteProtocolError for a success without a challenge."""
        if not self._answered:
            raise RemoteProtocolError("the server said yes before its CRAM-MD5 challenge was answered")


def _md5(data: bytes = b"") -> hashlib._Hash:
    import hashlib

    return hashlib.md5(data, usedforsecurity=False)
