"""Packages for x86 as they are used: fetched for each Python from the package index, unpacked, installed without a
network and run, in an environment that knows nothing of this checkout."""

import json
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import Distribution
from pathlib import Path

import httpx
import numpy as np
import pytest

from detheads.deploy import Detector
from detheads.deploy.packaging.package import pack
from detheads.deploy.packaging.target import find_target
from detheads.deploy.packaging.wheel import build, repack, source_tree
from detheads.deploy.probes import FoundArrays
from detheads.deploy.prove import share_of_best
from detheads.foundation import atomic
from tests.export.toy import Toy

pytestmark = pytest.mark.slow

ALONE = ("unshare", "--net", "--map-root-user") if shutil.which("unshare") else ()
"""A process without a network but its own loopback, where the system allows one."""


def python_of(version: str) -> str:
    """The interpreter of that version, or the test is skipped."""
    builds = (Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python")
    places = [shutil.which(f"python{version}"), *map(str, builds)]
    if f"{sys.version_info[0]}.{sys.version_info[1]}" == version:
        places.insert(0, sys.executable)
    for place in filter(None, places):
        if subprocess.run([place, "-c", "import venv, ensurepip"], check=False, capture_output=True).returncode == 0:
            return str(Path(place))
    pytest.skip(f"needs Python {version}")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = source_tree()
    assert tree is not None
    return build(tree, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module", params=["3.10", "3.11", "3.12"])
def installed(
    request: pytest.FixtureRequest, wheel: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A package after its ``install.sh``."""
    python = python_of(request.param)
    place = tmp_path_factory.mktemp(f"x86-{request.param}")
    pack(bundle, place / "toy.tar.gz", find_target("x86"), python=request.param, wheel=wheel)
    with tarfile.open(place / "toy.tar.gz") as packed:
        packed.extractall(place)
    folder = place / "toy-x86"
    done = alone(folder, "install.sh", PYTHON=python)
    assert done.returncode == 0, done.stderr
    return folder


def environment(**more: str) -> dict[str, str]:
    return {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", "PIP_NO_INDEX": "1", **more}


def alone(folder: Path, *command: object, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run a program of the package in an empty environment without a network."""
    words = [*ALONE, str(folder / str(command[0])), *map(str, command[1:])]
    return subprocess.run(
        words, capture_output=True, text=True, check=False, env=environment(**variables), cwd=folder.parent
    )


def test_it_proves_its_bundle_and_has_no_torch(installed: Path) -> None:
    done = alone(installed, "prove.sh", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["probes"]["matched"] == 1
    listed = alone(installed, "venv/bin/python", "-m", "pip", "list", "--format", "json")
    assert "torch" not in {each["name"] for each in json.loads(listed.stdout)}
    assert alone(installed, "venv/bin/python", "-m", "pip", "check").returncode == 0


def test_it_finds_what_is_found_here(installed: Path, bundle: Path, toy: Toy, tmp_path: Path) -> None:
    command = ("deploy", "run", bundle, toy.images, "--no-pictures", "-o")
    here = subprocess.run(
        [sys.executable, "-m", "detheads", *map(str, command), tmp_path / "here"], check=False, capture_output=True
    )
    there = alone(installed, "venv/bin/detheads", *command, tmp_path / "there")
    assert (here.returncode, there.returncode) == (0, 0), there.stderr
    wanted, found = (detections(tmp_path / name / "detections.json") for name in ("here", "there"))
    looked_for, share, boxes, scores = share_of_best(wanted, found)
    assert looked_for > 50
    # Another ONNX Runtime may exchange the last rows of a full table. Pillow 12, the last for Python 3.10, resizes some
    # of these pictures to other pixels than Pillow 13: 1 of 255 grey levels in under 1 % of them, 0.15 px of a box.
    assert share > 0.99
    assert (boxes < 0.5, scores < 1e-3) == (True, True), (boxes, scores)


def detections(path: Path) -> list[FoundArrays]:
    """COCO results by picture."""
    results = atomic.read_json(path)
    found = []
    for number in sorted({each["image_id"] for each in results}):
        own = [each for each in results if each["image_id"] == number]
        corners = np.array([each["bbox"] for each in own], float)
        corners[:, 2:] += corners[:, :2]
        scores = np.array([each["score"] for each in own], np.float32)
        found.append(FoundArrays(corners, scores, np.array([each["category_id"] for each in own])))
    return found


def test_its_unit_starts_a_server_that_finds_the_same(installed: Path, bundle: Path, toy: Toy) -> None:
    unit = (installed / "detheads-toy.service").read_text()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = re.search("^ExecStart=(.*)$", unit, re.MULTILINE)
    assert command is not None
    words = command[1].replace("${HOST}", "127.0.0.1").replace("${PORT}", port).split()
    picture = toy.images / "bild 5.png"
    with subprocess.Popen(words, env=environment(), cwd="/", stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            while "serving at" not in (line := process.stderr.readline()):
                assert line, "it ended"
            reply = httpx.post(f"http://127.0.0.1:{port}/v1/detect", content=picture.read_bytes(), timeout=60)
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert (reply.status_code, process.returncode) == (200, 0), reply.text
    wanted = Detector(bundle)(picture)
    found = reply.json()["detections"]
    assert len(found) == len(wanted)
    np.testing.assert_allclose([each["score"] for each in found], wanted.scores, atol=1e-3)


def test_installed_again_nothing_happens_and_a_half_installation_is_mended(installed: Path) -> None:
    python = str(installed / "venv" / "bin" / "python")
    version = subprocess.run(
        [python, "-c", "import sys; print(sys.base_prefix)"], capture_output=True, text=True, check=True
    ).stdout.strip()
    base = str(next(Path(version).glob("bin/python3")))
    again = alone(installed, "install.sh", PYTHON=base)
    assert (again.returncode, "is installed already" in again.stdout) == (0, True), again.stderr
    (installed / "venv" / "installed-requirements.txt").unlink()
    mended = alone(installed, "install.sh", PYTHON=base)
    assert (mended.returncode, "is installed already" in mended.stdout) == (0, False), mended.stderr
    assert alone(installed, "doctor.sh").returncode == 0


def test_a_package_may_be_packed_where_another_one_is_installed(installed: Path, tmp_path: Path) -> None:
    """The wheel is put together from what is installed, for that place has no source tree."""
    site = next(installed.glob("venv/lib/python*/site-packages"))
    made = repack(Distribution.at(next(site.glob("detheads-*.dist-info"))), tmp_path)
    with zipfile.ZipFile(made) as one, zipfile.ZipFile(next((installed / "wheels").glob("detheads-*"))) as other:
        assert {name: one.read(name) for name in one.namelist() if not name.endswith("RECORD")} == {
            name: other.read(name) for name in other.namelist() if not name.endswith("RECORD")
        }
