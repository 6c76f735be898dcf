"""Mutation testing: small faults are planted one at a time, and the tests of the room have to notice.

    make mutants                              a sample of every module, within an hour on two cores
    make mutants MODULE=ops/losses            one module (an entry of modules.yaml)
    make mutants MODULE=ops/losses SAMPLE=0   every mutant of it

mutmut makes the mutants, but does not run them: it rewrites every function as a switch between its mutants, which
torch.export and whatever reads signatures does not survive; it leaves decorated functions out (all that is under
``no_grad``); and it knows one source folder. Here torch is imported once, and each mutant runs in a fork.
"""

import argparse
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from changes import Mutant, candidates
from forks import Job, Runner, import_heavy

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PASSING = 0.95
COLUMNS = ("sampled", "killed", "timed out", "survived", "equivalent")


@dataclass(frozen=True, eq=False)
class Module:
    """A line of the table: source files, and the tests that have to notice their faults, the cheapest first."""

    name: str
    files: tuple[str, ...]
    tests: tuple[str, ...]
    mutants: list[Mutant] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


def read_modules(config: dict[str, Any], size: int, seed: int) -> list[Module]:
    """The modules with ``size`` sampled mutants each (0: all) and the planted faults.

    A planted fault whose text is gone is an error: it has to follow the code that it spoils.
    """
    modules = {
        name: Module(name, tuple(entry["files"]), tuple(entry["tests"])) for name, entry in config["modules"].items()
    }
    for fault in config["faults"]:
        original = (ROOT / fault["file"]).read_text("utf-8")
        if (times := original.count(fault["before"])) != 1:
            sys.exit(f"fault {fault['name']!r}: its 'before' stands {times} times in {fault['file']}, not once")
        source = original.replace(fault["before"], fault["after"])
        modules[fault["module"]].mutants.append(Mutant(fault["file"], original, source, fault["name"]))
    for module in modules.values():
        found = [candidate for file in module.files for candidate in candidates(ROOT, file, seed)]
        found.sort(key=lambda candidate: candidate.order)
        module.mutants.extend(candidate.mutant() for candidate in found[: size or None])
    return list(modules.values())


def read_equivalent() -> set[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """The changes, see :attr:`Mutant.change`, that no test can notice."""
    known = set()
    for entry in yaml.safe_load((HERE / "equivalent.yaml").read_text("utf-8")) or []:
        lines = entry["change"].splitlines()
        removed, added = (tuple(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
        known.add((entry["file"], removed, added))
    return known


def measure(runner: Runner, modules: Sequence[Module]) -> dict[tuple[str, ...], float]:
    """Run the tests without a fault: they have to pass. A mutant may take four times as long."""
    print("seconds without a fault:")
    limits = {}
    for ended in runner.run([Job(None, tests, 1200.0) for tests in dict.fromkeys(module.tests for module in modules)]):
        if ended.outcome != "survived":
            sys.exit(f"the tests fail without any fault:\n{ended.log}")
        print(f"  {ended.seconds:6.1f}  {' '.join(ended.job.tests)}", flush=True)
        limits[ended.job.tests] = 15 + 4 * ended.seconds
    return limits


def run_mutants(runner: Runner, modules: Sequence[Module], verbose: bool) -> list[Mutant]:
    """Run every mutant that is not known as equivalent, count the outcomes and print what survives, which returns."""
    equivalent, limits, jobs, owner = read_equivalent(), measure(runner, modules), [], {}
    for module in modules:
        for each in module.mutants:
            owner[each] = module
            if each.change in equivalent:
                module.counts["equivalent"] += 1
            else:
                jobs.append(Job(each, module.tests, limits[module.tests]))
    started, survivors = time.monotonic(), []
    print(f"{len(jobs)} mutants:", flush=True)
    for done, ended in enumerate(runner.run(jobs), 1):
        if (mutant := ended.job.mutant) is None:
            continue
        owner[mutant].counts[ended.outcome] += 1
        if ended.outcome == "survived":
            survivors.append(mutant)
        if ended.outcome == "survived" or verbose or mutant.name:
            by = next((line for line in ended.log.splitlines() if line.startswith(("FAILED", "ERROR"))), "")
            print(f"{ended.outcome} after {ended.seconds:.1f} s\n{mutant.diff()}\n{by[:150]}\n", flush=True)
        if done % 25 == 0:
            print(f"... {done} of {len(jobs)}, {(time.monotonic() - started) / 60:.1f} min", flush=True)
    return survivors


def print_table(modules: Sequence[Module]) -> float:
    """Print the outcomes by module; returns the share of the non-equivalent mutants that were noticed."""
    print(f"{'module':<24}" + "".join(f"{column:>12}" for column in COLUMNS))
    total: Counter[str] = Counter()
    for module in modules:
        module.counts["sampled"] = len(module.mutants)
        total += module.counts
        print(f"{module.name:<24}" + "".join(f"{module.counts[column]:>12}" for column in COLUMNS))
    print(f"{'all':<24}" + "".join(f"{total[column]:>12}" for column in COLUMNS))
    return (total["killed"] + total["timed out"]) / max(total["sampled"] - total["equivalent"], 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--module", default="", help="an entry of modules.yaml, or the beginning of several")
    parser.add_argument("--sample", type=int, default=20, help="mutants a module; 0: all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--verbose", action="store_true", help="print every mutant with the test that noticed it")
    options = parser.parse_args()
    config = yaml.safe_load((HERE / "modules.yaml").read_text("utf-8"))
    modules = [m for m in read_modules(config, options.sample, options.seed) if m.name.startswith(options.module)]
    if not modules:
        sys.exit(f"no module {options.module!r} in modules.yaml; there are: {', '.join(config['modules'])}")
    import_heavy()
    with tempfile.TemporaryDirectory(prefix="detheads-mutants-") as folder:
        survivors = run_mutants(Runner(ROOT, Path(folder), options.workers), modules, options.verbose)
    share = print_table(modules)
    print(f"\n{share:.1%} of the non-equivalent mutants were noticed; {PASSING:.0%} have to be.")
    missed = [mutant.name for mutant in survivors if mutant.name]
    for name in missed:
        print(f"planted fault not noticed: {name}")
    return int(share < PASSING or bool(missed))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: forks and copies go
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
