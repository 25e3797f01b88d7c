"""Addresses in header fields (RFC 5322 3.4), read tolerantly but never guessed.

Any octets are survived, in time linear to their number. What stands in a comment, a quoted string, an encoded word or
a display name is never an address. Where brackets, quotes or @ don't pair up, what they spoil is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_DOMAIN = 253  # RFC 1035 2.3.4, as text
MAX_LABEL = 63

_TOKEN = re.compile(
    r"""(?P<space>[ \t]++)
      | (?P<quoted>"[^"\\]*+(?:\\.[^"\\]*+)*+")
      | (?P<word>=\?[^?\s]{1,80}\?[bBqQ]\?[^?]*+\?=)     # an encoded word (RFC 2047), also with blanks or commas in it
      | (?P<literal>\[[^\[\]\\\s<>",;@]*+\])
      | (?P<atom>(?:[^\s"(),:;<>@\[\]\\=]|=(?!\?[^?\s]{1,80}\?[bBqQ]\?))++)
      | (?P<open>\()
      | (?P<special>[<>@,:;])
      | (?P<junk>.)""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"[^()\\]*+(?:\\.[^()\\]*+)*+([()])", re.DOTALL)
_FOLD = re.compile(r"\r?\n(?=[ \t])")
_PAIR = re.compile(r"\\(.)", re.DOTALL)
_DOTS = str.maketrans("\u3002\uff0e\uff61", "...")  # RFC 3490 3.1
_ALSO = "-\u00b7\u200c\u200d\u30fb"  # what a label may have besides letters, marks and digits (RFC 5892 2.6)
_NAME = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?(?:\.[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?)*")
_LITERAL = re.compile(r"\[[0-9a-z:.]+\]")
_DOT_ATOM = re.compile(r"[^\s\"(),:;<>@\[\]\\.]+(?:\.[^\s\"(),:;<>@\[\]\\.]+)*")
# A mail system may take these for a route to elsewhere (a%b@here, a!b@here, "a@b"@here), a file or a program.
_RISKY = frozenset('@%!/|<>"\\ ')


class AddressSpec(NamedTuple):
    """An addr-spec (RFC 5322 3.4.1): the meaning of its local part without quotes, and its domain as written."""

    local: str
    domain: str


class _Token(NamedTuple):
    kind: str
    text: str
    spaced: bool  # a blank or a comment stands in front of it


def addresses(value: bytes) -> Iterator[AddressSpec]:
    """Yield the addresses that a field's value names, in their order, without those that can't be read for certain.

    Commas and semicolons separate, and so does the end of `<...>`. Groups are entered, obsolete routes dropped. Several
    addresses with mere blanks between them are read if none is in angle brackets. Octets that are not UTF-8 spoil only
    the address they are in.
    """
    element: list[_Token] = []
    angle: list[_Token] | None = None
    for token in _tokens(_FOLD.sub("", value.decode("utf-8", "surrogateescape")).rstrip("\r\n")):
        mark = token.text if token.kind == "special" else ""
        if mark == "<":
            angle, element = [], []  # what stood in front is a display name, or an angle that was never closed
        elif angle is not None:
            if mark == ">":
                yield from _specs(_without_route(angle))
                angle = None
            else:
                angle.append(token)
        elif mark == ":":
            element = []  # the name of a group, or "mailto:"
        elif mark and mark in ",;>":
            yield from _bare(element)
            element = []
        else:
            element.append(token)
    if angle is None:
        yield from _bare(element)


def local_part(meaning: str) -> str | None:
    """Return a local part as SMTP writes it (RFC 5321 4.1.2), quoted if it must be.

    None for one that is empty, has blanks or what doesn't print, begins with a dot, or has one of @ % ! / | < > " and
    backslash, with which a header could address something else than a mailbox of the domain.
    """
    if not meaning or meaning.startswith(".") or not meaning.isprintable() or not _RISKY.isdisjoint(meaning):
        return None
    return written(meaning)


def written(meaning: str) -> str:
    """Return a local part in quotes if it is no dot-atom (RFC 5322 3.2.3). A quote or backslash in it is not allowed."""
    return meaning if _DOT_ATOM.fullmatch(meaning) else f'"{meaning}"'


def a_label(domain: str) -> str | None:
    """Return a domain in the form in which two are compared: A-labels (RFC 5890), small letters, no dot at the end.

    Unicode labels are normalised (NFKC) and lowered; unlike IDNA 2003, a sharp s stays one. An address literal keeps its
    brackets. None if it is no domain, or too long for one.
    """
    if len(domain) > MAX_DOMAIN + 1:
        return None
    name = domain.lower()
    if _LITERAL.fullmatch(name):
        return name
    if not name.isascii():
        labels = [_encoded(label) for label in name.translate(_DOTS).split(".")]
        name = ".".join(labels)
    name = name.removesuffix(".")
    if len(name) > MAX_DOMAIN or not _NAME.fullmatch(name) or any(len(part) > MAX_LABEL for part in name.split(".")):
        return None
    return name


def _encoded(label: str) -> str:
    import unicodedata

    label = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", label).lower())
    if label.isascii():
        return "?" if "." in label else label
    if len(label) > MAX_LABEL or any(
        unicodedata.category(char)[0] not in "LMN" and char not in _ALSO for char in label
    ):
        return "?"  # which is no label
    return "xn--" + label.encode("punycode").decode("ascii")


def _tokens(text: str) -> Iterator[_Token]:
    """Yield the tokens up to a comment or a quoted string that doesn't end: what follows can't be told apart."""
    place, spaced = 0, True
    while found := _TOKEN.match(text, place):
        place, kind = found.end(), str(found.lastgroup)
        if kind == "open":
            place = _comment_end(text, place)
        if kind in ("space", "open"):
            spaced = True
            continue
        if found[0] == '"':
            yield _Token("junk", "", spaced)
            return
        yield _Token(kind, found[0], spaced)
        spaced = False


def _comment_end(text: str, place: int) -> int:
    """Return where the comment ends whose parenthesis was just before `place`; past the text if it never does."""
    depth = 1
    while depth:
        found = _COMMENT.match(text, place)
        if not found:
            return len(text)
        place = found.end()
        depth += 1 if found[1] == "(" else -1
    return place


def _without_route(angle: list[_Token]) -> list[_Token]:
    """Drop an obsolete route, `@a.example,@b.example:` (RFC 5322 4.4)."""
    if not angle or angle[0].text != "@":
        return angle
    colon = next((place for place, token in enumerate(angle) if token.text == ":"), -1)
    route = angle[: max(colon, 0)]
    return angle[colon + 1 :] if all(token.kind == "atom" or token.text in "@," for token in route) else []


def _specs(tokens: list[_Token]) -> Iterator[AddressSpec]:
    """Yield the address if the tokens are one and nothing else, blanks around dots and @ allowed (RFC 5322 4.4)."""
    at = [place for place, token in enumerate(tokens) if token.kind == "special"]
    if len(at) != 1 or tokens[at[0]].text != "@":
        return
    local, domain = _joined(tokens[: at[0]], "quoted"), _joined(tokens[at[0] + 1 :], "literal")
    if local and domain:
        yield AddressSpec(local, domain)


def _joined(tokens: list[_Token], also: str) -> str:
    """Return what words joined by dots mean; "" if they are something else."""
    parts: list[str] = []
    joint = True
    for token in tokens:
        if token.kind not in ("atom", also) or not (joint or token.text.startswith(".")):
            return ""
        parts.append(_PAIR.sub(r"\1", token.text[1:-1]) if token.kind == "quoted" else token.text)
        joint = token.kind == "atom" and token.text.endswith(".")
    return "".join(parts)


def _bare(element: list[_Token]) -> Iterator[AddressSpec]:
    """Yield the address that an element without angle brackets is, or else those among its words.

    Nothing if there is a bracket, a quote or an encoded word in it that doesn't end.
    """
    found = list(_specs(element))
    if found or any(token.kind == "junk" for token in element):
        yield from found
        return
    chunk: list[_Token] = []
    for token in element:
        if token.spaced:
            yield from _specs(chunk)
            chunk = []
        chunk.append(token)
    yield from _specs(chunk)
