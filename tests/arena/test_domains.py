"""Many datasets below one folder: which take part, what is reported, heads for classes they never saw."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch

from detheads.arena.domains import Domain, DomainsResult, Skipped, find_domains
from detheads.arena.records import Row
from detheads.backbones.text import save_class_embeddings
from detheads.data.scenes import generate
from detheads.foundation.errors import UserError
from detheads.training.checkpoint import load_checkpoint
from detheads.training.trainer import Trainer
from tests.arena.conftest import BUDGET
from tests.training.world import NARROW, World


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO-style, a Roboflow and a YOLO folder, one of them a level deeper, and folders that cannot take part."""
    root = tmp_path_factory.mktemp("root")
    generate(root / "coco style", 5, 2, size=96, seed=1)
    generate(root / "plain", 5, 2, size=96, seed=2)
    (root / "rf20").mkdir()
    _as_roboflow(root / "plain", root / "rf20" / "roboflow-export")
    shutil.rmtree(root / "plain")
    (root / "holiday photos" / "2019").mkdir(parents=True)
    (root / "holiday photos" / "2019" / "one.jpg").write_bytes(b"")
    generate(root / "train only", 3, 1, size=96, seed=3)
    (root / "train only" / "annotations" / "instances_val.json").unlink()
    (root / "notes.txt").write_text("not a folder")
    (root / ".hidden").mkdir()
    return root


def _as_roboflow(source: Path, target: Path) -> None:
    """The layout in which RF100-VL is published: ``train|valid|test/_annotations.coco.json`` beside the images."""
    for split, name in (("train", "train"), ("val", "valid")):
        (target / name).mkdir(parents=True)
        for picture in (source / split).iterdir():
            shutil.copy(picture, target / name)
        shutil.copy(source / "annotations" / f"instances_{split}.json", target / name / "_annotations.coco.json")


def test_datasets_of_any_layout_are_found_and_the_others_say_why_not(root: Path) -> None:
    found = find_domains(root)
    assert [entry for entry in found if isinstance(entry, Domain)] == [
        Domain("coco style", root / "coco style", "train", "val"),
        Domain("rf20/roboflow-export", root / "rf20" / "roboflow-export", "train", "valid"),
    ]
    skipped = {entry.name: entry.reason for entry in found if isinstance(entry, Skipped)}
    assert set(skipped) == {"holiday photos", "train only"}
    assert "no dataset" in skipped["holiday photos"]
    assert "splits train" in skipped["train only"]
    assert find_domains(root / "coco style") == [Domain("coco style", root / "coco style", "train", "val")]


@pytest.mark.parametrize("name", ["absent", "notes.txt", "holiday photos/2019"])
def test_a_root_without_a_folder_in_it_is_refused(root: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"is not a folder|holds no dataset folder"):
        find_domains(root / name)


def test_one_command_trains_and_ranks_heads_on_every_domain(
    root: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    narrow = [f"-O{head}.{name}={value}" for head in ("fcos", "split_tower") for name, value in NARROW[head].items()]
    line = ("--heads", "fcos,split_tower", *narrow, "--epochs", 1, "--batch", 5, "--jobs", 2, "--threads", 1)
    line += ("--backbone", "effnet_lite0", "--size", 96, "-o", tmp_path / "out")
    finished = detheads("arena", "domains", root, *line, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert set(answer["domains"]) == {"coco style", "rf20/roboflow-export"}
    assert set(answer["skipped"]) == {"holiday photos", "train only"}
    aps: dict[str, list[float]] = {"fcos": [], "split_tower": []}
    for domain, rows in answer["domains"].items():
        assert [row["status"] for row in rows] == ["done", "done"]
        kept = json.loads((tmp_path / "out" / domain / "arena" / "rows" / "fcos.json").read_text("utf-8"))
        assert kept in rows
        for row in rows:
            aps[row["head"]].append(row["metrics"]["AP"])
    for head, values in aps.items():
        assert answer["heads"][head]["mean_AP"] == pytest.approx(fmean(values))
    table = (tmp_path / "out" / "domains.md").read_text("utf-8")
    assert "| coco style | rf20/roboflow-export | mean AP | mean rank |" in table
    assert "Left out: holiday photos" in table
    again = detheads("arena", "domains", root, *line, "--json")
    assert json.loads(again.out) == answer


def _row(head: str, ap: float | None) -> Row:
    if ap is None:
        return Row(head=head, status="failed", error="it broke")
    return Row(head=head, status="done", metrics={"AP": ap})


def test_ranks_are_means_over_domains_equals_share_and_failures_come_last() -> None:
    result = DomainsResult(
        {
            "one": [_row("a", 0.5), _row("b", 0.5), _row("c", 0.1)],
            "two": [_row("a", 0.2), _row("c", 0.1), _row("b", None)],
        }
    )
    assert [result.mean_rank(head) for head in "abc"] == [(1.5 + 1) / 2, (1.5 + 3) / 2, (3 + 2) / 2]
    assert [result.mean(head) for head in "abc"] == pytest.approx([0.35, 0.25, 0.1])
    assert result.heads == ["a", "b", "c"]
    assert result.ap("two", "b") is None


@pytest.fixture(scope="module")
def text_run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A split tower trained with ten text embeddings."""
    torch.manual_seed(3)
    embeddings = torch.nn.functional.normalize(torch.randn(10, 16), dim=1)
    folder = tmp_path_factory.mktemp("text")
    torch.save(embeddings, folder / "embeddings.pt")
    caches = world.cache("train"), world.cache("val")
    return (
        Trainer("split_tower", NARROW["split_tower"], *caches, folder / "run", BUDGET, class_embeddings=embeddings)
        .fit()
        .run
    )


def test_one_command_evaluates_a_text_head_on_domains_with_a_class_it_never_saw(
    text_run: Path, root: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    shutil.copytree(root, tmp_path / "root")
    for file in (tmp_path / "root" / "coco style" / "annotations").iterdir():
        document = json.loads(file.read_text())
        document["categories"][0]["name"] = "unheard-of"
        file.write_text(json.dumps(document))
    checkpoint = load_checkpoint(text_run)
    known = [category.name for category in checkpoint.categories]
    rows = torch.cat([checkpoint.tensors["classifier.embeddings"], torch.randn(1, 16)])
    save_class_embeddings(tmp_path / "names.npz", [*known, "unheard-of"], rows)
    line = ("--zero-shot", text_run, "--text", tmp_path / "names.npz", "--backbone", "effnet_lite0", "--size", "96x128")
    finished = detheads("arena", "domains", tmp_path / "root", *line, "-o", tmp_path / "out", "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert set(answer["domains"]) == {"coco style", "rf20/roboflow-export"}
    assert all(rows[0]["summary"] == "zero-shot" for rows in answer["domains"].values())
    assert "unheard-of" in answer["domains"]["coco style"][0]["per_class"]
    assert not (tmp_path / "out" / "coco style" / "cache-train").exists()
    refused = detheads("arena", "domains", root, *line[:6], "--size", "96", "-o", tmp_path / "other")
    assert refused.code == 1
    assert "was trained on effnet_lite0 at 128x96" in refused.err


def test_a_head_without_text_cannot_look_for_other_classes(
    world: World, root: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    caches = world.cache("train"), world.cache("val")
    run = Trainer("fcos", NARROW["fcos"], *caches, tmp_path / "run", BUDGET).fit().run
    names = [category.name for category in load_checkpoint(run).categories]
    save_class_embeddings(tmp_path / "names.npz", names, torch.randn(len(names), 16))
    line = ("--zero-shot", run, "--text", tmp_path / "names.npz", "--backbone", "effnet_lite0", "--size", "96x128")
    refused = detheads("arena", "domains", root / "coco style", *line, "-o", tmp_path / "out")
    assert refused.code == 1
    assert "does not compare classes with embeddings" in refused.err
