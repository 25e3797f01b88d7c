"""NTLM, the only user of pyspnego: NTLMv2 in pure Python on Linux and macOS, SSPI on Windows (MS-NLMP, MS-POP3).

On Windows an empty user means the account that runs the task. Whoever makes the answer, one of version 1 is not sent.
"""

from __future__ import annotations

import hashlib
import os
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from poprep_cli.errors import LocalProtocolError, RemoteProtocolError
from poprep_cli.protocol.sasl.mechanism import Credentials

MAX_CHALLENGE = 65_536
VERSION_1 = 24  # octets of a response of version 1, or of LM (MS-NLMP 2.2.2.6); one of version 2 has at least 44
ON_WINDOWS = os.name == "nt"

_CHALLENGE = b"NTLMSSP\0\x02\0\0\0"
_AUTHENTICATE = b"NTLMSSP\0\x03\0\0\0"
_naming = threading.Lock()


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
        user, domain = split_user(credentials)
        if not ON_WINDOWS:
            if not user:
                raise LocalProtocolError("without a user it logs in as the account that runs the task, on Windows only")
            _need_md5()
        import spnego
        from spnego.channel_bindings import GssChannelBindings
        from spnego.exceptions import SpnegoError

        self.name = name
        self._error = SpnegoError
        self._answered = False
        self._workstation = credentials.workstation
        bindings = (
            GssChannelBindings(application_data=b"tls-server-end-point:" + channel_binding) if channel_binding else None
        )
        try:
            self._context = spnego.client(
                # As an object: a text of 32:32 hexadecimal digits would be taken for a hash of the password, and no
                # password for whoever runs the task.
                spnego.Password(f"{domain}\\{user}" if domain else user, credentials.password) if user else None,
                hostname="",
                service="pop",
                channel_bindings=bindings,
                protocol="ntlm",
                # Not through GSSAPI: what its NTLM sends is for another configuration to decide.
                options=spnego.NegotiateOptions.use_sspi if ON_WINDOWS else spnego.NegotiateOptions.use_ntlm,
            )
        except (SpnegoError, ValueError, ImportError) as error:
            raise LocalProtocolError(f"NTLM can't be used on this system: {type(error).__name__}") from error

    def start(self) -> bytes | None:
        """Return the negotiate message. Raises LocalProtocolError if this system can't make one."""
        try:
            return self._context.step() or b""
        except self._error as error:
            raise LocalProtocolError(f"NTLM can't be used on this system: {type(error).__name__}") from error

    def respond(self, challenge: bytes) -> bytes:
        """Return the authenticate message to the server's challenge, whose form is checked first (CVE-2012-3482).

        Raises RemoteProtocolError for what is no challenge, LocalProtocolError for an answer that must not be sent.
        """
        if self._answered or not challenge.startswith(_CHALLENGE) or not 32 <= len(challenge) <= MAX_CHALLENGE:
            raise RemoteProtocolError("the server's NTLM challenge is not one")
        self._answered = True
        try:
            with _known_as(self._workstation):
                message = self._context.step(challenge) or b""
        except (self._error, struct.error, ValueError, LookupError, OverflowError) as error:
            raise RemoteProtocolError("the server's NTLM challenge makes no sense") from error
        _refuse_version_1(message)
        return message

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


def _need_md5() -> None:
    """Raise LocalProtocolError where MD5 is forbidden (FIPS): pyspnego does not ask for it as one that secures nothing."""
    try:
        hashlib.md5(b"")  # noqa: S324 - only to see whether it is there
    except ValueError as error:
        raise LocalProtocolError("this system has no MD5") from error


@contextmanager
def _known_as(workstation: str) -> Iterator[None]:
    """Let pyspnego tell this name of the computer. It knows no argument for it: only the environment, or the host's name.

    One exchange at a time, and nothing that a child process would inherit. SSPI tells the name that Windows has.
    """
    from spnego import _ntlm

    with _naming:
        theirs = _ntlm._get_workstation  # noqa: SLF001 - the name is asserted on the wire by a test
        _ntlm._get_workstation = lambda: workstation or None  # noqa: SLF001
        try:
            yield
        finally:
            _ntlm._get_workstation = theirs  # noqa: SLF001


def _refuse_version_1(message: bytes) -> None:
    """Raise LocalProtocolError unless the NtChallengeResponse is one of version 2 (MS-NLMP 2.2.1.3).

    With such a one the LmChallengeResponse is of version 2 as well, or zeros (3.3.2).
    """
    length = struct.unpack_from("<H", message, 20)[0] if len(message) >= 64 else 0
    if not message.startswith(_AUTHENTICATE) or length <= VERSION_1:
        raise LocalProtocolError("this system would answer by NTLMv1, which gives the password away")
