"""The report of a pass, and the exit code that cron sees."""

from __future__ import annotations

import gc
import weakref
from itertools import permutations

import pytest

from poprep_cli.engine.report import ConnectorReport, Note
from poprep_cli.engine.visit import told
from poprep_cli.errors import (
    AuthenticationFailed,
    ConfigError,
    ConnectionFailed,
    ExitCode,
    LocalProtocolError,
    PoprepError,
    RemoteProtocolError,
    ReplyError,
    StateError,
    StateLocked,
    Stopped,
    TemporaryReplyError,
    TlsError,
    most_severe,
)
from poprep_cli.net.stop import Stop

SEVERITY = [70, 74, 78, 77, 76, 69, 75, 1, 0]
CODES = [
    (ConfigError("x"), 78),
    (StateError("x"), 74),
    (StateLocked("x"), 75),
    (ConnectionFailed("x"), 75),
    (TlsError("x"), 76),
    (LocalProtocolError("x"), 70),
    (RemoteProtocolError("x"), 76),
    (AuthenticationFailed("x"), 77),
    (ReplyError("x", reply=None), 69),
    (TemporaryReplyError("x", reply=None), 75),
    (PoprepError("x"), 70),
    (Stopped(), 130),
]


@pytest.mark.parametrize(("worse", "better"), [(a, b) for i, a in enumerate(SEVERITY) for b in SEVERITY[i:]])
def test_the_most_severe_wins(worse, better) -> None:
    for codes in permutations([worse, better, 0]):
        assert most_severe(codes) == worse


def test_without_connectors_all_is_well() -> None:
    assert most_severe([]) == ExitCode.OK


@pytest.mark.parametrize(("error", "code"), CODES)
def test_an_error_has_its_code(error, code) -> None:
    report = ConnectorReport("office", deferred=3)
    report.fail(error)
    assert report.exit_code == code
    assert report.reason == error.reason
    assert report.as_dict()["exit_code"] == code


def test_the_first_error_is_the_reason() -> None:
    report = ConnectorReport("office")
    report.fail(ConnectionFailed("first", hint="do this"))
    report.fail(StateError("second"))
    assert (report.exit_code, report.reason) == (75, "connection")
    assert report.as_dict()["errors"] == [
        {"message": "first", "hint": "do this"},
        {"message": "second", "hint": None},
    ]


@pytest.mark.parametrize(
    ("counts", "code", "reason"),
    [
        ({}, 0, "ok"),
        ({"listed": 5, "delivered": 5, "deleted": 5}, 0, "ok"),
        ({"deferred": 1}, 1, "partial"),
        ({"rejected": 1, "delivered": 9}, 1, "partial"),
        ({"oversize": 1}, 1, "partial"),
    ],
)
def test_counts(counts, code, reason) -> None:
    report = ConnectorReport("office", **counts)
    assert report.exit_code == code
    assert report.as_dict()["reason"] == reason


def test_nothing_due_is_well() -> None:
    assert ConnectorReport("office", reason="not due").as_dict()["reason"] == "not due"


def test_the_document_has_what_the_contract_names() -> None:
    report = ConnectorReport(
        "office", octets=7, seconds=1.23456, messages=[Note("u", "held", "450 later")], advice=["a"]
    )
    found = report.as_dict()
    counts = {"listed", "new", "delivered", "deferred", "rejected", "deleted", "held"}
    assert counts | {"connector", "exit_code", "reason", "octets", "seconds", "messages", "advice"} <= set(found)
    assert found["messages"] == [{"uidl": "u", "outcome": "held", "why": "450 later"}]
    assert (found["connector"], found["octets"], found["seconds"], found["advice"]) == ("office", 7, 1.235, ["a"])


def test_an_error_keeps_nothing_alive_that_it_came_through() -> None:
    """Of 1,000 mailboxes that fail, or one with 200,000 messages, the journal and the buffers go with the pass."""

    class Journal:
        pass

    def failing() -> weakref.ref[Journal]:
        journal = Journal()
        report = ConnectorReport("office")
        reports.append(report)
        with told(report, Stop()):
            raise ConnectionFailed("it broke") from OSError(5, "Input/output error")
        return weakref.ref(journal)

    reports: list[ConnectorReport] = []
    gone = failing()
    gc.collect()
    assert gone() is None
    assert [str(error) for error in reports[0].errors] == ["it broke"]
