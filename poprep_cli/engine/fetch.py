"""The download side of a pass: a thread that retrieves what the plan wants and hands it over."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from poprep_cli.engine.handoff import Handoff
from poprep_cli.engine.identity import Identity
from poprep_cli.engine.message import receive
from poprep_cli.engine.plan import Step
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import is_late
from poprep_cli.engine.top import Top, is_whole
from poprep_cli.errors import PoprepError
from poprep_cli.net.maildrop import Maildrop


class Fetcher:
    """Retrieves in its own thread. After `join`, `error` is what ended it early, `in_hand` the step it was about."""

    def __init__(
        self,
        maildrop: Maildrop,
        steps: Sequence[Step],
        handoff: Handoff,
        spool: Path,
        report: ConnectorReport,
        max_message_size: int,
        *,
        identity: Identity,
        top: Top,
    ) -> None:
        self._maildrop = maildrop
        self._steps = {step.listed.number: step for step in steps}
        self._handoff = handoff
        self._spool = spool
        self._report = report
        self._max_message_size = max_message_size
        self._identity = identity
        self._top = top
        self.error: PoprepError | None = None
        self.crash: BaseException | None = None
        self.in_hand: Step | None = None
        self.fetched: set[bytes] = set()
        self._thread = threading.Thread(target=self._run, name=f"fetch {report.connector}", daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for the end of the thread. Raises what it did not expect."""
        self._thread.join()
        if self.crash is not None:
            raise self.crash

    def _run(self) -> None:
        try:
            self._fetch()
        except PoprepError as error:
            self.error = error
            reading = self._maildrop.reading
            self.in_hand = self._steps[reading.number] if reading is not None else None
        except BaseException as error:  # noqa: BLE001 - raised again by join, in the thread that waits
            self.crash = error
        finally:
            self._handoff.finish()

    def _fetch(self) -> None:
        wanted = [step.listed for step in self._steps.values()]
        maildrop, top = self._maildrop, self._top
        top.begin(offered=maildrop.offers_top)
        for count, (listed, reply) in enumerate(maildrop.retrieve(wanted, self._handoff.admit, top.asks)):
            step = self._steps[listed.number]
            by_top = reply.command.line.startswith(b"TOP ")
            if not reply.ok and by_top:
                top.refused(listed)
                maildrop.read_again(listed)
                continue
            if not reply.ok:
                self._report.deferred += 1
                self._report.note(listed.uidl, "left on the server", f"RETR was refused: {reply}")
                self.fetched.add(listed.uidl)
                self._handoff.release(listed.size)
                continue
            parts = maildrop.parts(reply)
            spool = self._spool / f"{count:06d}.part" if reply.more else self._spool  # which is not used then
            message = receive(listed.uidl, parts, spool, self._max_message_size)
            if message.octets < listed.size:
                try:
                    maildrop.confirm(listed)
                except PoprepError:
                    message.discard()
                    raise
            if by_top and not is_whole(message, listed.size):
                message.discard()
                top.incomplete(listed, message)
                maildrop.read_again(listed)
                continue
            top.compare(listed, message)
            message.listed_octets = listed.size
            message.in_doubt = step.in_doubt
            if is_late(listed.uidl):
                self._identity.settle(maildrop, listed, message)
            if not message.late:  # in another session its number may be another message's
                self.fetched.add(listed.uidl)
            self._report.received += 1
            self._handoff.put(message)
