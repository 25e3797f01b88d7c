"""One value of poprep.toml: from what TOML has to what the model wants, or what is wrong with it and what is allowed."""

from __future__ import annotations

import math
import re
from functools import cache
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import msgspec
from msgspec.structs import replace

from poprep_cli.config.model import Address, Form, Matching, Secret, quoted

_LABEL = r"\w(?:[\w-]{0,61}\w)?"
_HOST = rf"{_LABEL}(?:\.{_LABEL})*\.?"


class NotAllowedError(Exception):
    """A value is not what its key allows; carries what is wrong and what is allowed."""


@cache
def bare_type(kind: Any) -> tuple[Any, tuple[Any, ...]]:  # noqa: ANN401 - a type
    """Return a key's type without `| None` and without its annotations, and the annotations."""
    if NoneType in get_args(kind):
        return bare_type(next(option for option in get_args(kind) if option is not NoneType))
    if get_origin(kind) is Annotated:
        inner, *notes = get_args(kind)
        return inner, tuple(notes)
    return kind, ()


def converted(kind: Any, value: object) -> Any:  # noqa: ANN401 - a type, and a value of it
    """Return `value` as the model's type `kind`. Raises NotAllowedError."""
    bare, notes = bare_type(kind)
    if bare is Secret:
        return _secret(value)
    if bare is Address:
        return _address(value)
    if get_origin(bare) is tuple:
        return _list(kind, get_args(bare)[0], value)
    if isinstance(value, str) and any(char in value for char in "\r\n\0"):
        raise NotAllowedError(f"a line break or NUL is not allowed; allowed: {allowed(kind)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise refused(kind, value)
    try:
        made = msgspec.convert(value, kind, strict=True)
    except msgspec.ValidationError:
        raise refused(kind, value) from None
    if any(isinstance(note, Matching) and not re.search(note.pattern, made) for note in notes):
        raise refused(kind, value)
    return made.replace(":", "").lower() if Form.FINGERPRINT in notes else made


def _list(kind: object, item: object, value: object) -> tuple[Any, ...]:
    if item is Address and isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not value:
        if value == [] and not any(getattr(note, "min_length", None) for note in bare_type(kind)[1]):
            return ()
        raise refused(kind, value)
    items = tuple(converted(item, each) for each in value)
    if twice := next((each for each, one in zip(value, items, strict=True) if items.count(one) > 1), None):
        raise NotAllowedError(f"{shown(twice)} is there twice; allowed: each once")
    return items


def _secret(value: object) -> Secret:
    if isinstance(value, str):
        if not value or any(char in value for char in "\r\n\0"):
            flaw = "a line break or NUL in it" if value else "an empty one"
            raise NotAllowedError(f"{flaw} is not allowed; allowed: {allowed(Secret)}")
        return Secret(value=value)
    sources = Secret.__struct_fields__[1:]
    if not isinstance(value, dict):
        raise refused(Secret, value)
    if len(value) != 1 or next(iter(value)) not in sources:
        raise NotAllowedError(f"this table is not allowed, it must have exactly one key; allowed: {', '.join(sources)}")
    ((source, place),) = value.items()
    words = place if source == "command" and isinstance(place, list) else [place]
    if not words or not all(isinstance(word, str) and "\0" not in word for word in words) or not words[0]:
        what = "a text, or a list of the program and its arguments" if source == "command" else "a text"
        raise NotAllowedError(f"the value of {source} is not allowed; allowed: {what}, not empty, without NUL")
    if source == "env" and "=" in words[0]:
        raise NotAllowedError("the value of env is not allowed; allowed: the name of an environment variable")
    return replace(Secret(), **{source: tuple(words) if isinstance(place, list) else place})


def _address(value: object) -> Address:
    if not isinstance(value, str):
        raise refused(Address, value)
    if value.startswith("unix:/") and value.isprintable():
        return Address("", path=value.removeprefix("unix:"))
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", value) if value.startswith("[") else None
    if bracketed:
        host, port = _ipv6(bracketed[1]), bracketed[2]
    elif value.count(":") > 1:
        host, port = _ipv6(value), None
    else:
        name, colon, digits = value.partition(":")
        host, port = _host(name), digits if colon else None
    if not host:
        raise refused(Address, value)
    if port is None:
        return Address(host)
    if not (port.isascii() and port.isdigit() and len(port) <= 5) or not 1 <= int(port) <= 65_535:
        raise refused(Address, value)
    return Address(host, int(port))


def _host(name: str) -> str:
    """Return a host name or IPv4 address in small letters, or an empty text if it is none."""
    if len(name) > 253 or not re.fullmatch(_HOST, name):
        return ""
    labels = name.rstrip(".").split(".")
    if labels[-1].isdigit():  # never a name: a resolver would make a number of it
        right = len(labels) == 4 and all(
            part.isascii() and part.isdigit() and len(part) <= 3 and str(int(part)) == part and int(part) < 256
            for part in labels
        )
        return name if right else ""
    if not name.isascii():
        try:
            name.encode("idna")
        except UnicodeError:
            return ""
    return name.lower()


def _ipv6(text: str) -> str:
    """Return an IPv6 address, with its zone if it has one, in its shortest form, or an empty text if it is none."""
    import ipaddress

    if not re.fullmatch(r"[0-9A-Fa-f:.]+(?:%[0-9A-Za-z_.-]+)?", text):
        return ""
    try:
        return str(ipaddress.IPv6Address(text))
    except ValueError:
        return ""


def refused(kind: object, value: object) -> NotAllowedError:
    """Return the error that says that `value` is not allowed, and what is."""
    # Somebody may have written a URL with a password in it: what has an @ is not shown.
    text = "this" if isinstance(value, str) and "@" in value else shown(value)
    return NotAllowedError(f"{text} is not allowed; allowed: {allowed(kind)}")


def shown(value: object) -> str:
    """Return a value as a message may show it: short, and never a table, which may hold a secret."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return str(value) if abs(value) < 2**64 or isinstance(value, float) else "this number"
    if isinstance(value, str):
        return quoted(value if len(value) <= 60 else f"{value[:60]}...")
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return "a table" if isinstance(value, dict) else "a date or time"


def allowed(kind: object) -> str:
    """Return what a key of this type may have, for people."""
    bare, notes = bare_type(kind)
    for note in notes:
        if isinstance(note, msgspec.Meta) and note.description:
            return note.description
    if get_origin(bare) is Literal:
        return ", ".join(quoted(choice) if isinstance(choice, str) else str(choice) for choice in get_args(bare))
    if get_origin(bare) is tuple:
        item = get_args(bare)[0]
        each = allowed(item)
        return f'{each}, "unix:/path" for LMTP, or a list of these' if item is Address else f"a list, each of it {each}"
    return _ALLOWED.get(bare, "something else")


_ALLOWED: dict[object, str] = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "a text",
    Address: 'a name, "name:port" or "[::1]:port", with a port from 1 to 65535',
    Secret: "a text, or { env = ... }, { file = ... }, { command = ... } or { keyring = ... }",
}
