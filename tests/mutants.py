"""Mutation testing: small faults are planted one at a time, and the tests of the room have to notice.

    make mutants                        a sample of every module, about an hour on two cores
    make mutants MODULE=ops/losses      one module (a row of mutants.yaml)
    make mutants MODULE=ops/losses SAMPLE=0     every mutant of it

mutmut's operators make the mutants: numbers, comparisons, arithmetic, booleans, arguments left out, conditions forced.
Its own runner is not used: it rewrites every function as a switch between mutants, which torch.export and the readers
of signatures do not survive, it leaves decorated functions out (everything under ``no_grad``), and it knows one source
folder. Here torch is imported once and each mutant runs in a fork, in a copy of the tree that holds this one fault.

Left out: values replaced by None (a crash at the first call, which would flatter the figure), texts with blanks in
them, annotations, decorators, ``raise``. Added: a statement that is only a call is dropped.
"""

import argparse
import contextlib
import difflib
import hashlib
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import libcst as cst
import yaml
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

ROOT = Path(__file__).resolve().parents[1]
CONFIG, EQUIVALENT = (ROOT / "tests" / name for name in ("mutants.yaml", "mutants_equivalent.yaml"))
ROOMS_OUTSIDE = ("analytical", "export", "deploy")
"""Packages of ``detheads`` that lie beside its folder; a link puts them where an import from the copy finds them."""
HEAVY = ("torch", "torchvision", "timm", "open_clip", "onnx", "onnxscript", "onnxruntime", "scipy.optimize", "sklearn",
         "sklearn.discriminant_analysis", "sklearn.linear_model", "pycocotools.coco", "matplotlib.pyplot", "hypothesis",
         "hypothesis.strategies", "rich.console", "typer", "pydantic", "pytest")  # fmt: skip
LEFT_OUT = {mutators.operator_assignment, mutators.operator_lambda, mutators.operator_dict_arguments}
OPERATORS = [pair for pair in mutators.mutation_operators if pair[1] not in LEFT_OUT]
SKIPPED = (cst.Annotation, cst.Decorator, cst.Raise, cst.Assert, cst.Import, cst.ImportFrom)
PASSING = 0.95
FINISHED, FAILED, INTERRUPTED = 0, 1, 2  # pytest's exit codes; a mutant that cannot be imported is the last


@dataclass(frozen=True)
class Mutant:
    """One fault. ``removed`` and ``added``: the changed lines without their indentation, as the lists name them."""

    row: "Row"
    file: str
    label: str
    source: str
    removed: tuple[str, ...]
    added: tuple[str, ...]

    def diff(self) -> str:
        old = (ROOT / self.file).read_text("utf-8").splitlines()
        return "\n".join(difflib.unified_diff(old, self.source.splitlines(), self.file, self.label, n=1, lineterm=""))


@dataclass(frozen=True, eq=False)
class Row:
    """A line of the table: source files, and the tests that have to notice their faults, the cheapest first."""

    name: str
    files: Sequence[str]
    tests: tuple[str, ...]
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A change of one syntax node, not yet written out."""

    module: cst.Module
    statement: cst.CSTNode
    old: cst.CSTNode
    new: cst.CSTNode
    order: str

    @cached_property
    def source(self) -> str:
        changed = self.statement.deep_replace(self.old, self.new)  # type: ignore[arg-type]
        body = [changed if node is self.statement else node for node in self.module.body]
        return self.module.with_changes(body=body).code


class _Finder(cst.CSTVisitor):
    """Every change that the operators propose in a file, in order of appearance."""

    METADATA_DEPENDENCIES = (PositionProvider,)

    def __init__(self, file: str, module: cst.Module, seed: int) -> None:
        super().__init__()
        self.file, self.module, self.seed = file, module, seed
        self.found: list[Candidate] = []
        self._scope: list[str] = []
        self._seen: Counter[str] = Counter()
        self._statement: cst.CSTNode = module

    def on_visit(self, node: cst.CSTNode) -> bool:
        if isinstance(node, SKIPPED):
            return False
        if any(node is statement for statement in self.module.body):
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
        """The order of sampling hangs on the change itself: editing one function leaves the sample of others alone."""
        change = "\0".join(
            (self.file, ".".join(self._scope), self.module.code_for_node(old), self.module.code_for_node(new))
        )
        self._seen[change] += 1
        order = hashlib.sha256(f"{self.seed}\0{change}\0{self._seen[change]}".encode()).hexdigest()
        self.found.append(Candidate(self.module, self._statement, old, new, order))


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
            if isinstance(new, cst.Call) and not _drops_argument(cst.ensure_type(node, cst.Call), new):
                continue
            yield new
            if operator is mutators.operator_string:
                break  # its other two change the case only


def _drops_argument(old: cst.Call, new: cst.Call) -> bool:
    """Not: an argument replaced by None, and ``cast``, whose first argument nothing reads while the program runs."""
    dropped = len(new.args) < len(old.args)
    return dropped and getattr(old.func, "value", None) != "cast" if old.func is new.func else True


def candidates(file: str, seed: int) -> list[Candidate]:
    """Every mutant of a file, in the order in which they are sampled."""
    wrapper = MetadataWrapper(cst.parse_module((ROOT / file).read_text("utf-8")), unsafe_skip_copy=True)
    finder = _Finder(file, wrapper.module, seed)
    wrapper.visit(finder)
    return sorted(finder.found, key=lambda candidate: candidate.order)


def _mutant(row: Row, file: str, source: str, label: str) -> Mutant:
    old = (ROOT / file).read_text("utf-8").splitlines()
    lines = [line for line in difflib.ndiff(old, source.splitlines()) if line[:2] in ("- ", "+ ")]
    removed, added = (tuple(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return Mutant(row, file, label, source, removed, added)


def _sampled(row: Row, size: int, seed: int) -> list[Mutant]:
    pairs = [(candidate, file) for file in row.files for candidate in candidates(file, seed)]
    pairs.sort(key=lambda pair: pair[0].order)
    return [_mutant(row, file, candidate.source, "mutant") for candidate, file in pairs[: size or None]]


def _planted(rows: dict[str, Row], faults: Sequence[dict[str, str]]) -> list[Mutant]:
    """The hand-written faults. A text that is gone is an error: the fault has to follow the code it spoils."""
    mutants = []
    for fault in faults:
        text = (ROOT / fault["file"]).read_text("utf-8")
        if text.count(fault["before"]) != 1:
            times = text.count(fault["before"])
            sys.exit(
                f"{CONFIG.name}: fault {fault['name']!r}: {fault['file']} holds its 'before' {times} times, not once"
            )
        row, source = rows[fault["module"]], text.replace(fault["before"], fault["after"])
        mutants.append(_mutant(row, fault["file"], source, fault["name"]))
    return mutants


class Trees:
    """Copies of the working tree, one a worker, in a folder that goes with the process."""

    def __init__(self, folder: Path, workers: int) -> None:
        self.trees = [folder / str(number) / "tree" for number in range(workers)]
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        names = subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0")
        for tree in self.trees:
            for name in filter(None, names):
                if (ROOT / name).is_file():
                    (tree / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(ROOT / name, tree / name)
            for room in ROOMS_OUTSIDE:
                (tree / "detheads" / room).symlink_to(tree / room)
            if (ROOT.parent / "shared").exists():
                (tree.parent / "shared").symlink_to(ROOT.parent / "shared")


def _import_heavy() -> None:
    """What every fork shares. One thread each: a pool of threads does not survive a fork."""
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))
    for name in HEAVY:
        importlib.import_module(name)


def _run_tests(tree: Path, tests: Sequence[str]) -> None:
    """In the fork: run the tests against the copy and exit with pytest's code."""
    os.setsid()
    scratch = tree.parent / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    log = os.open(tree.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(tree)
    os.environ.update(PYTHONPATH=str(tree), TMPDIR=str(scratch), HYPOTHESIS_STORAGE_DIRECTORY=str(scratch / "examples"))
    tempfile.tempdir = None
    sys.path[0] = str(tree)
    import pytest

    code = pytest.main(["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={scratch / 'pytest'}", *tests])
    sys.stdout.flush()
    os._exit(int(code))


@dataclass
class Running:
    tree: Path
    mutant: Mutant | None
    tests: tuple[str, ...]
    started: float
    limit: float


class Runner:
    """Runs jobs in as many forks as there are trees."""

    def __init__(self, trees: Trees) -> None:
        self._free = list(trees.trees)
        self._running: dict[int, Running] = {}
        self._stamp = 1_000_000_000

    def run(self, jobs: Sequence[tuple[Mutant | None, tuple[str, ...], float]]) -> Iterator[tuple[Running, str]]:
        """Yield the outcome of each job (a mutant or nothing, tests, limit in seconds) as it ends."""
        waiting = list(reversed(jobs))
        try:
            while waiting or self._running:
                while waiting and self._free:
                    self._start(*waiting.pop())
                yield from self._ended()
                time.sleep(0.02)
        finally:
            for pid in self._running:
                os.killpg(pid, signal.SIGKILL)

    def _start(self, mutant: Mutant | None, tests: tuple[str, ...], limit: float) -> None:
        tree = self._free.pop()
        if mutant is not None:
            (tree / mutant.file).write_text(mutant.source, "utf-8")
            self._stamp += 1  # compiled files are told apart by size and second of change
            os.utime(tree / mutant.file, (self._stamp, self._stamp))
        pid = os.fork()
        if pid == 0:
            try:
                _run_tests(tree, tests)
            finally:
                os._exit(70)
        self._running[pid] = Running(tree, mutant, tests, time.monotonic(), limit)

    def _ended(self) -> Iterator[tuple[Running, str]]:
        for pid, job in list(self._running.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            late = time.monotonic() - job.started > job.limit
            if not ended and not late:
                continue
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what the tests have started, too
            if not ended:
                os.waitpid(pid, 0)
            del self._running[pid]
            log = (job.tree.parent / "log").read_text("utf-8", errors="replace")
            if job.mutant is not None:
                shutil.copy2(ROOT / job.mutant.file, job.tree / job.mutant.file)
            self._free.append(job.tree)
            yield job, "timed out" if late and not ended else _outcome(os.waitstatus_to_exitcode(status), log)


def _outcome(code: int, log: str) -> str:
    if code in (FINISHED,):
        return "survived"
    if code in (FAILED, INTERRUPTED) or code < 0:  # below zero: ended by a signal
        return "killed"
    sys.exit(f"pytest could not run (exit code {code}):\n{log}")


def _killer(log: str) -> str:
    lines = [line for line in log.splitlines() if line.startswith(("FAILED ", "ERROR "))]
    return lines[0][:150] if lines else "-"


def _limits(runner: Runner, tests: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], float]:
    """Run the tests without a fault: they have to pass, and a mutant may take four times as long."""
    limits = {}
    for job, outcome in runner.run([(None, each, 1200.0) for each in tests]):
        if outcome != "survived":
            log = (job.tree.parent / "log").read_text("utf-8", errors="replace")
            sys.exit(f"the tests fail without any fault ({outcome}):\n{log}")
        seconds = time.monotonic() - job.started
        print(f"  {seconds:6.1f} s  {' '.join(job.tests)}", flush=True)
        limits[job.tests] = 15 + 4 * seconds
    return limits


def _equivalent(path: Path) -> dict[tuple[str, tuple[str, ...], tuple[str, ...]], str]:
    entries: list[dict[str, str]] = yaml.safe_load(path.read_text("utf-8")) or []
    known = {}
    for entry in entries:
        lines = [line.strip() for line in entry["change"].splitlines()]
        removed, added = (tuple(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
        known[entry["file"], removed, added] = entry["reason"]
    return known


def _table(rows: Sequence[Row]) -> float:
    """Print the table; returns the share of non-equivalent mutants that were noticed."""
    columns = ("sampled", "killed", "timed out", "survived", "equivalent")
    print(f"\n{'module':<28}" + "".join(f"{column:>11}" for column in columns))
    total: Counter[str] = Counter()
    for row in rows:
        row.counts["sampled"] = sum(row.counts.values())
        total += row.counts
        print(f"{row.name:<28}" + "".join(f"{row.counts[column]:>11}" for column in columns))
    print(f"{'all':<28}" + "".join(f"{total[column]:>11}" for column in columns))
    noticed = total["killed"] + total["timed out"]
    return noticed / max(noticed + total["survived"], 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default="", help="one row of mutants.yaml, or all rows that start so")
    parser.add_argument("--sample", type=int, default=20, help="mutants a module; 0: all of them")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true", help="a line for every mutant, with the test that noticed")
    options = parser.parse_args()
    config: dict[str, Any] = yaml.safe_load(CONFIG.read_text("utf-8"))
    rows = [Row(name, entry["files"], tuple(entry["tests"])) for name, entry in config["modules"].items()]
    chosen = [row for row in rows if row.name.startswith(options.module)]
    if not chosen:
        sys.exit(f"no module {options.module!r} in {CONFIG.name}; there are: {', '.join(row.name for row in rows)}")
    planted = _planted({row.name: row for row in rows}, config["faults"])
    mutants = [mutant for mutant in planted if mutant.row in chosen]
    mutants += [mutant for row in chosen for mutant in _sampled(row, options.sample, options.seed)]
    known = _equivalent(EQUIVALENT)
    _import_heavy()
    started = time.monotonic()
    survivors: list[Mutant] = []
    with tempfile.TemporaryDirectory(prefix="detheads-mutants-") as folder:
        runner = Runner(Trees(Path(folder), options.workers))
        print("tests without a fault:")
        limits = _limits(runner, list(dict.fromkeys(row.tests for row in chosen)))
        jobs = []
        for mutant in mutants:
            if (mutant.file, mutant.removed, mutant.added) in known:
                mutant.row.counts["equivalent"] += 1
            else:
                jobs.append((mutant, mutant.row.tests, limits[mutant.row.tests]))
        print(f"{len(jobs)} mutants:", flush=True)
        for done, (job, outcome) in enumerate(runner.run(jobs), 1):
            assert job.mutant is not None
            job.mutant.row.counts[outcome] += 1
            seconds = time.monotonic() - job.started
            if outcome == "survived":
                survivors.append(job.mutant)
                print(f"survived after {seconds:.1f} s:\n{job.mutant.diff()}\n", flush=True)
            elif options.verbose:
                log = (job.tree.parent / "log").read_text("utf-8", errors="replace")
                print(f"{outcome} after {seconds:.1f} s: {job.mutant.diff()}\n  {_killer(log)}", flush=True)
            if done % 25 == 0:
                print(f"... {done} of {len(jobs)}, {(time.monotonic() - started) / 60:.1f} min", flush=True)
    share = _table(chosen)
    missed = [mutant.label for mutant in survivors if mutant in planted]
    print(f"\n{share:.1%} of the non-equivalent mutants were noticed; {PASSING:.0%} have to be.")
    for name in missed:
        print(f"planted fault not noticed: {name}")
    return int(share < PASSING or bool(missed))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
