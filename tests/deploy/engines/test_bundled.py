"""``detheads bundle build``: engines built from the bundle alone, and bundles that stay whole whatever happens."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from detheads.deploy.engines import bundled, recognition
from detheads.deploy.engines.library import Library, find_library
from detheads.deploy.engines.machine import Gpu
from detheads.deploy.engines.recognition import header, misfit
from detheads.foundation import atomic, claims
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import ArtefactProof, EngineEntry, Verification
from tests.deploy.engines.conftest import Small, content, with_engine

trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")

BUILD = ("--library", "tensorrt_rtx", "--batch", "1:2:5", "--compute-capability", "SM86")
RTX = Library(trt, "tensorrt_rtx", trt.__version__)


@pytest.fixture
def built(small: Small) -> Path:
    folder = small()
    bundled.build_into(folder, bundled.EngineOptions(capabilities=("SM86", "SM89")), library=RTX)
    return folder


def test_an_engine_is_built_from_the_bundle_alone(small: Small, detheads: Callable[..., Any]) -> None:
    folder = small()
    finished = detheads("bundle", "build", folder, *BUILD, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    (entry,) = read_manifest(folder).engines
    assert answer == {"bundle": str(folder), "built": True, "reason": "", **entry.model_dump(mode="json")}
    assert entry.file == "engines/model.fp32.tensorrt_rtx.engine"
    assert entry.sha256 == atomic.sha256_of(folder / entry.file)
    assert (entry.batch, entry.compute_capabilities) == ((1, 2, 5), ["SM86"])
    assert (entry.onnx, entry.onnx_sha256) == ("model.onnx", read_manifest(folder).onnx.sha256)
    assert (entry.products, entry.status) == ({"FLOAT": 1}, "built, not executed")
    assert header(folder / entry.file) == ("tensorrt_rtx", trt.__version__)


def test_the_same_engine_is_not_built_twice_unless_forced(small: Small, detheads: Callable[..., Any]) -> None:
    folder = small()
    assert "1 in FLOAT" in detheads("bundle", "build", folder, *BUILD).out
    before = content(folder)
    assert "fits and is kept; --force builds it anew" in detheads("bundle", "build", folder, *BUILD).out
    assert content(folder) == before
    assert "asked for with --force" in detheads("bundle", "build", folder, *BUILD, "--force").out
    other = detheads("bundle", "build", folder, *BUILD[:2], "--compute-capability", "SM89", "--batch", "3", "--json")
    assert json.loads(other.out)["reason"] == "it was built for other batch sizes and GPUs"
    (entry,) = read_manifest(folder).engines
    assert [path.name for path in (folder / "engines").iterdir()] == [Path(entry.file).name]


def test_it_needs_neither_torch_nor_onnx(small: Small) -> None:
    script = """
import sys
from detheads.cli.main import run
for name in ("torch", "onnx", "onnxruntime", "timm"):
    sys.modules[name] = None
sys.exit(run(sys.argv[1:]))
"""
    command = [sys.executable, "-c", script, "bundle", "build", str(small()), *BUILD]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        ({"builder": "tensorrt_rtx 1.5.0.99"}, f"it was built with tensorrt_rtx 1.5.0.99, and this is {RTX.version}"),
        ({"onnx_sha256": "0" * 64}, "it was built from another model.onnx"),
        ({"sha256": "0" * 64}, "is not the file that bundle.json describes"),
        ({"stripped": True}, "it was built for other options"),
    ],
)
def test_an_engine_that_does_not_fit_is_recognised_and_replaced(
    update: dict[str, Any], reason: str, built: Path
) -> None:
    with_engine(built, **update)
    result = bundled.build_into(built, bundled.EngineOptions(capabilities=("SM86", "SM89")), library=RTX)
    assert result.built
    assert reason in result.reason
    assert read_manifest(built).engines == [result.entry]


def test_an_engine_that_lies_about_its_version_is_found_by_its_first_bytes(built: Path) -> None:
    (entry,) = read_manifest(built).engines
    path = built / entry.file
    forged = bytearray(path.read_bytes())
    forged[25] = 3
    path.write_bytes(forged)
    assert f"the manifest says {entry.builder}, and the file itself tensorrt_rtx 1.3." in misfit(entry, RTX, None, path)


LINUX = recognition.platform_name()


@pytest.mark.parametrize(
    ("library", "version", "update", "gpu", "said"),
    [
        ("tensorrt_rtx", "1.7.1", {}, "SM86", ""),
        ("tensorrt_rtx", "1.7.1", {}, "SM75", "it was built for SM86, SM89, and this is a GPU (SM75)"),
        ("tensorrt_rtx", "1.7.1", {"platform": "win32-amd64"}, "SM86", ""),  # these run on both
        ("tensorrt_rtx", "1.8.0", {}, "SM86", "it was built with tensorrt_rtx 1.7.1, and this is 1.8.0"),
        ("tensorrt", "10.9.0", {}, "SM86", "it was built with tensorrt_rtx, and tensorrt runs engines of its own only"),
        ("tensorrt", "10.9.0", {"builder": "tensorrt 10.9.0"}, "SM89", ""),
        ("tensorrt", "10.9.0", {"builder": "tensorrt 10.9.0"}, "SM90", "and this is a GPU (SM90)"),
        ("tensorrt", "10.9.0", {"builder": "tensorrt 10.9.0", "hardware_compatible": True}, "SM90", ""),
        ("tensorrt", "10.9.0", {"builder": "tensorrt 10.9.0", "hardware_compatible": True}, "SM75", "this is a GPU"),
        ("tensorrt", "10.9.0", {"builder": "tensorrt 10.9.0", "platform": "win32-amd64"}, "SM86", f"this is {LINUX}"),
        ("tensorrt", "10.13.0", {"builder": "tensorrt 10.9.0"}, "SM86", "this is 10.13.0"),
        ("tensorrt", "10.13.0", {"builder": "tensorrt 10.9.0", "version_compatible": True}, "SM86", ""),
        ("tensorrt", "10.5.0", {"builder": "tensorrt 10.9.0", "version_compatible": True}, "SM86", "this is 10.5.0"),
        ("tensorrt", "11.0.0", {"builder": "tensorrt 10.9.0", "version_compatible": True}, "SM86", "this is 11.0.0"),
    ],
)
def test_which_engine_runs_where(library: str, version: str, update: dict[str, Any], gpu: str, said: str) -> None:
    entry = EngineEntry(
        file="engines/a.engine",
        sha256="0" * 64,
        bytes=1,
        builder="tensorrt_rtx 1.7.1",
        batch=(1, 4, 8),
        compute_capabilities=["SM86", "SM89"],
        build_seconds=1,
        layer_types={},
        status="built, not executed",
        platform=LINUX,
    ).model_copy(update=update)
    found = misfit(entry, Library(None, library, version), Gpu(0, "a GPU", gpu))
    assert found == said if not said else said in found


def test_each_gpu_keeps_its_own_engine_of_tensorrt(built: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two boards share a bundle: building on one leaves the other's engine alone."""
    library = Library(trt, "tensorrt", "10.9.0")
    manifest = with_engine(built, builder="tensorrt 10.9.0", compute_capabilities=["SM87"])
    for gpu, earlier in (("SM87", manifest.engines[0]), ("SM89", None)):
        monkeypatch.setattr(bundled, "gpu_here", lambda gpu=gpu: Gpu(0, "a GPU", gpu))
        assert bundled._earlier(manifest, library) == earlier
        assert bundled._free_name(manifest, library) == f"engines/model.fp32.tensorrt.{gpu.lower()}.engine"


def test_no_new_engine_takes_the_name_that_a_proof_speaks_of(built: Path) -> None:
    """Else a proof of the earlier one would be read as its own."""
    manifest = read_manifest(built)
    proof = ArtefactProof(
        file="engines/model.fp32.tensorrt_rtx.2.engine", runtime="r", batch=1, map=0, map_drop=0, matched=1
    )
    verification = Verification.model_construct(artefacts=[proof])
    head = manifest.first.model_copy(update={"verification": verification})
    assert bundled._free_name(manifest, RTX) == proof.file
    assert bundled._free_name(manifest.with_head(head), RTX) == "engines/model.fp32.tensorrt_rtx.3.engine"


def edited(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as stream:
        stream.write(b"\0")


def unwritable(folder: Path) -> None:
    (folder / "engines").write_text("a file where a folder is needed")


def other_precision(folder: Path) -> None:
    write_manifest(folder, read_manifest(folder).model_copy(update={"precision": "fp16"}))


@pytest.mark.parametrize(
    ("harm", "options", "said"),
    [
        (edited, (), "model.onnx is not the file that bundle.json describes"),
        (unwritable, (), "engines is not a folder"),
        (other_precision, (), "model.onnx is said to be fp16, but none of its convolutions and matrix products"),
        (lambda folder: shutil.rmtree(folder), (), "does not exist; make a bundle with 'detheads export'"),
        (lambda folder: None, ("--compute-capability", "SM10"), "cannot compile for SM10; it offers SM75, SM80"),
        (lambda folder: None, ("--version-compatible",), "takes no --version-compatible"),
        (lambda folder: None, ("--batch", "8:4:1"), "not in rising order"),
        (lambda folder: None, ("--library", "openvino"), "--library is tensorrt or tensorrt_rtx"),
        (lambda folder: None, ("--workspace-gb", "0.001"), "a layer needs more memory than allowed; raise --workspace"),
    ],
)
def test_what_cannot_be_built_is_one_sentence_and_changes_nothing(
    harm: Callable[[Path], None],
    options: tuple[str, ...],
    said: str,
    small: Small,
    detheads: Callable[..., Any],
) -> None:
    folder = small()
    harm(folder)
    before = content(folder)
    library = () if "--library" in options else ("--library", "tensorrt_rtx")
    refused = detheads("bundle", "build", folder, *library, *options)
    assert refused.code == 1
    assert said in refused.err
    assert refused.err.splitlines()[-1].startswith("error: ")
    assert content(folder) == before


def test_a_full_disk_leaves_the_bundle_as_it_was(
    built: Path, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = content(built)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr("detheads.deploy.engines.builder.write_bytes", full)
    refused = detheads("bundle", "build", built, *BUILD)
    assert refused.code == 1
    assert "No space left on device" in refused.err
    assert content(built) == before


def test_a_build_that_is_interrupted_or_killed_leaves_the_bundle_as_it_was(built: Path) -> None:
    before = content(built)
    script = """
import os, signal, sys
from detheads.cli.main import main
from detheads.deploy.engines import bundled
ordinary = bundled.write_manifest
def late(*arguments):
    os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
    ordinary(*arguments)
bundled.write_manifest = late
sys.argv = ["detheads", *sys.argv[1:]]
main()
"""
    command = [sys.executable, "-c", script, "bundle", "build", str(built), *BUILD]
    for name, code in (("SIGINT", 130), ("SIGKILL", -signal.SIGKILL)):
        done = subprocess.run(command, env={**os.environ, "SIGNAL": name}, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        after = content(built)
        assert {path: after[path] for path in before} == before
        assert (name == "SIGKILL") == (len(after) > len(before))
    bundled.build_into(built, library=RTX, force=True)
    (entry,) = read_manifest(built).engines
    assert [path.name for path in (built / "engines").iterdir()] == [Path(entry.file).name]


def test_two_builds_of_one_bundle_do_not_meet(
    built: Path, detheads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "PATIENCE", 0)
    with claims.only_process(built, "testing"):
        refused = detheads("bundle", "build", built, *BUILD)
        assert "another process is building an engine" in refused.err


def test_a_bundle_that_was_exported_again_meanwhile_gets_no_engine_of_the_old_graph(
    small: Small, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = small()
    ordinary = bundled.build_engine

    def slow(*arguments: Any, **options: Any) -> Any:
        result = ordinary(*arguments, **options)
        manifest = read_manifest(folder)
        onnx = manifest.onnx.model_copy(update={"sha256": "1" * 64})
        write_manifest(folder, manifest.model_copy(update={"onnx": onnx}))
        return result

    monkeypatch.setattr(bundled, "build_engine", slow)
    with pytest.raises(UserError, match="exported again while the engine was built"):
        bundled.build_into(folder, library=find_library("tensorrt_rtx"))
    assert not list((folder / "engines").iterdir())
