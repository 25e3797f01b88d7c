"""What in a connector's settings weakens its encryption: told at every pass."""

from __future__ import annotations

from collections.abc import Iterator

from poprep_cli.config.model import Connector, Pop3, Smtp, TlsSettings


def weaknesses(connector: Connector) -> tuple[str, ...]:
    """Return what in a connector's settings weakens or disables TLS, one sentence each; empty if nothing does."""
    pop3, smtp = connector.pop3, connector.smtp
    found = list(_tls_weaknesses("pop3", pop3, local=pop3.address.is_local))
    if pop3.clear_text == "allow":
        found.append('pop3.clear_text = "allow": the password may be sent over a line without encryption')
    found += _tls_weaknesses("smtp", smtp, local=all(address.is_local for address in smtp.addresses))
    if smtp.user is not None and smtp.clear_text == "allow":
        found.append('smtp.clear_text = "allow": the password may be sent over a line without encryption')
    return tuple(found)


def _tls_weaknesses(table: str, server: Pop3 | Smtp, *, local: bool) -> Iterator[str]:
    settings = server.tls_settings
    if not server.ssl and server.tls == "off":
        if not local:
            yield f'{table}.tls = "off": mail travels without encryption'
        if settings != TlsSettings():
            yield f'{table}.tls is "off", so the {table}.tls_... keys have no effect'
        return
    if not server.ssl and server.tls == "wanted":
        yield f'{table}.tls = "wanted": without TLS on the server, or with a bad certificate, it goes on in the clear'
    if not settings.verify and settings.fingerprint is None:
        yield f"{table}.tls_verify = false: anybody on the way can pose as the server"
    if settings.min_version in ("1.0", "1.1"):
        yield f'{table}.tls_min_version = "{settings.min_version}": this version of TLS is broken'
