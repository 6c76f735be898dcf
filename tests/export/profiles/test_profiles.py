"""Every host profile of a bundle, read as its host reads it, finds what PyTorch finds in that host's pictures."""

import configparser
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yaml
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image

from detheads.backbones.features import FeatureSpec
from detheads.deploy import Detector
from detheads.export.live import LiveDetector
from detheads.export.matching import Comparison
from detheads.export.names import DENSE_NAMES
from detheads.export.pipeline import verify_bundle
from detheads.export.precision.calibration import choose_calibration
from detheads.export.precision.convert import convert
from detheads.export.precision.plan import Plan
from detheads.export.profiles import NAMES, deepstream, frigate, live_frames, load_profile, require_names
from detheads.export.profiles.deepstream import DeepStream
from detheads.export.profiles.profile import Request
from detheads.export.profiles.prove import HostedGraph
from detheads.export.profiles.writer import add_profiles, require_profiles
from detheads.export.proof import Proof, proof_dataset
from detheads.export.source import load_trained
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.errors import UserError
from detheads.foundation.geometry import letterbox_image
from detheads.foundation.images import load_image
from detheads.foundation.manifest import ProfileEntry
from detheads.ops.nms import hard_nms
from tests.export.toy import SIDE, THRESHOLDS, Toy, live_detector

NAMED = pytest.mark.parametrize("name", NAMES)
Session = onnxruntime.InferenceSession


@pytest.fixture(scope="module")
def dense(bundle: Path) -> onnx.ModelProto:
    """The toy's graph up to suppression, cut out of ``model.onnx``."""
    found = onnx.utils.Extractor(onnx.load(str(bundle / "model.onnx"))).extract_model(["images"], list(DENSE_NAMES))
    for output in found.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "batch"
    return found


@pytest.fixture(scope="module")
def hosted(bundle: Path, dense: onnx.ModelProto, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy's bundle with all profiles, proven again."""
    folder = Path(shutil.copytree(bundle, tmp_path_factory.mktemp("hosted") / "toy.detheads"))
    request = Request(load_trained(toy.run), dense, THRESHOLDS, 8, "toy", "fp32")
    add_profiles(folder, read_manifest(folder), NAMES, request)
    report = verify_bundle(folder, toy.run, Proof(proof_dataset(toy.data), batch_sizes=(1, 5)))
    assert report.passed, report.reasons
    return folder


@pytest.fixture(scope="module")
def entries(hosted: Path) -> dict[str, ProfileEntry]:
    return {entry.name: entry for entry in read_manifest(hosted).profiles}


@pytest.fixture(scope="module")
def pictures(toy: Toy) -> list[Image.Image]:
    return [load_image(path) for path in sorted(toy.images.iterdir())]


@pytest.fixture(scope="module")
def session(hosted: Path, entries: dict[str, ProfileEntry]) -> Callable[[str], Session]:
    """The graph of a profile in ONNX Runtime."""
    opened: dict[str, Session] = {}

    def opening(name: str) -> Session:
        if name not in opened:
            path = hosted / entries[name].file
            opened[name] = Session(str(path), providers=["CPUExecutionProvider"])
        return opened[name]

    return opening


def in_input(live: LiveDetector, array: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
    """PyTorch's detections in a picture of the input's size: boxes in input pixels, scores, labels."""
    with torch.inference_mode():
        images = torch.from_numpy(array.transpose(2, 0, 1)[None].copy())
        output = live.head(live.backbone(live.backbone.normalise(images)))
        scores = (output.logits.sigmoid() * output.quality.sigmoid()[..., None]).sqrt()
        boxes, scores, labels = hard_nms(output.boxes[0], scores[0], THRESHOLDS, size=(SIDE, SIDE))
    return boxes.clamp(0, SIDE).numpy(), scores.numpy(), labels.numpy()


def planes(array: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(array.transpose(2, 0, 1)[None])


@NAMED
def test_each_profile_is_listed_with_its_files_and_proven_on_its_hosts_pictures(
    name: str, hosted: Path, entries: dict[str, ProfileEntry], toy: Toy
) -> None:
    entry = entries[name]
    assert atomic.sha256_of(hosted / entry.file) == entry.sha256
    on_disk = {path.relative_to(hosted).as_posix() for path in (hosted / "profiles" / name).rglob("*.*")}
    assert on_disk == {entry.file, *entry.files}
    assert all(atomic.sha256_of(hosted / file) == digest for file, digest in entry.files.items())
    proof = entry.proof
    assert proof is not None
    assert proof.passed
    assert proof.sha256 == entry.sha256
    assert proof.matched == 1
    assert abs(proof.map_drop) <= 0.001
    assert (proof.map_live == proof.map_letterboxed) == (name not in {"frigate", "deepstream"})
    model = onnx.load(str(hosted / entry.file))
    onnx.checker.check_model(model, full_check=True)
    said = {item.key: item.value for item in model.metadata_props}
    assert said["detheads.profile"] == name
    assert "größte Eule" in said["detheads.classes"]


@NAMED
def test_tensorrts_parser_reads_each_profile(name: str, hosted: Path, entries: dict[str, ProfileEntry]) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs the tensorrt-rtx package")
    log = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(log).create_network(0)
    parser = trt.OnnxParser(network, log)
    assert parser.parse((hosted / entries[name].file).read_bytes()), parser.get_error(0).desc()
    assert network.get_input(0).name == ("last" if name == "head-only" else "images")


def test_the_report_says_what_each_host_costs(hosted: Path) -> None:
    report = atomic.read_json(hosted / "report.json")
    assert [each["name"] for each in report["profiles"]] == list(NAMES)
    costs = {each["name"]: each["host_cost"] for each in report["profiles"]}
    assert costs["triton"] == costs["raw"] == costs["head-only"] == 0
    assert costs["frigate"] > 0.01  # strips on a square
    text = (hosted / "report.md").read_text(encoding="utf-8")
    assert "## Host profiles" in text
    assert "profiles/frigate/model.onnx" in text


# Frigate


def frigates_detections(output: NDArray[np.float32], width: int, height: int) -> NDArray[np.float32]:
    """``post_process_yolonas``-like reading of the first output, as its detector plugin does: ``[20, 6]``."""
    found = np.zeros((20, 6), np.float32)
    for place, (_, x1, y1, x2, y2, confidence, number) in enumerate(output):
        if place == 20 or number < 0:
            break
        found[place] = number, confidence, y1 / height, x1 / width, y2 / height, x2 / width
    return found


def test_frigate_reads_what_pytorch_finds_in_its_region(
    session: Callable[[str], Session], pictures: list[Image.Image], toy: Toy
) -> None:
    graph, live = session("frigate"), live_detector(toy.run)
    (given,) = graph.get_inputs()
    assert (given.shape, given.type) == ([1, 3, SIDE, SIDE], "tensor(uint8)")
    seen = 0
    for picture in pictures:
        region, _ = live_frames.square_region(picture, SIDE, SIDE)
        table = graph.run(None, {given.name: planes(region)})[0]
        assert table.shape == (THRESHOLDS.max_detections, 7)
        found = frigates_detections(table, SIDE, SIDE)
        boxes, scores, labels = in_input(live, region)
        count = min(20, len(scores))
        seen += count
        np.testing.assert_array_equal(found[:count, 0], labels[:count])
        np.testing.assert_allclose(found[:count, 1], scores[:count], atol=1e-5)
        np.testing.assert_allclose(found[:count, 2:] * SIDE, boxes[:count][:, [1, 0, 3, 2]], atol=1e-2)
        assert not found[count:].any()
        assert (table[len(scores) :, 6] == -1).all()
        assert (table[:, 0] == 0).all()
        assert (np.diff(found[:, 1]) <= 0).all()
    assert seen > 20


def test_frigates_configuration_and_label_map_name_what_is_there(hosted: Path) -> None:
    folder = hosted / "profiles" / "frigate"
    config = yaml.safe_load((folder / "frigate.yml").read_text(encoding="utf-8"))
    assert config["detectors"] == {"onnx": {"type": "onnx"}}
    model = config["model"]
    assert {key: model[key] for key in ("model_type", "input_tensor", "input_dtype", "input_pixel_format")} == {
        "model_type": "yolonas", "input_tensor": "nchw", "input_dtype": "int", "input_pixel_format": "rgb",
    }  # fmt: skip
    assert (model["width"], model["height"]) == (SIDE, SIDE)
    for key in ("path", "labelmap_path"):
        assert (folder / Path(model[key]).name).is_file()
    assert frigates_labels((folder / "labelmap.txt").read_text(encoding="utf-8")) == ["cat", "dog", "größte Eule"]


def frigates_labels(text: str) -> list[str]:
    """As ``load_labels``: pairs of number and name where the first word is a number, else a name a line."""
    lines = text.splitlines()
    if lines[0].split(" ", 1)[0].isdigit():
        pairs = dict(line.split(" ", 1) for line in lines)
        return [pairs[str(number)] for number in range(len(pairs))]
    return [line.strip() for line in lines]


@pytest.mark.parametrize("classes", [["cat", "4 wheels"], ["4 wheels", "cat"], ["7"]])
def test_names_that_begin_with_a_number_are_read_as_names(classes: list[str]) -> None:
    assert frigates_labels(frigate.labelmap(classes)) == classes


# Triton, KServe, OpenVINO Model Server


def test_tritons_own_schema_reads_the_configuration_and_it_describes_the_graph(
    hosted: Path, session: Callable[[str], Session]
) -> None:
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", reason="needs tritonclient[grpc]")
    from google.protobuf import text_format

    (model,) = (hosted / "profiles" / "triton").iterdir()
    config = text_format.Parse((model / "config.pbtxt").read_text(encoding="utf-8"), schema.ModelConfig())
    assert config.name == model.name
    assert config.platform == "onnxruntime_onnx"
    assert config.max_batch_size == 8
    assert config.HasField("dynamic_batching")
    assert (model / "1" / "model.onnx").is_file()
    assert (model / "labels.txt").read_text(encoding="utf-8").splitlines() == ["cat", "dog", "größte Eule"]
    graph = session("triton")
    types = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)", "TYPE_INT32": "tensor(int32)"}
    for said, there in ((config.input, graph.get_inputs()), (config.output, graph.get_outputs())):
        described = [(each.name, types[schema.DataType.Name(each.data_type)], ["batch", *each.dims]) for each in said]
        assert described == [(each.name, each.type, each.shape) for each in there]


def test_openvino_reads_the_repositorys_model_and_finds_the_same_in_a_batch(
    hosted: Path, entries: dict[str, ProfileEntry], session: Callable[[str], Session], pictures: list[Image.Image]
) -> None:
    openvino = pytest.importorskip("openvino", reason="needs OpenVINO, which OpenVINO Model Server runs")
    batch = np.concatenate([planes(letterbox_image(picture, SIDE, SIDE)[0]) for picture in pictures[:3]])
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # else it takes bf16 where the CPU has it
    compiled = openvino.Core().compile_model(str(hosted / entries["triton"].file), "CPU", exact)
    served = compiled({"images": batch})
    boxes, scores, labels = session("triton").run(["boxes", "scores", "labels"], {"images": batch})
    assert (scores > 0).sum() > 10
    np.testing.assert_allclose(served["scores"], scores, atol=1e-4)
    np.testing.assert_allclose(served["boxes"], boxes, atol=1e-2)
    np.testing.assert_array_equal(served["labels"], labels)


# DeepStream


def deepstreams_objects(output: NDArray[np.float32], side: int, threshold: float) -> list[tuple[float, ...]]:
    """``NvDsInferParseYoloE`` of DeepStream-Yolo: clipped, at least a pixel wide and high, above the threshold."""
    found = []
    for x1, y1, x2, y2, score, label in output.tolist():
        x1, y1, x2, y2 = (min(max(value, 0.0), side) for value in (x1, y1, x2, y2))
        if score >= threshold and x2 - x1 >= 1 and y2 - y1 >= 1:
            found.append((int(label), score, x1, y1, x2, y2))
    return found


def test_deepstreams_parser_reads_what_pytorch_finds_between_black_bars(
    hosted: Path, session: Callable[[str], Session], pictures: list[Image.Image], toy: Toy
) -> None:
    config = configparser.ConfigParser()
    config.read(hosted / "profiles" / "deepstream" / "config_infer_primary.txt", encoding="utf-8")
    said = config["property"]
    assert (said["net-scale-factor"], said["model-color-format"]) == ("1", "0")
    assert (said["maintain-aspect-ratio"], said["symmetric-padding"]) == ("1", "1")
    assert (said["network-type"], said["cluster-mode"], said["network-mode"]) == ("0", "4", "0")
    assert said["infer-dims"] == f"3;{SIDE};{SIDE}"
    folder = hosted / "profiles" / "deepstream"
    assert len((folder / said["labelfile-path"]).read_text(encoding="utf-8").splitlines()) == 3
    assert int(said["num-detected-classes"]) == 3
    graph, live = session("deepstream"), live_detector(toy.run)
    (given,) = graph.get_inputs()
    assert (given.type, given.shape) == ("tensor(float)", ["batch", 3, SIDE, SIDE])
    assert (folder / said["onnx-file"]).is_file()
    shown = [live_frames.black_letterbox(picture, SIDE, SIDE)[0] for picture in pictures]
    batch = np.concatenate([planes(array) for array in shown]).astype(np.float32)
    (output,) = graph.run(None, {given.name: batch})
    assert output.shape == (len(pictures), THRESHOLDS.max_detections, 6)
    threshold = float(config["class-attrs-all"]["pre-cluster-threshold"])
    seen = 0
    for array, table in zip(shown, output, strict=True):
        objects = deepstreams_objects(table, SIDE, threshold)
        boxes, scores, labels = in_input(live, array)
        large = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(axis=1)
        seen += len(objects)
        assert [each[0] for each in objects] == labels[large].tolist()
        np.testing.assert_allclose([each[1] for each in objects], scores[large], atol=1e-5)
        np.testing.assert_allclose(np.array([each[2:] for each in objects]).reshape(-1, 4), boxes[large], atol=1e-2)
    assert seen > 20


# Head alone, and without suppression


def test_the_head_alone_holds_no_weight_of_the_backbone_and_says_whose_it_holds(hosted: Path, toy: Toy) -> None:
    folder = hosted / "profiles" / "head-only"
    content = (folder / "model.onnx").read_bytes()
    trained = load_trained(toy.run)
    tensors = [each for each in trained.backbone.state_dict().values() if len(each.unique()) > 8]  # not all 0 or 1
    weights = [{each.numpy().tobytes(), each.mT.contiguous().numpy().tobytes()} for each in tensors if each.ndim > 1]
    whole = (hosted / "model.onnx").read_bytes()
    assert sum(any(values in whole for values in layouts) for layouts in weights) > 10
    assert not any(values in content for layouts in weights for values in layouts)
    assert all(parameter.detach().numpy().tobytes() in content for parameter in trained.head.classes.parameters())
    said = {item.key: item.value for item in onnx.load(str(folder / "model.onnx")).metadata_props}
    assert said["detheads.licence"].startswith("the weights inside are of the head alone")
    described = json.loads((folder / "features.json").read_text(encoding="utf-8"))
    assert "timm:test_vit" in described["weights_not_inside"]
    assert described["inputs"] == {"last": ["batch", 64, 10, 10]}


def test_features_from_pytorch_give_the_bundles_own_detections(
    hosted: Path, session: Callable[[str], Session], pictures: list[Image.Image], toy: Toy
) -> None:
    backbone = load_trained(toy.run).backbone
    batch = np.concatenate([planes(letterbox_image(picture, SIDE, SIDE)[0]) for picture in pictures[:3]])
    with torch.inference_mode():
        features = backbone(backbone.normalise(torch.from_numpy(batch)))
    names = ["boxes", "scores", "labels"]
    found = session("head-only").run(names, {name: values.numpy() for name, values in features.items()})
    expected = session("triton").run(names, {"images": batch})
    assert (expected[1] > 0).sum() > 10
    np.testing.assert_allclose(found[0], expected[0], atol=1e-2)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-5)
    np.testing.assert_array_equal(found[2], expected[2])


def test_a_hosts_own_suppression_of_raw_outputs_gives_the_bundles_detections(
    hosted: Path, session: Callable[[str], Session], pictures: list[Image.Image]
) -> None:
    graph = session("raw")
    operators = {node.op_type for node in onnx.load(str(hosted / "profiles" / "raw" / "model.onnx")).graph.node}
    assert operators.isdisjoint({"Loop", "NonMaxSuppression", "TopK"})
    array, letterbox = letterbox_image(pictures[5], SIDE, SIDE)
    boxes, scores = graph.run(["boxes", "scores"], {"images": planes(array)})
    assert boxes.shape[1:] == (scores.shape[1], 4)
    assert scores.shape[2] == 3
    kept = hard_nms(torch.from_numpy(boxes[0]), torch.from_numpy(scores[0]), THRESHOLDS, size=(SIDE, SIDE))
    expected = Detector(hosted)(pictures[5])
    np.testing.assert_allclose(letterbox.to_original(kept[0].numpy()), expected.boxes, atol=1e-2)
    np.testing.assert_allclose(kept[1].numpy(), expected.scores, atol=1e-5)


# What is refused


def test_an_unknown_profile_is_refused_and_the_nearest_offered() -> None:
    with pytest.raises(UserError, match=r"no profile 'fridgate'.*triton, frigate.*Did you mean 'frigate'"):
        require_names(["triton", "fridgate"])
    assert require_names(["raw", "triton", "raw"]) == ("raw", "triton")


def test_a_host_that_cannot_take_a_model_says_why() -> None:
    wide = FeatureSpec((), (), 320, 512)
    with pytest.raises(UserError, match=r"no profile frigate.*square regions.*320x512 \(height x width\)"):
        require_profiles(["triton", "frigate"], wide)
    require_profiles([name for name in NAMES if name != "frigate"], wide)
    with pytest.raises(UserError, match="triton is of one head, and 2 are given"):
        require_profiles(["triton"], wide, heads=2)


@NAMED
def test_a_profile_describes_itself(name: str) -> None:
    profile = load_profile(name)
    assert profile.name == name
    assert profile.host
    assert profile.frame in {"", *vars(live_frames)}


@pytest.fixture
def copy(hosted: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(hosted, tmp_path / "copy.detheads"))


def test_a_profile_that_fails_on_its_hosts_pictures_fails_the_whole(
    copy: Path, toy: Toy, monkeypatch: pytest.MonkeyPatch, detheads: Callable[..., Any]
) -> None:
    """As if nvinfer padded with grey, as our own letterbox does."""
    monkeypatch.setattr(deepstream, "black_letterbox", letterbox_image)
    done = detheads("verify", copy, "--run", toy.run, "--data", toy.data, "--batch-sizes", "1")
    assert done.code == 1
    assert "profiles/deepstream/model.onnx: mAP differs by" in done.out
    assert "profile deepstream: FAILED" in done.out
    assert "profile frigate: holds" in done.out
    manifest = read_manifest(copy)
    assert manifest.state == "failed verification"
    assert {entry.name for entry in manifest.profiles if not (entry.proof and entry.proof.passed)} == {"deepstream"}


@pytest.mark.parametrize("file", ["profiles/frigate/frigate.yml", "profiles/head-only/model.onnx"])
def test_a_profile_that_was_edited_is_not_proven(file: str, copy: Path, toy: Toy, detheads: Callable[..., Any]) -> None:
    (copy / file).write_bytes((copy / file).read_bytes() + b"\n")
    done = detheads("verify", copy, "--run", toy.run, "--data", toy.data)
    assert done.code == 1
    assert f"{file} is not the file that bundle.json describes" in done.err


def test_the_name_of_a_profile_is_looked_at_before_the_work(
    toy: Toy, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    target = tmp_path / "a.detheads"
    done = detheads("export", toy.run, "-o", target, "--no-verify", "--raw", "--profile", "deep-stream")
    assert done.code == 1
    assert "Did you mean 'deepstream'?" in done.err
    assert not target.exists()


def test_profiles_are_in_the_bundles_precision_and_take_floats_all_the_same(
    hosted: Path, dense: onnx.ModelProto, toy: Toy, tmp_path: Path, pictures: list[Image.Image]
) -> None:
    calibration = choose_calibration(str(toy.images), (SIDE, SIDE), count=4)
    half = convert(dense, Plan("fp16", calibration)).model
    trained = load_trained(toy.run)
    folder = Path(shutil.copytree(hosted, tmp_path / "half.detheads"))
    manifest = read_manifest(folder).model_copy(update={"precision": "fp16"})
    request = Request(trained, half, THRESHOLDS, 8, "half", "fp16")
    expected = [Detector(hosted)(picture) for picture in pictures]
    for entry in add_profiles(folder, manifest, ["head-only", "raw"], request).profiles:
        model = onnx.load(str(folder / entry.file))
        assert {each.type.tensor_type.elem_type for each in model.graph.output} <= {
            TensorProto.FLOAT,
            TensorProto.INT32,
        }
        assert any(tensor.data_type == TensorProto.FLOAT16 for tensor in model.graph.initializer)
        assert any(item.value == "fp16" for item in model.metadata_props)
        graph = HostedGraph(folder / entry.file, load_profile(entry.name), trained, THRESHOLDS)
        assert "rounded" in graph.runtime
        assert Comparison.of(expected, graph.detect(pictures)).share > 0.95
    assert "network-mode=2\n" in DeepStream().build(request).texts["config_infer_primary.txt"]
