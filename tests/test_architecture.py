"""The layers, checked from the import statements: cli -> engine -> net -> protocol, and never upwards."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import poprep_cli

ROOT = Path(poprep_cli.__file__).parent
MODULE_LINES = 400

# What each layer may import of the others. Everything may import errors, and itself.
ALLOWED = {
    "errors": set(),
    "protocol": set(),
    "config": {"protocol"},
    "net": {"protocol", "config"},
    "engine": {"net", "protocol", "config"},
    "embedded": set(),
    "cli": {"engine", "net", "protocol", "config", "embedded"},
    "__main__": {"cli"},
}
# Layers that may see only a part of another one.
PARTS = {
    ("net", "config"): {"poprep_cli.config.model"},
    ("config", "protocol"): {"poprep_cli.protocol.sasl.methods"},  # the names of the methods
}
WORLD = {
    "socket",
    "ssl",
    "os",
    "time",
    "threading",
    "logging",
    "select",
    "selectors",
    "subprocess",
    "pathlib",
    "asyncio",
}
WORLD |= {"signal", "shutil", "tempfile", "random", "secrets", "datetime", "urllib", "http"}


@dataclass(frozen=True)
class Import:
    """One import statement's target: `module` is its full name; `typing` ones are for the type checker alone."""

    module: str
    line: int
    typing: bool

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]


def modules() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> Iterator[Import]:
    """Yield what a module imports, wherever the statement is."""
    yield from _imports(ast.parse(path.read_bytes()), typing=False)


def _imports(node: ast.AST, *, typing: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, child.lineno, typing) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert not child.level, "relative imports hide where they go"
            assert child.module is not None
            # `from package import module` and `from module import name` look alike.
            yield from (Import(_module(child.module, alias.name), child.lineno, typing) for alias in child.names)
        elif isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for statement in child.body:
                yield from _imports(ast.Module([statement], []), typing=True)
            for statement in child.orelse:
                yield from _imports(ast.Module([statement], []), typing=typing)
        else:
            yield from _imports(child, typing=typing)


def _module(package: str, name: str) -> str:
    if not package.startswith("poprep_cli"):
        return package
    place = ROOT.joinpath(*package.split(".")[1:], name)
    return f"{package}.{name}" if place.is_dir() or place.with_suffix(".py").exists() else package


def layer_of(module: str) -> str:
    """Return the layer of one of our modules; the package itself, which has but the version, is none."""
    return module.split(".")[1] if "." in module else ""


every_module = pytest.mark.parametrize("path", modules(), ids=name_of)


def own_layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_module_is_in_a_layer() -> None:
    assert {own_layer(path) for path in modules()} == {*ALLOWED, "__init__"}


@every_module
def test_imports_go_downwards(path: Path) -> None:
    own = own_layer(path)
    for found in imports(path):
        layer = layer_of(found.module)
        if found.top != "poprep_cli" or layer in ("", "errors", own):
            continue
        where = f"{name_of(path)}:{found.line} imports {found.module}"
        part = PARTS.get((own, layer))
        assert layer in ALLOWED[own], where
        assert part is None or found.module in part, f"{where}: of {layer} it may see {part}"


@every_module
def test_the_embedded_servers_are_for_the_demo_alone(path: Path) -> None:
    if own_layer(path) == "embedded" or name_of(path) == str(Path("cli", "demo.py")):
        return
    for found in imports(path):
        assert not found.module.startswith("poprep_cli.embedded"), f"{name_of(path)}:{found.line}"


@pytest.mark.parametrize("path", sorted((ROOT / "protocol").rglob("*.py")), ids=name_of)
def test_the_protocol_cores_do_not_touch_the_world(path: Path) -> None:
    for found in imports(path):
        assert found.top not in WORLD, f"{name_of(path)}:{found.line} imports {found.module}"
    calls = {
        node.func.id
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }
    assert not calls & {"open", "print", "input", "exec", "eval"}


@every_module
def test_one_place_for_sockets_and_tls(path: Path) -> None:
    if own_layer(path) == "embedded":
        return  # a server: it has a listener of its own
    allowed = {"socket": {"net/stream.py"}, "ssl": {"net/stream.py", "net/tls.py"}, "spnego": {"net/ntlm.py"}}
    for found in imports(path):
        if not found.typing and found.top in allowed:
            assert path.relative_to(ROOT).as_posix() in allowed[found.top], f"{name_of(path)}:{found.line}: {found.top}"


@every_module
def test_click_and_rich_are_for_the_command_line_alone(path: Path) -> None:
    for found in imports(path):
        if own_layer(path) not in ("cli", "__main__"):
            assert found.top not in ("click", "rich"), f"{name_of(path)}:{found.line} imports {found.module}"
        assert found.top not in ("poplib", "smtplib", "imaplib"), f"{name_of(path)}:{found.line} imports {found.module}"


@every_module
def test_a_module_has_one_job(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= MODULE_LINES, f"{name_of(path)} has {len(lines)} lines"


@every_module
def test_a_module_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_bytes())), name_of(path)
