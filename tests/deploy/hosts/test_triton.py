"""Model repositories: read by Triton's own protobuf schema and by OpenVINO, extended without touching what is there."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from detheads.deploy import Detector
from detheads.deploy.hosts.triton import Wishes, place
from detheads.deploy.hosts.triton_config import TENSORRT
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest, write_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.images import load_image
from detheads.foundation.manifest import EngineEntry, ProfileEntry, ProfileProof
from tests.export.toy import SIDE, THRESHOLDS, Toy

CLASSES = ["cat", "dog", "größte Eule"]


def parsed(model: Path) -> Any:
    """``config.pbtxt`` as Triton's schema reads it."""
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")
    from google.protobuf import text_format

    return text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def profiled(bundle: Path, tmp_path: Path) -> Path:
    """The bundle with a profile, whose graph is told from the bundle's own by its metadata."""
    copy = Path(shutil.copytree(bundle, tmp_path / "toy.detheads"))
    manifest = read_manifest(copy)
    model = onnx.load(str(copy / "model.onnx"))
    model.metadata_props.add(key="detheads.profile", value="triton")
    path = copy / "profiles/triton/toy/1/model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(model, str(path))
    digest = atomic.sha256_of(path)
    proof = ProfileProof(
        passed=True, sha256=digest, runtime="onnxruntime", batch=16, images=7, map=0.5, map_live=0.5, map_drop=0.0,
        map_letterboxed=0.5, matched=1.0,
    )  # fmt: skip
    entry = ProfileEntry(
        name="triton", file="profiles/triton/toy/1/model.onnx", sha256=digest, bytes=path.stat().st_size, host="Triton",
        preprocessing="the client's", proof=proof,
    )  # fmt: skip
    write_manifest(copy, manifest.model_copy(update={"profiles": [entry]}))
    return copy


def with_engine(bundle: Path, folder: Path, **changes: Any) -> Path:
    """The bundle with the entry of an engine, which nothing here loads."""
    copy = Path(shutil.copytree(bundle, folder / "engine.detheads"))
    manifest = read_manifest(copy)
    path = copy / "engines/toy.engine"
    path.parent.mkdir()
    path.write_bytes(b"ftrt" + bytes(60))
    entry = EngineEntry(
        file="engines/toy.engine", sha256=atomic.sha256_of(path), bytes=64, builder="tensorrt 10.9.0.34",
        batch=(1, 4, 6), compute_capabilities=["SM87"], build_seconds=1.0, layer_types={}, status="executed",
        onnx="model.onnx", onnx_sha256=manifest.onnx.sha256, gpu="Orin",
    ).model_copy(update=changes)  # fmt: skip
    write_manifest(copy, manifest.model_copy(update={"engines": [entry]}))
    return copy


def test_tritons_own_schema_reads_every_part_of_the_schedule(bundle: Path, tmp_path: Path, detheads) -> None:
    done = detheads(
        *("deploy", "triton", bundle, "-o", tmp_path / "repository", "--name", "people.v2", "--max-batch", 4),
        *("--max-queue-delay-us", 250, "--preferred-batch", 2, "--preferred-batch", 4, "--warmup"),
        *("--instances", "gpu:2", "--instances", "cpu:1", "--version", 3, "--version-policy", "specific:1,3", "--json"),
    )
    assert done.code == 0, done.err
    model = tmp_path / "repository" / "people.v2"
    assert json.loads(done.out)["file"] == str(model / "3" / "model.onnx")
    config = parsed(model)
    assert (config.name, config.platform, config.max_batch_size) == ("people.v2", "onnxruntime_onnx", 4)
    assert config.dynamic_batching.max_queue_delay_microseconds == 250
    assert list(config.dynamic_batching.preferred_batch_size) == [2, 4]
    kinds = type(config.instance_group[0]).Kind
    assert [(kinds.Name(group.kind), group.count) for group in config.instance_group] == [
        ("KIND_GPU", 2), ("KIND_CPU", 1),
    ]  # fmt: skip
    assert list(config.version_policy.specific.versions) == [1, 3]
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 4]
    assert list(config.model_warmup[0].inputs["images"].dims) == [3, SIDE, SIDE]
    assert [list(tensor.dims) for tensor in config.output] == [[THRESHOLDS.max_detections, 4]] + [[20]] * 2
    assert (model / "labels.txt").read_text(encoding="utf-8").splitlines() == CLASSES
    assert not list((tmp_path / "repository").rglob("*.partial"))


@pytest.mark.parametrize("policy", ["latest:2", "all", ""])
def test_a_version_policy_is_one_of_tritons(policy: str, bundle: Path, tmp_path: Path) -> None:
    config = parsed(place(bundle, tmp_path / "repository", wishes=Wishes(versions=policy)).model)
    if policy:
        assert config.version_policy.WhichOneof("policy_choice") == policy.partition(":")[0]
        assert config.version_policy.latest.num_versions == (2 if policy == "latest:2" else 0)
    else:
        assert not config.HasField("version_policy")


def test_the_profile_s_graph_is_preferred_and_the_bundle_s_own_is_called_so(
    bundle: Path, profiled: Path, tmp_path: Path, detheads
) -> None:
    plain = place(bundle, tmp_path / "plain")
    assert plain.file.read_bytes() == (bundle / "model.onnx").read_bytes()
    assert "exported without --profile triton" in plain.covered
    done = detheads("deploy", "triton", profiled, "-o", tmp_path / "proven")
    assert done.code == 0, done.err
    assert "profile triton, proven" in done.out
    (file,) = (tmp_path / "proven").rglob("model.onnx")
    assert file.read_bytes() == (profiled / "profiles/triton/toy/1/model.onnx").read_bytes()
    assert parsed(file.parent.parent).max_batch_size == 16
    assert "the proof ran up to" not in done.err


def test_openvino_finds_in_the_repository_what_the_bundle_finds(
    bundle: Path, toy: Toy, tmp_path: Path, detheads
) -> None:
    openvino = pytest.importorskip("openvino", reason="needs OpenVINO, which OpenVINO Model Server runs")
    repository = tmp_path / "repository"
    (tmp_path / "repository").mkdir()
    other = {"config": {"name": "other", "base_path": "/elsewhere"}}
    atomic.write_json(repository / "config.json", {"model_config_list": [other], "monitoring": {}})
    for _ in range(2):
        done = detheads("deploy", "triton", bundle, "-o", repository, "--ovms", "--json")
        assert done.code == 0, done.err
    document = json.loads((repository / "config.json").read_text(encoding="utf-8"))
    assert document["monitoring"] == {}
    assert document["model_config_list"][0] == other
    (config,) = [entry["config"] for entry in document["model_config_list"][1:]]
    served = repository / config["base_path"] / "2" / "model.onnx"
    compiled = openvino.Core().compile_model(str(served), "CPU", config["plugin_config"])
    detector = Detector(bundle)
    prepared = [detector.prepare(load_image(path))[0] for path in sorted(toy.images.iterdir())[:3]]
    batch = np.ascontiguousarray(np.stack(prepared).transpose(0, 3, 1, 2))
    found, expected = compiled({"images": batch}), detector.session.run(batch)["head"]
    assert (expected[1] > 0).sum() > 10
    for name, values, tolerance in zip(("boxes", "scores", "labels"), expected, (1e-2, 1e-4, 0), strict=True):
        np.testing.assert_allclose(found[name], values, atol=tolerance)


def test_a_version_is_added_and_nothing_else_is_touched(bundle: Path, profiled: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    model = place(bundle, repository, name="toy", wishes=Wishes(largest_batch=4)).model
    text = (model / "config.pbtxt").read_text(encoding="utf-8") + "# ours\nresponse_cache { enable: true }\n"
    (model / "config.pbtxt").write_text(text, encoding="utf-8")
    (repository / "other" / "1").mkdir(parents=True)
    before = everything(repository)
    placed = place(profiled, repository, name="toy")
    assert placed.version == 2
    after = everything(repository)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"toy/2/model.onnx"}
    place(profiled, repository, name="toy", version=7, wishes=Wishes(versions="latest:3"))
    assert parsed(model).version_policy.latest.num_versions == 3


def test_a_version_is_never_overwritten_and_the_same_one_is_taken_as_done(
    bundle: Path, profiled: Path, tmp_path: Path
) -> None:
    place(bundle, tmp_path / "r", name="toy")
    place(bundle, tmp_path / "r", name="toy", version=1)
    with pytest.raises(UserError, match=r"taken by another artefact.*never overwritten"):
        place(profiled, tmp_path / "r", name="toy", version=1)


def test_a_version_that_its_policy_leaves_out_is_remarked_on(bundle: Path, tmp_path: Path) -> None:
    place(bundle, tmp_path / "r", name="toy", wishes=Wishes(versions="specific:1"))
    assert any("--version-policy to serve 2" in sentence for sentence in place(bundle, tmp_path / "r").remarks)


def test_another_model_of_that_name_is_left_alone(bundle: Path, tmp_path: Path) -> None:
    other = tmp_path / "repository" / "toy"
    place(bundle, other.parent)
    (other / "labels.txt").write_text("bird\n")
    before = everything(other)
    with pytest.raises(UserError, match="does not hold the classes of toy; choose another --name"):
        place(bundle, other.parent)
    text = (other / "config.pbtxt").read_text(encoding="utf-8")
    (other / "config.pbtxt").write_text(text.replace("160", "96"))
    with pytest.raises(UserError, match="describes other tensors"):
        place(bundle, other.parent)
    (other / "config.pbtxt").write_text('platform: "pytorch_libtorch"\n')
    with pytest.raises(UserError, match="not a model of the platform onnxruntime_onnx"):
        place(bundle, other.parent)
    assert everything(other).keys() == before.keys()


def test_an_engine_of_tensorrt_becomes_a_plan_within_its_batches(bundle: Path, tmp_path: Path, detheads) -> None:
    engine = with_engine(bundle, tmp_path)
    done = detheads(
        "deploy", "triton", engine, "-o", tmp_path / "r", "--platform", "tensorrt_plan", "--instances", "gpu:1"
    )
    assert done.code == 0, done.err
    model = tmp_path / "r" / "toy"
    assert (model / "1" / "model.plan").read_bytes() == (engine / "engines/toy.engine").read_bytes()
    assert (parsed(model).platform, parsed(model).max_batch_size) == ("tensorrt_plan", 6)
    assert "tensorrt 10.9.0.34 on Orin" in done.err
    assert "no proof ran it" in done.out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"builder": "tensorrt_rtx 1.7.0"}, "an engine of tensorrt_rtx only, which Triton's .* does not load"),
        ({"stripped": True}, "without weights, and Triton does not put them back"),
        ({"onnx_sha256": "0" * 64}, "built from another model.onnx"),
        ({"batch": (4, 4, 8)}, "takes batches from 4 on"),
        ({"sha256": "0" * 64}, "not the file that bundle.json describes"),
    ],
)
def test_an_engine_that_triton_cannot_serve_is_refused(
    changes: dict[str, Any], sentence: str, bundle: Path, tmp_path: Path
) -> None:
    engine = with_engine(bundle, tmp_path, **changes)
    with pytest.raises(UserError, match=sentence):
        place(engine, tmp_path / "r", platform=TENSORRT)
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--name", "../toy"], "'../toy' is no name of a model.*try --name toy"),
        (["--instances", "tpu:2"], "--instances takes gpu:COUNT or cpu:COUNT"),
        (["--instances", "gpu:0"], "--instances takes gpu:COUNT or cpu:COUNT"),
        (
            ["--preferred-batch", "9", "--max-batch", "8"],
            "--preferred-batch takes sizes from 1 to .*, 8",
        ),
        (["--version-policy", "newest"], "--version-policy takes latest:N, all, or specific:1,3"),
        (["--platform", "tensorrt_plan"], "has no engine of tensorrt; build one.*--library tensorrt"),
        (["--platform", "tensorrt"], "--platform is onnxruntime_onnx or tensorrt_plan.*Did you mean 'tensorrt_plan'"),
        (["--platform", "tensorrt_plan", "--ovms"], "OpenVINO Model Server runs no TensorRT engines"),
    ],
)
def test_what_triton_would_not_take_is_refused_before_anything_is_written(
    options: list[str], sentence: str, bundle: Path, tmp_path: Path, detheads
) -> None:
    done = detheads("deploy", "triton", bundle, "-o", tmp_path / "r", *options)
    assert done.code == 1
    assert re.search(sentence, " ".join(done.err.split())), done.err
    assert not (tmp_path / "r").exists()


def test_an_altered_graph_is_not_copied(profiled: Path, tmp_path: Path, detheads) -> None:
    graph = profiled / "profiles/triton/toy/1/model.onnx"
    graph.write_bytes(graph.read_bytes() + b"\0")
    done = detheads("deploy", "triton", profiled, "-o", tmp_path / "r")
    assert done.code == 1
    assert "is not the file that bundle.json describes" in done.err
    assert not (tmp_path / "r").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from detheads.deploy.hosts import triton
def die(source, folder, file):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / file).write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
triton._copy = die
triton.place(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_a_process_killed_while_it_copies_leaves_no_version(bundle: Path, tmp_path: Path) -> None:
    model = place(bundle, tmp_path / "r").model
    before = everything(model)
    killed = subprocess.run([sys.executable, "-c", KILLED, bundle, model.parent], env={**os.environ}, timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert not (model / "2").exists()
    assert place(bundle, model.parent).version == 2
    after = everything(model)
    assert after == before | {"2/model.onnx": before["1/model.onnx"]}


def test_nothing_of_torch_or_onnx_is_loaded(bundle: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from detheads.deploy.hosts.triton import place;"
        "place(Path(sys.argv[1]), Path(sys.argv[2]));"
        "print(*{'torch', 'onnx', 'onnxruntime'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code, bundle, tmp_path / "r"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
