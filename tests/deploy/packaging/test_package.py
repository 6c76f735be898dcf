"""What is in a package, that it cannot be made of what is not sound, and what its files do where it is unpacked."""

import io
import json
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from importlib.metadata import Distribution, metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from detheads.deploy import Detector
from detheads.deploy.packaging.package import filled, pack, plain_name
from detheads.deploy.packaging.target import EXTRAS, find_target, known_targets
from detheads.deploy.packaging.wheel import own_wheel, repack
from detheads.deploy.packaging.wheels import Place, Wheel, closure
from detheads.foundation import atomic
from detheads.foundation.contents import files_of
from detheads.foundation.errors import UserError
from tests.deploy.packaging.wheelhouse import OWN, write_wheel, write_wheelhouse
from tests.export.toy import Toy


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """pip finds the wheels of this folder and no others."""
    folder = tmp_path_factory.mktemp("index")
    write_wheelhouse(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PIP_CONFIG_FILE", "/dev/null")
        patch.setenv("PIP_NO_INDEX", "1")
        patch.setenv("PIP_FIND_LINKS", str(folder))
        yield folder


@pytest.fixture(scope="module")
def archive(index: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package for a Jetson with JetPack 6, whose Python is older than that of most machines which pack it."""
    path = tmp_path_factory.mktemp("packed") / "toy.tar.gz"
    pack(bundle, path, find_target("jetson"), wheel=index / OWN)
    return path


@pytest.fixture(scope="module")
def unpacked(archive: Path) -> Path:
    with tarfile.open(archive) as packed:
        packed.extractall(archive.parent)
    return archive.parent / "toy-jetson"


def test_the_manifest_names_every_file_and_its_digest(unpacked: Path, bundle: Path) -> None:
    manifest = atomic.read_json(unpacked / "manifest.json")
    files = {path.relative_to(unpacked).as_posix(): path for path in unpacked.rglob("*") if path.is_file()}
    assert {name: atomic.sha256_of(path) for name, path in files.items() if name != "manifest.json"} == manifest[
        "files"
    ]
    inside = {name for name in files if name.startswith("toy.detheads/")}
    assert inside == {f"toy.detheads/{name}" for name in files_of(bundle)} - {"toy.detheads/device.json"}
    assert (manifest["target"], manifest["python"], manifest["arch"]) == ("jetson", "3.10", "aarch64")
    assert (manifest["extras"], manifest["bundle"]["state"]) == (["serve"], "verified")


def test_the_wheels_are_those_of_the_target_and_each_is_pinned_by_its_digest(unpacked: Path) -> None:
    wheels = {path.name: path for path in (unpacked / "wheels").iterdir()}
    assert sorted(wheels) == [
        "anyio-4.0-py3-none-any.whl",
        "cuda_python-12.9-py3-none-any.whl",
        OWN,
        "exceptiongroup-1.2-py3-none-any.whl",  # which only that Python needs
        "numpy-2.1-cp310-cp310-manylinux_2_28_aarch64.whl",
    ]  # not what only newer ones need, nor ONNX Runtime, for the engine is run by TensorRT
    lines = (unpacked / "requirements.txt").read_text().replace(" \\\n    ", " ").splitlines()
    digests = {atomic.sha256_of(path) for path in wheels.values()}
    assert {line.partition("--hash=sha256:")[2] for line in lines} == digests
    assert "cuda-python==12.9" in [line.partition(" ")[0] for line in lines]


def test_equal_inputs_give_an_equal_archive(index: Path, bundle: Path, archive: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.tar.gz"
    copy = Path(shutil.copytree(bundle, tmp_path / "toy.detheads", copy_function=shutil.copyfile))  # of another time
    (copy / "device.json").write_text("{}")  # this machine's own word
    pack(copy, again, find_target("jetson"), wheel=index / OWN)
    assert again.read_bytes() == archive.read_bytes()


def test_scripts_may_be_executed_and_nothing_belongs_to_who_packed_it(archive: Path) -> None:
    with tarfile.open(archive) as packed:
        members = packed.getmembers()
    assert {member.name for member in members if member.mode == 0o755 and member.isfile()} == {
        f"toy-jetson/{name}.sh" for name in ("camera", "doctor", "engine", "install", "prove")
    }
    assert {(member.uid, member.uname, member.mtime) for member in members} == {(0, "", 315532800)}
    assert {member.mode for member in members if member.isdir()} == {0o755}


# Files of every target


@pytest.mark.parametrize("name", known_targets())
def test_every_word_of_a_template_is_filled_and_scripts_are_sound(name: str, tmp_path: Path) -> None:
    target = find_target(name)
    keys = ("APT", "BUNDLE", "NAME", "SERVICE", "PYTHON", "SYSTEM", "MACHINE", "PREFIX")
    words = {**target.words, "BACKEND": target.backend, **dict.fromkeys(keys, "word")}
    for file, template in target.files.items():
        text = filled(template, words)
        assert not re.search("@[A-Z]", text), file
        if file.endswith(".sh"):
            assert text.startswith("#!/bin/sh\n")
            assert "set -eu" in text
            (tmp_path / file).write_text(text)
            subprocess.run(["sh", "-n", tmp_path / file], check=True)
        if file.endswith(".yaml"):
            assert yaml.safe_load(text)["services"]["detheads"]["read_only"] is True
        if file.endswith(".py"):
            compile(text, file, "exec")


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="needs systemd")
@pytest.mark.parametrize("name", ["x86", "jetson"])
def test_the_unit_is_one_that_systemd_takes(name: str, tmp_path: Path) -> None:
    target = find_target(name)
    words = {"NAME": "toy", "SERVICE": "toy", "BUNDLE": "toy.detheads", "BACKEND": "cpu", "PREFIX": str(tmp_path)}
    unit = tmp_path / "toy.service"
    unit.write_text(filled(target.files["service.in"], words))
    for program in ("venv/bin/detheads", "engine.sh"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# Where it is unpacked


def check(folder: Path, *options: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, folder / "check.py", *options], capture_output=True, text=True, check=False)


def test_altered_and_missing_files_are_told_before_anything_is_installed(unpacked: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(unpacked, tmp_path / "copy"))
    assert check(copy, "--files").returncode == 0
    with (copy / "toy.detheads" / "model.onnx").open("ab") as stream:
        stream.write(b"more")
    done = check(copy, "--files")
    assert (done.returncode, "SHA-256 differs" in done.stderr) == (1, True)
    (copy / "toy.detheads" / "model.onnx").unlink()
    assert "is missing" in check(copy, "--files").stderr


def test_another_machine_than_the_targets_is_told(unpacked: Path) -> None:
    environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"}
    command = [unpacked / "install.sh"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "and the package is for" in done.stderr
    assert not (unpacked / "venv").exists()


def test_a_jetson_builds_its_engine_in_a_copy_which_follows_the_bundle(unpacked: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(unpacked, tmp_path / "copy"))
    program = copy / "venv" / "bin" / "detheads"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\necho "$@" >>"$0.log"\n[ ! -e "$0.fails" ] || exit 1\n')
    program.chmod(0o755)
    state = tmp_path / "state"
    environment = {"PATH": "/usr/bin:/bin", "STATE_DIRECTORY": str(state)}

    def run(script: str) -> int:
        return subprocess.run([copy / script], check=False, env=environment).returncode

    assert run("engine.sh") == 0
    (state / "toy.detheads" / "built").touch()
    assert run("prove.sh") == 0
    built, proved = f"bundle build {state}/toy.detheads --library tensorrt", f"bundle prove {state}/toy.detheads"
    log = program.with_name("detheads.log")
    assert log.read_text().splitlines() == [built, built, f"{proved} --backend tensorrt"]
    assert (state / "toy.detheads" / "built").exists()  # what was built is kept
    with (copy / "toy.detheads" / "bundle.json").open("a") as stream:
        stream.write("\n")  # another bundle
    program.with_name("detheads.fails").touch()
    assert run("prove.sh") == 1  # and nothing is proven where no engine can be built
    assert log.read_text().splitlines()[3:] == [built]
    assert not (state / "toy.detheads" / "built").exists()


def test_a_camera_gets_a_line_for_each_picture_and_unreadable_ones_are_told(bundle: Path, toy: Toy) -> None:
    frames = []
    for picture in sorted(toy.images.iterdir())[:2]:
        frames.append(io.BytesIO())
        Image.open(picture).convert("RGB").save(frames[-1], "JPEG")
    first, second = (frame.getvalue() for frame in frames)
    script = Path(filled.__code__.co_filename).parent / "files" / "camera.py"
    command = [sys.executable, str(script), str(bundle), "cpu"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = []
        for part in (b"noise before" + first, second):
            process.stdin.write(part)
            process.stdin.flush()
            lines.append(json.loads(process.stdout.readline()))  # so that none is passed over
        _, told = process.communicate(b"\xff\xd8no picture\xff\xd9", timeout=30)
    assert process.returncode == 0
    assert [line["picture"] for line in lines] == [1, 2]
    detector = Detector(bundle)
    assert [line["detections"] for line in lines] == [
        detector(each).to_dict()["detections"] for each in (first, second)
    ]
    assert b"2 pictures looked at, 0 passed over, 1 unreadable" in told


# What is refused


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--target", "jetsn"), "Did you mean 'jetson'?"),
        (("--target", "rpi", "--python", "3.12"), "3.11 (Raspberry Pi OS Bookworm), 3.13"),
        (("--target", "jetson", "--arch", "x86_64"), "--arch for jetson is aarch64"),
        (("--target", "rpi", "--with", "vido"), "Did you mean 'video'?"),
        (("--target", "rpi", "--wheel", "absent.whl"), "absent.whl does not exist"),
        (("--target", "rpi", "-o", "package.zip"), "must end with .tar.gz"),
    ],
    ids=["target", "python", "arch", "with", "wheel", "archive"],
)
def test_options_that_make_no_package_are_refused_in_a_sentence(
    bundle: Path, tmp_path: Path, detheads: Callable[..., Any], options: tuple[str, ...], sentence: str
) -> None:
    output = () if "-o" in options else ("-o", tmp_path / "package.tar.gz")
    done = detheads("deploy", "package", bundle, *output, *options)
    assert (done.code, sentence in done.err) == (1, True), done.err
    assert not list(tmp_path.iterdir())


def test_a_bundle_that_was_altered_is_not_packed(index: Path, bundle: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "toy.detheads"))
    (copy / "report.json").write_text("{}")
    with pytest.raises(UserError, match=r"altered: report\.json"):
        pack(copy, tmp_path / "toy.tar.gz", find_target("rpi"), wheel=index / OWN)
    assert not (tmp_path / "toy.tar.gz").exists()


def test_a_wheel_that_is_not_to_be_had_is_told_with_pips_reason(index: Path, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"Python 3.10 on aarch64 could not be fetched \(.*pynew.*PIP_FIND_LINKS"):
        pack(bundle, tmp_path / "toy.tar.gz", find_target("jetson"), wheel=index / OWN, extras="video")
    assert not (tmp_path / "toy.tar.gz").exists()


def test_another_packages_wheel_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no wheel of detheads"):
        own_wheel(tmp_path, write_wheel(tmp_path, "numpy-1.0"))


# Parts


def test_a_requirement_counts_where_it_holds_on_the_target(tmp_path: Path) -> None:
    def wheel(name: str, *requires: str) -> tuple[str, Wheel]:
        return name, Wheel(tmp_path, name, "1.0", requires)

    found = dict([
        wheel("detheads", "a[x]; platform_machine == 'aarch64'", "b; python_version < '3.11'", "c>2"),
        wheel("a", "d; extra == 'x'", "e; extra == 'y'"),
        wheel("c"),
        wheel("d"),
    ])  # fmt: skip
    assert closure(found, ["detheads"], Place("3.10", "aarch64", (2, 28))) == ({"detheads", "a", "d"}, ["b", "c>2"])
    assert closure(found, ["detheads"], Place("3.12", "x86_64", (2, 28))) == ({"detheads"}, ["c>2"])


def test_an_installed_detheads_becomes_the_wheel_it_came_from(index: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.unpack_archive(index / OWN, site, "zip")
    installed = Distribution.at(site / "detheads-9.9.9.dist-info")
    (tmp_path / "made").mkdir()
    wheel = repack(installed, tmp_path / "made")
    shutil.unpack_archive(wheel, tmp_path / "again", "zip")
    for path in site.rglob("*"):
        if path.is_file() and path.name != "RECORD":
            assert (tmp_path / "again" / path.relative_to(site)).read_bytes() == path.read_bytes()
    (site / "detheads" / "__init__.py").write_text("altered")
    with pytest.raises(UserError, match="not as it was installed"):
        repack(installed, tmp_path / "made")


@pytest.mark.parametrize(
    ("folder", "name"), [("toy.detheads", "toy"), ("Größe 2.detheads", "gr-e-2"), ("...", "model"), ("a;b|c", "a-b-c")]
)
def test_a_package_is_called_what_every_system_takes(folder: str, name: str) -> None:
    assert plain_name(Path(folder)) == name


def test_extras_of_a_package_are_extras_of_detheads() -> None:
    assert set(EXTRAS) <= set(metadata("detheads").get_all("Provides-Extra") or ())
