"""ONNX Runtime is imported in one place, sends nothing, and says which build is missing or one too many."""

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from detheads.deploy import runtime
from detheads.foundation.errors import UserError
from tests.export.toy import Toy

ROOT = Path(__file__).resolve().parents[2]

GUARDED = """
import socket, sys
def refuse(*arguments, **named): raise AssertionError(f"a connection: {arguments}")
socket.socket.connect = socket.socket.connect_ex = socket.getaddrinfo = refuse
from detheads.deploy import Detector
print(len(Detector(sys.argv[1])(sys.argv[2])))
"""


def test_a_run_sends_nothing_and_leaves_no_mark_of_the_device(bundle: Path, toy: Toy, tmp_path: Path) -> None:
    hidden = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "XDG_CACHE_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    environment |= {"HOME": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", GUARDED, str(bundle), str(toy.images / "bild 4.png")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 5
    assert list(tmp_path.rglob("*")) == []


def test_a_setting_of_one_s_own_is_kept() -> None:
    command = [sys.executable, "-c", "import detheads, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"]
    for given, expected in ((None, "1"), ("0", "0")):
        environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
        environment |= {} if given is None else {"ORT_DISABLE_TELEMETRY": given}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_one_file_imports_onnx_runtime() -> None:
    """But for its tools for quantisation, which are Python and need its build to be there already."""
    rooms = [ROOT / name for name in ("detheads", "analytical", "export", "deploy")]
    importing = [
        path.relative_to(ROOT).as_posix()
        for room in rooms
        for path in sorted(room.rglob("*.py"))
        if any(re.match(r"\s*(import|from) onnxruntime\b(?!\.quantization)", line) for line in path.open())
    ]
    assert importing == ["deploy/runtime.py"]


def test_an_absent_runtime_names_the_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=r"pip install 'detheads\[cpu\]', or \[gpu\] .*--backend"):
        runtime.load_onnxruntime()


def test_half_a_module_is_what_an_uninstalled_second_build_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", type(sys)("onnxruntime"))
    monkeypatch.setattr(runtime, "installed_builds", lambda: {"onnxruntime-gpu": "1.23.2"})
    with pytest.raises(UserError, match=r"does not start .* pip install -U --force-reinstall onnxruntime-gpu"):
        runtime.load_onnxruntime()


def test_two_builds_are_told_apart_and_one_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("onnxruntime", "onnxruntime_gpu", "onnxruntime_extensions"):
        folder = tmp_path / f"{name}-1.2.3.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.2.3\n")
    found = list(metadata.distributions(path=[str(tmp_path)]))
    monkeypatch.setattr(runtime, "distributions", lambda: found)
    builds = runtime.installed_builds()
    assert builds == {"onnxruntime": "1.2.3", "onnxruntime-gpu": "1.2.3"}
    assert "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu" in runtime.advice(builds)
    assert runtime.advice({"onnxruntime": "1.2.3"}) == ""
