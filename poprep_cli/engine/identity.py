"""What the messages of a listing are known by: the UIDL, and where it tells nothing apart a digest of the header too.

A UIDL can be missing, blank, or listed twice. Such a message's key is `message_key(uidl, digest)`; the header comes by TOP.
Without TOP, or with a header that says nothing, the message has to be read first: until then its key is a late one, which
stands for its number in this session only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from poprep_cli.config.model import ServerCopy
from poprep_cli.engine import clock
from poprep_cli.engine.plan import Step
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import DIGEST, LATE, Entry, Journal, is_late, message_key
from poprep_cli.errors import RemoteProtocolError, ReplyError, TemporaryReplyError
from poprep_cli.net.maildrop import Digest, Listed, Maildrop

if TYPE_CHECKING:
    from poprep_cli.engine.message import Message

_TEMPORARY = frozenset(("SYS/TEMP", "IN-USE", "LOGIN-DELAY"))
_DONE = frozenset(("delivered", "deleted", "discarded", "badmail", "ignored"))


def together(steps: Sequence[Step], listing: Iterable[Listed]) -> list[Step]:
    """Return those steps that may be taken: of messages with the same UIDL and header all are deleted, or none.

    If one of them stayed, its key would become that of the one that went.
    """
    if not any(DIGEST in step.listed.uidl for step in steps):
        return list(steps)
    twins = Counter(_base(one.uidl) for one in listing if DIGEST in one.uidl)
    chosen = Counter(_base(step.listed.uidl) for step in steps)
    return [
        step
        for step in steps
        if DIGEST not in step.listed.uidl or chosen[_base(step.listed.uidl)] == twins[_base(step.listed.uidl)]
    ]


def unread_uidls(listing: Iterable[Listed]) -> set[bytes]:
    """Return the UIDLs of messages that have a late key still."""
    return {one.uidl.partition(DIGEST)[0] for one in listing if is_late(one.uidl)}


class Identity:
    """Gives the messages of one mailbox their keys, session by session.

    `listing` is for the thread that has the session; `settle` for the one that reads mail, which may be another.
    """

    def __init__(self, journal: Journal, server_copy: ServerCopy, report: ConnectorReport) -> None:
        """Prepare. `journal` says by what messages are known already."""
        self._journal = journal
        self._server_copy = server_copy
        self._report = report
        self._without_top = False
        self._taken: Counter[bytes] = Counter()  # how many messages of this session have a key with this base

    def listing(self, maildrop: Maildrop, digest: Digest | None = None) -> list[Listed]:
        """Take the listing of a session and return it, every message under its key. `digest` is continued with what the server says.

        Raises as `Maildrop.listing` and `headers` do, and ReplyError if the server refuses UIDL now and did not before:
        by any other key all its mail would be new.
        """
        listed = maildrop.listing(self._journal.entries, digest)
        self._taken.clear()
        maildrop.recognise = self._recognises
        if maildrop.uidl_refusal is not None and listed:
            self._mind_refusal(maildrop)
        suspects = self._suspects(listed)
        if suspects:
            maildrop.rename(self._keys(maildrop, suspects))
        return maildrop.listed

    def check(self, maildrop: Maildrop) -> None:
        """Raise RemoteProtocolError if mail can't be told apart in a mailbox where it is to stay."""
        late = [one for one in maildrop.listed if is_late(one.uidl)] if maildrop.renamed else []
        if not late:
            return
        keeps = self._server_copy.leave_copy and not self._server_copy.remove_after_delivered
        if keeps and maildrop.uidl_refusal is not None and self._without_top:
            raise RemoteProtocolError(
                f"{maildrop.server} has neither UIDL nor TOP ({maildrop.uidl_refusal}), "
                "so mail that stays there would be sent again at every pass",
                hint="set leave_copy = false, or remove_after_delivered = true, in server_copy: "
                "then each message is deleted once it is delivered",
            )
        advice = (
            f"{maildrop.server} tells {len(late)} messages apart neither by UIDL nor by TOP: "
            "they are read at every pass, to see whether they are new"
        )
        if keeps and advice not in self._report.advice:
            self._report.advice.append(advice)

    def settle(self, maildrop: Maildrop, listed: Listed, message: Message) -> None:
        """Give a message that was listed under a late key, and has been read, the key that lasts."""
        from poprep_cli.engine.digest import content_digest, header_digest, tells

        uidl = listed.uidl.partition(DIGEST)[0]
        known = self._journal.entries.get(uidl) if uidl else None
        key = uidl
        if known is None or self._taken[uidl] or not _is_entrys(message, known):
            digest = header_digest(message.head) if tells(message.head) else content_digest(message)
            base = message_key(uidl, digest)
            key = _numbered(base, self._taken[base] + 1)
            unknown = key not in self._journal.entries
            message.in_doubt |= unknown and known is not None and known.status == "sending"
        self._taken[_base(key)] += 1
        message.uidl = key
        message.late = True
        maildrop.rename({listed.number: key})

    # ------------------------------------------------------------------ by TOP

    def _mind_refusal(self, maildrop: Maildrop) -> None:
        refusal = maildrop.uidl_refusal
        if refusal is None:
            return
        said = f"{maildrop.server} refused UIDL: {refusal}"
        if refusal.code in _TEMPORARY:
            raise TemporaryReplyError(said, reply=refusal)
        if any(key and DIGEST not in key for key in self._journal.entries):
            raise ReplyError(
                said,
                reply=refusal,
                hint="it had UIDL before, and mail known by it can't be told from new mail now; the next pass tries again",
            )

    def _suspects(self, listed: Sequence[Listed]) -> list[Listed]:
        """Return the messages whose UIDL says too little, now or as far as the journal knows."""
        uidls = {one.uidl for one in listed}
        doubtful = {key.partition(DIGEST)[0] for key in self._journal.entries if DIGEST in key} | {b""}
        if len(uidls) == len(listed) and uidls.isdisjoint(doubtful):
            return []
        counts = Counter(one.uidl for one in listed)
        return [one for one in listed if counts[one.uidl] > 1 or one.uidl in doubtful]

    def _keys(self, maildrop: Maildrop, suspects: Sequence[Listed]) -> dict[int, bytes]:
        from poprep_cli.engine.digest import header_digest, tells
        from poprep_cli.engine.message import fingerprint, header_of

        keys: dict[int, bytes] = {one.number: _late(one) for one in suspects}
        self._without_top = True
        if not maildrop.offers_top:
            return keys
        uidls = {one.number: one.uidl for one in suspects}
        groups: dict[bytes, list[int]] = {}
        likely: dict[bytes, list[int]] = defaultdict(list)  # by UIDL, what may be the mail known by it alone
        for number, block in maildrop.headers(uidls):
            self._without_top = self._without_top and block is None
            head = header_of(block) if block is not None else b""
            if not tells(head):
                continue
            found, uidl = fingerprint(head), uidls[number]
            groups.setdefault(message_key(uidl, header_digest(head)), []).append(number)
            known = self._journal.entries.get(uidl) if uidl else None
            if known is not None and known.fingerprint == found:
                likely[uidl].append(number)
        siblings = self._siblings()
        for base, numbers in groups.items():
            uidl = uidls[numbers[0]]
            same = siblings.get(base, ())
            if likely[uidl] == numbers and len(numbers) > len(same):  # one of them is the mail that is known by it
                keys[numbers.pop()] = uidl
                self._taken[uidl] += 1
            keys |= zip(numbers, self._assign(base, len(numbers), same), strict=True)
            self._taken[base] += len(numbers)
            if not likely[uidl]:
                self._inherit_doubt(uidl, [keys[number] for number in numbers])
        return keys

    def _siblings(self) -> Mapping[bytes, list[bytes]]:
        """Return the keys that the journal knows with a digest, by what they have in common, in the order of their count."""
        found: dict[bytes, list[bytes]] = defaultdict(list)
        for key in self._journal.entries:
            if DIGEST in key:
                found[_base(key)].append(key)
        for keys in found.values():
            keys.sort(key=lambda key: (len(key), key))
        return dict(found)

    def _assign(self, base: bytes, count: int, known: Sequence[bytes]) -> list[bytes]:
        """Return `count` keys for messages with the same header. What is not delivered yet must not count as what is."""
        entries = self._journal.entries
        deleted = [key for key in known if entries[key].status == "deleted"]
        if count < len(deleted):
            # Not all that were deleted are back, so the server did delete: this is other mail.
            for key in deleted:
                del entries[key]
            known = [key for key in known if key not in deleted]
        if count < len(known):
            known = sorted(known, key=lambda key: entries[key].status in _DONE)
        keys = list(known[:count])
        number = 0
        while len(keys) < count:
            number += 1
            key = _numbered(base, number)
            if key not in keys:
                keys.append(key)
        return keys

    def _inherit_doubt(self, uidl: bytes, keys: Iterable[bytes]) -> None:
        """Note that these may have been sent, if something of the same UIDL was about to be."""
        known = self._journal.entries.get(uidl) if uidl else None
        if known is None or known.status != "sending":
            return
        for key in keys:
            if key not in self._journal.entries:
                self._journal.record(key, "sending", clock.stamp(clock.now()))

    @staticmethod
    def _recognises(listed: Listed, block: bytes) -> bool:
        from poprep_cli.engine.digest import header_digest
        from poprep_cli.engine.message import header_of

        _, digested, digest = listed.uidl.partition(DIGEST)
        found = header_digest(header_of(block)).encode()
        return bool(digested) and digest.partition(b"-")[0] == found


def _late(listed: Listed) -> bytes:
    return listed.uidl + LATE + b"%d" % listed.number


def _numbered(base: bytes, number: int) -> bytes:
    return base if number == 1 else base + b"-%d" % number


def _base(key: bytes) -> bytes:
    uidl, digested, digest = key.partition(DIGEST)
    return uidl + digested + digest.partition(b"-")[0]


def _is_entrys(message: Message, entry: Entry) -> bool:
    return bool(entry.fingerprint) and (entry.octets, entry.fingerprint) == (message.octets, message.fingerprint)
