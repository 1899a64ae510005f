"""The structure of the package, read from its source: its imports, and where concrete classes are named."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import sivae

ROOT = Path(sivae.__file__).parent

# A file imports from its own row and from the rows above it: the lowest floor comes first.
FLOORS = (
    "errors",
    "bounds",
    "pickles",
    "words",
    "fields",
    "files",
    "json_files",
    "progress",
    "ops",
    "machine",
    "models",
    "pretrained",
    "data",
    "method",
    "objectives",
    "settings",
    "evaluation",
    "figures",
    "training",
    "detection",
    "reproduce",
    "cli",
    "__main__",
)
BASES = {"VAEModel", "Objective"}  # what the others are derived from


@dataclass(frozen=True)
class Import:
    """A module of the package that another one imports; `late`: only when a function runs."""

    source: str
    target: str
    late: bool


def modules() -> dict[str, ast.Module]:
    """The package's modules by their dotted names without the package's own, which is ""."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if not name.startswith("_build_status"):  # written by the build, imports nothing
            found[name] = ast.parse(path.read_text(encoding="utf-8"), str(path))
    return found


MODULES = modules()


def imports() -> Iterator[Import]:
    for name, tree in MODULES.items():
        late = {
            id(inner)
            for function in ast.walk(tree)
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
            for inner in ast.walk(function)
        }
        for node in ast.walk(tree):
            for full in _named(node):
                target = full.removeprefix("sivae").lstrip(".")
                if target not in MODULES:  # a name of a module
                    target = target.rpartition(".")[0]
                yield Import(name, target, id(node) in late)


def _named(node: ast.AST) -> list[str]:
    """The dotted names that an import statement takes from the package."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        assert node.level == 0, "imports are written in full"
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        names = []
    return [name for name in names if name.split(".")[0] == "sivae"]


def floor(module: str) -> int:
    return FLOORS.index(module.split(".")[0])


def circles() -> set[frozenset[str]]:
    """The groups of modules that can be reached from one another."""
    edges: dict[str, set[str]] = {name: set() for name in MODULES}
    for one in imports():
        if not one.late:
            edges[one.source].add(one.target)
    reached = {name: _reached(name, edges) for name in edges}
    groups = {name: frozenset(other for other in reached[name] if name in reached[other]) for name in edges}
    return {group for group in groups.values() if group}


def _reached(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        if (name := waiting.pop()) not in seen:
            seen.add(name)
            waiting.extend(edges[name])
    return seen


def concrete_classes() -> dict[str, set[str]]:
    """Models and objectives: name of the class -> the modules that define it."""
    defined: dict[str, set[str]] = {}
    bases: dict[str, set[str]] = {}
    for module, tree in MODULES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                defined.setdefault(node.name, set()).add(module)
                bases.setdefault(node.name, set()).update(_last(base) for base in node.bases)

    def is_one(name: str) -> bool:
        return name.endswith(("VAE", "Objective")) or any(
            base in BASES or (base != name and is_one(base)) for base in bases.get(name, ())
        )

    return {name: places for name, places in defined.items() if name not in BASES and is_one(name)}


def named_classes() -> set[tuple[str, str]]:
    """Where `isinstance` or `issubclass` asks for a concrete model or objective that another module defines."""
    concrete = concrete_classes()
    return {
        (module, name)
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and _last(node.func) in ("isinstance", "issubclass")
        for part in ast.walk(node.args[1])
        if (name := _last(part)) in concrete and module not in concrete[name]
    }


def _last(node: ast.AST) -> str:
    """The last part of a dotted name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def test_every_part_of_the_package_has_a_floor() -> None:
    parts = {name.split(".")[0] for name in MODULES} - {""}
    assert parts <= set(FLOORS), f"give a floor to {sorted(parts - set(FLOORS))}"


def test_no_modules_import_each_other() -> None:
    assert circles() == set()


def test_no_module_imports_from_a_higher_floor() -> None:
    found = {
        (one.source, one.target)
        for one in imports()
        if one.source and one.target and floor(one.target) > floor(one.source)
    }
    assert found == set()


def test_only_the_command_line_takes_the_package_s_own_names() -> None:
    # The package loads them on first use, from any floor.
    found = {
        (module, alias.name)
        for module, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "sivae" and module.split(".")[0] != "cli"
        for alias in node.names
        if alias.name not in MODULES and alias.name not in ("__version__", "DISTRIBUTION")  # not loaded on first use
    }
    assert not found, "import the module that defines the name"


def test_no_module_asks_for_a_concrete_model_or_objective_of_another() -> None:
    assert named_classes() == set()


def test_the_scan_sees_imports_and_classes() -> None:
    assert Import("evaluation.fid", "models.pixels", late=False) in set(imports())
    assert Import("reproduce.experiment", "pretrained", late=True) in set(imports())
    assert concrete_classes()["StyleVAE"] == {"models.style.model"}
