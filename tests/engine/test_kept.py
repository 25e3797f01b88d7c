"""Kept mail: found by its id, saved whole, and at any crash of a retry or a drop in exactly one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from poprep_cli.config.load import load
from poprep_cli.config.model import Connector
from poprep_cli.embedded.smtp import SmtpFaults, SmtpServer
from poprep_cli.engine import files, kept
from poprep_cli.engine.delivery import Delivery
from poprep_cli.engine.kept import Kept, Kind
from poprep_cli.engine.message import receive
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import Journal
from poprep_cli.engine.store import Slip, Store, id_of
from poprep_cli.engine.visit import Surroundings
from poprep_cli.errors import StateError
from poprep_cli.net.stop import Stop
from poprep_cli.protocol.wire import stuff

CONTENT = b"Message-ID: <1@example.net>\r\nSubject: x\r\n\r\n.dot \xff\r\n"
TRACE = "Received: from pop by gate\r\n\twith POP3 (poprep 1) id 27db{};\r\n\tMon, 23 Nov 2026 11:32:55 +0000\r\n"
FOR = "\r\n\tfor <office@corp.example>"


class CrashError(BaseException):
    """The process is killed here."""


def put(state: Path, kind: Kind, uidl: bytes = b"u1", connector: str = "office", **changes: Any) -> Kept:
    """Put a message into a store, as a pass does that records it."""
    known: dict[str, Any] = {
        "first_seen": "2026-11-01T00:00:00Z",
        "since": "2026-11-01T00:00:00Z",
        "trace": TRACE.format(FOR),
    }
    slip = Slip(
        **(known | {"reverse_path": "", "forward_paths": ["office@corp.example"], "octets": len(CONTENT)} | changes)
    )
    item = Store(state / kind / connector).add(receive(uidl, iter([stuff(CONTENT)]), state), slip)
    journal = Journal(state / f"{connector}.jsonl", "")
    journal.record(uidl, kind, "2026-11-01T00:00:00Z")
    journal.sync()
    journal.close()
    return Kept(kind, connector, item.path, item.slip)


def everywhere(state: Path) -> list[Kept]:
    return [*kept.survey(state, "badmail"), *kept.survey(state, "held")]


def status(state: Path, uidl: bytes = b"u1") -> str:
    return Journal(state / "office.jsonl", "").entries[uidl].status


@pytest.fixture
def smtp() -> Iterator[SmtpServer]:
    with SmtpServer() as server:
        yield server


@pytest.fixture
def connector(tmp_path: Path, smtp: SmtpServer) -> Connector:
    path = tmp_path / "poprep.toml"
    path.touch(mode=0o600)
    path.write_text(
        f"""[smtp]
host = "{smtp.address}"
timeout = 1
[connector.office.pop3]
host = "127.0.0.1:1"
user = "office"
password = "s3cret-word"
[connector.office.routing]
send_to = ["office@corp.example"]
""",
        encoding="utf-8",
    )
    return load(path).connectors[0]


def retry(connector: Connector, state: Path, items: list[Kept], to: tuple[str, ...] = ()) -> ConnectorReport:
    report = ConnectorReport("office")
    work = kept.Retry(items[0].kind, {"office": [item.path.name for item in items]}, to)
    work(connector, Surroundings(state, state.parent / "poprep.toml"), report, Stop())
    return report


CRASHES: list[tuple[object, str]] = [
    (Store, "take"),
    (Store, "update"),
    (Store, "remove"),
    (Path, "replace"),
    (Path, "unlink"),
    (files, "replace"),
    (files, "sync_folder"),
    (files, "write_all"),
    (Journal, "record"),
    (Journal, "flush"),
    (Journal, "sync"),
    (Delivery, "open"),
    (Delivery, "retry_held"),
    (Delivery, "settle"),
    (Delivery, "close"),
]


def crashing(original: Callable[..., Any], nth: int, *, after: bool) -> Callable[..., Any]:
    """Return a function that crashes at its nth call, before or after it has had its effect."""
    calls = 0

    def call(*arguments: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == nth and not after:
            raise CrashError
        result = original(*arguments, **named)
        if calls == nth:
            raise CrashError
        return result

    return call


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize(("place", "call"), CRASHES, ids=lambda value: value if isinstance(value, str) else "")
@pytest.mark.parametrize("kind", ["badmail", "held"])
def test_a_crash_of_a_retry_leaves_the_message_in_one_place(
    tmp_path: Path,
    smtp: SmtpServer,
    connector: Connector,
    monkeypatch: pytest.MonkeyPatch,
    kind: Kind,
    place: object,
    call: str,
    nth: int,
    after: bool,
) -> None:
    state = tmp_path / "state"
    item = put(state, kind)
    with monkeypatch.context() as patch:
        patch.setattr(place, call, crashing(getattr(place, call), nth, after=after))
        with suppress(CrashError):
            retry(connector, state, [item])
    left = everywhere(state)
    # Delivered and still held is a crash between the two: the journal says so, and it is not sent again.
    delivered = status(state) == "delivered"
    assert len(left) == 1 or (not left and delivered)
    assert len(smtp.delivered) <= 1
    for again in left:
        assert again.slip is not None
        assert b"".join(kept.content(again)) == CONTENT
        in_doubt = bool(smtp.delivered) and not delivered
        assert retry(connector, state, [again]).exit_code == 0
        assert len(smtp.delivered) == 1 + in_doubt
    assert everywhere(state) == []
    assert len(smtp.delivered) >= 1
    assert status(state) == "delivered"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("place", "call"), [(Journal, "sync"), (Store, "remove"), (Path, "unlink")], ids=lambda value: str(value)[-8:]
)
@pytest.mark.parametrize("kind", ["badmail", "held"])
def test_a_crash_of_a_drop_can_be_mended_by_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Kind, place: object, call: str, after: bool
) -> None:
    item = put(tmp_path, kind)
    with monkeypatch.context() as patch:
        patch.setattr(place, call, crashing(getattr(place, call), 1, after=after))
        with suppress(CrashError):
            kept.drop(tmp_path, "office", [item])
    left = everywhere(tmp_path)
    assert len(left) <= 1
    kept.drop(tmp_path, "office", left)
    Store(tmp_path / "held" / "office").sweep()  # as the next pass does
    assert [path for path in (tmp_path / kind / "office").iterdir() if path.suffix == ".eml"] == []
    assert status(tmp_path) == {"badmail": "badmail", "held": "discarded"}[kind]


def test_what_was_delivered_meanwhile_is_not_called_discarded(tmp_path: Path) -> None:
    item = put(tmp_path, "held")
    journal = Journal(tmp_path / "office.jsonl", "")
    journal.record(b"u1", "delivered", "2026-11-02T00:00:00Z")
    journal.sync()
    journal.close()
    assert kept.drop(tmp_path, "office", [item]) == [item]
    assert status(tmp_path) == "delivered"
    assert kept.drop(tmp_path, "office", [item]) == []


def test_a_message_that_the_journal_does_not_know_is_dropped_without_a_trace_in_it(tmp_path: Path) -> None:
    item = put(tmp_path, "held")
    (tmp_path / "office.jsonl").unlink()
    assert kept.drop(tmp_path, "office", [item]) == [item]
    assert not (tmp_path / "office.jsonl").exists()
    assert everywhere(tmp_path) == []


def test_a_message_that_the_journal_does_not_know_is_sent_and_marked_as_gone(
    tmp_path: Path, smtp: SmtpServer, connector: Connector
) -> None:
    state = tmp_path / "state"
    item = put(state, "held")
    (state / "office.jsonl").unlink()
    assert retry(connector, state, [item]).delivered == 1
    entry = Journal(state / "office.jsonl", "").entries[b"u1"]
    assert (entry.status, bool(entry.gone), len(smtp.delivered)) == ("delivered", True, 1)


def test_a_retry_begins_anew_and_keeps_the_history(tmp_path: Path, smtp: SmtpServer, connector: Connector) -> None:
    state = tmp_path / "state"
    item = put(state, "badmail", attempts=7, breaks=2, why="550 no")
    smtp.faults = SmtpFaults(drop="greeting")
    report = retry(connector, state, [item], ("ada@corp.example",))
    assert (report.exit_code, report.deferred, report.held) == (75, 1, 1)
    (held,) = kept.survey(state, "held")
    assert held.slip is not None
    assert (held.id, held.slip.attempts, held.slip.breaks) == (item.id, 0, 0)
    assert (held.slip.first_seen, held.slip.why) == ("2026-11-01T00:00:00Z", "550 no")
    assert held.slip.since > "2026-11-02"
    assert held.slip.forward_paths == ["ada@corp.example"]
    assert kept.survey(state, "badmail") == []


def test_what_another_run_took_is_told(tmp_path: Path, connector: Connector) -> None:
    state = tmp_path / "state"
    item = put(state, "held")
    item.store.remove(item.store.item(item.path))
    report = retry(connector, state, [item])
    assert report.exit_code == 0
    assert report.advice == [f"{item.id} is not there any more: another run has dealt with it"]


@pytest.mark.parametrize(
    ("to", "clause"),
    [(("a@b.example",), "\r\n\tfor <a@b.example>"), (("a@b.example", "c@d.example"), ""), (("é@b.example",), ""), ((r"\1@b",), "\r\n\tfor <\\1@b>")],
)  # fmt: skip
def test_the_trace_names_a_single_recipient(to: tuple[str, ...], clause: str) -> None:
    for before in (FOR, ""):
        assert kept.trace_for(TRACE.format(before), to) == TRACE.format(clause)
    assert kept.trace_for("", to) == ""


def test_ids_are_short_unique_and_stay(tmp_path: Path) -> None:
    items = [put(tmp_path, "held", b"%d" % number) for number in range(20)]
    assert len({item.id for item in items}) == 20
    assert all(len(item.id) == 8 and item.path.stem.endswith(item.id) for item in items)
    assert id_of(Path("x/renamed by hand.eml")) == id_of(Path("y/renamed by hand.json"))
    assert len(id_of(Path("2026-INBOX.eml"))) == 8


def test_the_same_id_twice_is_told_apart_by_its_path(tmp_path: Path) -> None:
    item = put(tmp_path, "held")
    copy = tmp_path / "held" / "sales"
    copy.mkdir()
    for path in (item.path, item.path.with_suffix(".json")):
        (copy / path.name).write_bytes(path.read_bytes())
    items = kept.survey(tmp_path, "held")
    with pytest.raises(LookupError, match="is the id of several: name one by the path of its file"):
        kept.find(items, [item.id])
    assert [one.connector for one in kept.find(items, [str(copy / item.path.name)])] == ["sales"]
    assert kept.find(kept.survey(tmp_path, "held", ["SALES"]), [item.id])[0].connector == "sales"


def test_a_beginning_that_fits_several(tmp_path: Path) -> None:
    items = [put(tmp_path, "held", b"%d" % number) for number in range(40)]  # so that two begin alike
    first = next(one.id[0] for one in items if sum(other.id[0] == one.id[0] for other in items) > 1)
    with pytest.raises(LookupError, match=f"'{first}' could be any of .*: type more of it"):
        kept.find(items, [first])
    with pytest.raises(LookupError, match="and 30 more"):
        kept.find(items, ["x"])
    assert kept.find(items, [items[3].id, items[3].path.name]) == [items[3]]


def test_badmail_whose_slip_is_missing_is_listed(tmp_path: Path) -> None:
    item = put(tmp_path, "badmail")
    item.path.with_suffix(".json").unlink()
    (found,) = kept.survey(tmp_path, "badmail")
    assert (found.slip, found.id) == (None, item.id)
    assert ".json is missing" in found.flaw
    assert kept.drop(tmp_path, "office", [found]) == [found]
    assert kept.survey(tmp_path, "badmail") == []


def test_a_folder_that_is_a_link_has_no_mail(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "held")
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "office").symlink_to(tmp_path / "elsewhere" / "held" / "office")
    assert kept.survey(tmp_path, "held") == []


def test_nothing_is_left_of_a_file_that_the_disk_does_not_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    item = put(tmp_path, "held")

    def full(_descriptor: int, _data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_all", full)
        with pytest.raises(StateError, match="no space left"):
            kept.export(item, tmp_path / "saved.eml")
    assert not (tmp_path / "saved.eml").exists()
    item.path.unlink()
    with pytest.raises(StateError, match="no such file"):
        kept.export(item, tmp_path / "saved.eml")
    assert not (tmp_path / "saved.eml").exists()
