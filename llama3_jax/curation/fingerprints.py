"""Which code makes a result: a module with all that it imports of this project, as one hash.

What is imported is read from the source, not from what happens to be loaded, so the hash is the same in every process.
"""

import ast
import functools
import hashlib
import importlib.util
import inspect
import pathlib
import pkgutil
from collections.abc import Callable

PROJECT = __name__.partition(".")[0]


@functools.cache
def code_hash(name: str) -> str:
    """A hash of the sources of `modules_behind` a name."""
    digest = hashlib.blake2b(digest_size=16)
    for module in modules_behind(name):
        digest.update(f"{module}\0".encode() + _source(module))
    return digest.hexdigest()


@functools.cache
def modules_behind(name: str) -> tuple[str, ...]:
    """A module, or a package with all its modules, and what they import of this project; in order."""
    found: set[str] = set()
    waiting = list(_inside(name))
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += _imports(module)
    return tuple(sorted(found))


def callable_hash(function: Callable) -> str:
    """A hash of the source of one function. What it calls is not part of it."""
    return hashlib.blake2b(inspect.getsource(function).encode(), digest_size=16).hexdigest()


def _file(name: str) -> pathlib.Path:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"there is no module {name}")
    return pathlib.Path(spec.origin)


@functools.cache
def _source(name: str) -> bytes:
    return _file(name).read_bytes()


@functools.cache
def _inside(name: str) -> list[str]:
    """A module; a package with all its modules."""
    file = _file(name)
    if file.name != "__init__.py":
        return [name]
    inside = pkgutil.walk_packages([str(file.parent)], f"{name}.")
    return [name, *sorted(module.name for module in inside)]


@functools.cache
def _imports(name: str) -> list[str]:
    """The modules of this project that a module's source names."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(_source(name))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if _is_module(each) else node.module for each in inside}
    return sorted(module for module in found if module.partition(".")[0] == PROJECT)


@functools.cache
def _is_module(name: str) -> bool:
    if name.partition(".")[0] != PROJECT:
        return False
    folder, _, last = name.rpartition(".")
    file = _file(folder)
    return file.name == "__init__.py" and ((file.parent / f"{last}.py").exists() or (file.parent / last).is_dir())
