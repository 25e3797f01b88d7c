"""The lines of a journal: what is known of one message, and by which key. Pure: no I/O, no clock.

The format is documented in docs/state.md.
"""

from __future__ import annotations

from binascii import unhexlify
from typing import Any, Literal, get_args

import msgspec

from poprep_cli.protocol.wire import printable

FORMAT = "poprep-state"
VERSION = 1
DIGEST = b"\r\n"  # what no line of a listing, hence no UIDL, has in it
LATE = DIGEST + b"?"  # in place of a digest that is not known before the message has been read

FORGOTTEN: Literal["forgotten"] = "forgotten"  # the status of a line after which a message is unknown
_Status = Literal[
    "seen", "sending", "delivered", "deleted", "held", "badmail", "discarded", "ignored", "oversize", "forgotten"
]
STATUSES = frozenset(get_args(_Status)) - {FORGOTTEN}


class Entry(msgspec.Struct, gc=False):
    """What is known of one message. Times are RFC 3339 in UTC; `extra` are keys that this version does not know.

    `gone` is when the server listed it no more, although nobody here had it deleted; "" while it is listed. `mark` is the
    fingerprint as `packed` gives it, in half the room: there may be hundreds of thousands.
    """

    first_seen: str
    status: str
    at: str
    octets: int = 0
    mark: int | str = ""
    short: bool = False
    gone: str = ""
    extra: dict[str, Any] | None = None

    @property
    def fingerprint(self) -> str:
        """What the message is known by under another UIDL, "" for nothing."""
        return self.mark if isinstance(self.mark, str) else f"{self.mark:032x}"

    @fingerprint.setter
    def fingerprint(self, text: str) -> None:
        self.mark = packed(text)


class Line(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """A line about a message, with no other keys than these."""

    status: _Status
    first_seen: str
    at: str = ""
    uidl: str | None = None
    uidl_b64: str | None = None
    digest: str = ""
    octets: int = 0
    fingerprint: str = ""
    short: bool = False
    gone: str = ""


_decoder = msgspec.json.Decoder(Line)
_encoder = msgspec.json.Encoder()
# Whatever a line may hold: no JSON, JSON of another form, octets that are not UTF-8, a million brackets.
_GARBAGE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def packed(fingerprint: str) -> int | str:
    """Return a fingerprint as an entry has it: a number if it is one of ours (32 hexadecimal digits), else as it is."""
    if len(fingerprint) != 32:
        return fingerprint
    try:
        return int.from_bytes(unhexlify(fingerprint))
    except ValueError:
        return fingerprint


def message_key(uidl: bytes, digest: str) -> bytes:
    """Return what a message is known by: its UIDL, and behind a CRLF the digest of its header where that is not enough."""
    return uidl + DIGEST + digest.encode("ascii") if digest else uidl


def is_late(key: bytes) -> bool:
    """Return whether a listed message's key holds for its session only, until the message has been read."""
    return LATE in key


def named(key: bytes) -> str:
    """Return a message's key for people: its UIDL, and the start of the digest where there is one."""
    uidl, _, digest = key.partition(DIGEST)
    return f"{printable(uidl) or 'without UIDL'} ({printable(digest, 12)})" if digest else printable(uidl)


def plain_uidl(key: bytes) -> str:
    """Return the UIDL of a message's key as text, unaltered where it is text."""
    return key.partition(DIGEST)[0].decode("utf-8", "backslashreplace")


def uidl_keys(key: bytes) -> dict[str, str]:
    """Return the JSON keys and values of a message's key: `uidl`, or `uidl_b64` for octets that are not UTF-8; `digest`."""
    uidl, _, digest = key.partition(DIGEST)
    found = {"digest": digest.decode("ascii", "replace")} if digest else {}
    try:
        return {"uidl": uidl.decode(), **found}
    except UnicodeDecodeError:
        import base64

        return {"uidl_b64": base64.b64encode(uidl).decode("ascii"), **found}


def uidl_from(text: str | None, base64_text: str | None, digest: str = "") -> bytes | None:
    """Return the key that `uidl_keys` wrote, or None if there is none."""
    try:
        if text is not None:
            return message_key(text.encode("utf-8", "surrogatepass"), digest)
        if base64_text is None:
            return None
        import base64

        return message_key(base64.b64decode(base64_text, validate=True), digest)
    except ValueError:
        return None


def decode(lines: bytes) -> list[Line] | None:
    """Return what is on these lines, if all of them are what this version writes: many times faster than one by one."""
    try:
        found = _decoder.decode_lines(lines)
    except _GARBAGE:
        return None
    return found if len(found) == lines.count(b"\n") + 1 else None


def understand(line: bytes) -> tuple[bytes, Line, dict[str, Any] | None] | None:
    """Return the key, the content and the unknown keys of a line about a message; None for garbage."""
    extra = None
    try:
        found = _decoder.decode(line)
    except _GARBAGE:
        try:
            known = msgspec.json.decode(line, type=dict[str, Any])
            extra = {key: known.pop(key) for key in set(known) - set(Line.__struct_fields__)}
            found = msgspec.convert(known, Line)
        except _GARBAGE:
            return None
    uidl = key_of(found)
    return (uidl, found, extra) if uidl is not None else None


def key_of(found: Line) -> bytes | None:
    """Return the key of the message that a line is about, None if it names none."""
    if found.uidl is not None and not found.digest and found.uidl.isascii():
        return found.uidl.encode()
    return uidl_from(found.uidl, found.uidl_b64, found.digest)


def read_line(line: bytes) -> tuple[bytes, Entry] | None:
    """Return the key and the entry of a line about a message, whose status may be FORGOTTEN; None for garbage."""
    understood = understand(line)
    if understood is None:
        return None
    uidl, found, extra = understood
    return uidl, Entry(
        found.first_seen,
        found.status,
        found.at,
        found.octets,
        packed(found.fingerprint),
        found.short,
        found.gone,
        extra,
    )


def first_line(line: bytes) -> dict[str, Any] | None:
    """Return the content of a journal's first line, None if it is another line."""
    try:
        first = msgspec.json.decode(line, type=dict[str, Any])
    except _GARBAGE:
        return None
    return first if first.get("format") == FORMAT else None


def encode_first(header: dict[str, Any]) -> bytes:
    """Return a journal's first line."""
    return _encoder.encode(header) + b"\n"


def as_dict(key: bytes, entry: Entry) -> dict[str, Any]:
    """Return what a line about a message says."""
    found: dict[str, Any] = msgspec.json.decode(encode(key, entry), type=dict[str, Any])
    return found


def encode(uidl: bytes, entry: Entry) -> bytes:
    """Return the line about a message."""
    line: dict[str, Any] = {
        **uidl_keys(uidl),
        "first_seen": entry.first_seen,
        "status": entry.status,
        "at": entry.at,
    }
    if entry.octets:
        line["octets"] = entry.octets
    if fingerprint := entry.fingerprint:
        line["fingerprint"] = fingerprint
    if entry.short:
        line["short"] = True
    if entry.gone:
        line["gone"] = entry.gone
    if entry.extra:
        line.update(entry.extra)
    return _encoder.encode(line) + b"\n"
