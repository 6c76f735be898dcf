"""``deploy bench``: every figure is one of the shipped artefact, in turns, beside what was proven of it."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from detheads.deploy.benchmark.contenders import MOST, open_contenders
from detheads.deploy.benchmark.result import percentiles
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.errors import UserError
from tests.export.toy import Toy

QUICK = ("--runs", 3, "--pause", 0, "--threads", 1)


@pytest.fixture(scope="module")
def folder(bundle: Path, toy: Toy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two bundles, one of them without a proof, in batches of 1 and 2."""
    from detheads.cli.main import run

    place = tmp_path_factory.mktemp("bench")
    other = Path(shutil.copytree(bundle, place / "other | <copy>.detheads"))
    manifest = atomic.read_json(other / "bundle.json")
    for head in manifest["heads"]:
        head["verification"] = None
    atomic.write_json(other / "bundle.json", manifest)
    line = ("deploy", "bench", bundle, "--compare", other, "--images", toy.images, "--batch", "1,2", *QUICK)
    assert run([str(word) for word in (*line, "-o", place / "out")]) == 0
    return place / "out"


@pytest.fixture(scope="module")
def answer(folder: Path) -> dict[str, Any]:
    return dict(atomic.read_json(folder / "bench.json"))


def test_every_contender_is_measured_at_every_batch_size(answer: dict[str, Any]) -> None:
    rows = [(row["contender"], row["batch"], row["runs"], row["threads"]) for row in answer["rows"]]
    assert rows == [(name, batch, 3, 1) for batch in (1, 2) for name in ("toy", "other | <copy>")]
    assert answer["pictures"] == 7


def test_the_parts_make_the_whole(answer: dict[str, Any]) -> None:
    for row in answer["rows"]:
        latency, parts = row["latency"], row["parts"]
        assert latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p95"] <= latency["p99"] == latency["max"]
        assert row["images_per_second"] == pytest.approx(1000 * row["batch"] / latency["mean"])
        assert min(parts.values()) > 0
        around = parts["letterbox"] + parts["post"]
        assert row["overhead"] == pytest.approx(around / parts["inference"])
        whole = row["batch"] * (around + parts["inference"])
        assert latency["min"] * 0.5 < whole < latency["max"] * 2, "the parts are of the same runs"
        assert 0.05 < row["bare_ratio"] < 20, "a machine under load, five milliseconds a run"
    assert [row["relative"] for row in answer["rows"] if row["contender"] == "toy"] == [1, 1]


def test_the_accuracy_is_the_proof_s(answer: dict[str, Any], bundle: Path) -> None:
    proof = read_manifest(bundle).verification
    assert proof is not None
    (entry,) = answer["accuracy"]["toy"]
    assert entry["map"] == next(each.map for each in proof.artefacts if each.file == "model.onnx")
    assert (entry["map_live"], entry["images"], entry["passed"], entry["same_runtime"]) == (
        proof.map_live,
        proof.images,
        True,
        True,
    )
    assert answer["accuracy"]["other | <copy>"] == []


def test_a_proof_that_failed_is_told_with_its_figure(
    bundle: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))
    manifest = atomic.read_json(copy / "bundle.json")
    manifest["heads"][0]["verification"]["passed"] = False
    atomic.write_json(copy / "bundle.json", manifest)
    finished = detheads("deploy", "bench", copy, *QUICK)
    assert finished.code == 0, finished.err
    assert "in a proof that FAILED, with onnxruntime" in finished.out


def test_the_page_and_the_plot_say_what_the_figures_say(folder: Path, answer: dict[str, Any]) -> None:
    page = (folder / "bench.md").read_text("utf-8")
    first = answer["rows"][0]
    assert f"| toy | 1 | {first['latency']['p50']:.2f} |" in page
    assert "| other \\| <copy> | 2 |" in page
    assert f"{first['overhead']:.2%} | {first['bare_ratio']:.3f} |" in page
    drawing = ElementTree.parse(folder / "bench.svg").getroot()
    texts = [element.text or "" for element in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "toy, batch 1" in texts
    assert "other | <copy>, batch 2" in texts
    assert f"{first['images_per_second']:.1f} images/s, AP {answer['accuracy']['toy'][0]['map']:.4f}" in " ".join(texts)


def test_backends_take_turns_on_the_probes(bundle: Path, detheads: Callable[..., Any]) -> None:
    pytest.importorskip("openvino")
    line = ("deploy", "bench", bundle, "--backend", "auto", "--backend", "openvino", *QUICK)
    finished = detheads(*line, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert [row["contender"] for row in answer["rows"]] == ["auto", "openvino"]
    assert answer["source"] == "the probes of toy"
    assert answer["accuracy"]["openvino"][0]["same_runtime"] is False
    assert "auto took " in finished.err
    assert any("p99 of 3 runs is the largest of them" in remark for remark in answer["remarks"])


def test_time_bounds_the_runs(bundle: Path, detheads: Callable[..., Any]) -> None:
    finished = detheads("deploy", "bench", bundle, "--runs", 100_000, "--seconds", 0.1, "--threads", 1)
    assert finished.code == 0, finished.err
    runs = re.search(r"toy: onnxruntime .* 1 thread; (\d+) runs of 1\n", finished.out)
    assert runs is not None
    assert 1 <= int(runs[1]) < 1000
    assert "proven with onnxruntime" in finished.out


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--batch", "1,x"), "--batch takes whole numbers from 1 to 1024 with commas between them, such as 1,4,8"),
        (("--batch", ""), "--batch takes whole numbers"),
        (("--batch", "2000"), "--batch takes whole numbers from 1 to 1024"),
        (("--threads", "0"), "--threads takes whole numbers from 1"),
        (("--threads", "1,4000"), "4000 threads are not possible on this machine"),
        (("--backend", "abacus"), "ONNX Runtime has no abacus here"),
        (("--images", "nowhere"), "nowhere does not exist"),
        (("--compare", "nothing.detheads"), "nothing.detheads"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(
    options: tuple[str, ...], sentence: str, bundle: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    refused = detheads("deploy", "bench", bundle, *options, "-o", tmp_path / "out")
    assert refused.code == 1
    assert sentence in refused.err
    assert not (tmp_path / "out").exists()


def test_a_folder_in_use_is_refused_before_anything_is_measured(
    bundle: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    (tmp_path / "mine").write_text("mine")
    refused = detheads("deploy", "bench", bundle, "--seconds", 60, "--runs", 100_000, "-o", tmp_path)
    assert refused.code == 1
    assert str(tmp_path) in refused.err


def test_without_probes_pictures_are_asked_for(bundle: Path, tmp_path: Path, detheads: Callable[..., Any]) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy.detheads"))
    shutil.rmtree(copy / "probes")
    refused = detheads("deploy", "bench", copy)
    assert refused.code == 1
    assert "carries no probes: give pictures with --images." in refused.err.replace(";", ":")


def test_more_contenders_than_fit_into_memory_are_refused(bundle: Path) -> None:
    with pytest.raises(UserError, match=f"{MOST + 1} contenders would be in memory at once"):
        open_contenders([bundle], ["cpu"], range(1, MOST + 2))


def test_percentiles_are_runs_that_happened() -> None:
    found = percentiles([value / 1000 for value in range(200, 0, -1)])
    assert [round(found[name]) for name in ("p50", "p90", "p95", "p99", "min", "max")] == [100, 180, 190, 198, 1, 200]
    assert found["mean"] == pytest.approx(100.5)
    assert percentiles([0.004])["p99"] == 4
