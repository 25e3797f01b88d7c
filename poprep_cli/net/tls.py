"""TLS contexts, one per distinct setting, made late because loading the system's certificates takes 20 to 40 ms;
and what is told when TLS fails.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, NoReturn

from poprep_cli.config.model import TlsSettings
from poprep_cli.errors import ConfigError, PoprepError, Stopped, TlsError
from poprep_cli.protocol.wire import printable

if TYPE_CHECKING:
    import ssl

CERTIFICATE_TIMEOUT = 5.0  # seconds for each step on the way to a certificate that only the hint is about

_making = threading.Lock()

_NAME_CODES = (62, 64)  # the name, or the address, is not in the certificate
_ADVICE = {  # by the codes of X509_verify_cert(3)
    9: "it is not valid yet: is this machine's clock right?",
    10: "whoever runs the server must renew it, unless this machine's clock is wrong",
    **dict.fromkeys(_NAME_CODES, "use a name that the certificate is made out to"),
}
_UNKNOWN = "name the file of the CA that issued it by tls_ca_file"
_PORT = 'is this a TLS port? ssl = true is for TLS at connect (995, 465), tls = "required" for STLS or STARTTLS'
_CLIENT = "the server wants to know who we are: tls_client_cert and tls_client_key name the client certificate that it accepts"
_VERSION = 'an old server may need tls_min_version = "1.1" or "1.0"'


def context_for(settings: TlsSettings) -> ssl.SSLContext:
    """Return the client context for `settings`; equal settings share one.

    Raises ConfigError if the CA file or the client certificate can't be used.
    """
    with _making:
        return _make(settings)


@cache
def _make(settings: TlsSettings) -> ssl.SSLContext:
    import ssl

    try:
        context = ssl.create_default_context(cafile=settings.ca_file)
    except OSError as error:
        raise ConfigError(
            f"tls_ca_file {settings.ca_file}: no certificates can be read from it ({_why(error)})"
        ) from error
    if settings.ca_file is not None:
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # what the file names is trusted, a root or not
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of 1.0 and 1.1: the user knows, and every pass says so
        context.minimum_version = getattr(
            ssl.TLSVersion, "TLSv" + settings.min_version.replace(".", "_").removesuffix("_0")
        )
    if settings.min_version in ("1.0", "1.1"):
        # OpenSSL 3 refuses these versions at its usual level. A server without a certificate stays refused.
        context.set_ciphers("DEFAULT:!aNULL:!eNULL:@SECLEVEL=0")
    if settings.fingerprint is not None or not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.client_cert is not None:
        try:
            context.load_cert_chain(settings.client_cert, settings.client_key, password=_no_passphrase)
        except OSError as error:
            raise ConfigError(f"tls_client_cert {settings.client_cert}: it can't be used ({_why(error)})") from error
    return context


def _no_passphrase() -> NoReturn:
    """Take the place of OpenSSL's question on the terminal, which would keep a pass waiting for ever."""
    raise ConfigError(
        "tls_client_key: the key is encrypted, and nobody is there to type its passphrase",
        hint="keep the key in a file without a passphrase that only this user can read",
    )


def server_name(host: str) -> str:
    """Return the name of `host` as certificates have it: without the DNS root's dot and without an IPv6 zone."""
    return host.partition("%")[0].removesuffix(".") or "localhost"


def check_pin(settings: TlsSettings, certificate: bytes | None, server: str) -> None:
    """Raise TlsError unless the DER `certificate` is the pinned one, where `settings` pin one (SHA-256)."""
    if settings.fingerprint is None:
        return
    import hashlib
    import hmac

    found = hashlib.sha256(certificate or b"").hexdigest()
    if not hmac.compare_digest(found, settings.fingerprint):
        raise TlsError(
            f"the certificate of {server} is not the pinned one: its SHA-256 is {found}",
            hint="if the server's certificate was renewed and you trust it, put the new value into tls_fingerprint",
        )


def failure(error: OSError, server: str, expected_name: str) -> TlsError:
    """Return the TlsError that says why the handshake with `server` failed, and what can be done."""
    import ssl

    if isinstance(error, ssl.SSLCertVerificationError):
        why = printable(error.verify_message).rstrip(".")
        return TlsError(
            f"the certificate of {server} is not trusted as that of {expected_name}: {why}",
            hint=_ADVICE.get(error.verify_code, _UNKNOWN),
        )
    return TlsError(f"the TLS handshake with {server} failed: {_why(error)}", hint=_hint(error))


def is_alert(error: OSError) -> bool:
    """Return whether the server ended TLS by an alert.

    With TLS 1.3 the client is done with the handshake before the server has looked at its certificate (RFC 8446 4.4.2.4).
    """
    import ssl

    return isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or "")


def add_fingerprint(error: PoprepError, read: Callable[[], bytes | None]) -> None:
    """Add to an error about a certificate how to pin it. Does nothing to other errors.

    Python keeps the certificate of a failed handshake to itself, so `read` fetches it (DER) over another connection, on
    which nothing is said but what begins TLS. Raises Stopped, and nothing else if that fails.
    """
    import ssl

    cause = error.__cause__
    if not isinstance(cause, ssl.SSLCertVerificationError):
        return
    try:
        certificate = read()
    except Stopped:
        raise
    except PoprepError:
        return
    if not certificate:
        return
    from poprep_cli.net.certificate import read_certificate

    found = read_certificate(certificate, datetime.now(UTC))
    hint = error.hint or ""
    if cause.verify_code in _NAME_CODES and found.names:
        hint += f": {printable(', '.join(found.names), 200)}"
    error.hint = f'{hint}; or, if you know that this is its certificate, pin it: tls_fingerprint = "{found.sha256}"'


def remind(error: PoprepError, told: list[str]) -> None:
    """Put in front of an error's hint what happened on the way: that TLS was wanted and could not be had, and why."""
    if told and not isinstance(error, Stopped):
        error.hint = "; ".join((*told, *((error.hint,) if error.hint else ())))


def unverified(settings: TlsSettings) -> TlsSettings:
    """Return settings that take any certificate and show none of ours: to look at the server's, and for nothing else."""
    return TlsSettings(verify=False, min_version=settings.min_version)


def _hint(error: OSError) -> str:
    reason = str(getattr(error, "reason", None) or "")
    if "ALERT" in reason and any(word in reason for word in ("CERTIFICATE", "UNKNOWN_CA", "HANDSHAKE_FAILURE")):
        return _CLIENT
    if "PROTOCOL_VERSION" in reason or "UNSUPPORTED_PROTOCOL" in reason:
        return _VERSION
    return _PORT


def _why(error: OSError) -> str:
    """Return OpenSSL's or the system's reason, readable and safe to print."""
    if isinstance(error, TimeoutError):
        return "timed out"
    reason = getattr(error, "reason", None)
    if reason:
        return printable(reason.replace("_", " ").lower())
    return printable((error.strerror or str(error) or type(error).__name__).lower())
