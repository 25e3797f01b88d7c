"""Mail that stays here: held mail that waits for SMTP, and badmail. One .eml and one .json per message, in one folder.

The .eml has the exact octets as received. A message is in the store once its .json is, so a crash leaves no half of one.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from poprep_cli.engine import files
from poprep_cli.engine.state import uidl_from, uidl_keys
from poprep_cli.errors import StateError

if TYPE_CHECKING:
    from poprep_cli.engine.message import Message

_ID = r"[0-9a-f]{8}"


class Refusal(msgspec.Struct, omit_defaults=True):
    """What the SMTP server said of one recipient, and at which stage."""

    recipient: str
    stage: str
    reply: str
    at: str


class Slip(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The .json beside a message: whose it is, to whom it goes, the `Received:` of its arrival, what happened to it."""

    first_seen: str
    since: str
    reverse_path: str
    forward_paths: list[str]
    octets: int
    canonical: bool = True
    eight_bit: bool = False
    listed_octets: int = 0  # what LIST said, if it came shorter
    nul: bool = False
    long_lines: bool = False
    in_doubt: bool = False
    fingerprint: str = ""
    trace: str = ""
    why: str = ""
    deferred_since: str = ""
    outage_since: str = ""  # since then it does not age
    attempts: int = 0
    breaks: int = 0
    refusals: list[Refusal] = []
    uidl: str | None = None
    uidl_b64: str | None = None
    digest: str = ""

    @property
    def is_suspect(self) -> bool:
        """Whether it broke a session, or was refused for good: then it is tried after other mail."""
        return self.breaks > 0 or any(refusal.reply.startswith("5") for refusal in self.refusals)

    @property
    def message_uidl(self) -> bytes:
        """The UIDL as the POP3 server sent it."""
        return uidl_from(self.uidl, self.uidl_b64, self.digest) or b""


class Item(msgspec.Struct, frozen=True):
    """A message in a store. `path` is that of the .eml."""

    path: Path
    slip: Slip

    @property
    def id(self) -> str:
        """Its name for people, see `id_of`."""
        return id_of(self.path)

    def message(self) -> Message:
        """Return the message, its content in the file."""
        from poprep_cli.engine.message import HEADER_OCTETS, Message

        slip = self.slip
        with os.fdopen(files.open_private(self.path, os.O_RDONLY), "rb") as file:
            head = file.read(HEADER_OCTETS)
        end = head.find(b"\r\n\r\n")
        return Message(
            slip.message_uidl,
            slip.octets,
            slip.canonical,
            slip.eight_bit,
            head[: end + 4] if end >= 0 else head,
            file=self.path,
            listed_octets=slip.listed_octets,
            in_doubt=slip.in_doubt,
            nul=slip.nul,
            long_lines=slip.long_lines,
        )


class Store:
    """The folder `held/<connector>` or `badmail/<connector>`; it is made when first used.

    With `only`, names of .eml files, it is a store of these alone, whatever else there is.
    """

    def __init__(self, folder: Path, only: Collection[str] | None = None) -> None:
        self.folder = folder
        self._only = only
        self._count = 0

    def items(self) -> list[Item]:
        """Return what is in the store, oldest first. Raises StateError for what can't be read."""
        return [self.item(path) for path in self.paths()]

    def paths(self) -> list[Path]:
        """Return the .eml of what is in the store, oldest first. Nothing is read."""
        if not self.folder.is_dir():
            return []
        found = [path.with_suffix(".eml") for path in sorted(self.folder.glob("*.json"))]
        # One without its .eml is of a crash while it moved: the other store has it.
        return [path for path in found if (self._only is None or path.name in self._only) and path.exists()]

    def item(self, path: Path) -> Item:
        """Return the message whose .eml is at `path`. Raises StateError if its .json can't be read."""
        beside = path.with_suffix(".json")
        try:
            return Item(path, msgspec.json.decode(files.read_private(beside) or b"", type=Slip))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            kind = self.folder.parent.name
            raise StateError(
                f"{beside} can't be read: {error}",
                hint=f"mend it; or save the mail, which is in the .eml beside it, by `poprep {kind} export {id_of(path)} FILE`, "
                f"and then `poprep {kind} drop {id_of(path)}`",
            ) from error

    def octets(self) -> int:
        """Return the size of what is in the store."""
        return sum(path.stat().st_size for path in self.folder.glob("*.eml")) if self.folder.is_dir() else 0

    def add(self, message: Message, slip: Slip) -> Item:
        """Keep a message, durably. Its file, if it has one, moves here."""
        import secrets

        files.make_folder(self.folder)
        for key, value in uidl_keys(message.uidl).items():
            setattr(slip, key, value)
        self._count += 1
        path = self.folder / f"{time.time_ns():020d}-{self._count:06d}-{secrets.token_hex(4)}.eml"
        if message.file is not None:
            with files.translated(f"move {message.file} to {path}"):
                message.file.replace(path)
            descriptor = files.open_private(path, os.O_RDWR)
        else:
            descriptor = files.open_private(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        with files.translated(f"write {path}"):
            try:
                if message.file is None:
                    for part in message.content():
                        files.write_all(descriptor, part)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        item = Item(path, slip)
        self.update(item)
        return item

    def update(self, item: Item) -> None:
        """Write the slip of a message anew."""
        files.replace(
            item.path.with_suffix(".json"), msgspec.json.format(msgspec.json.encode(item.slip), indent=2) + b"\n"
        )

    def remove(self, item: Item) -> None:
        """Remove a message."""
        with files.translated(f"remove {item.path}"):
            item.path.with_suffix(".json").unlink(missing_ok=True)
            item.path.unlink(missing_ok=True)

    def take(self, item: Item, source: Store) -> Item:
        """Move a message here from another store of the same state folder. A crash leaves it in one of the two."""
        files.make_folder(self.folder)
        moved = Item(self.folder / item.path.name, item.slip)
        self.update(moved)
        with files.translated(f"move {item.path} to {moved.path}"):
            item.path.replace(moved.path)
            files.sync_folder(self.folder)
        source.remove(item)
        return moved

    def sweep(self) -> None:
        """Remove what a crash left behind: halves of a message that the other store has, spool files of a pass that is over."""
        if not self.folder.is_dir():
            return
        with files.translated(f"clean {self.folder}"):
            for path in [*self.folder.glob("*.eml"), *self.folder.glob("*.part"), *self.folder.glob("*.new")]:
                if not path.with_suffix(".json").exists():
                    path.unlink(missing_ok=True)
            for path in self.folder.glob("*.json"):
                if not path.with_suffix(".eml").exists():
                    path.unlink(missing_ok=True)


def id_of(path: Path) -> str:
    """Return what people call a message that is kept: eight hexadecimal digits, the same wherever it moves.

    They end its file name, which `Store.add` made; a name that somebody else gave has them made of it.
    """
    last = path.stem.rpartition("-")[2]
    if re.fullmatch(_ID, last):
        return last
    import hashlib

    return hashlib.sha256(path.stem.encode("utf-8", "surrogateescape")).hexdigest()[:8]


def refusal(recipient: bytes, stage: str, reply: object, at: str) -> Refusal:
    """Return the record of what the server said."""
    return Refusal(recipient.decode("utf-8", "backslashreplace"), stage, str(reply), at)
