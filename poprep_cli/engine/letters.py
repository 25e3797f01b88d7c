"""What is sent of a message, and to whom: its letter by the rules of routing and delivery, or why there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from poprep_cli.engine import clock, content
from poprep_cli.engine.envelope import POSSIBLE_DUPLICATE, Letter, Trace, reverse_path
from poprep_cli.engine.message import Message
from poprep_cli.engine.store import Item
from poprep_cli.engine.visit import Visit


@dataclass(frozen=True, slots=True)
class Setback:
    """What becomes of a message that is not sent, and why. `readdressable`: people may have it sent all the same."""

    action: Literal["badmail", "discard", "hold"]
    why: str
    readdressable: bool = True


@dataclass(slots=True, eq=False)
class Job:
    """One message to deliver, and the held item it comes from, if it was held.

    `again`: a session broke before its end was sent, so that it is tried once more; `broke`: another one did, too.
    """

    message: Message
    letter: Letter
    item: Item | None = None
    setback: Setback | None = None
    again: bool = False
    broke: bool = False


class Letters:
    """Makes the jobs of one pass. `trace` must be known before new mail comes; held mail has its own."""

    def __init__(self, visit: Visit) -> None:
        self._connector = visit.connector
        self._journal = visit.journal
        self._access = visit.access
        self._clock = clock.Ticks()
        self._send_to = tuple(path.encode() for path in visit.connector.routing.send_to)
        self.trace: Trace | None = None

    def fresh(self, message: Message) -> Job:
        """Return the job of a message that was just read."""
        if self.trace is None:
            raise RuntimeError("no trace")
        known = self._journal.entries.get(message.uidl)
        message.in_doubt |= message.late and known is not None and known.status == "sending"
        paths, setback = self._recipients(message)
        objection = content.objection(message, self._connector.delivery, self.trace)
        if objection:
            setback = Setback("badmail", objection.why, readdressable=not objection.loop)
        message.without_nul = message.nul and self._connector.delivery.nul == "remove"
        front = self.trace.front(message, paths, self._clock.now())
        message.fingerprint  # noqa: B018 - worked out now, while the server is busy with the message before
        return Job(message, Letter(message, self._sender(message), paths, front), setback=setback)

    def held(self, item: Item) -> Job:
        """Return the job of held mail. What nobody was found for is routed anew: the rules may have been mended."""
        message, slip = item.message(), item.slip
        message.without_nul = message.nul and self._connector.delivery.nul == "remove"
        known = self._journal.entries.get(message.uidl)
        if known is not None and known.status == "sending":
            message.in_doubt = True
        front = slip.trace.encode() + (POSSIBLE_DUPLICATE if message.in_doubt else b"")
        paths = tuple(path.encode() for path in slip.forward_paths)
        setback = None
        if not paths:
            paths, setback = self._recipients(message)
        return Job(message, Letter(message, slip.reverse_path.encode(), paths, front), item, setback)

    def _recipients(self, message: Message) -> tuple[tuple[bytes, ...], Setback | None]:
        rules = self._connector.routing
        if not rules.source_domain:
            return self._send_to, None
        from poprep_cli.engine.routing import route

        routed = route(rules, message.head)
        if routed.action == "deliver":
            return tuple(path.encode() for path in routed.recipients), None
        return (), Setback(routed.action, f"no recipient was found: {routed.why}")

    def _sender(self, message: Message) -> bytes:
        rules = self._connector.routing
        if rules.sender != "srs":
            return reverse_path(rules.sender, message)
        from poprep_cli.engine import srs

        kept = reverse_path("keep", message).decode()
        day = int(clock.now().timestamp()) // 86_400
        return srs.forward(kept, rules.srs_domain, self._access.srs_secret(), day).encode()
