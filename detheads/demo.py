"""The whole job on an embedded default: generated scenes made into a bundle, and a picture of what it finds."""

from dataclasses import dataclass
from pathlib import Path

from detheads.data import Dataset, read_dataset
from detheads.data.scenes import generate
from detheads.deploy.detector import Detector
from detheads.foundation import atomic
from detheads.foundation.drawing import draw_boxes
from detheads.foundation.images import load_image
from detheads.foundation.progress import Progress, Remark, silent, unheard
from detheads.make.budget import parse_budget
from detheads.make.made import Made
from detheads.make.request import Request
from detheads.make.run import make

SCENES = {"train": 240, "val": 60}
SCENE_SIZE = 320
HEAD = "split_tower"
HEAD_OPTIONS = {"hidden": 64, "standard_blocks": 2, "depthwise_blocks": 1, "text_dim": 64}


@dataclass(frozen=True)
class Demo:
    """What the demo made: a bundle and all that goes with it, and a picture with the bundle's detections."""

    made: Made
    picture: Path


def run_demo(output: Path, *, epochs: int = 12, on_progress: Progress = silent, on_remark: Remark = unheard) -> Demo:
    """Make a bundle of generated scenes in the folder ``output``; interrupted, it goes on.

    What :mod:`detheads.make` chooses by measured times is given here, so that every machine trains the same. Features
    come from the embedded backbone: nothing is downloaded.

    Raises:
        UserError: when any step fails.
    """
    scenes = output / "scenes"
    if not scenes.exists():
        generate(scenes, **SCENES, size=SCENE_SIZE, on_progress=on_progress)
    request = Request(
        data=scenes,
        output=output / "demo.detheads",
        work=output / "demo.make",
        budget=parse_budget("best"),
        size=(SCENE_SIZE, SCENE_SIZE),
        head=HEAD,
        options=HEAD_OPTIONS,
        epochs=epochs,
        precision="auto",
    )
    made = make(request, on_progress, on_remark)
    picture = output / "detections.jpg"
    _draw(Path(made.bundle), read_dataset(scenes, "val"), picture)
    return Demo(made, picture)


def _draw(bundle: Path, dataset: Dataset, picture: Path) -> None:
    """Detections of the deployed graph in the validation image with the most objects."""
    index = max(range(len(dataset.images)), key=lambda i: len(dataset.objects[i].boxes))
    image = load_image(dataset.images[index].path)
    (found,) = Detector(bundle).detect([image])
    names = dataset.class_names
    confident = found.above(0.5)
    labels = [names[label] for label in confident.labels]
    drawn = draw_boxes(image, confident.boxes, labels, colors=confident.labels, scores=confident.scores)
    with atomic.replacing(picture) as unfinished:
        drawn.save(unfinished)
