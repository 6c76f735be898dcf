"""Mutants of a source file, as mutmut's operators propose them.

Left out: values replaced by None (a crash at the first call, which would flatter the figure), where a tensor
lies, which shows on an accelerator only, texts with blanks in them, annotations, decorators, ``raise``. Added: a
statement that is only a call is dropped.
"""

import difflib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import libcst as cst
from libcst.metadata import MetadataWrapper
from mutmut.mutation import mutators

LEFT_OUT = {mutators.operator_assignment, mutators.operator_lambda, mutators.operator_dict_arguments}
OPERATORS = [pair for pair in mutators.mutation_operators if pair[1] not in LEFT_OUT]
SKIPPED = (cst.Annotation, cst.Decorator, cst.Raise, cst.Assert, cst.Import, cst.ImportFrom)


@dataclass(frozen=True, eq=False)
class Mutant:
    """A file with one fault. ``name`` is that of a planted fault, empty for a sampled one."""

    file: str
    original: str
    source: str
    name: str = ""

    @cached_property
    def change(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """The file, and the lines removed and added without their indentation: how the lists name a mutant."""
        lines = difflib.ndiff(self.original.splitlines(), self.source.splitlines())
        changed = [line for line in lines if line[:2] in ("- ", "+ ")]
        removed, added = (tuple(line[2:].strip() for line in changed if line[0] == sign) for sign in "-+")
        return self.file, removed, added

    def diff(self) -> str:
        old, new = self.original.splitlines(), self.source.splitlines()
        return "\n".join(difflib.unified_diff(old, new, self.file, self.name or "mutant", n=1, lineterm=""))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A change of one syntax node, not yet written out. Mutants are sampled in ascending ``order``."""

    file: str
    module: cst.Module
    statement: cst.CSTNode
    old: cst.CSTNode
    new: cst.CSTNode
    order: str

    def mutant(self) -> Mutant:
        changed = self.statement.deep_replace(self.old, self.new)  # type: ignore[arg-type]
        body = [changed if node is self.statement else node for node in self.module.body]
        return Mutant(self.file, self.module.code, self.module.with_changes(body=body).code)


def candidates(root: Path, file: str, seed: int) -> list[Candidate]:
    """Every mutant of a file, in order of appearance."""
    module = MetadataWrapper(cst.parse_module((root / file).read_text("utf-8"))).module
    finder = _Finder(file, module, seed)
    module.visit(finder)
    return finder.found


class _Finder(cst.CSTVisitor):
    def __init__(self, file: str, module: cst.Module, seed: int) -> None:
        super().__init__()
        self.found: list[Candidate] = []
        self._file, self._module, self._seed = file, module, seed
        self._scope: list[str] = []
        self._seen: Counter[str] = Counter()
        self._statement: cst.CSTNode = module

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, SKIPPED):
            return False
        if any(node is statement for statement in self._module.body):
            self._statement = node
        if isinstance(node, cst.FunctionDef | cst.ClassDef):
            self._scope.append(node.name.value)
        for new in _changes(node):
            self._add(node, new)
        return True

    def on_leave(self, original_node: cst.CSTNode) -> None:
        if isinstance(original_node, cst.FunctionDef | cst.ClassDef):
            self._scope.pop()

    def _add(self, old: cst.CSTNode, new: cst.CSTNode) -> None:
        """The order hangs on the change itself: editing one function leaves the sample of the others alone."""
        before, after = (self._module.code_for_node(node) for node in (old, new))
        change = "\0".join((self._file, ".".join(self._scope), before, after))
        self._seen[change] += 1
        order = hashlib.sha256(f"{self._seed}\0{change}\0{self._seen[change]}".encode()).hexdigest()
        self.found.append(Candidate(self._file, self._module, self._statement, old, new, order))


def _changes(node: cst.CSTNode) -> Iterator[cst.CSTNode]:
    if isinstance(node, cst.SimpleStatementLine) and len(node.body) == 1 and isinstance(node.body[0], cst.Expr):
        if isinstance(node.body[0].value, cst.Call):
            yield node.with_changes(body=[cst.Pass()])
        return
    if isinstance(node, cst.SimpleString) and " " in node.value:
        return
    for kind, operator in OPERATORS:
        if not isinstance(node, kind):
            continue
        for new in operator(node):
            if operator is mutators.operator_arg_removal and not _drops_argument(node, new):
                continue
            yield new
            if operator is mutators.operator_string:
                break  # its other two change the case only


def _drops_argument(old: cst.CSTNode, new: cst.CSTNode) -> bool:
    """Not: an argument replaced by None, a device, and ``cast``, whose type nothing reads while the program runs."""
    if not (isinstance(old, cst.Call) and isinstance(new, cst.Call)) or len(new.args) == len(old.args):
        return False
    (dropped,) = [arg for arg in old.args if all(arg is not kept for kept in new.args)]
    device = getattr(dropped.keyword, "value", None) == "device" or getattr(dropped.value, "value", None) == '"cpu"'
    return not device and getattr(old.func, "value", None) != "cast"
