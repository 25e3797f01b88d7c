"""What is wrong with the servers during one pass, as Hypothesis draws it: plain data, of which the faults are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from poprep_cli.embedded.channel import LineClosedError
from poprep_cli.embedded.pop3 import Pop3Faults
from poprep_cli.embedded.smtp import SmtpFaults

VERBS = ("CAPA", "USER", "PASS", "APOP", "UIDL", "LIST", "RETR", "TOP", "DELE", "QUIT")


@dataclass(frozen=True)
class Pop3Trouble:
    """Troubles of a POP3 server. `drop` is at which command of the pass the line drops, 0: never; `retr` is by place."""

    drop: int = 0
    retr: tuple[int, str] | None = None
    uidl: bool = False
    listing: bool = False
    login: bytes = b""
    limit: int | None = None
    sizes: int = 0
    no_top: bool = False
    truncate_top: int | None = None
    dele: Any = None
    quit: Any = None

    def faults(self, *, hide_read: bool, top: bool, pipelining: bool) -> Pop3Faults:
        """Return the faults, given what the server is like at all times."""
        replies: dict[str, Any] = {}
        if self.drop:
            replies = dict.fromkeys(VERBS, _dropping(self.drop))
        if self.listing:
            replies["LIST"] = b"-ERR [SYS/TEMP] not now\r\n"
        number, what = self.retr or (0, "")
        retr: dict[int, Any] = {number: what} if number else {}
        return Pop3Faults(
            replies=replies,
            refuse_user=self.login or None,
            refuse_apop=self.login or None,
            uidl="err" if self.uidl else None,
            retr=retr,
            list_limit=self.limit,
            list_sizes=(lambda _number, octets: max(0, octets + self.sizes)) if self.sizes else None,
            top_refused=self.no_top or not top,
            truncate_top=self.truncate_top,
            dele=self.dele,
            quit=self.quit,
            hide_read=hide_read,
            announce_pipelining=pipelining,
        )


def _dropping(count: int) -> Callable[[bytes], bytes | None]:
    left = iter(range(count - 1))

    def reply(_: bytes) -> bytes | None:
        if next(left, None) is None:
            raise LineClosedError
        return None

    return reply


@dataclass(frozen=True)
class SmtpTrouble:
    """Troubles of an MTA: at `stage`, from its occurrence `first` on and `times` times, this `reply`, or a broken line."""

    stage: Any
    reply: bytes | None
    first: int
    times: int

    def faults(self) -> SmtpFaults:
        """Return the faults, of a server that has counted nothing yet."""
        only = {self.stage: range(self.first, self.first + self.times)}
        if self.reply is None:
            return SmtpFaults(drop=self.stage, only=only)
        return SmtpFaults(replies={self.stage: self.reply}, only=only)


STAGES = ("greeting", "ehlo", "mail", "rcpt", "data", "end-of-data")
REPLIES = (
    b"451 4.3.0 try later\r\n",
    b"550 5.7.1 no\r\n",
    b"421 4.3.2 closing\r\n",
    b"354 what?\r\n",
    b"hello\r\n",
    b"250-and\r\nhello\r\n",
    b"\r\n",
)
FEW = st.integers(1, 4)

pop3_trouble = st.one_of(
    st.just(Pop3Trouble()),
    st.builds(Pop3Trouble, drop=st.integers(1, 30)),
    st.builds(Pop3Trouble, retr=st.tuples(FEW, st.sampled_from(("err", "drop-mid", "cut")))),
    st.builds(
        Pop3Trouble,
        retr=st.one_of(st.none(), st.tuples(FEW, st.sampled_from(("err", "drop-mid", "cut")))),
        login=st.sampled_from((b"", b"", b"", b"-ERR [IN-USE] later\r\n", b"-ERR [SYS/TEMP] later\r\n")),
        uidl=st.sampled_from((False, False, False, True)),
        listing=st.sampled_from((False, False, False, False, True)),
        limit=st.one_of(st.none(), st.integers(0, 3)),
        sizes=st.sampled_from((0, 0, 0, 7, -2, -5)),
        no_top=st.booleans(),
        truncate_top=st.one_of(st.none(), st.none(), st.integers(300, 900)),
    ),
    st.builds(Pop3Trouble, dele=st.sampled_from(("err", "ignore", "drop", "empty-line")), no_top=st.booleans()),
    st.builds(
        Pop3Trouble, quit=st.sampled_from(("err", "drop-before-commit", "drop-after-commit")), no_top=st.booleans()
    ),
)

smtp_trouble = st.one_of(
    st.none(),
    st.builds(SmtpTrouble, st.sampled_from(STAGES), st.sampled_from(REPLIES), FEW, st.integers(1, 6)),
    st.builds(SmtpTrouble, st.sampled_from((*STAGES, "mid-data", "after-accept", "quit")), st.none(), FEW, FEW),
)
