"""What a batch run is to do: fixed at its first start, in ``plan.json`` and ``lists/``, and the same ever after."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final

from detheads.deploy.batch.listing import Entry, PassedOver, pictures
from detheads.deploy.inputs import InputImage
from detheads.foundation import atomic
from detheads.foundation.claims import Kind, new_folder
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, Remark
from detheads.foundation.reading import LARGEST_MANIFEST, read_json, read_text

BATCH_RUN: Final = Kind("plan.json", "a batch run", "running a batch in")
LISTS: Final = "lists"
INDEX: Final = "index.json"


@dataclass(frozen=True)
class Job:
    """What every worker has to know.

    Attributes:
        output: folder of the run, which all workers see under this path, as they see bundle and sources.
        graph: SHA-256 of the bundle's graph.
        score: lowest score of a detection that is written.
        batch: pictures in one run of the graph.
        threads: CPU threads of a worker; the library's own choice when None.
    """

    output: str
    bundle: str
    graph: str
    sources: tuple[str, ...]
    part_size: int
    backend: str
    head: str | None
    score: float
    batch: int
    threads: int | None

    def described(self) -> dict[str, Any]:
        """What makes it another run when it differs. Threads and workers are free to change."""
        values = asdict(self)
        return {key: values[key] for key in ("graph", "sources", "part_size", "backend", "head", "score", "batch")}


@dataclass(frozen=True)
class Lists:
    """How many pictures there are, and in how many parts; the digest is of all their names in order."""

    pictures: int
    parts: int
    sha256: str


def fix_lists(job: Job, on_progress: Progress, on_remark: Remark) -> Lists:
    """List the pictures into ``lists/``, a file a part, or hold what is there now against the list of an earlier start.

    Raises:
        UserError: when there is no picture, or the pictures are others than those of the earlier start.
    """
    folder, passed = Path(job.output) / LISTS, PassedOver()
    if folder.is_dir():
        known = read_lists(Path(job.output))
        found = _digested(_parts(job, passed), on_progress)
        if found != known:
            raise UserError(
                f"the pictures of {', '.join(job.sources)} are not those that {job.output} was begun with (now "
                f"{found.pictures:,}, then {known.pictures:,}, or other names); run them into another folder with -o."
            )
        return known
    with new_folder(folder) as partial:
        lists = _digested(_written(_parts(job, passed), partial), on_progress)
        for sentence in passed.remarks():
            on_remark(sentence)
        if not lists.pictures:
            raise UserError(f"{', '.join(job.sources)} hold no pictures that are read here.")
        atomic.write_json(partial / INDEX, asdict(lists))
    return lists


def read_lists(output: Path) -> Lists:
    """What an earlier start has listed.

    Raises:
        UserError: when the file does not say it.
    """
    path = output / LISTS / INDEX
    document = read_json(path, LARGEST_MANIFEST)
    try:
        return Lists(int(document["pictures"]), int(document["parts"]), str(document["sha256"]))
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} was changed; run the pictures into another folder with -o.") from None


def images_of(job: Job, part: int) -> list[InputImage]:
    """The pictures of a part, under ids that count from 1 over all parts.

    Raises:
        UserError: when its list is not readable.
    """
    path = Path(job.output) / LISTS / _file(part)
    images = []
    try:
        for place, line in enumerate(read_text(path, LARGEST_MANIFEST).splitlines()):
            number, name = json.loads(line)
            source = Path(job.sources[number])
            where = atomic.inside(source, name, links=True) if name else source
            images.append(InputImage(part * job.part_size + place + 1, name or source.name, where))
    except (ValueError, TypeError, IndexError):
        raise UserError(f"{path} was changed; run the pictures into another folder with -o.") from None
    return images


def _parts(job: Job, passed: PassedOver) -> Iterator[list[Entry]]:
    entries = pictures([Path(source) for source in job.sources], passed)
    while part := list(islice(entries, job.part_size)):
        yield part


def _written(parts: Iterator[list[Entry]], folder: Path) -> Iterator[list[Entry]]:
    for number, part in enumerate(parts):
        (folder / _file(number)).write_text(_lines(part), encoding="ascii")
        yield part


def _digested(parts: Iterator[list[Entry]], on_progress: Progress) -> Lists:
    digest, count, number = hashlib.sha256(), 0, 0
    for part in parts:
        digest.update(_lines(part).encode("ascii"))
        count, number = count + len(part), number + 1
        on_progress("listing", count, 0)
    return Lists(count, number, digest.hexdigest())


def _lines(part: Sequence[Entry]) -> str:
    """A line a picture, in ASCII: a name may hold any byte but 0."""
    return "".join(json.dumps(entry) + "\n" for entry in part)


def _file(part: int) -> str:
    return f"{part:06d}.jsonl"
