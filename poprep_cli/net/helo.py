"""The name by which we introduce ourselves to an SMTP or LMTP server (RFC 5321 4.1.1.1 and 4.1.4)."""

from __future__ import annotations

from poprep_cli.config.model import Smtp
from poprep_cli.net.stream import Stream, local_name
from poprep_cli.protocol.smtp import is_host


def helo_name(smtp: Smtp, stream: Stream) -> str:
    """Return the name for EHLO: the configured one, else this host's full name, else its address as a literal."""
    if smtp.helo is not None:
        return smtp.helo
    name = local_name()
    if "." in name and is_host(name):
        return name
    address = stream.local_address() or "127.0.0.1"
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
