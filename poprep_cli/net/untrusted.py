"""The certificate of a POP3 server that is not trusted, for the error to tell its fingerprint."""

from __future__ import annotations

from msgspec.structs import replace

from poprep_cli.config.model import Pop3
from poprep_cli.net import tls
from poprep_cli.net.dialogue import Dialogue
from poprep_cli.net.link import Link
from poprep_cli.net.stop import Stop


def shown_certificate(pop3: Pop3, stop: Stop, dialogue: Dialogue) -> bytes | None:
    """Return the certificate (DER) that the server shows, trusted or not. Nothing is said but STLS.

    Raises ConnectionFailed, TlsError, RemoteProtocolError.
    """
    pop3 = replace(
        pop3,
        tls_settings=tls.unverified(pop3.tls_settings),
        timeout=min(pop3.timeout, tls.CERTIFICATE_TIMEOUT),
    )
    dialogue.tell("connecting once more, only to read the certificate that is not trusted")
    link = Link(pop3, stop, dialogue)
    try:
        if not pop3.ssl:
            link.start_tls()
        return link.stream.certificate()
    finally:
        link.close()
