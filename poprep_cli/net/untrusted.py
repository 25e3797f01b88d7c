"""The certificate of a server that is not trusted, for the error to tell its fingerprint."""

from __future__ import annotations

from msgspec.structs import replace

from poprep_cli.config.model import Address, Pop3, Smtp
from poprep_cli.net import tls
from poprep_cli.net.dialogue import Dialogue
from poprep_cli.net.link import Link
from poprep_cli.net.smtp_hello import hello
from poprep_cli.net.smtp_link import SmtpLink
from poprep_cli.net.stop import Stop
from poprep_cli.net.stream import Stream

_WHY = "connecting once more, only to read the certificate that is not trusted"


def certificate_of_pop3(pop3: Pop3, stop: Stop, dialogue: Dialogue) -> bytes | None:
    """Return the certificate (DER) that the server shows, trusted or not. Nothing is said but STLS.

    Raises ConnectionFailed, TlsError, RemoteProtocolError.
    """
    pop3 = replace(
        pop3,
        tls_settings=tls.unverified(pop3.tls_settings),
        timeout=min(pop3.timeout, tls.CERTIFICATE_TIMEOUT),
    )
    dialogue.tell(_WHY)
    link = Link(pop3, stop, dialogue)
    try:
        if not pop3.ssl:
            link.start_tls()
        return link.stream.certificate()
    finally:
        link.close()


def certificate_of_smtp(address: Address, smtp: Smtp, stop: Stop, dialogue: Dialogue) -> bytes | None:
    """Return the certificate (DER) that the server shows, trusted or not. Nothing is said but EHLO and STARTTLS.

    Raises ConnectionFailed, TlsError, RemoteProtocolError, ReplyError.
    """
    patience = min(smtp.timeout, tls.CERTIFICATE_TIMEOUT)
    dialogue.tell(_WHY)
    link = SmtpLink(Stream.connect(address, patience, stop), dialogue)
    try:
        if not smtp.ssl:
            link.require(link.reply(patience), "refuses the connection")
            hello(link, replace(smtp, timeout=patience))
            link.ask_for_tls(patience)
        link.stream.start_tls(tls.unverified(smtp.tls_settings), patience)
        return link.stream.certificate()
    finally:
        link.close()
