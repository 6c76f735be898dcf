"""The report of an arena: its files agree with its rows and with each other."""

import csv
import io
import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from detheads.arena.contest import Job, compete
from detheads.arena.examples import examples_of
from detheads.arena.leaderboard import leaderboard, markdown, pareto_front, verdict
from detheads.arena.plots import curves_figure, pareto_figure, place_labels
from detheads.arena.records import Row, detections_path, read_rows, run_folder, write_row
from detheads.arena.report import ReportFiles, write_report
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.report import pictures
from tests.arena.by_hand import done, failed, find_everything, setting, stopped, write_arena
from tests.training.world import NARROW, World

ROWS = (
    done("fcos", 0.25, 16_000_000, milliseconds=30.5, gflops=12.0),
    done("tropical", 0.31, 900_000, seconds=120.0, nms_free=True),
    done("wavelet", 0.31, 900_000, milliseconds=None, latency_remark="no ONNX file"),
    done("curvature", 0.125, 40_000),
    done("large", 0.30, 2_000_000),
    failed("broken", "RuntimeError: a | pipe\nand <a second line>"),
    failed("broken_too", "killed by SIGKILL"),
)
ORDER = ["tropical", "wavelet", "large", "fcos", "curvature", "broken", "broken_too"]
FRONT = {"tropical", "wavelet", "curvature"}


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An arena of two heads that were trained, one that finds everything and one that failed."""
    import torch

    folder = tmp_path_factory.mktemp("trained")
    threads = torch.get_num_threads()
    write_arena(folder, setting(world), done("perfect", 0.99, 1_000_000), failed("broken", "it broke"))
    find_everything(folder, "perfect", world)
    for head in ("fcos", "split_tower"):
        job = Job(
            arena=folder,
            head=head,
            options=NARROW[head],
            train=world.caches / "plain",
            val=world.caches / "val",
            training={"epochs": 4, "batch": 2, "lr": 2e-3},
            threads=1,
        )
        write_row(folder, compete(job))
    torch.set_num_threads(threads)
    return folder


@pytest.fixture(scope="module")
def report(trained: Path, world: World) -> ReportFiles:
    return write_report(trained, data=world.data, pictures=2)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory) -> ReportFiles:
    folder = write_arena(tmp_path_factory.mktemp("by hand"), setting(), *ROWS)
    return write_report(folder)


def _beaten(points: list[tuple[float, float]]) -> set[int]:
    """Brute force: some other point costs no more, is worth no less, and differs."""
    return {
        index
        for index, (cost, value) in enumerate(points)
        if any(other[0] <= cost and other[1] >= value and other != (cost, value) for other in points)
    }


@pytest.mark.parametrize("count", [0, 1, 2, 5, 21])
def test_the_front_is_what_no_other_head_beats(count: int) -> None:
    draw = random.Random(count)
    for _ in range(200):
        points = [(float(draw.randint(1, 6)), draw.randint(0, 6) / 6) for _ in range(count)]  # full of ties
        assert pareto_front(points) == set(range(count)) - _beaten(points)


def test_the_best_head_comes_first_and_failed_heads_last(by_hand: ReportFiles) -> None:
    answer = json.loads(by_hand.json.read_text("utf-8"))
    assert [entry["head"] for entry in answer["heads"]] == ORDER
    assert {entry["head"] for entry in answer["heads"] if entry["pareto"]} == FRONT
    assert answer["setting"] == setting().model_dump(mode="json")
    tropical, failure = answer["heads"][0], answer["heads"][5]
    assert tropical["minutes"] == 2.0
    assert tropical["APs"] == 0.31
    assert tropical["APl"] is None  # no such object
    assert failure["status"] == "failed"
    assert failure["error"] == "RuntimeError: a | pipe\nand <a second line>"
    assert failure["AP"] is None


def test_the_tables_say_the_same(by_hand: ReportFiles) -> None:
    expected = json.loads(by_hand.json.read_text("utf-8"))["heads"]
    rows = list(csv.DictReader(io.StringIO(by_hand.csv.read_text("utf-8"))))
    assert rows == [{key: "" if value is None else str(value) for key, value in entry.items()} for entry in expected]
    lines = [line for line in by_hand.markdown.read_text("utf-8").splitlines() if line.startswith("|")]
    titles, _, *cells = ([cell.strip() for cell in line.replace("\\|", "/").strip("|").split("|")] for line in lines)
    assert titles[:7] == ["head", "AP", "AP50", "AP75", "precision", "false", "parameters"]
    for entry, row in zip(expected, cells, strict=True):
        shown = dict(zip(titles, row, strict=True))
        assert shown["head"].startswith(entry["head"])
        if entry["status"] == "failed":
            assert " ".join(entry["error"].split()).replace("<", "&lt;").replace("|", "/") in shown["head"]
            assert set(row[1:-1]) == {"–"}  # noqa: RUF001
        else:
            assert float(shown["AP"]) == pytest.approx(entry["AP"], abs=5e-4)
            assert int(shown["parameters"].replace(",", "")) == entry["parameters"]
            assert float(shown["GFLOPs"]) == pytest.approx(entry["gflops"], abs=5.1e-3)
            assert (shown["Pareto"] == "yes") == entry["pareto"]
            assert (shown["NMS-free"] == "yes") == entry["nms_free"]
            assert (shown["ms"] == "–") == (entry["milliseconds"] is None)  # noqa: RUF001


def test_the_markdown_says_what_all_heads_have_in_common(by_hand: ReportFiles) -> None:
    text = by_hand.markdown.read_text("utf-8")
    common = text[: text.index("| head |")]
    for fact in ("scenes", "10 training and 5 validation", "effnet_lite0", "128 x 96", "epochs 3", "lr 0.001"):
        assert fact in common
    assert "2 cores" in common
    assert "7 heads, 2 failed. Best: tropical with AP 0.310" in common


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([failed("a", "it broke"), failed("b", "so did it")], "2 heads, all failed."),
        ([done("a", None, 10), done("b", None, 20)], "2 heads. AP is undefined: the validation images show no object."),
        (
            [failed("a", "it broke"), stopped("b", "it was behind"), done("c", 0.1, 10)],
            "3 heads, 1 stopped, 1 failed. Best: c with AP 0.100.",
        ),
        ([done("a", 0.0, 10)], "1 head. Best: a with AP 0.000. Pareto front, smallest first: a."),
    ],
)
def test_arenas_without_a_winner_are_reported_too(tmp_path: Path, rows: list[Any], sentence: str) -> None:
    files = write_report(write_arena(tmp_path, setting(), *rows))
    assert sentence in files.markdown.read_text("utf-8")
    for path in (files.pareto, files.curves):
        with Image.open(path) as image:
            image.load()


def test_the_plot_shows_every_finished_head_once_and_the_front_as_a_line() -> None:
    entries = leaderboard(sorted(ROWS, key=lambda row: ORDER.index(row.head)))
    axes = pareto_figure(entries).axes[0]
    finished = [row for row in ROWS if row.status == "done"]
    shown = {tuple(point) for point in axes.collections[0].get_offsets().tolist()}
    assert shown == {(row.parameters, row.metrics["AP"]) for row in finished}
    assert sorted(text.get_text() for text in axes.texts) == sorted(row.head for row in finished)
    assert axes.lines[0].get_xydata().tolist() == [[40_000, 0.125], [900_000, 0.31], [900_000, 0.31]]
    assert axes.get_xscale() == "log"


@pytest.mark.parametrize("seed", range(3))
def test_the_names_of_21_heads_do_not_cover_each_other(seed: int) -> None:
    draw = random.Random(seed)
    rows = [done(f"a_head_named_{n}", draw.uniform(0.2, 0.3), int(10 ** draw.uniform(5, 6))) for n in range(21)]
    figure = pareto_figure(leaderboard(rows))
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in figure.axes[0].texts]
    area = figure.bbox
    for index, box in enumerate(boxes):
        assert area.x0 <= box.x0 <= box.x1 <= area.x1
        assert area.y0 <= box.y0 <= box.y1 <= area.y1
        for other in boxes[:index]:
            shared_width = min(box.x1, other.x1) - max(box.x0, other.x0)
            shared_height = min(box.y1, other.y1) - max(box.y0, other.y0)
            shared = max(0.0, shared_width) * max(0.0, shared_height)
            assert shared <= 0.05 * box.width * box.height


def test_labels_of_points_on_top_of_each_other_are_moved_apart() -> None:
    points = np.full((8, 2), 200.0)
    placed = place_labels(points, np.full((8, 2), [80.0, 14.0]), 400, 400)
    np.testing.assert_allclose(placed[:, 2:] - placed[:, :2], [[80, 14]] * 8)
    for index, box in enumerate(placed):
        assert (box >= 0).all()
        assert (box <= 400).all()
        for other in placed[:index]:
            overlap = np.clip(np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2]), 0, None)
            assert overlap.prod() < 0.05 * 80 * 14


def test_the_curves_are_those_of_the_logs(trained: Path) -> None:
    figure = curves_figure(trained, leaderboard(read_rows(trained)))
    panels = _panels(figure)
    for head in ("fcos", "split_tower"):
        log = [json.loads(line) for line in (run_folder(trained, head) / "log.jsonl").read_text("utf-8").splitlines()]
        ap_axes, loss_axes = (axes for axes in panels if axes.get_title() == head)
        assert ap_axes.lines[-1].get_xydata().tolist() == [[line["epoch"], line["AP"]] for line in log if "AP" in line]
        assert len(ap_axes.lines) == 2  # the other head in grey
        losses = [[line["step"], line["loss"]] for line in log if "loss" in line]
        assert losses
        assert loss_axes.lines[0].get_xydata().tolist() == losses


def _panels(figure: Any) -> list[Any]:
    return [axes for axes in figure.get_axes() if axes.get_title()]


def test_a_head_that_failed_on_the_way_shows_how_far_it_came(tmp_path: Path) -> None:
    run = run_folder(tmp_path, "broken")
    run.mkdir(parents=True)
    lines = [{"step": 20, "epoch": 1, "loss": 3.5}, {"step": 25, "epoch": 1, "AP": None}]
    run.joinpath("log.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"step": 40, "lo', encoding="utf-8")
    figure = curves_figure(tmp_path, leaderboard([failed("broken", "it broke"), failed("never_began", "no layers")]))
    ap_axes, loss_axes = _panels(figure)
    assert ap_axes.get_title() == loss_axes.get_title() == "broken (failed)"
    assert loss_axes.lines[0].get_xydata().tolist() == [[20, 3.5]]
    assert np.isnan(ap_axes.lines[0].get_ydata()).all()  # undefined, not a low AP


def test_pictures_show_the_ground_truth_and_the_best_heads_on_the_images_with_most_objects(
    report: ReportFiles, trained: Path, world: World
) -> None:
    dataset = world.cache("val").dataset
    counts = {image.id: len(objects.boxes) for image, objects in zip(dataset.images, dataset.objects, strict=True)}
    best = sorted(counts, key=lambda image_id: (-counts[image_id], image_id))[:2]
    assert report.pictures is not None
    strips = sorted(report.pictures.iterdir())
    assert [path.name for path in strips] == [f"strip-01-{best[0]}.jpg", f"strip-02-{best[1]}.jpg"]
    drawn = _draw(trained, world, pictures=2, heads_drawn=6)
    assert [example.image_id for example in drawn] == best
    for example, path in zip(drawn, strips, strict=True):
        truth, perfect, *others = example.panels
        boxes = f"{counts[example.image_id]} boxes"
        assert truth.caption == f"ground truth: {boxes}"
        assert perfect.caption == f"perfect: {boxes}"  # not those at a score of 0.3
        assert {panel.caption.partition(":")[0] for panel in others} == {"fcos", "split_tower"}
        with Image.open(io.BytesIO(truth.jpeg)) as panel, Image.open(path) as strip:
            assert strip.width >= 4 * panel.width
            assert max(panel.size) == pictures.PANEL_SIZES[0]
            assert panel.width / panel.height == pytest.approx(strip.width / 4 / strip.height, rel=0.1)


def _draw(arena: Path, world: World, **options: Any) -> list[pictures.Example]:
    return examples_of(arena, setting(world), leaderboard(read_rows(arena)), world.data, **options)


def test_boxes_are_drawn_where_the_objects_are(trained: Path, world: World) -> None:
    """Along the lower edge of every object each panel differs from the bare picture."""
    (example,) = _draw(trained, world, pictures=1, heads_drawn=1)
    dataset = world.cache("val").dataset
    index = [image.id for image in dataset.images].index(example.image_id)
    record = dataset.images[index]
    with Image.open(world.data / "val" / record.file_name) as original:
        bare = original.convert("RGB")
    for panel in example.panels:
        drawn = Image.open(io.BytesIO(panel.jpeg)).convert("RGB")
        resized = np.asarray(bare.resize(drawn.size), np.float64)
        difference = np.abs(np.asarray(drawn, np.float64) - resized).mean(axis=2)
        for left, _, right, bottom in dataset.objects[index].boxes * drawn.width / record.width:
            edge = difference[min(round(bottom), drawn.height) - 1, round(left) + 2 : round(right) - 2]
            assert np.median(edge) > 20
        assert np.median(difference) < 10


def test_fewer_pictures_and_heads_leave_no_strip_of_an_earlier_report(
    trained: Path, world: World, tmp_path: Path
) -> None:
    arena = Path(shutil.copytree(trained, tmp_path / "copy"))
    write_report(arena, data=world.data, pictures=3, heads_drawn=1)
    (arena / "pictures" / "mine.jpg").write_bytes(b"mine")
    files = write_report(arena, data=world.data, pictures=1, heads_drawn=2)
    assert files.pictures is not None
    assert len(list(files.pictures.glob("strip-*.jpg"))) == 1
    assert (arena / "pictures" / "mine.jpg").read_bytes() == b"mine"


def test_more_pictures_than_there_are_images_show_all_images(trained: Path, world: World) -> None:
    assert len(_draw(trained, world, pictures=100, heads_drawn=0)) == 5


def test_many_pictures_shrink_until_the_page_is_small_enough(
    trained: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = sum(
        len(panel.jpeg) for example in _draw(trained, world, pictures=5, heads_drawn=3) for panel in example.panels
    )
    monkeypatch.setattr(pictures, "BUDGET", full // 2)
    drawn = _draw(trained, world, pictures=5, heads_drawn=3)
    assert 0 < sum(len(panel.jpeg) for example in drawn for panel in example.panels) <= full // 2


def test_without_a_dataset_the_report_says_how_to_get_pictures(by_hand: ReportFiles) -> None:
    assert by_hand.pictures is None
    for path in (by_hand.markdown, by_hand.page):
        assert "--data" in path.read_text("utf-8")
    quiet = write_report(by_hand.page.parent, pictures=0)
    assert "--data" not in quiet.markdown.read_text("utf-8")
    assert "Example pictures" not in quiet.page.read_text("utf-8")


def test_pictures_that_cannot_be_drawn_are_one_sentence(trained: Path, world: World, tmp_path: Path) -> None:
    arena = Path(shutil.copytree(trained, tmp_path / "arena"))
    data = Path(shutil.copytree(world.data, tmp_path / "data"))
    for image in (data / "val").iterdir():
        image.unlink()
    with pytest.raises(UserError, match=r"does not exist in .*data/val"):
        write_report(arena, data=data)
    document = json.loads((data / "annotations" / "instances_val.json").read_text("utf-8"))
    for image in document["images"]:
        image["file_name"] = f"other-{image['file_name']}"
    atomic.write_json(data / "annotations" / "instances_val.json", document)
    with pytest.raises(UserError, match=r"lists no image|does not exist"):
        write_report(arena, data=data)
    detections_path(arena, "fcos").unlink()
    with pytest.raises(UserError, match=r"fcos\.json does not exist"):
        write_report(arena, data=world.data)
    write_arena(arena, setting(world, val_sha256="2" * 64))
    with pytest.raises(UserError, match="is no longer the cache the arena was run on"):
        write_report(arena, data=world.data)
    write_arena(arena, setting(world, val_cache=str(tmp_path / "nowhere")))
    with pytest.raises(UserError, match="holds no feature cache"):
        write_report(arena, data=world.data)


def test_an_arena_without_rows_or_no_arena_at_all_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no arena; run one with"):
        write_report(tmp_path)
    with pytest.raises(UserError, match="has no finished head yet"):
        write_report(write_arena(tmp_path, setting()))
    assert [path.name for path in tmp_path.iterdir()] == ["arena.json"]


def test_markdown_keeps_a_hostile_dataset_name_in_its_place() -> None:
    text = markdown(setting(dataset="a\n# b <script>"), leaderboard([done("fcos", 0.5, 10)]))
    assert text.startswith("# Arena: a # b &lt;script>\n")


def test_the_command_lists_the_files_it_wrote(
    trained: Path, world: World, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    arena = Path(shutil.copytree(trained, tmp_path / "arène one"))
    finished = detheads("arena", "report", arena, "--data", world.data, "--pictures", 1, "--json")
    assert finished.code == 0, finished.err
    answer = json.loads(finished.out)
    assert set(answer) == {"page", "markdown", "json", "csv", "pareto", "curves", "pictures"}
    assert all(Path(path).exists() for path in answer.values())
    assert detheads("arena", "report", tmp_path / "nowhere").code == 1


@pytest.mark.parametrize(
    ("spread", "words"),
    [
        (0.01, "Best: tropical with AP 0.310 ± 0.010 over 2 seeds, beyond the spread."),
        (0.04, "Highest mean: tropical with AP 0.310 ± 0.040 over 2 seeds; within the spread are fcos, which are not"),
    ],
)
def test_a_head_is_called_better_beyond_the_spread_only(spread: float, words: str) -> None:
    seeds = [{"seed": seed, "metrics": {}, "best_epoch": 1, "seconds": 1.0} for seed in (0, 1)]
    rows = [done(head, ap, 1000) for head, ap in (("tropical", 0.31), ("fcos", 0.25))]
    several = [Row.model_validate(row.model_dump() | {"seeds": seeds, "spread": spread}) for row in rows]
    assert words in verdict(leaderboard(several))
