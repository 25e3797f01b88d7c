"""Finds the line on which a table or a key stands in a TOML text, for error messages.

tomllib does not say where a value came from. This scanner does, for texts that tomllib has read or nearly so: it knows
headers, quoted and dotted keys, and steps over values. Keys within an inline table are found at the key that holds it.
"""

from __future__ import annotations

import re

_KEY_PART = r"""[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*'"""
_KEY = re.compile(rf"(?:{_KEY_PART})(?:[ \t]*\.[ \t]*(?:{_KEY_PART}))*")
_PART = re.compile(_KEY_PART)
_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)+")
_HEADER_OPEN = re.compile(r"\[{1,2}[ \t]*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_VALUE_PART = re.compile(
    r'"{3}(?:[^"\\]|\\[\s\S]|"(?!""))*"{3,5}'
    r"|'{3}(?:[^']|'(?!''))*'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[{]|[\]}]|\n"
    r"""|[^"'#\[\]{}\n]+"""
    r"""|["']"""
)

Path = tuple[str, ...]


def split_key(text: str) -> Path | None:
    """Return the parts of a dotted key, or None if the text is none."""
    text = text.strip(" \t")
    if not _KEY.fullmatch(text):
        return None
    parts = tuple(_unquoted(part) for part in _PART.findall(text))
    whole = tuple(part for part in parts if part is not None)
    return whole if len(whole) == len(parts) else None


def lines(text: str) -> dict[Path, int]:
    """Return the line, counted from 1, of every table header and key that is found; the first one wins."""
    found: dict[Path, int] = {}
    table: Path = ()
    position, line, counted = 0, 1, 0
    while position < len(text):
        if blank := _BLANK.match(text, position):
            position = blank.end()
            continue
        opening = _HEADER_OPEN.match(text, position)
        key = _KEY.match(text, opening.end() if opening else position)
        parts = split_key(key[0]) if key else None
        if key is None or parts is None:
            position = _end_of_line(text, position)
            continue
        line += text.count("\n", counted, position)
        counted = position
        if opening:
            table = parts
            position = _end_of_line(text, key.end())
        else:
            equals = _EQUALS.match(text, key.end())
            position = _end_of_value(text, equals.end() if equals else key.end())
        found.setdefault(parts if opening else table + parts, line)
    # [a.b] opens `a` as well, but people look for [a] where it is written, if it is anywhere: hence afterwards.
    for path, first in list(found.items()):
        for length in range(1, len(path)):
            found.setdefault(path[:length], first)
    return found


def line_of(found: dict[Path, int], path: Path) -> int | None:
    """Return the line of a key or table, or else of the nearest table around it; None if none of them is written."""
    for length in range(len(path), 0, -1):
        if path[:length] in found:
            return found[path[:length]]
    return None


def _end_of_line(text: str, position: int) -> int:
    end = text.find("\n", position)
    return len(text) if end < 0 else end + 1


def _end_of_value(text: str, position: int) -> int:
    depth = 0
    while position < len(text):
        token = _VALUE_PART.match(text, position)
        if token is None:
            return len(text)
        position = token.end()
        if token[0] in ("[", "{"):
            depth += 1
        elif token[0] in ("]", "}"):
            depth -= 1
        elif token[0] == "\n" and depth <= 0:
            return position
    return position


def _unquoted(part: str) -> str | None:
    if part[0] == "'":
        return part[1:-1]
    if part[0] != '"':
        return part
    import tomllib

    try:
        value = tomllib.loads(f"key = {part}")["key"]
    except ValueError:
        return None
    return value if isinstance(value, str) else None
