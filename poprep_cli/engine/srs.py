"""The Sender Rewriting Scheme: an envelope sender in our own domain from which the original one can be had again.

SRS0 and SRS1 as in Mail::SRS, libsrs2 and PostSRSd, with "=" as separator and hashes of four characters, so that any of
them can reverse our addresses if it has the same secret.
"""

from __future__ import annotations

import re

from poprep_cli.engine.addresses import a_label, written

MAX_LOCAL_PART = 64  # octets, RFC 5321 4.5.3.1.1
MAX_ADDRESS = 254  # octets, RFC 5321 4.5.3.1.3 without the angle brackets
MAX_AGE = 21  # days for which an address can be reversed, as in libsrs2

_HASH_LENGTH = 4
_UNQUOTABLE = frozenset('"\\<> ')
_BASE32 = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
_DAYS = 1 << 10  # after which the two characters of the day begin anew
_SRS0 = re.compile(r"srs0(?P<opaque>[-+=].*)", re.IGNORECASE)
_SRS1 = re.compile(r"srs1[-+=](?P<hash>[^=]*)=(?P<host>[^=]+)=(?P<opaque>[-+=].*)", re.IGNORECASE)
_OURS = re.compile(r"srs0[-+=](?P<hash>[^=]+)=(?P<day>[a-z2-7]{2})=(?P<host>[^=]+)=(?P<local>.+)", re.IGNORECASE)


def forward(sender: str, domain: str, secret: bytes, day: int) -> str:
    """Return the envelope sender to use in `domain`, as its A-label, instead of `sender`; `day`: since 1970, UTC.

    The null sender "" stays null, and a sender in `domain` stays as it is. What an earlier forwarder has rewritten (SRS0)
    becomes SRS1, which names that forwarder and doesn't grow any further. Where the local part would exceed 64 octets
    the sender becomes null: the mail stays deliverable, but a bounce of it is lost. So does a sender that is no address.
    """
    local, _, host = sender.rpartition("@")
    meaning = _meaning(local)
    if not meaning or not host or not sender.isprintable() or not _UNQUOTABLE.isdisjoint(meaning):
        return ""
    if meaning == local and "@" in local:
        return ""
    if (a_label(host) or host.lower()) == (a_label(domain) or domain.lower()):
        return sender
    if not host.isascii():
        host = a_label(host) or host
    domain = domain.removesuffix(".") if domain.isascii() else a_label(domain) or domain
    rewritten = written(_rewritten(meaning, host, secret, day))
    address = f"{rewritten}@{domain}"
    if len(rewritten.encode()) > MAX_LOCAL_PART or len(address.encode()) > MAX_ADDRESS:
        return ""
    return address


def reverse(address: str, secret: bytes, day: int) -> str | None:
    """Return the sender that `forward` has rewritten: from SRS0 the original one, from SRS1 the SRS0 address.

    None if it is no such address, if its hash is not by this secret, or if it is older than 21 days. Letters may have
    changed their case on the way.
    """
    local = _meaning(address.rpartition("@")[0])
    if found := _SRS1.fullmatch(local):
        genuine = _is_genuine(found["hash"], secret, found["host"], found["opaque"])
        return f"{written('SRS0' + found['opaque'])}@{found['host']}" if genuine else None
    found = _OURS.fullmatch(local)
    if not found or not _is_genuine(found["hash"], secret, found["day"], found["host"], found["local"]):
        return None
    stamp = found["day"].upper()
    age = (day - (_BASE32.index(stamp[0]) << 5) - _BASE32.index(stamp[1])) % _DAYS
    return f"{written(found['local'])}@{found['host']}" if age <= MAX_AGE else None


def _meaning(local: str) -> str:
    return local[1:-1] if len(local) > 1 and local.startswith('"') and local.endswith('"') else local


def _rewritten(local: str, host: str, secret: bytes, day: int) -> str:
    if found := _SRS1.fullmatch(local):
        host, opaque = found["host"], found["opaque"]
    elif found := _SRS0.fullmatch(local):
        opaque = found["opaque"]
    else:
        stamp = _BASE32[day % _DAYS >> 5] + _BASE32[day & 31]
        return f"SRS0={_hash(secret, stamp, host, local)}={stamp}={host}={local}"
    return f"SRS1={_hash(secret, host, opaque)}={host}={opaque}"


def _hash(secret: bytes, *parts: str) -> str:
    """Return the start of the HMAC-SHA1 over the parts in small letters: the scheme's own, and enough against guessing."""
    import base64
    import hashlib
    import hmac

    digest = hmac.new(secret, "".join(parts).lower().encode("utf-8", "surrogatepass"), hashlib.sha1).digest()
    return base64.b64encode(digest).decode("ascii")[:_HASH_LENGTH]


def _is_genuine(given: str, secret: bytes, *parts: str) -> bool:
    import hmac

    return hmac.compare_digest(given.lower().encode("utf-8", "surrogatepass"), _hash(secret, *parts).lower().encode())
