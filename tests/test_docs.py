"""The documents say what is so: commands, exit codes, keys, links, samples."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import pytest

import poprep_cli
from poprep_cli import errors
from poprep_cli.config.load import load
from poprep_cli.engine.report import ConnectorReport
from poprep_cli.engine.state import STATUSES
from poprep_cli.engine.status import Status
from poprep_cli.engine.store import Slip
from poprep_cli.errors import ExitCode, PoprepError

ROOT = Path(__file__).parents[1]
DEMO = "python3 -m venv .venv && .venv/bin/pip install -q . && .venv/bin/poprep demo"
TESTS = "python3 -m venv .venv && .venv/bin/pip install -q -e '.[test]' && .venv/bin/python -m pytest"
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
MINIMAL = ("README.md", "docs/getting-started.md")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks(name: str, language: str) -> list[str]:
    """Return the code blocks of a language, those in lists without their indentation."""
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```$", text(name), re.MULTILINE | re.DOTALL)
    return ["".join(line.removeprefix(indent) for line in body.splitlines(keepends=True)) for indent, body in found]


def without_code(document: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^ *```.*?^ *```$", "", document, flags=re.MULTILINE | re.DOTALL))


def anchors(document: str) -> set[str]:
    """Return the anchors of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", document, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_sets_everything_up_by_two_commands() -> None:
    assert blocks("README.md", "sh") == [f"{DEMO}\n", f"{TESTS}\n"]


def test_the_checks_run_the_readmes_command() -> None:
    lines = text(".ci/run").splitlines()
    assert TESTS in lines


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", without_code(document.read_text(encoding="utf-8"))):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        place = document.parent / name if name else document
        if not place.exists() or (anchor and anchor not in anchors(place.read_text(encoding="utf-8"))):
            broken.append(target)
    assert broken == []


def test_every_document_is_in_the_readme() -> None:
    readme = text("README.md")
    assert [path.name for path in DOCUMENTS[1:] if f"{path.relative_to(ROOT).as_posix()})" not in readme] == []


def test_commands_are_those_of_the_help() -> None:
    document = runpy.run_path(str(ROOT / "docs/generate.py"))["document"]
    assert text("docs/commands.md") == document(), "run: python docs/generate.py"


def test_exit_codes_are_in_the_readme() -> None:
    table = text("README.md").partition("## Exit codes")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (\d+) \|", table, re.MULTILINE) == [str(int(code)) for code in ExitCode]


def test_the_order_of_exit_codes_is_in_the_readme() -> None:
    sentence = re.search(r"most severe code wins: ([\d,\s]+)\.", text("README.md"))
    assert sentence is not None
    assert [int(code) for code in sentence[1].split(",")] == list(errors._SEVERITY)


def test_every_reason_is_in_the_json_document() -> None:
    kinds = [PoprepError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    rows = re.findall(r"^\| `([a-z -]+)` \| (\d+) \|", text("docs/json.md"), re.MULTILINE)
    documented = {reason: int(code) for reason, code in rows}
    assert documented == {"ok": 0, "not due": 0, "partial": 1} | {kind.reason: int(kind.exit_code) for kind in kinds}


def test_every_key_of_a_report_is_in_the_json_document() -> None:
    section = text("docs/json.md").partition("## A connector")[2].partition("\nText from servers")[0]
    keys = re.findall(r"^\| `([a-z_]+)` \| [a-z]", section, re.MULTILINE)
    assert keys == [*ConnectorReport("office").as_dict(), "plan"]


def test_statuses_and_files_are_in_the_state_document() -> None:
    document = text("docs/state.md")
    named = {*STATUSES, *Status.__struct_fields__, *Slip.__struct_fields__}
    assert [name for name in named if f"`{name}`" not in document and f'"{name}"' not in document] == []


@pytest.mark.parametrize("name", MINIMAL)
def test_the_sample_configurations_are_right(name: str, tmp_path: Path) -> None:
    path = tmp_path / "poprep.toml"
    whole = "\n".join(blocks(name, "toml"))
    path.write_text(whole, encoding="utf-8")
    path.chmod(0o600)
    (connector,) = load(path).connectors
    assert (connector.name, connector.pop3.address.port) == ("office", 995)
    assert connector.server_copy.remove_after_days == 14
    assert list(tomllib.loads(blocks(name, "toml")[0])) == ["smtp", "connector"]


def test_the_version_is_in_the_changelog() -> None:
    assert f"## [{poprep_cli.__version__}]" in text("CHANGELOG.md")
    assert f"poprep {poprep_cli.__version__}\n" in text("docs/getting-started.md")
