"""Gets secrets from where the configuration says they are: itself, the environment, a file, a command, a keyring.

Nothing here puts a secret into a message. Files that may hold secrets, the configuration among them, are opened once and
judged by what was opened, so that nobody can exchange them in between.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Never

from poprep_cli.config.model import NO_SECRET, Secret
from poprep_cli.errors import ConfigError

if TYPE_CHECKING:
    import subprocess

COMMAND_TIME_LIMIT = 30.0  # seconds; a person who has to type something would need longer, but a pass has no person
FILE_SIZE_LIMIT = 65_536  # octets; the longest tokens have a few thousand
_TOLD = 200  # characters of what a failed command wrote on stderr


def resolve(secret: Secret, *, what: str, user: str, folder: Path) -> str:
    """Return the secret itself, as one line of text that is not empty; "" for `NO_SECRET` alone.

    `what` is its key in the configuration (connector.office.pop3.password), for messages; `user` is the account that a
    keyring is asked for; a relative file starts at `folder`. Raises ConfigError, never with the secret in it, if it
    can't be had, is empty, or holds CR, LF or NUL: those would end a command on the wire early.
    """
    if secret == NO_SECRET:
        return ""
    if secret.value is not None:
        return _checked(secret.value, what)
    if secret.env is not None:
        return _checked(_from_env(secret.env, what), what)
    if secret.file is not None:
        return _checked(_from_file(folder / os.path.expanduser(secret.file), what), what)  # noqa: PTH111 - as `load` does
    if secret.command is not None:
        return _checked(_from_command(command_line(secret.command, what), what), what)
    if secret.keyring is not None:
        return _checked(_from_keyring(secret.keyring, user, what), what)
    raise ConfigError(f"{what}: it names no source of the secret")


def command_line(command: str | tuple[str, ...], what: str) -> list[str]:
    """Return the program and its arguments: a text is split as a shell would, a list is taken as it is.

    On Windows a backslash is part of a path, not an escape. Raises ConfigError for an open quotation or no program.
    """
    words = _split(command, what) if isinstance(command, str) else list(command)
    if not words or not words[0]:
        raise ConfigError(f"{what}: the command is empty")
    return words


def read_file(path: Path, *, size_limit: int) -> tuple[str, os.stat_result]:
    """Return the text of a regular file and the status of what was opened, symbolic links followed.

    A byte order mark is dropped. Raises ConfigError if the file is missing, can't be read, is no regular file, has more
    than `size_limit` octets, or is not UTF-8.
    """
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        # O_NONBLOCK: a named pipe without a writer must not hold a pass up for ever.
        descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0))
    except (OSError, ValueError) as error:
        _refuse_unopened(path, error)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
        raise ConfigError(f"{path}: this is {kind}, a file is needed")
    with os.fdopen(descriptor, "rb") as file:
        try:
            data = file.read(size_limit + 1)
        except OSError as error:
            raise ConfigError(f"{path}: it can't be read: {error.strerror}") from error
    if len(data) > size_limit:
        raise ConfigError(f"{path}: it is too large; at most {size_limit} octets are allowed")
    try:
        return data.decode("utf-8-sig"), status
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
    # Outside the handler: UnicodeDecodeError carries the whole text, which must not hang on as the context.
    raise ConfigError(f"{path}:{line}: it is not UTF-8 text", hint="save it as UTF-8")


def readable_by_others(status: os.stat_result) -> bool:
    """Return whether group or others may read a file with this status; never on Windows, where modes say nothing."""
    return os.name == "posix" and bool(status.st_mode & (stat.S_IRGRP | stat.S_IROTH))


def chmod_hint(path: Path) -> str:
    """Return the command that takes a file from the eyes of others."""
    import shlex

    return f"chmod 600 {shlex.quote(str(path))}"


def _refuse_unopened(path: Path, error: OSError | ValueError) -> Never:
    if isinstance(error, FileNotFoundError):
        raise ConfigError(f"{path}: there is no such file") from error
    if path.is_dir():  # Windows refuses to open a folder at all
        raise ConfigError(f"{path}: this is a folder, a file is needed") from error
    reason = error.strerror if isinstance(error, OSError) else "this is no file name"
    raise ConfigError(f"{path}: it can't be read: {reason}") from error


def _checked(text: str, what: str) -> str:
    if not text:
        raise ConfigError(f"{what}: the secret is empty")
    if any(char in text for char in "\r\n\0"):
        raise ConfigError(f"{what}: the secret has a line break or a NUL in it; one line of text is allowed")
    if any("\ud800" <= char <= "\udfff" for char in text):
        raise ConfigError(f"{what}: the secret is not UTF-8 text")
    return text


def _without_line_end(text: str) -> str:
    return text.removesuffix("\n").removesuffix("\r") if text.endswith("\n") else text


def _from_env(name: str, what: str) -> str:
    value = os.environ.get(name)
    if value is None:
        raise ConfigError(
            f"{what}: the environment variable {name} is not set",
            hint="cron and services start programs with hardly any environment: set it where poprep is started",
        )
    return value


def _from_file(path: Path, what: str) -> str:
    try:
        text, status = read_file(path, size_limit=FILE_SIZE_LIMIT)
    except ConfigError as error:
        raise ConfigError(f"{what}: {error}", hint=error.hint) from None
    if readable_by_others(status):
        raise ConfigError(f"{what}: {path}: others than its owner can read this secret", hint=chmod_hint(path))
    return _without_line_end(text)


def _split(command: str, what: str) -> list[str]:
    import shlex

    words = shlex.shlex(command, posix=True, punctuation_chars=False)
    words.whitespace_split = True
    words.commenters = ""
    if sys.platform == "win32":
        words.escape = ""
    try:
        return list(words)
    except ValueError as error:
        raise ConfigError(f"{what}: the command can't be split into words: {error}") from None


def _from_command(words: list[str], what: str) -> str:
    import subprocess

    name = printable(Path(words[0]).name)
    try:
        process = subprocess.Popen(  # noqa: S603 - the command is the user's own, and no shell reads it
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # so that its children can be ended with it
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "this is no command"
        hint = "give the full path of the program: cron has a short PATH" if isinstance(error, OSError) else None
        raise ConfigError(f"{what}: the command {name} can't be started: {reason}", hint=hint) from None
    with process:
        try:
            output, complaint = process.communicate(timeout=COMMAND_TIME_LIMIT)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise ConfigError(
                f"{what}: the command {name} did not end within {COMMAND_TIME_LIMIT:g} seconds",
                hint="it must not ask anybody anything: it runs without a terminal",
            ) from None
        except BaseException:
            _kill(process)
            raise
    if process.returncode != 0:
        raise ConfigError(f"{what}: the command {name} {_ending(process.returncode)}{_told(complaint, output)}")
    try:
        return _without_line_end(output.decode("utf-8"))
    except UnicodeDecodeError:
        pass
    raise ConfigError(f"{what}: what the command {name} wrote is not UTF-8 text")


def _kill(process: subprocess.Popen[bytes]) -> None:
    if sys.platform == "win32":
        process.kill()
        return
    import signal

    try:
        os.killpg(process.pid, signal.SIGKILL)  # not reaped yet, so the number is still this command's
    except ProcessLookupError:
        process.kill()


def _ending(code: int) -> str:
    return f"was ended by signal {-code}" if code < 0 else f"failed with exit code {code}"


def _told(complaint: bytes, output: bytes) -> str:
    text = complaint.decode("utf-8", "replace").strip()
    secret = output.decode("utf-8", "replace").strip()
    if secret:
        text = text.replace(secret, "********")
    text = printable(text)
    return f": {text[:_TOLD]}{'...' if len(text) > _TOLD else ''}" if text else ""


def printable(text: str) -> str:
    """Return a text in one line, white space run together and what does not print shown as `?`."""
    return "".join(char if char.isprintable() else "?" for char in " ".join(text.split()))


def _from_keyring(service: str, user: str, what: str) -> str:
    try:
        import keyring
    except ImportError:
        raise ConfigError(
            f"{what}: the secret is in a keyring, and poprep is installed without support for keyrings",
            hint="pip install 'poprep-cli[keyring]'",
        ) from None
    try:
        found = keyring.get_password(service, user)
    except Exception as error:  # noqa: BLE001 - each backend has exceptions of its own
        raise ConfigError(
            f"{what}: the keyring can't be asked: {printable(str(error))[:_TOLD] or type(error).__name__}",
            hint="a pass started by cron may have no access to a desktop's keyring: use { file = ... } there",
        ) from None
    if found is None:
        raise ConfigError(
            f"{what}: the keyring has no entry for service {printable(service)} and user {printable(user)}",
            hint=f"keyring set {printable(service)} {printable(user)}",
        )
    return found
