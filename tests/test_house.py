"""The rules of the house that a parser can check: floors, names, sizes, docstrings, letters, no loose ends."""

import ast
import pathlib
import re
import shutil
import subprocess

import pytest

from llama3_jax.core.sharding import DIMS

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = "llama3_jax"
FILES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / PACKAGE).rglob("*.py"))}

# Imports go down only; rooms of one floor do not know each other.
FLOORS = {
    "core": 0,
    "parallel": 1,
    "ops": 2,
    "model": 3,
    "curation": 3,
    "data": 3,
    "train": 4,
    "infer": 4,
    "plan": 5,
    "weights": 5,
    "serve": 5,
    "evaluate": 6,
    "commands": 7,
    "cli": 7,
}
JOINS = {("cli", "commands")}  # the one place that joins wings
MAX_FUNCTION_LINES, MAX_FILE_LINES = 60, 500
LONGER: dict[str, int] = {}  # "file" or "file:function" -> lines it may have, with the reason beside it
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "manager", "misc"}
IMPORTS_INSIDE = {  # "file:module" -> why it cannot be imported at the top
    "llama3_jax/curation/cluster.py:daft": "of the extra `cluster`",
    "llama3_jax/commands/serve.py:llama3_jax.serve": "the other commands work without the extra `serve`",
}
COMMAND_PROTOCOL = {"define_flags", "run"}  # of every module of commands/; cli.py and each MANUAL describe them
LETTERS = {"llama3_jax/ops/losses.py": {"C"}}  # C: tokens of one chunk of the loss
LEGEND = re.compile(r"\b([A-Z]) [a-z]")  # "Letters: B batch, S query positions" in a module's docstring

whole_package = pytest.mark.parametrize("name", FILES)


def parse(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(encoding="utf-8"))


def room(module: str) -> str:
    """`llama3_jax.core.params` or `llama3_jax/core/params.py` -> `core`."""
    return re.split(r"[./]", module.removesuffix(".py"))[1]


def imported(node: ast.AST) -> list[str]:
    """Full names of the modules an import statement brings in."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{node.module}.{alias.name}" for alias in node.names]
    return []


def test_every_room_has_a_floor():
    assert {room(name) for name in FILES if name != f"{PACKAGE}/__init__.py"} <= set(FLOORS)


@whole_package
def test_imports_are_absolute_and_go_down(name):
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
        for module in imported(node):
            if module.split(".")[0] != PACKAGE:
                continue
            here, there = room(name), room(module)
            down = FLOORS[there] < FLOORS[here] or here == there or (here, there) in JOINS
            assert down, (
                f"{name}:{node.lineno} imports {module}: {here} is on floor {FLOORS[here]}, {there} on {FLOORS[there]}"
            )


@pytest.mark.parametrize("name", [name for name in FILES if room(name) == "curation"])
def test_curation_needs_no_accelerator(name):
    """Its workers are many and start often: neither jax nor flax."""
    modules = [module for node in ast.walk(parse(name)) for module in imported(node)]
    assert not [module for module in modules if module.split(".")[0] in {"jax", "flax", "jaxlib"}]


@whole_package
def test_imports_are_at_the_top(name):
    for function in ast.walk(parse(name)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda):
            for node in ast.walk(function):
                for module in imported(node):
                    assert f"{name}:{module}" in IMPORTS_INSIDE, (
                        f"{name}:{node.lineno} imports {module} inside a function"
                    )


@whole_package
def test_names_say_what_is_inside(name):
    assert not VAGUE & set(pathlib.PurePath(name).with_suffix("").parts)


@whole_package
def test_files_and_functions_can_be_read_in_a_sitting(name):
    lines = len(FILES[name].read_text(encoding="utf-8").splitlines())
    assert lines <= LONGER.get(name, MAX_FILE_LINES), f"{name} has {lines} lines"
    for node in ast.walk(parse(name)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = node.end_lineno - node.lineno + 1
            assert lines <= LONGER.get(f"{name}:{node.name}", MAX_FUNCTION_LINES), (
                f"{name}: {node.name} has {lines} lines"
            )


@whole_package
def test_what_is_public_is_documented(name):
    module = parse(name)
    if not module.body:
        return
    assert ast.get_docstring(module), f"{name} has no docstring"
    for node in module.body:
        if not isinstance(node, ast.FunctionDef | ast.ClassDef) or node.name.startswith("_"):
            continue
        if room(name) == "commands" and node.name in COMMAND_PROTOCOL:
            continue
        assert ast.get_docstring(node), f"{name}:{node.lineno} {node.name} has no docstring"


@whole_package
def test_einsums_are_written_in_the_letters_of_the_table(name):
    module = parse(name)
    legend = set(LEGEND.findall((ast.get_docstring(module) or "").partition("Letters:")[2]))
    known = set(DIMS) | legend | LETTERS.get(name, set())
    for node in ast.walk(module):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "einsum":
            terms = node.args[0]
            if isinstance(terms, ast.Constant):
                unknown = {letter for letter in terms.value if letter.isalpha()} - known
                assert not unknown, f"{name}:{node.lineno} {terms.value!r} uses {sorted(unknown)}"


@whole_package
def test_nothing_is_left_for_later(name):
    text = FILES[name].read_text(encoding="utf-8")
    for word in ("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error"):
        assert word not in text, f"{name} says {word}"


def test_no_tracked_file_names_a_folder_of_one_machine():
    listed = None
    if shutil.which("git"):
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed is None or listed.returncode:
        pytest.skip("not a git checkout")
    private = re.compile(r"(?<![\w.}])/(?:" + "|".join(("work", "home", "root")) + r")/")
    found = []
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file():
            text = path.read_bytes().decode("utf-8", errors="replace")
            found += [f"{name}: {line.strip()}" for line in text.splitlines() if private.search(line)]
    assert not found, "\n".join(found)
