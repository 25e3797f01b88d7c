"""Changes one key of poprep.toml and leaves the rest as people wrote it: comments, order, blank lines."""

from __future__ import annotations

import os
import stat
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from poprep_cli.config.load import accepts, examine, read, refusal
from poprep_cli.config.locate import split_key
from poprep_cli.config.model import Config, Connector, Smtp, dotted, is_secret, keys, quoted, tables
from poprep_cli.config.secrets import readable_by_others
from poprep_cli.errors import ConfigError

if TYPE_CHECKING:
    from tomlkit.items import Item

_NEW_FILE = 0o600
_NEW_FOLDER = 0o700

Where = tuple[str, ...]


def set_value(path: Path, dotted_key: str, text: str, *, literal: bool = False) -> tuple[str, ...]:
    """Set one key in the file at `path`, and return what the configuration still lacks, one sentence each.

    `text` is a TOML value, a text without quotes, or for a key that holds a list also `a,b`; with `literal` it is the
    text itself, whatever it looks like. The file, its folder, and tables that are missing are made, readable by their
    owner only. The file is replaced in one step, keeping its mode and owner; a symbolic link stays, its target changes.

    Raises ConfigError, and writes nothing, if the configuration would hold a fault, other than that something is
    missing so far.
    """
    where = _where(dotted_key)
    if any("\ud800" <= char <= "\udfff" for char in text):  # octets that Python could not decode
        raise ConfigError(f"{dotted(where)}: the value is not UTF-8 text")
    old, status = read(path) if os.path.exists(path) else ("", None)  # noqa: PTH110 - Path's raises where it can't look
    new = _edited(old, path, where, text if literal else _value(_kind(where), text))
    _, faults = examine(new, path, exposed=status is not None and readable_by_others(status))
    if wrong := [fault for fault in faults if not fault.incomplete]:
        raise refusal(new, path, wrong)
    _replace(path, new, status)
    return tuple(f"{dotted(fault.where)}: {fault.text}" if fault.where else fault.text for fault in faults)


def holds_secret(dotted_key: str) -> bool:
    """Return whether the key of this name holds a secret. Raises ConfigError if it is no key."""
    return is_secret(_kind(_where(dotted_key)))


def _where(dotted_key: str) -> Where:
    parts = split_key(dotted_key)
    if parts is None or len(parts) < 2:
        raise ConfigError(
            f"{quoted(dotted_key)} is no key",
            hint="write it as smtp.host, connector.office.enabled or connector.office.pop3.user",
        )
    if parts[0] != "connector":
        return parts
    # Shells eat the quotes of connector."a.b".pop3.host: the name is what is left between `connector` and the rest.
    end = -2 if len(parts) > 3 and parts[-2] in tables(Connector) else -1
    return ("connector", ".".join(parts[1:end]), *parts[end:]) if parts[1:end] else parts


def _kind(where: Where) -> Any:  # noqa: ANN401 - the type of a key, or None if there is no such key
    table: Any = None
    if where[0] == "connector":
        table = Connector if len(where) == 3 else tables(Connector).get(where[2]) if len(where) == 4 else None
    elif len(where) == 2:
        table = Smtp if where[0] == "smtp" else tables(Config).get(where[0])
    key = keys(table).get(where[-1]) if table is not None else None
    return key.type if key is not None else None


def _value(kind: Any, text: str) -> object:  # noqa: ANN401 - the type of a key
    """Return the first reading of the text that its key accepts; without any, the one that reads best in an error."""
    readings: list[object] = [text, [item.strip() for item in text.split(",")]]
    parsed = _parsed(text)
    if parsed is not None:
        readings.insert(0, parsed)
    if kind is None:
        return readings[0]
    return next((reading for reading in readings if accepts(kind, reading)), readings[-1 if "," in text else 0])


def _parsed(text: str) -> object:
    import tomllib

    try:
        data = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return None
    value: object = data["value"] if len(data) == 1 else None
    return None if value != value else value  # noqa: PLR0124 - nan equals nothing, so that no edit of it could be verified


def _edited(old: str, path: Path, where: Where, value: object) -> str:
    import tomllib

    _, faults = examine(old, path)
    if any(fault.line for fault in faults):
        raise refusal(old, path, faults)  # no TOML at all
    wanted = tomllib.loads(old)
    try:
        there = _put(wanted, where, value)
    except (TypeError, AttributeError) as error:
        raise _by_hand(path, where) from error
    # A new table goes to the end of the file: in between it would part a comment from the table it speaks of.
    ways = (_in_place, _appended) if there else (_appended, _in_place)
    for way in ways:
        new = way(old, where, value)
        if new is not None and _means(new, wanted):
            return new
    raise _by_hand(path, where)


def _means(text: str, wanted: dict[str, Any]) -> bool:
    import tomllib

    try:
        return tomllib.loads(text) == wanted
    except ValueError:
        return False


def _by_hand(path: Path, where: Where) -> ConfigError:
    return ConfigError(
        f"{path}: {dotted(where)}: it can't be set in a file of this layout; nothing was changed",
        hint="set it with a text editor, then run `poprep config check`",
    )


def _put(data: dict[str, Any], where: Where, value: object) -> bool:
    """Set a key in plain data, and return whether its table was there before."""
    there = True
    for name in where[:-1]:
        there = there and name in data
        data = data.setdefault(name, {})
    data[where[-1]] = value
    return there


def _in_place(old: str, where: Where, value: object) -> str | None:
    import tomlkit
    from tomlkit.exceptions import TOMLKitError
    from tomlkit.items import InlineTable

    try:
        document = tomlkit.parse(old)
        table: Any = document
        for name in where[:-1]:
            table = table.setdefault(
                name, tomlkit.inline_table() if isinstance(table, InlineTable) else tomlkit.table()
            )
        table[where[-1]] = _item(value)
        new = document.as_string()
    except (TypeError, AttributeError, ValueError, KeyError, TOMLKitError):
        return None  # tomlkit lost its way in an unusual layout
    return _with_line_ends_of(old, new)


def _appended(old: str, where: Where, value: object) -> str:
    space = "" if not old.strip() else "\n" if old.endswith("\n") else "\n\n"
    block = f"[{dotted(where[:-1])}]\n{dotted(where[-1:])} = {_item(value).as_string()}\n"
    return _with_line_ends_of(old, f"{old}{space}{block}")


def _item(value: object) -> Item:
    import tomlkit

    if not isinstance(value, dict):
        return tomlkit.item(value)
    table = tomlkit.inline_table()
    table.update(value)
    return table


def _with_line_ends_of(old: str, new: str) -> str:
    if "\r\n" not in old or "\n" in old.replace("\r\n", ""):
        return new
    return new.replace("\r\n", "\n").replace("\n", "\r\n")


def _replace(path: Path, text: str, status: os.stat_result | None) -> None:
    """Write the file anew beside itself and put it in its place. Raises ConfigError if that fails; the old one stays."""
    import tempfile

    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(mode=_NEW_FOLDER, parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
            file.flush()
            _keep_owner_and_mode(descriptor, status)
            os.fsync(descriptor)
        os.replace(name, target)  # noqa: PTH105 - one style with the calls around it
        _sync_folder(target.parent)
    except OSError as error:
        Path(name).unlink(missing_ok=True)
        raise _unwritable(target, error) from error


def _unwritable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(f"{path}: it can't be written: {error.strerror}; nothing was changed")


def _keep_owner_and_mode(descriptor: int, status: os.stat_result | None) -> None:
    if sys.platform == "win32":
        return
    if status is None:
        os.fchmod(descriptor, _NEW_FILE)
        return
    new = os.fstat(descriptor)
    if (new.st_uid, new.st_gid) != (status.st_uid, status.st_gid):
        os.fchown(descriptor, status.st_uid, status.st_gid)  # else root's edit would lock out the service's own user
    os.fchmod(descriptor, stat.S_IMODE(status.st_mode))


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    with suppress(OSError):  # the file is in its place already; some file systems can't do this
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
