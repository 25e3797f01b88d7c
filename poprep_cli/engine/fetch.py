"""The download side of a pass: a thread that retrieves what the plan wants and hands it over."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from poprep_cli.engine.handoff import Handoff
from poprep_cli.engine.message import receive
from poprep_cli.engine.plan import Step
from poprep_cli.engine.report import ConnectorReport, Note
from poprep_cli.errors import PoprepError
from poprep_cli.net.maildrop import Maildrop
from poprep_cli.protocol.wire import printable


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
    ) -> None:
        self._maildrop = maildrop
        self._steps = {step.listed.number: step for step in steps}
        self._handoff = handoff
        self._spool = spool
        self._report = report
        self._max_message_size = max_message_size
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
        for count, (listed, reply) in enumerate(self._maildrop.retrieve(wanted, self._handoff.admit)):
            step = self._steps[listed.number]
            if not reply.ok:
                self._report.deferred += 1
                self._report.messages.append(
                    Note(printable(listed.uidl), "left on the server", f"RETR was refused: {reply}")
                )
                self.fetched.add(listed.uidl)
                self._handoff.release(listed.size)
                continue
            parts = self._maildrop.parts(reply)
            message = receive(listed.uidl, parts, self._spool / f"{count:06d}.part", self._max_message_size)
            if message.octets < listed.size:
                try:
                    self._maildrop.confirm(listed)
                except PoprepError:
                    message.discard()
                    raise
            message.listed_octets = listed.size
            message.in_doubt = step.in_doubt
            self.fetched.add(listed.uidl)
            self._report.received += 1
            self._handoff.put(message)
