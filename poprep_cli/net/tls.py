"""TLS contexts: one per distinct setting, made late, because loading the system's certificates takes 20 to 40 ms."""

from __future__ import annotations

import hashlib
import hmac
import threading
from functools import cache
from typing import TYPE_CHECKING

from poprep_cli.config.model import TlsSettings
from poprep_cli.errors import ConfigError, TlsError
from poprep_cli.protocol.wire import printable

if TYPE_CHECKING:
    import ssl

_making = threading.Lock()


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
    context.minimum_version = getattr(
        ssl.TLSVersion, "TLSv" + settings.min_version.replace(".", "_").removesuffix("_0")
    )
    if settings.min_version in ("1.0", "1.1"):
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL 3 refuses these versions at its usual level
    if settings.fingerprint is not None or not settings.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if settings.client_cert is not None:
        try:
            context.load_cert_chain(settings.client_cert, settings.client_key)
        except OSError as error:
            raise ConfigError(f"tls_client_cert {settings.client_cert}: it can't be used ({_why(error)})") from error
    return context


def check_pin(settings: TlsSettings, certificate: bytes | None, server: str) -> None:
    """Raise TlsError unless the DER `certificate` is the pinned one, where `settings` pin one (SHA-256)."""
    if settings.fingerprint is None:
        return
    found = hashlib.sha256(certificate or b"").hexdigest()
    if not hmac.compare_digest(found, settings.fingerprint):
        raise TlsError(
            f"the certificate of {server} is not the pinned one: its SHA-256 is {found}",
            hint="if the server's certificate was renewed and you trust it, put the new value into tls_fingerprint",
        )


def failure(error: OSError, server: str, expected_name: str, certificate: bytes | None = None) -> TlsError:
    """Return the TlsError that says why the handshake with `server` failed, and what can be done."""
    import ssl

    if not isinstance(error, ssl.SSLCertVerificationError):
        return TlsError(
            f"the TLS handshake with {server} failed: {_why(error)}",
            hint='is this a TLS port? ssl = true is for TLS at connect (995, 465), tls = "required" for STLS or STARTTLS',
        )
    hint = f"the certificate must be valid for {expected_name}; name a private CA by tls_ca_file"
    if certificate:
        hint += f', or pin this certificate: tls_fingerprint = "{hashlib.sha256(certificate).hexdigest()}"'
    return TlsError(f"the certificate of {server} is not trusted: {printable(error.verify_message)}", hint=hint)


def _why(error: OSError) -> str:
    return printable(getattr(error, "reason", None) or error.strerror or str(error) or type(error).__name__)
