"""What a detector costs an empty environment: megabytes installed, import time, first detection, peak memory.

Each package is installed alone, into an environment of its own that is removed afterwards, and measured the same way::

    python tests/footprint.py BUNDLE PICTURE [--only detheads ultralytics] [-o footprint.json]

A measurement is a fresh process; the fastest of ``RUNS`` counts, after one that fills the file cache and writes the
byte code. The other packages get the smallest detector of theirs with random weights, since nothing is downloaded: it
loads and runs as long as a trained one.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import dataclass
from pathlib import Path

RUNS = 5
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Subject:
    """A package that detects objects.

    Attributes:
        requirement: what pip is given.
        import_line: what a program that detects begins with.
        prepare: run once before, not measured; ``{work}`` is a folder of its own.
        detect: follows ``import_line``, up to the first detections; ``{picture}`` and ``{bundle}`` are paths too.
    """

    requirement: str
    import_line: str
    detect: str
    prepare: str = ""


SUBJECTS = {
    "detheads": Subject("", "from detheads import Detector", "Detector({bundle!r})({picture!r})"),
    "ultralytics": Subject(
        "ultralytics",
        "from ultralytics import YOLO",
        "YOLO({work!r} + '/yolo11n.pt').predict({picture!r}, verbose=False)",
        "from ultralytics import YOLO; YOLO('yolo11n.yaml').save({work!r} + '/yolo11n.pt')",
    ),
    "rfdetr": Subject(
        "rfdetr",
        "from rfdetr import RFDETRNano",
        "RFDETRNano(pretrain_weights=None, device='cpu').predict({picture!r})",
    ),
    "inference-models": Subject("inference-models", "from inference_models import AutoModel", ""),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--only", nargs="+", choices=SUBJECTS, default=list(SUBJECTS))
    parser.add_argument("-o", "--output", type=Path, help="JSON file that keeps rows of earlier calls")
    options = parser.parse_args()
    rows = json.loads(options.output.read_text()) if options.output and options.output.exists() else {}
    for name in options.only:
        with tempfile.TemporaryDirectory(prefix="footprint-") as folder:
            rows[name] = measure(name, Path(folder), options.bundle.resolve(), options.picture.resolve())
        print(json.dumps({name: rows[name]}), flush=True)
        if options.output:
            options.output.write_text(json.dumps(rows, indent=2) + "\n")
    print(markdown(rows))


def measure(name: str, folder: Path, bundle: Path, picture: Path) -> dict[str, object]:
    """One row of the table; what could not be measured is None, with the last line of its error."""
    subject = SUBJECTS[name]
    python = environment(folder / "venv", subject.requirement or f"{wheel(folder)}[cpu]")
    packages = next((folder / "venv").glob("lib/python*/site-packages"))
    places = {"bundle": str(bundle), "picture": str(picture), "work": str(folder)}
    bare = best(python, "pass", folder)
    row: dict[str, object] = {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "megabytes": megabytes(packages)}
    row["packages"] = len(list(packages.glob("*.dist-info")))
    row["version"] = version_of(packages, name)
    imported = best(python, subject.import_line, folder)
    row["import_seconds"] = None if imported is None or bare is None else round(imported.seconds - bare.seconds, 3)
    first = None
    if subject.detect:
        if subject.prepare:
            run(python, subject.prepare.format(**places), folder)
        first = best(python, f"{subject.import_line}; {subject.detect.format(**places)}", folder)
    row["first_detection_seconds"] = first and round(first.seconds, 3)
    row["peak_megabytes"] = first and round(first.peak_megabytes)
    return row


@dataclass(frozen=True)
class Finished:
    seconds: float
    peak_megabytes: float


def best(python: Path, code: str, folder: Path) -> Finished | None:
    """The fastest of several processes; None where the first fails."""
    if run(python, code, folder) is None:
        return None
    return min(filter(None, (run(python, code, folder) for _ in range(RUNS))), key=lambda one: one.seconds)


def run(python: Path, code: str, folder: Path) -> Finished | None:
    """Run ``code`` in a process of its own: seconds from its start to its end, and the most memory it held."""
    surroundings = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    with (folder / "said.txt").open("w+") as said:
        begin = time.perf_counter()
        process = subprocess.Popen([python, "-c", code], cwd=folder, env=surroundings, stdout=said, stderr=said)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            print(f"failed: {code}\n{said.read()[-2000:]}", file=sys.stderr)
            return None
    return Finished(seconds, usage.ru_maxrss / 1024)


def environment(folder: Path, requirement: str) -> Path:
    """A new environment with nothing but ``requirement`` and what it requires; its Python."""
    venv.create(folder, with_pip=False)
    python = folder / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-cache-dir", requirement]
    subprocess.run(pip, check=True)
    return python


def wheel(folder: Path) -> Path:
    """The wheel of this checkout, built from its source distribution, so that nothing stale gets in."""
    command = [sys.executable, "-m", "build", "--outdir", str(folder / "dist"), str(ROOT)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return next((folder / "dist").glob("*.whl"))


def megabytes(packages: Path) -> float:
    """Size of all files, byte code too, in 10^6 bytes."""
    return round(sum(path.stat().st_size for path in packages.rglob("*") if path.is_file()) / 1e6, 1)


def version_of(packages: Path, name: str) -> str:
    found = next(packages.glob(f"{name.replace('-', '_')}-*.dist-info"))
    return found.name.removesuffix(".dist-info").partition("-")[2]


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{model or platform.machine()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def markdown(rows: dict[str, dict[str, object]]) -> str:
    shown = ("version", "packages", "megabytes", "import_seconds", "first_detection_seconds", "peak_megabytes")
    lines = ["| | version | packages | MB installed | import, s | first detection, s | peak memory, MB |"]
    lines.append("|" + "---|" * 7)
    for name, row in rows.items():
        lines.append(f"| {name} | " + " | ".join("-" if row[key] is None else str(row[key]) for key in shown) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
