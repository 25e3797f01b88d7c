"""The beginning of a session with an SMTP or LMTP server: EHLO, and STARTTLS, after which it is said once more."""

from __future__ import annotations

from poprep_cli.config.model import Smtp
from poprep_cli.errors import ConnectionFailed, RemoteProtocolError, TlsError
from poprep_cli.net.helo import helo_name
from poprep_cli.net.smtp_link import SmtpLink
from poprep_cli.protocol import smtp as core


def hello(link: SmtpLink, smtp: Smtp) -> dict[str, str]:
    """Introduce ourselves and return the extensions; none after HELO, where EHLO is refused. LMTP has no such way out.

    Raises ReplyError or TemporaryReplyError if the server refuses; ConnectionFailed; RemoteProtocolError; Stopped.
    """
    name = helo_name(smtp, link.stream)
    lmtp = smtp.protocol == "lmtp"
    reply = link.ask(core.ehlo(name, lmtp=lmtp), smtp.timeout)
    if reply.permanent and not lmtp:
        link.require(link.ask(core.helo(name), smtp.timeout), "refuses EHLO and HELO")
        return {}
    link.require(reply, f"refuses {reply.command.verb}")
    return core.parse_extensions(reply)


def start_tls(link: SmtpLink, smtp: Smtp, extensions: dict[str, str]) -> dict[str, str] | None:
    """Do STARTTLS (RFC 3207) and return the extensions inside TLS. With "wanted", None from a server that offers none.

    Raises TlsError if TLS can't be had; with "wanted" every failure is one. Otherwise as `hello`.
    """
    if "STARTTLS" not in extensions:
        if smtp.tls == "wanted":
            return None
        raise TlsError(
            f"{link.stream.server} doesn't offer STARTTLS, and TLS is required",
            hint='ssl = true if it is a TLS port (465); tls = "wanted" sends mail in the clear',
        )
    try:
        link.ask_for_tls(smtp.timeout)
    except (ConnectionFailed, RemoteProtocolError) as error:
        if smtp.tls != "wanted":
            raise
        raise TlsError(f"TLS did not begin after STARTTLS: {error}") from error
    link.encrypt(smtp.tls_settings, smtp.timeout)
    return hello(link, smtp)
