"""SCRAM-SHA-1 and SCRAM-SHA-256, with and without channel binding (RFC 5802, 7677), by the scramp library.

The library does the arithmetic and SASLprep; here are the limits and the order of events: the server is believed only
after its signature was checked.
"""

from __future__ import annotations

import re

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError, TlsError
from poprep_cli.protocol.sasl.mechanism import Credentials

MIN_ITERATIONS = 4096  # RFC 5802 5.1
MAX_ITERATIONS = 1_000_000  # more is an attack on our time
MAX_MESSAGE = 65_536

_ITERATIONS = re.compile(r"(?:^|,)i=([0-9]{1,20})(?:,|$)")


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
        from scramp import ScramClient, ScramException

        self.name = name
        self._error = ScramException
        try:
            self._client = ScramClient([name], credentials.user, credentials.password, channel_binding, c_nonce=nonce)
        except (ScramException, ValueError) as error:
            raise LocalProtocolError(f"{name} can't be used with this user name or password") from error
        self._alarm = _alarm(name) if channel_binding is not None else ""
        self.unknown_binding = False
        self._stage = 0
        self._proved = False

    def start(self) -> bytes | None:
        """Return client-first-message."""
        message: str = self._client.get_client_first()
        return message.encode()

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
                self._client.set_server_final(text)
                self._proved = True
                return b""
        except (self._error, ValueError) as error:
            raise RemoteProtocolError(
                f"the server's {self.name} message does not prove that it knows the password"
            ) from error
        raise RemoteProtocolError(f"the server sent one {self.name} message too many")

    def _first(self, text: str) -> bytes:
        found = _ITERATIONS.search(text)
        if found is None or not MIN_ITERATIONS <= int(found[1]) <= MAX_ITERATIONS:
            raise RemoteProtocolError(
                f"the server wants {found[1] if found else 'no'} {self.name} iterations; "
                f"allowed are {MIN_ITERATIONS} to {MAX_ITERATIONS}"
            )
        self._client.set_server_first(text)
        message: str = self._client.get_client_final()
        return message.encode()

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
