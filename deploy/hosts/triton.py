"""A model repository for NVIDIA Triton, from which KServe and OpenVINO Model Server read, too.

``NAME/config.pbtxt``, ``NAME/labels.txt`` and ``NAME/VERSION/model.onnx`` (or ``model.plan``). A model, and a version
of it, appear whole: they are written into a hidden folder beside their place, which no server takes for a version, and
renamed.
"""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from detheads.deploy.hosts.labels import label_file
from detheads.deploy.hosts.triton_config import (
    FILES,
    ONNX,
    TENSORRT,
    Instances,
    Scheduling,
    configuration,
    model_name,
    tensors,
)
from detheads.deploy.hosts.triton_source import USUAL_BATCH, Source, find_source
from detheads.foundation import atomic
from detheads.foundation.bundle import read_manifest
from detheads.foundation.claims import new_folder, only_process
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest
from detheads.foundation.reading import read_text

CONFIGURATION: Final = "config.pbtxt"
LARGEST_TEXT: Final = 1 << 20
"""Bytes of a configuration or of a file of class names."""
LARGEST_VERSION: Final = (1 << 63) - 1
"""Triton counts versions in 64 bits with a sign."""


@dataclass(frozen=True)
class Placed:
    """What was written.

    Attributes:
        model: the model's folder in the repository.
        version: the folder in it that was added.
        file: the artefact.
        covered: what is proven of it.
        remarks: what else to know, each a sentence without its full stop.
    """

    model: Path
    version: int
    file: Path
    covered: str
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Wishes:
    """What a user said of the schedule; what was not said is None or empty (see :class:`Scheduling`)."""

    largest_batch: int | None = None
    queue_delay_us: int | None = None
    preferred: tuple[int, ...] = ()
    instances: tuple[str, ...] = ()
    versions: str = ""
    warmup: bool = False


def place(
    bundle: Path,
    repository: Path,
    *,
    platform: str = ONNX,
    name: str | None = None,
    version: int | None = None,
    wishes: Wishes | None = None,
) -> Placed:
    """Write a bundle into a model repository, which is made where it is missing: a new model, or one more version.

    Other models and versions are left as they are, and so is the configuration of a model that is there, unless
    ``wishes`` says something: it is then written anew.

    Args:
        platform: :data:`~detheads.deploy.hosts.triton_config.ONNX` or ``TENSORRT``.
        name: of the model; the bundle's own by default.
        version: its number; the next one by default.

    Raises:
        UserError: when the bundle cannot be served (see :func:`find_source`), the repository cannot be written, the
            version is taken by another artefact, or the model that is there has other tensors or classes.
    """
    wishes = wishes or Wishes()
    manifest = read_manifest(bundle)
    name = _checked_name(name) if name is not None else model_name(manifest.name)
    source = find_source(bundle, manifest, platform)
    scheduling = _scheduling(source, wishes, platform)
    atomic.try_output(repository, folder=True, needs=source.path.stat().st_size)
    model = repository / name
    text = configuration(name, platform, source.graph.inputs, source.graph.outputs, scheduling)
    remarks, largest = list(source.remarks), scheduling.largest_batch
    if not model.exists():
        number = _number(version or 1)
        with new_folder(model) as partial:
            _copy(source, partial / str(number), FILES[platform])
            for file, labels in _labels(manifest).items():
                atomic.write_text(partial / file, labels)
            atomic.write_text(partial / CONFIGURATION, text)
        remarks += _untried(source, largest)
        return Placed(model, number, model / str(number) / FILES[platform], source.covered, tuple(remarks))
    with only_process(model, f"writing {model}"):
        number = _number(version or max(_versions(model), default=0) + 1)
        served = _require_same_interface(model, manifest, source, platform)
        if wishes == Wishes():
            remarks, largest = [*remarks, *_kept(model, number)], served or largest
        remarks += _untried(source, largest)
        folder = model / str(number)
        if not _is_there(folder, source, FILES[platform]):
            with new_folder(folder) as partial:
                _copy(source, partial, FILES[platform])
        if wishes != Wishes():
            atomic.write_text(model / CONFIGURATION, text)
    return Placed(model, number, folder / FILES[platform], source.covered, tuple(remarks))


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}", name):
        raise UserError(
            f"{name!r} is no name of a model, which has letters, digits, '_', '.' and '-' and begins with one of the "
            f"first two; try --name {model_name(name)}."
        )
    return name


def _number(version: int) -> int:
    if not 1 <= version <= LARGEST_VERSION:
        raise UserError(f"a version is a whole number from 1 on, not {version}; correct --version.")
    return version


def _scheduling(source: Source, wishes: Wishes, platform: str) -> Scheduling:
    bound = source.batches[1]
    largest = wishes.largest_batch or max(source.proven or 0, USUAL_BATCH)
    if wishes.largest_batch is not None and bound is not None and wishes.largest_batch > bound:
        raise UserError(f"{source.path} takes at most {bound} images at once; give --max-batch {bound} or less.")
    instances = tuple(Instances.parse(text) for text in wishes.instances)
    if platform == TENSORRT and any(group.kind == "cpu" for group in instances):
        raise UserError("a TensorRT engine runs on GPUs only; give --instances gpu:COUNT.")
    return Scheduling(
        min(largest, bound or largest), wishes.queue_delay_us, wishes.preferred, instances, wishes.versions,
        wishes.warmup,
    )  # fmt: skip


def _untried(source: Source, largest: int) -> list[str]:
    if source.proven is None or largest <= source.proven:
        return []
    return [f"Triton may run batches of up to {largest}, and the proof ran up to {source.proven}"]


def _labels(manifest: BundleManifest) -> dict[str, str]:
    """``labels.txt``, or one file a head where there are several."""
    several = len(manifest.heads) > 1
    return {
        f"labels.{head.name}.txt" if several else "labels.txt": label_file([entry.name for entry in head.classes])
        for head in manifest.heads
    }


def _versions(model: Path) -> list[int]:
    """Triton passes over folders that are no number, or begin with 0."""
    return [int(path.name) for path in model.iterdir() if re.fullmatch(r"[1-9]\d*", path.name) and path.is_dir()]


def _require_same_interface(model: Path, manifest: BundleManifest, source: Source, platform: str) -> int | None:
    """All versions of a model share its configuration and its labels; the largest batch that it is served with."""
    other = "choose another --name"
    text = read_text(model / CONFIGURATION, LARGEST_TEXT) if (model / CONFIGURATION).is_file() else ""
    if f'platform: "{platform}"\n' not in text:
        raise UserError(f"{model} is not a model of the platform {platform} that 'deploy triton' wrote; {other}.")
    if tensors(source.graph.inputs, source.graph.outputs) not in text:
        raise UserError(f"{model / CONFIGURATION} describes other tensors than {source.path} has; {other}.")
    for file, labels in _labels(manifest).items():
        if not (model / file).is_file() or read_text(model / file, LARGEST_TEXT) != labels:
            raise UserError(f"{model / file} does not hold the classes of {manifest.name}; {other}.")
    said = re.search(r"^max_batch_size: (\d{1,9})$", text, re.MULTILINE)
    served, bound = int(said[1]) if said else None, source.batches[1]
    if bound is not None and served is not None and served > bound:
        raise UserError(
            f"{model} is served in batches of up to {served}, and {source.path} takes at most {bound}; {other}, or "
            "build an engine of larger batches."
        )
    return served


def _kept(model: Path, number: int) -> list[str]:
    """What to know where the configuration stays as it is."""
    text = read_text(model / CONFIGURATION, LARGEST_TEXT)
    found = re.search(r"specific\s*{\s*versions:\s*\[([\d,\s]*)\]", text)
    if found is None or number in {int(each) for each in re.findall(r"\d+", found[1])}:
        return []
    return [
        f"{model / CONFIGURATION} serves the versions {found[1].strip()} only; say --version-policy to serve {number}"
    ]


def _is_there(folder: Path, source: Source, file: str) -> bool:
    """Whether the version is there already, by an earlier run that did not come to its end."""
    if not folder.exists():
        return False
    if (folder / file).is_file() and atomic.sha256_of(folder / file) == source.sha256:
        return True
    raise UserError(f"{folder} is taken by another artefact, and a version is never overwritten; give another number.")


def _copy(source: Source, folder: Path, file: str) -> None:
    """Copy the artefact and what it reads, and compare the copies with their digests."""
    copies = {folder / file: (source.path, source.sha256)}
    copies |= {atomic.inside(folder, name): where for name, where in source.further.items()}
    for target, (path, digest) in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        if atomic.sha256_of(target) != digest:
            raise UserError(f"{path} was changed while it was copied; do it again.")
