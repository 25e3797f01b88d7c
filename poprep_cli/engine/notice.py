"""The mail to a connector's postmaster: new badmail once per pass, and when the connector starts and stops failing.

It goes to that one address, from nobody (the null reverse path), and never to whoever wrote the mail in question: no
backscatter.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime, timedelta

from poprep_cli import __version__
from poprep_cli.engine import clock
from poprep_cli.engine.envelope import Letter, date_time
from poprep_cli.engine.message import Message
from poprep_cli.engine.status import Status
from poprep_cli.engine.visit import Visit
from poprep_cli.errors import PoprepError, RemoteProtocolError, StateLocked, Stopped
from poprep_cli.net.dialogue import Dialogue
from poprep_cli.net.stream import local_name
from poprep_cli.net.submission import Submission
from poprep_cli.protocol.smtp import is_host
from poprep_cli.protocol.wire import printable, stuff

LONG = timedelta(hours=1)  # for so long what may mend itself is not worth a mail
UNTOLD = 50  # lines about badmail that wait for a server to take the mail


def tell_postmaster(visit: Visit, failure: PoprepError | None) -> None:
    """Send what there is to tell, after a pass that ended with `failure`. What can't be sent now is sent after a later one."""
    postmaster, status = visit.connector.postmaster, visit.status
    if postmaster is None or visit.stop.tripped or isinstance(failure, StateLocked | Stopped):
        return
    conceal = visit.report.redactor.conceal
    new = [f"{note.uidl}: {note.why}" for note in visit.report.messages if note.outcome == "badmail"]
    status.untold_badmail = [*status.untold_badmail, *map(conceal, new)][-UNTOLD:]
    before = status.told_failing
    lines = [*_about_failing(status, failure, visit.began, conceal), *_about_badmail(status)]
    if not lines:
        return
    try:
        _send(visit, postmaster, _subject(visit.connector.name, status, before), lines)
    except PoprepError as error:
        status.told_failing = before
        visit.report.advice.append(f"the postmaster could not be told ({error}); the next pass tries again")
        return
    status.untold_badmail = []


def _about_failing(
    status: Status, failure: PoprepError | None, now: datetime, conceal: Callable[[str], str]
) -> list[str]:
    """Note in the status whether the connector fails, and return what is new about that."""
    if failure is None:
        since, told = status.failing_since, status.told_failing
        status.failing_since = status.told_failing = ""
        return [f"It works again. It had been failing since {since}: {told}."] if told else []
    status.failing_since = status.failing_since or clock.stamp(now)
    if status.told_failing or (failure.temporary and not _is_long(status.failing_since, now)):
        return []
    status.told_failing = conceal(str(failure))
    return [
        f"It has been failing since {status.failing_since}: {status.told_failing}.",
        *([conceal(failure.hint)] if failure.hint else []),
    ]


def _is_long(since: str, now: datetime) -> bool:
    try:
        return now - clock.parse(since) >= LONG
    except ValueError:
        return False


def _about_badmail(status: Status) -> list[str]:
    if not status.untold_badmail:
        return []
    count = len(status.untold_badmail)
    return [
        f"{count} message{'s' if count > 1 else ''} could not be delivered and went to badmail:",
        *(f"  {line}" for line in status.untold_badmail),
        "`poprep badmail list` shows them, `poprep badmail retry` sends them again.",
    ]


def _subject(name: str, status: Status, before: str) -> str:
    if status.told_failing != before:
        return f"poprep: {name} {'fails' if status.told_failing else 'works again'}"
    return f"poprep: {name}: {len(status.untold_badmail)} undeliverable"


def _send(visit: Visit, postmaster: str, subject: str, lines: list[str]) -> None:
    smtp, report = visit.connector.smtp, visit.report
    content = _compose(postmaster, subject, lines, smtp.helo or local_name())
    message = Message(b"", len(content), True, not content.isascii(), b"", block=stuff(content))
    session = Submission.open(
        smtp, visit.stop, visit.access.smtp_credentials(), dialogue=Dialogue("SMTP", report.say, report.level)
    )
    try:
        outcome = session.deliver(Letter(message, b"", (postmaster.encode(),), b""), lambda: None)
        session.quit()
    finally:
        session.close()
    if len(outcome.accepted) != 1:
        verdicts = (*outcome.deferred, *outcome.rejected)
        raise RemoteProtocolError(str(verdicts[0].reply) if verdicts else outcome.in_doubt)


def _compose(postmaster: str, subject: str, lines: list[str], host: str) -> bytes:
    """Return the whole mail (RFC 5322), marked as no answer is wanted to it (RFC 3834)."""
    name = host if is_host(host) and "[" not in host else "localhost"
    header = [
        f"From: poprep <poprep@{name}>",
        f"To: <{postmaster}>",
        f"Subject: {subject}",
        f"Date: {date_time(clock.now())}",
        f"Message-ID: <{secrets.token_hex(16)}@{name}>",
        "Auto-Submitted: auto-generated",
        "MIME-Version: 1.0",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Transfer-Encoding: 8bit",
        "",
    ]
    body = [printable(line, 900) for line in lines]
    return "\r\n".join([*header, *body, "", f"-- \r\npoprep {__version__}", ""]).encode()
