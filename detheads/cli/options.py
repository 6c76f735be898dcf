"""Options that several commands share, so that they are called and mean the same everywhere."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from detheads.backbones.spec import Precision
from detheads.foundation.errors import UserError
from detheads.training.config import Precision as TrainingPrecision

BundleArgument = Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder NAME.detheads.")]

BackboneOption = Annotated[str, typer.Option(help="A name of 'detheads cache backbones', or timm:NAME.")]
SizeOption = Annotated[
    str | None, typer.Option(help="Input size in pixels: 512, or HEIGHTxWIDTH; the backbone's own when left out.")
]
WeightsOption = Annotated[
    Path | None, typer.Option(help="Backbone weights: a .safetensors or .pth file, instead of a download.")
]
BackbonePrecision = Annotated[
    Precision, typer.Option("--precision", help="What the backbone computes in; the cache records it.")
]
RandomWeightsOption = Annotated[
    bool, typer.Option("--random-weights", help="Seeded random backbone weights, for tests and timing only.")
]


def _load_head_files(paths: list[Path] | None) -> list[Path] | None:
    """Make the heads in these files known before the command looks for any."""
    if paths:
        from detheads.headkit.head_file import load_head_file

        for path in paths:
            load_head_file(path)
    return paths


HeadFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "--head-file",
        callback=_load_head_files,
        help="Python file with a head of your own (it is executed); repeatable.",
    ),
]

ClassesOption = Annotated[
    list[str] | None,
    typer.Option("--classes", metavar="NAME,...", help="Names of classes, with commas between them; repeatable."),
]

EmbeddingsOption = Annotated[
    Path | None,
    typer.Option("--text", help="Class embeddings of 'detheads text', for classes new to the head."),
]

FontOption = Annotated[
    Path | None, typer.Option("--font", help="Font file for names on pictures, before the package's own.")
]

BackendOption = Annotated[
    str,
    typer.Option(
        help="cpu, cuda, openvino, tensorrt, tensorrt_rtx, or an ONNX Runtime provider, with :DEVICE; never replaced. "
        "auto: the fastest here."
    ),
]

MonitorFlag = Annotated[
    bool, typer.Option("--monitor", help="Warn when pictures or detections drift from those of the proof.")
]
KeepOption = Annotated[
    Path | None,
    typer.Option("--keep", metavar="DIR", help="Keep pictures of lowest confidence here, to be labelled."),
]
KeepMostOption = Annotated[int, typer.Option("--keep-most", min=1, max=10_000, help="Pictures that are kept.")]

EpochsOption = Annotated[int, typer.Option(help="Passes over the cache.")]
BatchOption = Annotated[int, typer.Option(help="Images a step.")]
RateOption = Annotated[float, typer.Option(help="Peak learning rate.")]
DecayOption = Annotated[float, typer.Option(help="Weight decay of AdamW.")]
EveryOption = Annotated[int, typer.Option(help="Epochs between evaluations.")]
PrecisionOption = Annotated[
    TrainingPrecision,
    typer.Option(metavar="MODE", help="fp32, bf16, fp16, or auto: mixed precision on a GPU, fp32 on a CPU."),
]
SeedOption = Annotated[int, typer.Option(help="Seed of weights, order and flips.")]


SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave out pictures and annotations that cannot be used, and list them.")
]


SeedsOption = Annotated[
    str, typer.Option(help="Several seeds, such as 0,1,2: each head trains with each; mean and spread are compared.")
]


def parse_seeds(text: str) -> tuple[int, ...]:
    """``"0,1,2"`` -> ``(0, 1, 2)``; ``""`` -> ``()``."""
    parts = [part.strip() for part in text.split(",")] if text.strip() else []
    if not all(part.isascii() and part.isdecimal() and len(part) < 11 for part in parts):
        raise UserError(f"--seeds takes whole numbers with commas between them, such as 0,1,2, not {text!r}.")
    return tuple(map(int, parts))


def parse_counts(text: str, option: str, most: int) -> tuple[int, ...]:
    """``"1,4,8"`` -> ``(1, 4, 8)``, each once, in the order given.

    Raises:
        UserError: when one is no whole number from 1 to ``most``.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 11 and 1 <= int(part) <= most for part in parts):
        raise UserError(
            f"{option} takes whole numbers from 1 to {most} with commas between them, such as 1,4,8, not {text[:80]!r}."
        )
    return tuple(dict.fromkeys(map(int, parts)))


def parse_classes(values: Sequence[str] | None) -> tuple[str, ...]:
    """``["helmet, vest", "glove"]`` -> ``("helmet", "vest", "glove")``.

    Raises:
        UserError: when a name is empty or there twice.
    """
    names = [name.strip() for value in values or () for name in value.split(",")]
    if not all(names):
        raise UserError("--classes takes names with commas between them, such as helmet,vest; one of them is empty.")
    require_once(names, "--classes")
    return tuple(names)


def require_once(names: Sequence[str], place: str) -> None:
    """Refuse two classes of one name.

    Raises:
        UserError: naming the first.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"{place} has the class {twice!r} twice; give each class once.")


LARGEST_SIDE = 8192
"""Pixels of an input's side; what a bundle can say."""


def _load_backbone_file(path: Path | None) -> Path | None:
    """Make the backbone in this file known before the command looks for it."""
    if path is not None:
        from detheads.backbones.own import load_backbone_file

        load_backbone_file(path)
    return path


BackboneFile = Annotated[
    Path | None,
    typer.Option(
        "--backbone-file",
        callback=_load_backbone_file,
        help="Python file with a backbone of your own (it is executed).",
    ),
]


def require_backbone_of(path: Path | None, *backbones: str) -> None:
    """Refuse a backbone file that would be read for nothing.

    Raises:
        UserError: when its backbone is none of ``backbones``.
    """
    if path is not None and path.stem not in backbones:
        raise UserError(f"--backbone-file {path} defines {path.stem}; say --backbone {path.stem}, too.")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """``"512"`` -> ``(512, 512)``; ``"384x640"`` -> height 384, width 640."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    sides = [int(side[:9]) for side in (match[1], match[2] or match[1])] if match else [0]
    if not all(1 <= side <= LARGEST_SIDE for side in sides):
        raise UserError(
            f"--size takes pixels such as 512 or 384x640 (height x width), up to {LARGEST_SIDE}, not {text[:80]!r}."
        )
    return sides[0], sides[1]
