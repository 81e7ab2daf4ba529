"""The order of the packages, and the size of what one has to read."""

import ast
from pathlib import Path

import bytelm

ROOT = Path(bytelm.__file__).parent
FLOORS = (
    "core",
    "nn",
    "patching",
    "models",
    "tokenizers",
    "data",
    "inference",
    "codec",
    "training",
    "api",
    "evaluation",
    "experiments",
    "recipes",
    "cli",
    "__main__",
)
"""Each imports what stands before it, and itself."""
LONGEST_MODULE, LONGEST_FUNCTION = 420, 62

MODULES = {
    ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports(module: str) -> set[str]:
    """The modules of the package that a module imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_bytes())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else str(node.module) for name in names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name in MODULES} - {module}


def floor(module: str) -> int:
    parts = module.split(".")
    return FLOORS.index(parts[1] if len(parts) > 1 else "api")


def test_imports_point_one_way():
    upward = {
        f"{module} imports {name}"
        for module in MODULES
        for name in imports(module)
        if floor(name) > floor(module)
    }
    assert not upward


def test_no_module_imports_itself_through_others():
    graph = {module: imports(module) for module in MODULES}
    while free := {module for module, below in graph.items() if not below}:
        graph = {module: below - free for module, below in graph.items() if module not in free}
    assert not graph


def test_modules_can_be_read_at_a_sitting():
    lines = {module: len(path.read_text().splitlines()) for module, path in MODULES.items()}
    assert not {module: count for module, count in lines.items() if count > LONGEST_MODULE}


def test_functions_fit_on_a_screen():
    lines = {
        f"{module}.{node.name}": (node.end_lineno or 0) - node.lineno + 1
        for module, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_bytes()))
        if isinstance(node, ast.FunctionDef)
    }
    assert not {name: count for name, count in lines.items() if count > LONGEST_FUNCTION}
