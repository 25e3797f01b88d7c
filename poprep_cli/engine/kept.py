"""What people do with mail that is kept here, held mail and badmail: find it, save it, give it up, try it once more."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

from poprep_cli.config.model import Connector
from poprep_cli.engine import clock, files
from poprep_cli.engine.delivery import Delivery
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import Journal, named
from poprep_cli.engine.store import Item, Slip, Store, id_of
from poprep_cli.engine.visit import Surroundings, Visit, survivable, told
from poprep_cli.errors import PoprepError, ReplyError, StateError
from poprep_cli.net.stop import Stop
from poprep_cli.protocol.wire import printable

Kind = Literal["badmail", "held"]

NOUNS: dict[Kind, str] = {"badmail": "badmail", "held": "held mail"}
SHOWN = 10  # ids that an error names
_PART = 1 << 16
_FOR = re.compile(r"(?:\r\n\tfor <[^<>\r\n]*>)?;(?=\r\n\t[A-Z][a-z]{2}, )")  # as `Trace.front` writes it


@dataclass(frozen=True, slots=True)
class Kept:
    """A message in held/ or badmail/. `path` is that of the .eml. Without a slip, `flaw` says why it can't be read."""

    kind: Kind
    connector: str
    path: Path
    slip: Slip | None
    flaw: str = ""

    @property
    def id(self) -> str:
        """Its name for people."""
        return id_of(self.path)

    @property
    def store(self) -> Store:
        """The store that has it."""
        return Store(self.path.parent)


# ---------------------------------------------------------------------- finding


def connectors_with_mail(state_dir: Path, kind: Kind) -> list[str]:
    """Return the names of the connectors that have a folder here, whether or not they are still in the configuration."""
    folder = state_dir / kind
    with files.translated(f"read {folder}"):
        if not folder.is_dir():
            return []
        return sorted(place.name for place in folder.iterdir() if place.is_dir() and not place.is_symlink())


def survey(state_dir: Path, kind: Kind, connectors: Collection[str] = ()) -> list[Kept]:
    """Return what is kept, oldest first, of these connectors or of all. No lock is taken; what can't be read is there too."""
    wanted = {name.lower() for name in connectors}
    found: list[Kept] = []
    for name in connectors_with_mail(state_dir, kind):
        if not wanted or name.lower() in wanted:
            found += _in_folder(kind, name, state_dir / kind / name)
    return sorted(found, key=lambda kept: kept.path.name)


def _in_folder(kind: Kind, connector: str, folder: Path) -> Iterator[Kept]:
    store = Store(folder)
    for path in store.paths():
        try:
            yield Kept(kind, connector, path, store.item(path).slip)
        except StateError as error:
            if path.with_suffix(".json").exists():  # else a pass took it away at this moment
                yield Kept(kind, connector, path, None, str(error))
    if kind == "badmail":  # in held/ it may be a message that is just being written, and a pass cleans up there
        for path in folder.glob("*.eml"):
            if not path.with_suffix(".json").exists():
                yield Kept(kind, connector, path, None, f"{path.with_suffix('.json')} is missing")


def find(items: Sequence[Kept], words: Iterable[str]) -> list[Kept]:
    """Return the messages that `words` name: an id or its beginning, a file's name, or its path.

    Raises LookupError, with a sentence for people, for what names none or several.
    """
    found: dict[Path, Kept] = {}
    for word in words:
        matches = [kept for kept in items if kept.id == word.lower() or _is_file(kept, word)]
        matches = matches or [kept for kept in items if word and kept.id.startswith(word.lower())]
        if len(matches) != 1:
            raise LookupError(_unclear(word, matches, items))
        found[matches[0].path] = matches[0]
    return list(found.values())


def _is_file(kept: Kept, word: str) -> bool:
    names = {kept.path.name, kept.path.with_suffix(".json").name, kept.path.stem}
    return word in names or (
        Path(word).name in names and Path(word).absolute().with_suffix(".eml") == kept.path.absolute()
    )


def _unclear(word: str, matches: Sequence[Kept], items: Sequence[Kept]) -> str:
    listed = ", ".join(f"{kept.id} ({kept.connector})" for kept in (matches or items)[:SHOWN])
    more = len(matches or items) - SHOWN
    listed += f" and {more} more" if more > 0 else ""
    if len({kept.id for kept in matches}) == 1:
        return f"{word!r} is the id of several: name one by the path of its file, such as {matches[0].path}"
    if matches:
        return f"{word!r} could be any of {listed}: type more of it"
    return (
        f"there is no message {word!r} here; there are: {listed}"
        if items
        else f"there is no message {word!r} here, nor another"
    )


# ---------------------------------------------------------------------- saving


def content(kept: Kept) -> Iterator[bytes]:
    """Yield the exact octets as received, in parts. Raises StateError."""
    with os.fdopen(files.open_private(kept.path, os.O_RDONLY), "rb", buffering=0) as file:
        while part := file.read(_PART):
            yield part


def export(kept: Kept, target: Path) -> Path:
    """Write the exact octets to the file `target`, or into the folder of that name, durably, and return the file.

    Raises StateError, also if the file exists; then nothing is left of it.
    """
    if target.is_dir():
        target /= f"{kept.connector}-{kept.id}.eml"
    parts = content(kept)
    first = next(parts, b"")  # what can't be read makes no file
    descriptor = files.open_private(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    try:
        with files.translated(f"write {target}"):
            files.write_all(descriptor, first)
            for part in parts:
                files.write_all(descriptor, part)
            os.fsync(descriptor)
    except BaseException:
        os.close(descriptor)
        target.unlink(missing_ok=True)
        raise
    os.close(descriptor)
    return target


# ---------------------------------------------------------------------- giving up


def drop(state_dir: Path, connector: str, items: Sequence[Kept]) -> list[Kept]:
    """Remove messages of one connector for good, under its lock; return those that were still there.

    Held mail becomes `discarded` in the journal, so that it isn't fetched again and its copy on the server follows the
    rules for delivered mail. Badmail stays `badmail`, and its copy stays. Raises StateError, StateLocked.
    """
    lock = files.Lock(state_dir / f"{connector}.lock", f"connector {connector}")
    try:
        journal = Journal(state_dir / f"{connector}.jsonl", "")
        try:
            return [kept for kept in items if _drop(kept, journal)]
        finally:
            journal.close()
    finally:
        lock.release()


def _drop(kept: Kept, journal: Journal) -> bool:
    if not kept.path.exists():
        return False
    slip = kept.slip
    entry = journal.entries.get(slip.message_uidl) if slip is not None else None
    # What was delivered or deleted meanwhile stays so; where the journal knows none, the UIDL may be other mail's by now.
    if kept.kind == "held" and slip is not None and entry is not None and entry.status in ("held", "sending", "seen"):
        now = clock.stamp(clock.now())
        journal.record(slip.message_uidl, "discarded", now, octets=slip.octets, fingerprint=slip.fingerprint)
        journal.sync()  # first: a crash now leaves it held, and to be dropped again
    kept.store.remove(Item(kept.path, slip or _NO_SLIP))
    return True


_NO_SLIP = Slip(first_seen="", since="", reverse_path="", forward_paths=[], octets=0)


# ---------------------------------------------------------------------- trying once more


@dataclass(frozen=True, slots=True)
class Retry:
    """What the command line asks for. Called with a connector, it is a `Work` for a run, without any POP3 session.

    `chosen` has by connector the names of the .eml files; `to` are recipients instead of those that are left.
    """

    kind: Kind
    chosen: Mapping[str, Collection[str]]
    to: tuple[str, ...] = ()

    def __call__(self, connector: Connector, surroundings: Surroundings, report: ConnectorReport, stop: Stop) -> None:
        """Put the messages into held/ and deliver them; everything worth telling goes into `report`, errors too."""
        with told(report, stop):
            visit = Visit(connector, surroundings, report, stop)
            with visit:
                held = visit.held
                names = [name for name in self.chosen.get(connector.name, ()) if self._put_into_held(visit, name)]
                visit.held = Store(held.folder, only=names)
                try:
                    if names:
                        self._deliver(visit)
                finally:
                    report.held = len(held.paths())

    def _put_into_held(self, visit: Visit, name: str) -> bool:
        """Make one message ready to be sent; return whether it is."""
        store = visit.badmail if self.kind == "badmail" else visit.held
        path = store.folder / name
        if path not in store.paths():
            visit.report.advice.append(f"{id_of(path)} is not there any more: another run has dealt with it")
            return False
        try:
            item = store.item(path)
        except StateError as error:
            visit.report.fail(error)
            return False
        if not (self.to or item.slip.forward_paths):
            visit.report.deferred += 1
            why = "it has no recipient: name one by --to"
            visit.report.note(item.slip.message_uidl, f"left in {self.kind}", why)
            return False
        self._readdress(visit, store, item)
        return True

    def _readdress(self, visit: Visit, store: Store, item: Item) -> None:
        """Give a message its recipients and, if it is badmail, a new age; the refusals stay as its history."""
        slip, now = item.slip, clock.stamp(clock.now())
        if self.to:
            slip = msgspec.structs.replace(slip, forward_paths=list(self.to), trace=trace_for(slip.trace, self.to))
        if self.kind == "badmail":
            slip = msgspec.structs.replace(slip, since=now, deferred_since="", outage_since="", attempts=0, breaks=0)
            visit.held.take(Item(item.path, slip), store)
        elif self.to:
            store.update(Item(item.path, slip))
        known = visit.journal.entries.get(slip.message_uidl)
        changes: dict[str, str | int] = {"octets": slip.octets, "fingerprint": slip.fingerprint}
        if known is None or known.status == "deleted":
            # Its UIDL may be other mail's by now: as one that is gone, it is trusted only with the same content.
            changes["gone"] = now
        elif self.kind == "held":
            return
        if slip.message_uidl:
            visit.journal.record(slip.message_uidl, "held", now, **changes)
            visit.journal.flush()

    def _deliver(self, visit: Visit) -> None:
        delivery = Delivery(visit)
        failure: PoprepError | None = None
        try:
            try:
                delivery.open()
                delivery.retry_held()
                delivery.retry_suspects()
            except PoprepError as error:
                failure = survivable(error, visit.stop)
            delivery.settle()
            if failure is None:
                delivery.close()
        finally:
            visit.smtp_opened = delivery.opened
            delivery.abort()
            visit.report.deferred += len(visit.held.paths()) - _noted(visit, "held")
        if self.kind == "badmail" and isinstance(failure, ReplyError) and not failure.temporary:
            _put_back(visit)
        visit.journal.sync()
        visit.journal.compact()
        if failure is not None:
            raise failure


def _noted(visit: Visit, outcome: str) -> int:
    """Return how many messages the delivery has counted as deferred, each with a note."""
    return sum(note.outcome == outcome for note in visit.report.messages)


def _put_back(visit: Visit) -> None:
    """Put what the server refuses for good, all alike, back into badmail: held, it would stop each pass in the same way."""
    report, now = visit.report, clock.stamp(clock.now())
    for item in visit.held.items():
        uidl = item.slip.message_uidl
        moved = visit.badmail.take(item, visit.held)
        if uidl:
            visit.journal.record(uidl, "badmail", now)
        report.messages = [note for note in report.messages if (note.uidl, note.outcome) != (named(uidl), "held")]
        report.note(uidl, "badmail", f"{printable(item.slip.why)} ({moved.path})")
        report.deferred -= 1
        report.rejected += 1


def trace_for(trace: str, to: Sequence[str]) -> str:
    """Return our `Received:` field with its FOR clause naming a single new recipient, or without one (RFC 5321 4.4)."""
    clause = f"\r\n\tfor <{to[0]}>;" if len(to) == 1 and to[0].isascii() else ";"
    return _FOR.sub(lambda _: clause, trace, count=1)
