"""NTLM, the only user of pyspnego: NTLMv2 in pure Python on Linux and macOS, SSPI on Windows (MS-NLMP, MS-POP3).

On Windows an empty user means the account that runs the task.
"""

from __future__ import annotations

import os
import struct

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.protocol.sasl.mechanism import Credentials

MAX_CHALLENGE = 65_536
_SIGNATURE = b"NTLMSSP\0\x02\0\0\0"


class Ntlm:
    """One NTLM exchange, under the name NTLM or MSN."""

    def __init__(self, name: str, credentials: Credentials, channel_binding: bytes | None = None) -> None:
        """Prepare the exchange. `channel_binding` is the tls-server-end-point data (RFC 5929 4), where there is TLS.

        Raises LocalProtocolError if this system can't do NTLM.
        """
        if os.environ.get("LM_COMPAT_LEVEL", "3") not in ("3", "4", "5"):
            raise LocalProtocolError(
                "LM_COMPAT_LEVEL in the environment asks for NTLMv1, which gives the password away"
            )
        import spnego
        from spnego.channel_bindings import GssChannelBindings
        from spnego.exceptions import SpnegoError

        self.name = name
        self._error = SpnegoError
        self._answered = False
        user, domain = split_user(credentials)
        bindings = (
            GssChannelBindings(application_data=b"tls-server-end-point:" + channel_binding) if channel_binding else None
        )
        try:
            self._context = spnego.client(
                f"{domain}\\{user}" if domain and user else user or None,
                credentials.password or None,
                hostname="",
                service="pop",
                channel_bindings=bindings,
                protocol="ntlm",
            )
        except (SpnegoError, ValueError) as error:
            raise LocalProtocolError(f"NTLM can't be used on this system: {type(error).__name__}") from error

    def start(self) -> bytes | None:
        """Return the negotiate message."""
        return self._context.step() or b""

    def respond(self, challenge: bytes) -> bytes:
        """Return the authenticate message to the server's challenge, whose form is checked first (CVE-2012-3482)."""
        if self._answered or not challenge.startswith(_SIGNATURE) or not 32 <= len(challenge) <= MAX_CHALLENGE:
            raise RemoteProtocolError("the server's NTLM challenge is not one")
        self._answered = True
        try:
            return self._context.step(challenge) or b""
        except (self._error, struct.error, ValueError, LookupError, OverflowError) as error:
            raise RemoteProtocolError("the server's NTLM challenge makes no sense") from error

    @property
    def done(self) -> bool:
        """Whether the server's challenge was answered."""
        return self._answered

    def check_end(self) -> None:
        """Raise RemoteProtocolError for a success without a challenge."""
        if not self._answered:
            raise RemoteProtocolError("the server said yes before its NTLM challenge was answered")


def split_user(credentials: Credentials) -> tuple[str, str]:
    r"""Return user and domain: from the domain setting, DOMAIN\user, or user@domain, which stays whole as a UPN."""
    if credentials.domain:
        return credentials.user, credentials.domain
    domain, backslash, user = credentials.user.partition("\\")
    return (user, domain) if backslash else (credentials.user, "")
