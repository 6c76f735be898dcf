"""The rooms of the house: files and lines of each, and the arrows between them, read from the import statements.

``python tests/rooms.py [TREE]`` prints a table and ends with code 1 when an arrow runs upward, when rooms import each
other in a circle, or when the torch-free rooms are not. It reads source text only, so any revision's tree will do.
"""

import ast
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

PRODUCT = "detheads"
OUTSIDE = ("analytical", "export", "deploy")
"""Rooms whose folders stand beside the product's, see ``package-dir`` in pyproject.toml."""

ORDER = (
    *("foundation", "data", "ops", "targets", "backbones", "cache", "headkit", "heads", "evaluation", "training"),
    *("report", "analytical", "deploy", "export", "bench", "arena", "make", "demo", "cli", "__main__"),
)
"""From the ground up: a room imports from those before it."""

WITHOUT_TORCH = {"foundation": frozenset[str](), "deploy": frozenset({"foundation", "data"})}
"""Rooms that run without torch and timm, and the only rooms they import from."""

HEAVY = {"torch", "torchvision", "timm"}


@dataclass(frozen=True)
class Import:
    """One module imported by another; ``late``: inside a function."""

    importer: str
    imported: str
    late: bool


@dataclass(frozen=True)
class House:
    """``modules``: file of each module by dotted name. ``imports``: from everywhere, third parties included."""

    modules: dict[str, Path]
    imports: list[Import]

    @property
    def rooms(self) -> dict[str, list[str]]:
        """Modules by room; a module that lies loose is a room of its own."""
        rooms = defaultdict(list)
        for module in self.modules:
            if module != PRODUCT:
                rooms[room_of(module)].append(module)
        known = {room: place for place, room in enumerate(ORDER)}
        return dict(sorted(rooms.items(), key=lambda item: (known.get(item[0], -1), item[0])))

    @property
    def arrows(self) -> dict[tuple[str, str], list[Import]]:
        """Imports between rooms by (importing room, imported room)."""
        arrows = defaultdict(list)
        for entry in self.imports:
            if entry.imported in self.modules and PRODUCT not in (entry.importer, entry.imported):
                pair = room_of(entry.importer), room_of(entry.imported)
                if pair[0] != pair[1]:
                    arrows[pair].append(entry)
        return dict(arrows)

    def reached(self, room: str) -> set[str]:
        """The room's modules and all that are loaded with them, the packages they lie in included."""
        needs = defaultdict(set)
        for entry in self.imports:
            needs[entry.importer].add(entry.imported)
        found: set[str] = set()
        waiting = list(self.rooms[room])
        while waiting:
            module = waiting.pop()
            if module in self.modules and module not in found:
                found.add(module)
                waiting += [*needs[module], *_packages(module)]
        return found


def room_of(module: str) -> str:
    return module.split(".")[1]


def read_house(tree: Path) -> House:
    """Read every module of the product below ``tree``."""
    modules = {}
    for folder in (PRODUCT, *OUTSIDE):
        for path in sorted((tree / folder).rglob("*.py")):
            parts = path.relative_to(tree).with_suffix("").parts
            modules[".".join(p for p in (() if folder == PRODUCT else (PRODUCT,)) + parts if p != "__init__")] = path
    imports = [entry for module, path in modules.items() for entry in _imports(module, path, modules)]
    return House(modules, imports)


def faults(house: House) -> list[str]:
    """What is wrong with the arrows, one sentence each."""
    found = [f"{room} has no place in ORDER" for room in house.rooms if room not in ORDER]
    for (room, other), entries in house.arrows.items():
        upward = room in ORDER and other in ORDER and ORDER.index(room) < ORDER.index(other)
        foreign = room in WITHOUT_TORCH and other not in WITHOUT_TORCH[room]
        if upward or foreign:
            what = "an arrow runs upward" if upward else f"{room} may not import from {other}"
            found += [f"{what}: {entry.importer} imports {entry.imported}" for entry in entries]
    found += [f"rooms in a circle: {', '.join(circle)}" for circle in circles(house)]
    for room in WITHOUT_TORCH.keys() & house.rooms.keys():
        reached = house.reached(room)
        found += [
            f"{room} is to do without {entry.imported.split('.')[0]}: {entry.importer} imports it"
            for entry in house.imports
            if entry.importer in reached and entry.imported.split(".")[0] in HEAVY
        ]
    return found


def circles(house: House) -> list[list[str]]:
    """Sets of rooms that all reach each other through imports."""
    reach = {room: {other for one, other in house.arrows if one == room} for room in house.rooms}
    for middle in reach:  # Warshall's closure
        for room in reach:
            if middle in reach[room]:
                reach[room] |= reach[middle]
    groups = [sorted(other for other in reach[room] if room in reach[other]) for room in reach if room in reach[room]]
    return [list(group) for group in dict.fromkeys(map(tuple, groups))]


def report(house: House) -> str:
    """A table of rooms, and below it the circles and faults."""
    rows = [("room", "files", "lines", "imports from (* only inside functions)")]
    total = 0
    for room, modules in house.rooms.items():
        lines = sum(len(house.modules[module].read_text("utf-8").splitlines()) for module in modules)
        total += lines
        arrows = {other: entries for (one, other), entries in house.arrows.items() if one == room}
        names = [other + "*" * all(e.late for e in arrows[other]) for other in house.rooms if other in arrows]
        rows.append((room, str(len(modules)), str(lines), " ".join(names)))
    rows.append(("all", str(sum(len(modules) for modules in house.rooms.values())), str(total), ""))
    width = max(len(row[0]) for row in rows)
    table = [f"{room:{width}} {files:>5} {lines:>6}  {names}".rstrip() for room, files, lines, names in rows]
    wrong = faults(house)
    return "\n".join([*table, "", f"{len(house.arrows)} arrows between rooms, {len(wrong)} faults", *wrong])


def _imports(module: str, path: Path, modules: dict[str, Path]) -> Iterator[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, late: bool) -> Iterator[Import]:
        if module == PRODUCT and _for_type_checkers(node):
            return  # what the package offers by name is loaded when it is asked for
        if isinstance(node, ast.Import):
            yield from (Import(module, alias.name, late) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) + 1 - node.level]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                yield Import(module, inner if inner in modules else base, late)
        late = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            yield from visit(child, late)

    yield from visit(ast.parse(path.read_text("utf-8")), False)


def _for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _packages(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[:length]) for length in range(1, len(parts))]


def main() -> int:
    house = read_house(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1])
    print(report(house))
    return 1 if faults(house) else 0


if __name__ == "__main__":
    sys.exit(main())
