"""Where secrets come from, and what is said when they don't."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import keyring
import pytest
from keyring.backend import KeyringBackend

from poprep_cli.config import secrets
from poprep_cli.config.model import Secret
from poprep_cli.config.secrets import command_line, resolve
from poprep_cli.errors import ConfigError

posix = pytest.mark.skipif(os.name != "posix", reason="file modes and process groups are POSIX")
WHAT = "connector.office.pop3.password"


def got(secret: Secret, folder: Path = Path()) -> str:
    return resolve(secret, what=WHAT, user="joe", folder=folder)


def refused(secret: Secret, folder: Path = Path()) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        got(secret, folder)
    assert str(caught.value).startswith(f"{WHAT}: ")
    assert "geheim" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__}"
    return caught.value


def python(code: str) -> Secret:
    return Secret(command=(sys.executable, "-c", code))


def secret_file(folder: Path, content: bytes, mode: int = 0o600) -> Secret:
    path = folder / "word"
    path.write_bytes(content)
    path.chmod(mode)
    return Secret(file="word")


def test_text() -> None:
    assert got(Secret(value=" ge heim ")) == " ge heim "


def test_nothing() -> None:
    assert "no source" in str(refused(Secret()))


def test_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPREP_WORD", "geheim")
    assert got(Secret(env="POPREP_WORD")) == "geheim"
    monkeypatch.delenv("POPREP_WORD")
    error = refused(Secret(env="POPREP_WORD"))
    assert "POPREP_WORD is not set" in str(error)
    assert "cron" in str(error.hint)


@posix
def test_environment_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POPREP_WORD", "geheim\udcff")
    assert "not UTF-8" in str(refused(Secret(env="POPREP_WORD")))


@pytest.mark.parametrize("value", ["", "geheim\n", "ge\rheim", "geheim\0x"])
def test_text_that_is_no_secret(value: str) -> None:
    refused(Secret(value=value))


@pytest.mark.parametrize(
    ("content", "secret"),
    [
        (b"geheim", "geheim"),
        (b"geheim\n", "geheim"),
        (b"geheim\r\n", "geheim"),
        ("ü ß\n".encode(), "ü ß"),
        (b" x \n", " x "),
    ],
)
def test_file(tmp_path: Path, content: bytes, secret: str) -> None:
    assert got(secret_file(tmp_path, content), tmp_path) == secret


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"geheim\n\n", "line break"),
        (b"geheim\nx\n", "line break"),
        (b"geheim\0", "NUL"),
        (b"geheim\r", "line break"),
        (b"geheim\xff", "not UTF-8"),
        (b"geheim" * 20_000, "too large"),
    ],
)
def test_file_without_a_secret(tmp_path: Path, content: bytes, told: str) -> None:
    assert told in str(refused(secret_file(tmp_path, content), tmp_path))


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "there is no such file" in str(refused(Secret(file="none"), tmp_path))
    assert "this is a folder" in str(refused(Secret(file="."), tmp_path))


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644])
def test_file_that_others_can_read(tmp_path: Path, mode: int) -> None:
    error = refused(secret_file(tmp_path, b"geheim", mode), tmp_path)
    assert "others than its owner" in str(error)
    assert error.hint == f"chmod 600 {shlex.quote(str(tmp_path / 'word'))}"


def test_absolute_file_and_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret_file(tmp_path, b"geheim")
    assert got(Secret(file=str(tmp_path / "word")), Path("elsewhere")) == "geheim"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert got(Secret(file="~/word"), Path("elsewhere")) == "geheim"


@pytest.mark.parametrize("end", ["", "\\n", "\\r\\n"])
def test_command(end: str) -> None:
    assert got(python(f"import sys; sys.stdout.buffer.write(b'geheim{end}')")) == "geheim"


@posix
def test_command_as_a_text_is_split_but_no_shell_reads_it() -> None:
    assert got(Secret(command="printf '%s' 'ge  heim; $HOME # `x`'")) == "ge  heim; $HOME # `x`"


def test_command_gets_no_input() -> None:
    assert got(python("import sys; print(repr(sys.stdin.read()))")) == "''"


def test_failing_command_is_told_by_name_with_its_complaint_but_not_its_output() -> None:
    code = (
        "import sys; print('geheim'); print('no\\x1b[31m key for geheim\\n' + 'x' * 999, file=sys.stderr); sys.exit(3)"
    )
    told = str(refused(python(code)))
    assert f"the command {Path(sys.executable).name} failed with exit code 3: no?[31m key for ********" in told
    assert len(told) < 400
    assert "\n" not in told


@posix
def test_command_ended_by_a_signal() -> None:
    assert "ended by signal 15" in str(refused(python("import os; os.kill(os.getpid(), 15)")))


def test_commands_that_write_no_secret() -> None:
    assert "is empty" in str(refused(python("")))
    assert "line break" in str(refused(python("print('geheim\\n')")))
    assert "not UTF-8" in str(refused(python("import sys; sys.stdout.buffer.write(b'geheim\\xff')")))


def test_commands_that_cannot_be_started(tmp_path: Path) -> None:
    error = refused(Secret(command=(str(tmp_path / "none"), "geheim")))
    assert "the command none can't be started" in str(error)
    assert "PATH" in str(error.hint)
    assert "is empty" in str(refused(Secret(command="  ")))
    assert "can't be split" in str(refused(Secret(command="pass 'geheim")))


@posix
def test_command_that_does_not_end_is_killed_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(secrets, "COMMAND_TIME_LIMIT", 0.5)
    number = tmp_path / "pid"
    started = time.monotonic()
    error = refused(Secret(command=("sh", "-c", f"sleep 60 & echo $! > {shlex.quote(str(number))}; wait")))
    assert time.monotonic() - started < 10
    assert "did not end within 0.5 seconds" in str(error)
    child = int(number.read_text())
    for _ in range(100):
        if not _runs(child):
            break
        time.sleep(0.02)
    assert not _runs(child)


def _runs(number: int) -> bool:
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{number}/stat")  # a killed child nobody has waited for yet is a zombie, not running
    return not state.exists() or state.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_backslash_is_part_of_a_path_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    words = command_line(r'"C:\Program Files\pass.exe" show C:\x # y', WHAT)
    assert words == [r"C:\Program Files\pass.exe", "show", r"C:\x", "#", "y"]


def test_backslash_elsewhere_and_list() -> None:
    if sys.platform != "win32":
        assert command_line(r"a\ b 'c d'", WHAT) == ["a b", "c d"]
    assert command_line(("a b", "c"), WHAT) == ["a b", "c"]


class _Memory(KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        if service == "broken":
            raise OSError("no\nbus")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password


@pytest.fixture
def memory() -> Iterator[_Memory]:
    before, backend = keyring.get_keyring(), _Memory()
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(before)


def test_keyring(memory: _Memory) -> None:
    memory.set_password("poprep", "joe", "geheim")
    assert got(Secret(keyring="poprep")) == "geheim"
    error = refused(Secret(keyring="other"))
    assert "no entry for service other and user joe" in str(error)
    assert error.hint == "keyring set other joe"
    assert "can't be asked: no bus" in str(refused(Secret(keyring="broken")))


def test_keyring_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "keyring", None)
    assert refused(Secret(keyring="poprep")).hint == "pip install 'poprep-cli[keyring]'"
