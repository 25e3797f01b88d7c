"""The log: its levels, its days, its files, many who write it at once, and all that can be in its way."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from poprep_cli.cli.main import cli
from poprep_cli.config.load import load
from poprep_cli.engine.log import TEXT_LIMIT, Log, remove_old
from poprep_cli.errors import ConfigError
from tests.config.samples import GOOD, write

LINE = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d) (\d+) ([A-Za-z0-9._-]+): (.*)")
POSIX = sys.platform != "win32"
BERLIN = "CET-1CEST,M3.5.0,M10.5.0/3"  # needs no time-zone database

# A process of its own: it says it is there, waits for the word, and logs from two threads.
WRITER = """
import sys, threading
from pathlib import Path
from poprep_cli.engine.log import Log
log = Log(4, Path(sys.argv[1]), 30)
def work(name):
    say = log.sayer(name)
    for number in range(1000):
        say(1, f"{number} " + name * (number % 200))
print("ready", flush=True)
sys.stdin.readline()
threads = [threading.Thread(target=work, args=(sys.argv[2] + part,)) for part in "xy"]
for thread in threads: thread.start()
for thread in threads: thread.join()
log.close()
print(log.failure, end="")
"""

FULL = """
import resource, sys
from pathlib import Path
from poprep_cli.engine.log import Log
resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))
log = Log(1, Path(sys.argv[1]), 30)
say = log.sayer("office")
for number in range(5):
    say(1, f"{number} " + "x" * 100)
log.close()
print(log.failure)
"""


@pytest.fixture
def clock(monkeypatch):
    """Return what sets the time of day, and the local time zone where it can be set."""

    def to(moment: str) -> None:
        monkeypatch.setenv("POPREP_TEST_CLOCK", moment)

    monkeypatch.setenv("POPREP_TESTING", "1")
    if POSIX:
        monkeypatch.setenv("TZ", BERLIN)
        time.tzset()
    to("2026-11-23T08:41:00.123Z")
    yield to
    monkeypatch.undo()
    if POSIX:
        time.tzset()


def local_day(moment: str) -> str:
    return f"{datetime.fromisoformat(moment).astimezone():%Y-%m-%d}"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lines(folder: Path) -> list[tuple[str, ...]]:
    """Return what is in all files of the folder, line by line, in the order of the days."""
    text = "".join((folder / name).read_bytes().decode() for name in names(folder))
    assert text.endswith("\n")
    found = [LINE.fullmatch(line) for line in text.removesuffix("\n").split("\n")]
    assert None not in found, text
    return [match.groups() for match in found if match]


def texts(folder: Path) -> list[str]:
    return [line[3] for line in lines(folder)]


@pytest.mark.parametrize(("level", "logged"), [(0, []), (1, [1]), (2, [1]), (3, [1, 2, 3]), (4, [1, 2, 3, 4])], ids=str)
def test_levels(tmp_path, level, logged) -> None:
    log = Log(level, tmp_path / "log", 30)
    say = log.sayer("office")
    for each in (1, 2, 3, 4):
        say(each, str(each))
    log.close()
    assert log.failure == ""
    assert (tmp_path / "log").exists() is bool(logged)
    assert not logged or texts(tmp_path / "log") == [str(each) for each in logged]


def test_a_run_with_nothing_to_say_touches_nothing(tmp_path) -> None:
    log = Log(1, tmp_path / "state" / "log", 30)
    log.sayer("office")(3, "not for this level")
    log.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not POSIX, reason="the time zone of a process can't be set on Windows")
def test_the_form_of_a_line(tmp_path, clock) -> None:
    log = Log(1, tmp_path / "log", 30)
    log.sayer("office")(1, "received 42 octets")
    log.sayer("joe.doe")(1, "delivered")
    log.close()
    start = f"2026-11-23T09:41:00.123+01:00 {os.getpid()}"
    expected = f"{start} office: received 42 octets\n{start} joe.doe: delivered\n"
    assert (tmp_path / "log" / "poprep-2026-11-23.log").read_bytes() == expected.encode()


@given(text=st.text() | st.text(alphabet="\r\n\t\0\x1b\x85\u2028\u202e\ud800é…2026-:"))
def test_any_text_is_one_printable_line(text) -> None:
    with tempfile.TemporaryDirectory() as name:
        log = Log(1, Path(name), 30)
        log.sayer("office")(1, text)
        log.close()
        assert log.failure == ""
        ((_, pid, connector, told),) = lines(Path(name))
    assert (int(pid), connector) == (os.getpid(), "office")
    assert told.isprintable()
    if text.isprintable():
        assert told == text


def test_a_long_line_is_cut(tmp_path) -> None:
    log = Log(4, tmp_path, 30)
    log.sayer("office")(4, "a" * TEXT_LIMIT)
    log.sayer("office")(4, "b" * 100_000)
    log.close()
    assert texts(tmp_path) == ["a" * TEXT_LIMIT, "b" * (TEXT_LIMIT - 1) + "…"]


def test_midnight_within_a_run(tmp_path, clock) -> None:
    log = Log(1, tmp_path, 30)
    say = log.sayer("office")
    days = []
    for moment in ("2026-11-23T22:59:59.999Z", "2026-11-23T23:00:00Z", "2026-11-24T12:00:00Z", "2026-11-24T12:00:00Z"):
        clock(moment)
        say(1, moment)
        days.append(local_day(moment))
    log.close()
    assert names(tmp_path) == sorted({f"poprep-{day}.log" for day in days})
    assert [line[0][:10] for line in lines(tmp_path)] == days
    if POSIX:
        assert days == ["2026-11-23", "2026-11-24", "2026-11-24", "2026-11-24"]


def test_a_clock_that_is_set_back_goes_on_in_the_file_of_that_day(tmp_path, clock) -> None:
    log = Log(1, tmp_path, 30)
    for day in (23, 24, 23, 24):
        clock(f"2026-11-{day}T12:00:00Z")
        log.sayer("office")(1, "noon")
    log.close()
    assert [line[0][8:10] for line in lines(tmp_path)] == ["23", "23", "24", "24"]


@pytest.mark.skipif(not POSIX, reason="the time zone of a process can't be set on Windows")
def test_when_the_clocks_change(tmp_path, clock) -> None:
    log = Log(1, tmp_path, 0)
    moments = ["2026-03-29T00:59:59Z", "2026-03-29T01:00:00Z", "2026-10-25T00:59:59Z", "2026-10-25T01:00:00Z"]
    moments += ["2026-10-24T21:59:59Z", "2026-10-24T22:00:00Z", "2026-10-25T22:59:59Z", "2026-10-25T23:00:00Z"]
    for moment in moments:
        clock(moment)
        log.sayer("office")(1, moment)
    log.close()
    told = {line[3]: line[0] for line in lines(tmp_path)}
    assert [told[moment].replace(".000", "") for moment in moments] == [
        "2026-03-29T01:59:59+01:00",
        "2026-03-29T03:00:00+02:00",
        "2026-10-25T02:59:59+02:00",
        "2026-10-25T02:00:00+01:00",
        "2026-10-24T23:59:59+02:00",
        "2026-10-25T00:00:00+02:00",
        "2026-10-25T23:59:59+01:00",
        "2026-10-26T00:00:00+01:00",
    ]
    assert names(tmp_path) == [f"poprep-2026-{day}.log" for day in ("03-29", "10-24", "10-25", "10-26")]


def test_two_processes_with_two_threads_each(tmp_path) -> None:
    folder = tmp_path / "state" / "log"
    command = [sys.executable, "-c", WRITER, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, name], **pipes) for name in "ab"]
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate(timeout=60) == ("", "")
    told = lines(folder)
    assert {pid for _, pid, _, _ in told} == {str(writer.pid) for writer in writers}
    for name in ("ax", "ay", "bx", "by"):
        expected = [f"{number} " + name * (number % 200) for number in range(1000)]
        assert [text for _, _, connector, text in told if connector == name] == expected
    assert len(told) == 4000


def test_threads_share_one_log(tmp_path) -> None:
    log = Log(1, tmp_path, 30)

    def work(name: str) -> None:
        for number in range(200):
            log.sayer(name)(1, str(number))

    threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    told = lines(tmp_path)
    assert len(told) == 800
    assert all([line[3] for line in told if line[2] == name] == list(map(str, range(200))) for name in "abcd")


def test_a_line_is_one_write_into_a_file_opened_once(tmp_path, clock, monkeypatch) -> None:
    calls: list[str] = []

    def recorded(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments: (calls.append(name), call(*arguments))[1]

    for name in ("open", "write", "close"):
        monkeypatch.setattr(os, name, recorded(name, getattr(os, name)))
    log = Log(1, tmp_path, 30)
    for day in (23, 24):
        clock(f"2026-11-{day}T12:00:00Z")
        for number in range(100):
            log.sayer("office")(1, str(number))
    log.close()
    assert calls == ["open", *["write"] * 100, "close"] * 2


@pytest.mark.skipif(not POSIX, reason="POSIX permissions")
@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_folder_and_file_are_private_whatever_the_umask(tmp_path, umask) -> None:
    before = os.umask(umask)
    try:
        log = Log(1, tmp_path / "state" / "log", 30)
        log.sayer("office")(1, "x")
        log.close()
    finally:
        os.umask(before)
    (file,) = (tmp_path / "state" / "log").iterdir()
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (file, file.parent, file.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


@pytest.mark.skipif(not POSIX, reason="POSIX permissions")
def test_a_folder_that_exists_keeps_its_mode(tmp_path) -> None:
    tmp_path.chmod(0o755)  # somebody may name /var/log
    log = Log(1, tmp_path, 30)
    log.sayer("office")(1, "x")
    log.close()
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755


def failing(folder: Path) -> str:
    """Log into a folder in which it can't be done, and return what is said of it."""
    log = Log(4, folder, 30)
    say = log.sayer("office")
    say(1, "first")
    failure = log.failure
    say(4, "second")
    log.close()
    log.close()
    assert log.failure == failure
    assert log.level == 0
    return failure


@pytest.mark.parametrize("there", [True, False])
def test_a_folder_that_is_a_symbolic_link(tmp_path, there) -> None:
    target = tmp_path / "target"
    if there:
        target.mkdir()
    (tmp_path / "log").symlink_to(target, target_is_directory=True)
    assert f"the folder {tmp_path / 'log'} is a symbolic link, which is not followed" in failing(tmp_path / "log")
    assert not there or list(target.iterdir()) == []
    assert target.exists() is there


@pytest.mark.parametrize("there", [True, False])
def test_a_file_that_is_a_symbolic_link(tmp_path, clock, there) -> None:
    target = tmp_path / "target"
    if there:
        target.write_bytes(b"keep\n")
    file = tmp_path / f"poprep-{local_day('2026-11-23T08:41:00Z')}.log"
    file.symlink_to(target)
    assert f"{file} is a symbolic link, which is not followed" in failing(tmp_path)
    assert file.is_symlink()
    assert target.exists() is there
    assert not there or target.read_bytes() == b"keep\n"


def test_a_folder_that_is_a_file(tmp_path) -> None:
    (tmp_path / "log").write_bytes(b"")
    failure = failing(tmp_path / "log")
    assert failure.startswith(f"the log is not complete: can't use the folder {tmp_path / 'log'}: ")
    assert failure.endswith("name another folder in log.folder")
    assert "the log is not complete: can't " in failing(tmp_path / "log" / "below" / "it")


@pytest.mark.skipif(not POSIX, reason="there is no mkfifo on Windows")
def test_a_file_that_is_a_fifo(tmp_path, clock) -> None:
    os.mkfifo(tmp_path / "poprep-2026-11-23.log")
    assert "poprep-2026-11-23.log is not a regular file" in failing(tmp_path)


def test_a_folder_in_the_place_of_the_file(tmp_path, clock) -> None:
    (tmp_path / f"poprep-{local_day('2026-11-23T08:41:00Z')}.log").mkdir()
    assert "the log is not complete: can't open " in failing(tmp_path)


@pytest.mark.skipif(not POSIX, reason="a limit of file sizes stands for the full disk")
def test_a_full_disk(tmp_path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    (file,) = tmp_path.iterdir()
    assert done.stdout == (
        f"the log is not complete: can't write {file}: file too large; "
        "mend that, or name another folder in log.folder\n"
    )
    first, second = file.read_text().split("\n")
    assert (len(first) + 1 + len(second), first.endswith("0 " + "x" * 100)) == (200, True)

    log = Log(1, tmp_path, 30)  # there is room again, and the line that was cut does not swallow the next one
    log.sayer("office")(1, "third")
    log.sayer("office")(1, "fourth")
    log.close()
    told = "".join((tmp_path / name).read_text() for name in names(tmp_path)).split("\n")
    assert told[:2] == [first, second]
    assert [LINE.fullmatch(line)[4] for line in told[2:-1]] == ["third", "fourth"]


def test_the_failure_is_that_of_the_day(tmp_path, clock) -> None:
    log = Log(1, tmp_path, 30)
    clock("2026-11-23T12:00:00Z")
    log.sayer("office")(1, "noon")
    (tmp_path / "poprep-2026-11-24.log").symlink_to(tmp_path / "x")
    for moment in ("2026-11-24T12:00:00Z", "2026-11-23T12:00:01Z"):
        clock(moment)
        log.sayer("office")(1, "never written")
    log.close()
    assert "poprep-2026-11-24.log is a symbolic link" in log.failure
    (tmp_path / "poprep-2026-11-24.log").unlink()
    assert texts(tmp_path) == ["noon"]


@pytest.mark.parametrize("moment", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_clock_beyond_all_years_stops_nothing(tmp_path, clock, moment) -> None:
    clock(moment)
    failure = failing(tmp_path)
    assert failure.startswith("the log is not complete: ") or lines(tmp_path)


def test_after_the_end_nothing_is_written(tmp_path) -> None:
    log = Log(1, tmp_path, 30)
    say = log.sayer("office")
    say(1, "before")
    log.close()
    say(1, "after")
    log.sayer("other")(1, "after")
    log.close()
    assert (texts(tmp_path), log.failure) == (["before"], "")


# Old files.

DAYS = st.dates(date(2024, 1, 1), date(2028, 1, 1))
NEAR = st.integers(0, 100).map(lambda days: date(2026, 11, 23) - timedelta(days=days))


def named(days: set[date]) -> set[str]:
    return {f"poprep-{day}.log" for day in days}


@given(days=st.sets(NEAR | DAYS, max_size=40), today=NEAR | DAYS, keep_days=st.integers(0, 60))
def test_what_is_removed(days, today, keep_days) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for each in named(days | {today}):
            (folder / each).touch()
        remove_old(folder, today, keep_days)
        left = {path.name for path in folder.iterdir()}
    span = timedelta(days=keep_days)
    earlier = {day for day in days if day < today}
    newest = max(earlier, default=today)
    removed = named(days | {today}) - left
    assert removed <= named({day for day in earlier if today - day > span and newest - day >= span and keep_days})
    if today - newest == timedelta(days=1) and keep_days:  # no day without a log in between
        assert removed == named({day for day in earlier if today - day > span})


def test_old_files_go_when_a_new_one_comes(tmp_path, clock) -> None:
    every = [date(2026, 10, 1) + timedelta(days=number) for number in range(53)]  # to 22 November
    for day in every:
        (tmp_path / f"poprep-{day}.log").touch()
    for _ in range(2):
        clock("2026-11-23T12:00:00Z")
        log = Log(1, tmp_path, 30)
        log.sayer("office")(1, "noon")
        log.close()
        assert names(tmp_path) == sorted(named({*every[23:], date(2026, 11, 23)}))
        assert "poprep-2026-10-24.log" in names(tmp_path)
    (tmp_path / "poprep-2020-01-01.log").touch()
    log = Log(1, tmp_path, 30)  # the file of today is there: it is not the time to look for old ones
    log.sayer("office")(1, "noon")
    log.close()
    assert "poprep-2020-01-01.log" in names(tmp_path)


def test_a_clock_a_year_ahead_removes_nothing_young(tmp_path, clock) -> None:
    days = {date(2026, 11, 23) - timedelta(days=number) for number in range(30)}
    for each in named(days):
        (tmp_path / each).touch()
    clock("2027-11-23T12:00:00Z")
    log = Log(1, tmp_path, 30)
    log.sayer("office")(1, "in the future")
    log.close()
    assert set(names(tmp_path)) == named(days | {date(2027, 11, 23)})


def test_only_logs_are_removed(tmp_path) -> None:
    others = ["poprep-2020-02-30.log", "poprep-2020-1-1.log", "poprep-2020-01-01.log.gz", "Poprep-2020-01-01.log"]
    others += ["xpoprep-2020-01-01.log", "poprep-20200101.log", "poprep-2020-01-01.txt", "poprep-0000-01-01.log"]
    others += ["poprep-\u0662\u0660\u0662\u0660-01-01.log", "poprep-2020-W01-1.log", "office.jsonl"]
    for name in others:
        (tmp_path / name).write_bytes(b"keep")
    (tmp_path / "poprep-2020-01-02.log").mkdir()
    (tmp_path / "poprep-2020-01-03.log").symlink_to(tmp_path / "office.jsonl")
    (tmp_path / "poprep-2020-01-04.log").symlink_to(tmp_path / "nowhere")
    before = names(tmp_path)
    for name in ("poprep-2020-01-05.log", "poprep-2026-11-22.log"):
        (tmp_path / name).touch()
    remove_old(tmp_path, date(2026, 11, 23), 30)
    assert names(tmp_path) == sorted([*before, "poprep-2026-11-22.log"])
    assert (tmp_path / "office.jsonl").read_bytes() == b"keep"


# The table of the configuration.


def test_the_table_and_its_defaults(tmp_path) -> None:
    log = load(write(tmp_path, GOOD)).log
    assert (log.level, log.folder, log.keep_days) == (1, None, 30)
    log = load(write(tmp_path, '[log]\nlevel = 4\nfolder = "my logs"\nkeep_days = 0\n' + GOOD)).log
    assert (log.level, log.folder, log.keep_days) == (4, str(tmp_path / "my logs"), 0)
    assert not (tmp_path / "my logs").exists()
    absolute = str(tmp_path / "elsewhere")
    assert load(write(tmp_path, f"[log]\nfolder = '{absolute}'\n{GOOD}")).log.folder == absolute


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("level = 5", "5 is not allowed; allowed: 0 (off), 1 or 2 (mail and errors), 3 (verbose) or 4"),
        ("level = -1", "-1 is not allowed"),
        ("level = true", "true is not allowed"),
        ('level = "verbose"', '"verbose" is not allowed'),
        ('folder = ""', "allowed: the path of a folder"),
        ('folder = "a\\u0000b"', "NUL is not allowed"),
        ("keep_days = -1", "allowed: a whole number of days, from 0 to 36500"),
        ("keep_days = 1.5", "1.5 is not allowed"),
        ("levels = 1", "unknown key; did you mean level? allowed: level, folder, keep_days"),
    ],
)
def test_wrong_values(tmp_path, line, told) -> None:
    path = write(tmp_path, f"[log]\n{line}\n{GOOD}")
    with pytest.raises(ConfigError, match=re.escape(f"{path}:2: log.{line.partition(' ')[0]}: ")) as caught:
        load(path)
    assert told in str(caught.value)


def test_config_set_check_and_show(tmp_path) -> None:
    path = write(tmp_path, GOOD)

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(cli, ["--config", str(path), "config", *arguments])
        assert result.exit_code == 0, result.output
        return result.stdout

    for key, value in (("level", "3"), ("folder", "logs"), ("keep_days", "7")):
        run("set", f"log.{key}", value)
    assert path.read_text() == GOOD + '\n[log]\nlevel = 3\nfolder = "logs"\nkeep_days = 7\n'
    assert ": ok, 1 connector " in run("check")
    folder = str(tmp_path / "logs").replace("\\", "\\\\")
    assert f'[log]\nlevel = 3\nfolder = "{folder}"\nkeep_days = 7\n' in run("show")
    path.write_text(GOOD)
    assert "[log]\nlevel = 1\n# folder is not set\nkeep_days = 30\n" in run("show")
