"""Mistakes in arguments are told before torch is loaded."""

import json
import subprocess
import sys
from pathlib import Path

LINES = {
    "train fcs --cache no --val no -o out": "unknown head 'fcs'; did you mean fcos",
    "train fcos --cache no --val no -o out": "no holds no feature cache",
    "train fcos --cache no --val no -o out --threads 5000": "5000 threads are not possible",
    "eval no --cache no": "no does not exist",
    "eval pictures --cache no --results folder": "no holds no feature cache",
    "cache build no -o out": "no does not exist",
    "cache build picture -o out": "picture does not exist. Did you mean 'pictures'?",
    "cache build pictures -o out": "pictures",
    "cache build pictures -o out --size 1x": "--size takes pixels",
    "export no -o out --no-verify": "no does not exist",
    "verify no --run no --data no": "no does not exist",
    "heads show nonsense": "unknown head 'nonsense'",
    "analytical fit --cache no -o out": "no holds no feature cache",
    "analytical sweep no --cache no": "no does not exist",
    "arena run --cache no --val no -o out": "no holds no feature cache",
    "bench train no": "no holds no feature cache",
    "text embed --classes cat --weights no -o out.npz": "no does not exist",
    "text embed --classes cat --weights file -o folder.npz": "folder.npz is a folder",
    "make no -o out.detheads": "no does not exist",
    "make pictures -o out.detheads --budget soon": "--budget takes a time such as 10m",
    "make pictures -o out.detheads --head fcs": "unknown head 'fcs'; did you mean fcos",
    "make pictures -o out.detheads -O width=64": "-O is an option of a head; name it with --head",
    "make pictures -o out": "a bundle's name ends in .detheads; write -o out.detheads",
    "make pictures -o out.detheads --size 1x": "--size takes pixels",
    "demo -o file": "file is not a folder",
    "data augment no -o out": "no ",
}


def test_mistakes_are_told_before_torch_is_loaded(tmp_path: Path) -> None:
    """One process for all lines, in which torch must stay unloaded."""
    (tmp_path / "pictures").mkdir()
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").touch()
    code = """
import io, json, sys
from contextlib import redirect_stderr
from detheads.cli.main import run
answers = {}
for line in json.loads(sys.argv[1]):
    with redirect_stderr(io.StringIO()) as errors:
        answers[line] = [run(line.split()), errors.getvalue(), "torch" in sys.modules]
print(json.dumps(answers))
"""
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(list(LINES))], capture_output=True, text=True, cwd=tmp_path, check=True
    )
    answers = json.loads(done.stdout)
    assert sorted(tmp_path.rglob("*")) == before
    for line, sentence in LINES.items():
        code, printed, loaded = answers[line]
        assert (line, code, loaded) == (line, 1, False)
        assert sentence in printed


def test_names_of_heads_are_those_that_are_registered() -> None:
    from detheads.headkit import library, registry

    assert set(registry.entries()) <= set(library.head_modules())
