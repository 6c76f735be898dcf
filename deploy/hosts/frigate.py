"""What Frigate reads: label map, configuration, and the graph that ``export --profile frigate`` made and proved.

Frigate's detector runs that graph itself, or sends its frames to a worker elsewhere
(:mod:`detheads.deploy.hosts.frigate_worker`), which any bundle will do for.
"""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from detheads.deploy.detector import all_classes
from detheads.foundation import atomic
from detheads.foundation.bundle import profile_file, read_manifest
from detheads.foundation.claims import new_folder
from detheads.foundation.errors import UserError
from detheads.foundation.manifest import BundleManifest, ProfileEntry
from detheads.foundation.text import visible

PROFILE: Final = "frigate"
FOLDER: Final = "/config/detheads"
"""Where Frigate is told to look; ``/config`` is the folder that every installation of it mounts."""
LABELS: Final = "labelmap.txt"
CONFIGURATION: Final = "frigate.yml"
_ENDPOINT: Final = re.compile(r"tcp://[^\s/:]+:\d{1,5}|tcp://\[[0-9A-Fa-f:.%\w]+\]:\d{1,5}|ipc://\S+")


def labelmap(classes: Sequence[str]) -> str:
    """A name a line; with its number before it where the first name begins with one, which Frigate takes for such."""
    lines = [visible(name) for name in classes]
    if lines[0].split(" ", 1)[0].isdigit():
        lines = [f"{number} {line}" for number, line in enumerate(lines)]
    return "".join(f"{line}\n" for line in lines)


def configuration(width: int, height: int, worker: str | None = None) -> str:
    """What goes into Frigate's ``config.yml`` where the folder is mounted at :data:`FOLDER`.

    Args:
        width, height: of the graph's input, pixels.
        worker: address of a worker that Frigate sends its frames to; None: it runs the graph itself.
    """
    detector = "  onnx:\n    type: onnx\n"
    if worker is not None:
        detector = f"  zmq:\n    type: zmq\n    endpoint: {json.dumps(worker)}\n"
    return (
        f"detectors:\n{detector}"
        "model:\n"
        "  model_type: yolonas\n"
        f"  path: {json.dumps(f'{FOLDER}/model.onnx')}\n"
        f"  labelmap_path: {json.dumps(f'{FOLDER}/{LABELS}')}\n"
        f"  width: {width}\n"
        f"  height: {height}\n"
        "  input_tensor: nchw\n"
        "  input_dtype: int\n"
        "  input_pixel_format: rgb\n"
    )


def require_endpoint(endpoint: str) -> None:
    """Refuse what is no address of a ZeroMQ socket between machines or processes.

    Raises:
        UserError: when it is none.
    """
    if not _ENDPOINT.fullmatch(endpoint):
        raise UserError(f"{endpoint!r} is no address; give one such as tcp://192.168.1.20:5555.")


def write_folder(
    bundle: Path, output: Path, *, worker: str | None = None, head: str | None = None
) -> tuple[list[str], ProfileEntry | None]:
    """Write the folder that Frigate mounts.

    Args:
        worker: address of a worker; the folder then needs no graph.
        head: whose classes the worker finds, of a bundle of several heads; those of all when None.

    Returns:
        Names of the files, and the profile whose graph is among them.

    Raises:
        UserError: when the bundle cannot be used or has no graph for Frigate, or the folder is not new.
    """
    manifest = read_manifest(bundle)
    texts: dict[str, str] = {}
    sources: dict[str, Path] = {}
    entry = None
    if worker is not None:
        require_endpoint(worker)
        heads = manifest.heads if head is None else [manifest.head_named(head)]
        texts[LABELS] = labelmap([found.name for found in all_classes(heads)])
        texts[CONFIGURATION] = configuration(manifest.input.width, manifest.input.height, worker)
    else:
        entry = _profile_of(bundle, manifest)
        place = Path(entry.file).parent
        graph = profile_file(bundle, entry)
        sources[graph.name] = graph
        for name in entry.files:
            sources[Path(name).relative_to(place).as_posix()] = bundle / name
    with new_folder(output) as folder:
        for name, source in sources.items():
            shutil.copyfile(source, atomic.inside(folder, name))
        for name, text in texts.items():
            atomic.write_text(folder / name, text)
    return sorted({*sources, *texts}), entry


def _profile_of(bundle: Path, manifest: BundleManifest) -> ProfileEntry:
    for entry in manifest.profiles:
        if entry.name == PROFILE:
            return entry
    raise UserError(
        f"{bundle} has no graph for Frigate; export it with --profile {PROFILE}, or run 'detheads deploy "
        "frigate-worker' where Frigate can reach it and give its address with --worker tcp://HOST:5555."
    )
