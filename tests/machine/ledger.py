"""The ledger: what was put into the mailbox, what the MTA accepted, what was deleted, and whether that adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from poprep_cli.embedded.maildrop import Mail, Maildrop
from poprep_cli.embedded.pop3_transaction import _half_of_the_lines as half
from poprep_cli.embedded.smtp import Delivered
from tests.poll.world import DUPLICATE, content_of

BEFORE = datetime(1, 1, 1, tzinfo=UTC)


@dataclass(eq=False)
class Piece:
    """One message in the mailbox. `listed` is the number of the poll that was the first to see it."""

    content: bytes
    mail: Mail
    listed: int | None = None
    was_cut: bool = False
    deleted: bool = False  # by us
    taken: bool = False  # by another program
    taken_before: int = 0  # how many passes had shown the mailbox whole by then


class Box(Maildrop):
    """A maildrop that says what a session sees in it, and what a session removes."""

    def __init__(self, seen: Callable[[Mail], None], removed: Callable[[Mail], None]) -> None:
        super().__init__()
        self._seen = seen
        self._removed = removed

    def mail(self, *, unread: bool = False) -> tuple[Mail, ...]:
        found = self.look(unread=unread)
        for one in found:
            self._seen(one)
        return found

    def look(self, *, unread: bool = False) -> tuple[Mail, ...]:
        """Return what `mail` does; it is the test that looks."""
        return super().mail(unread=unread)

    def remove(self, mail: Iterable[Mail]) -> None:
        present = {id(one) for one in self.look()}
        gone = [one for one in mail if id(one) in present]
        super().remove(gone)
        for one in gone:
            self._removed(one)

    def take(self, mail: Mail) -> None:
        """Remove a message as another program does."""
        super().remove([mail])

    def rename(self, fresh: dict[int, Mail]) -> None:
        """Put other messages in the place of all, by identity; what was read stays read."""
        with self._lock:
            self._mail = [fresh[id(one)] for one in self._mail]
            self._read = {id(fresh[one]) for one in self._read}


@dataclass(frozen=True)
class Pass:
    """A pass that was run: the clock it was told, whether it got to its end, and whether it polled."""

    clock: datetime
    whole: bool
    polled: bool


@dataclass
class Deleted:
    """A deletion by us, and how often its content was accepted by then, by the recipient that has it least."""

    piece: Piece
    accepted: int
    number: int
    clock: datetime


@dataclass
class Ledger:
    """What has happened so far. Paths are those of the recipients."""

    paths: tuple[bytes, ...]
    pieces: list[Piece] = field(default_factory=list)
    accepted: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)
    unmarked: Counter[tuple[bytes, bytes]] = field(default_factory=Counter)
    excused: Counter[bytes] = field(default_factory=Counter)  # may be sent once more without a mark
    deletions: list[Deleted] = field(default_factory=list)
    passes: list[Pass] = field(default_factory=list)
    strange: list[bytes] = field(default_factory=list)
    safe: set[tuple[bytes, bytes]] = field(default_factory=set)
    clock: datetime = BEFORE
    polling: bool = False  # whether the pass that runs notes what it sees

    def __post_init__(self) -> None:
        self.box = Box(self._see, self._remove)

    def put(self, content: bytes, uidl: bytes) -> None:
        """Have a new message arrive."""
        mail = Mail(uidl, content)
        self.pieces.append(Piece(content, mail))
        with self.box._lock:
            self.box._mail.append(mail)

    @property
    def there(self) -> list[Piece]:
        """What is in the mailbox."""
        return [piece for piece in self.pieces if not piece.deleted and not piece.taken]

    def piece(self, mail: Mail) -> Piece:
        """Return the piece that a message is."""
        return next(piece for piece in self.pieces if piece.mail is mail)

    def rename(self, generation: int) -> None:
        """Give every message another UIDL, all different."""
        fresh = {}
        for number, piece in enumerate(self.there):
            mail = Mail(b"r%d.%d" % (generation, number), piece.content)
            fresh[id(piece.mail)] = mail
            piece.mail = mail
        self.box.rename(fresh)

    def accept(self, message: Delivered) -> None:
        """Note what the MTA has accepted."""
        content = content_of(message)
        known = {piece.content for piece in self.pieces}
        known |= {half(piece.content) for piece in self.pieces if piece.was_cut}
        if content not in known:
            self.strange.append(message.content)
        for path in message.forward_paths:
            self.accepted[content, path] += 1
            if DUPLICATE not in message.content:
                self.unmarked[content, path] += 1

    def _see(self, mail: Mail) -> None:
        piece = self.piece(mail)
        if piece.listed is None and self.polling:
            piece.listed = len(self.passes)

    def _remove(self, mail: Mail) -> None:
        piece = self.piece(mail)
        piece.deleted = True
        accepted = min(self.accepted[piece.content, path] for path in self.paths)
        self.deletions.append(Deleted(piece, accepted, len(self.passes), self.clock))

    # ------------------------------------------------------------------ whether it adds up

    def check(self, held: Counter[tuple[bytes, bytes]], badmail: Counter[tuple[bytes, bytes]]) -> None:
        """Assert that nothing is lost, halved, or sent twice without a mark. What is kept is counted by content and path."""
        assert not self.strange, "the MTA has got what nobody sent"
        there = Counter(piece.content for piece in self.there)
        wanted = Counter(piece.content for piece in self.pieces if not piece.taken)
        sent = Counter(piece.content for piece in self.pieces)
        for path in self.paths:
            for content, count in wanted.items():
                kept = held[content, path] + badmail[content, path]
                have = self.accepted[content, path] + kept + there[content]
                assert have >= count, f"lost for {path!r}: {named(content)}"
                unmarked = self.unmarked[content, path]
                assert unmarked <= sent[content] + self.excused[content], f"sent twice to {path!r}: {named(content)}"
        for content, path in self.safe:
            assert self.accepted[content, path] + held[content, path] + badmail[content, path], (
                f"was kept: {named(content)}"
            )
        self.safe |= held.keys() | badmail.keys()

    def judge(self, deleted: Deleted, days: int | None, refused: Collection[bytes]) -> None:
        """Assert that a deletion was right: accepted by then, or in badmail if that was `refused`; and old enough.

        `days` are those of the rule, None: at once.
        """
        piece = deleted.piece
        before = sum(one.piece.content == piece.content for one in self.deletions[: self.deletions.index(deleted) + 1])
        assert deleted.accepted >= before or piece.content in refused, f"deleted too early: {named(piece.content)}"
        if days is None:
            return
        # The very same message under another UIDL is taken for the one that is known.
        alike = [one.listed for one in self.pieces if one.content == piece.content and one.listed is not None]
        first = self._first_seen(min(alike))
        assert first is not None, "deleted while the clock was behind"
        assert deleted.clock - first >= timedelta(days=days), f"first seen {first}, deleted {deleted.clock}"

    def _first_seen(self, listed: int) -> datetime | None:
        """Return since when the days of what pass number `listed` was the first to see count, at the earliest."""
        seen = self.passes[listed].clock
        before = [one.clock for one in self.passes[:listed] if one.whole and one.polled]
        if not before or before[-1] <= seen:
            return seen
        # The clock was behind: the days begin once it has passed what it said before.
        return next((one.clock for one in self.passes[listed + 1 :] if one.polled and one.clock >= before[-1]), None)


def named(content: bytes) -> str:
    """Return a message's subject, for people."""
    return content.partition(b"Subject: ")[2].partition(b"\r\n")[0].decode()
