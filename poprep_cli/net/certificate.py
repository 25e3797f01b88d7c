"""What a server's certificate says, for people: its names, its issuer, how long it is valid, its fingerprint."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from poprep_cli.protocol.wire import printable

if TYPE_CHECKING:
    from cryptography import x509

_NAME = 200  # characters shown of one name
_NAMES = 100  # names shown; shared hosts have hundreds


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate (RFC 5280). Texts are printable, whatever is in it; `unreadable` says why there are none.

    `names` are the DNS names and IP addresses that it is valid for; `days_left` is negative once it has expired.
    """

    sha256: str
    names: tuple[str, ...] = ()
    subject: str = ""
    issuer: str = ""
    self_signed: bool = False
    valid_from: str = ""
    valid_until: str = ""
    days_left: int | None = None
    key: str = ""
    unreadable: str = ""


def read_certificate(der: bytes, now: datetime) -> Certificate:
    """Return what the certificate `der` says at the time `now` (aware). Never fails: `unreadable` tells of garbage."""
    from cryptography import x509

    sha256 = hashlib.sha256(der).hexdigest()
    try:
        found = x509.load_der_x509_certificate(der)
        begins, ends = _validity(found)
        return Certificate(
            sha256=sha256,
            names=_names(found),
            subject=_name(found.subject),
            issuer=_name(found.issuer),
            self_signed=found.subject == found.issuer,
            valid_from=f"{begins:%Y-%m-%d}",
            valid_until=f"{ends:%Y-%m-%d}",
            days_left=(ends - now).days,
            key=_key(found),
        )
    except Exception as error:  # noqa: BLE001 - whatever a parser says of hostile octets, a look at them must not end in it
        return Certificate(sha256=sha256, unreadable=printable(str(error), _NAME) or type(error).__name__)


def _validity(found: x509.Certificate) -> tuple[datetime, datetime]:
    if hasattr(found, "not_valid_after_utc"):  # since cryptography 42
        return found.not_valid_before_utc, found.not_valid_after_utc
    return found.not_valid_before.replace(tzinfo=UTC), found.not_valid_after.replace(tzinfo=UTC)


def _names(found: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    kinds = (x509.DNSName, x509.IPAddress)
    return tuple(printable(str(name.value), _NAME) for name in names if isinstance(name, kinds))[:_NAMES]


def _name(name: x509.Name) -> str:
    """Return the common name and organization of a subject or issuer, or all of it if it has neither."""
    from cryptography.x509.oid import NameOID

    parts: list[str] = []
    for kind in (NameOID.COMMON_NAME, NameOID.ORGANIZATION_NAME):
        parts += [str(one.value) for one in name.get_attributes_for_oid(kind)]
    return printable(", ".join(dict.fromkeys(parts)) or name.rfc4514_string(), _NAME)


def _key(found: x509.Certificate) -> str:
    key = found.public_key()
    kind = type(key).__name__.strip("_").removesuffix("PublicKey")
    return printable(f"{kind} {getattr(key, 'key_size', '')}".strip(), _NAME)
