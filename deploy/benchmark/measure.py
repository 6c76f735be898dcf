"""Contenders take turns on the same pictures, each beside the bare call of its own library."""

import datetime
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice
from statistics import median
from typing import Final

from PIL import Image

from detheads.deploy.benchmark.clocks import FALL, ClockWatch, drift
from detheads.deploy.benchmark.result import Accuracy, BenchResult, Row, percentiles
from detheads.deploy.detector import Detector, stacked
from detheads.deploy.device import describe
from detheads.foundation.cores import available_cores
from detheads.foundation.progress import Progress, silent
from detheads.foundation.timing import Contender as Turn
from detheads.foundation.timing import Timing, take_turns

WARM_UP: Final = 3
"""Rounds that are left out at each batch size: memory is taken and kernels are chosen in the first, mostly."""
ENOUGH: Final = 100
"""Runs from which on a 99th percentile is another one than the largest."""

Load = Callable[[], Image.Image]
"""Reads and decodes a picture."""


@dataclass(frozen=True)
class Contender:
    """A bundle in a library: ``name`` is its name in the benchmark."""

    name: str
    detector: Detector
    threads: int | None = None


@dataclass(frozen=True)
class Plan:
    """How to measure.

    Attributes:
        batches: batch sizes, one after the other.
        runs: of each contender at each batch size.
        seconds: fewer runs when a batch size takes longer than this, but one at least.
        pause: seconds of rest before each run.
    """

    batches: Sequence[int] = (1,)
    runs: int = 100
    seconds: float = 60.0
    pause: float = 0.01


def bench(
    contenders: Sequence[Contender],
    pictures: Sequence[Load],
    plan: Plan,
    *,
    source: str = "",
    clocks: ClockWatch | None = None,
    on_progress: Progress = silent,
) -> BenchResult:
    """Time contenders in turns: in each round every one runs the same pictures, from decoded to detections, and its
    library runs the same tensors alone.

    Args:
        contenders: the first is what the others are related to.
        pictures: at least one; taken over and over.
        source: where they come from, for the reader.

    Raises:
        UserError: when a picture cannot be read or a library fails.
    """
    clocks = clocks or ClockWatch()
    rows: list[Row] = []
    remarks: list[str] = []
    for step, batch in enumerate(plan.batches):
        progress = partial(on_progress, f"batches of {batch}")
        rounds = _Rounds(contenders, pictures, batch, plan, clocks, progress)
        timing = take_turns(rounds, warm_up=WARM_UP, pause=plan.pause)
        first = timing.seconds[contenders[0].name]
        rows += [_row(each, batch, timing, rounds) for each in contenders]
        if (change := drift(list(first))) is not None and change > FALL:
            remarks.append(
                f"batches of {batch}: {contenders[0].name} got slower by {change:.0%} from the first to the last "
                "quarter of the runs; the machine throttles or is shared"
            )
        if step == 0 and timing.rounds < ENOUGH:
            remarks.append(f"p99 of {timing.rounds} runs is the largest of them; {ENOUGH} and more tell it apart")
    return BenchResult(
        device=describe(),
        cores=available_cores(),
        date=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        pictures=len(pictures),
        source=source,
        warm_up=WARM_UP,
        pause=plan.pause,
        rows=rows,
        accuracy={each.name: proven(each.detector) for each in contenders},
        clocks=clocks.to_dict(),
        remarks=[*remarks, *clocks.remarks()],
    )


def proven(detector: Detector) -> list[Accuracy]:
    """What the bundle's proof says of the artefact that a detector runs, by head: in the same runtime where it was
    proven there, else in the one it was proven in."""
    found = []
    runtime = _kind(detector.session.runtime)
    for head in detector.heads:
        proof = head.verification
        if proof is None or detector.manifest.state_of(head) == "unverified":
            continue
        entries = [entry for entry in proof.artefacts if entry.file == detector.session.file]
        for entry in sorted(entries, key=lambda entry: _kind(entry.runtime) != runtime)[:1]:
            found.append(
                Accuracy(
                    head=head.name,
                    passed=proof.passed,
                    map=entry.map,
                    map_live=proof.map_live,
                    dataset=proof.dataset,
                    split=proof.split,
                    images=proof.images,
                    runtime=entry.runtime,
                    same_runtime=_kind(entry.runtime) == runtime,
                )
            )
    return found


def _kind(runtime: str) -> tuple[str, ...]:
    """Library and provider of a runtime's name, without the version: ``("onnxruntime", "CPUExecutionProvider")``."""
    return tuple(runtime.split()[:3:2])


@dataclass
class _Whole:
    """A contender from decoded pictures to detections; remembers what each part took, in seconds."""

    detector: Detector
    images: Sequence[Image.Image] = ()
    parts: list[tuple[float, float, float]] = field(default_factory=list)
    """Letterbox, inference, post."""

    def __call__(self) -> None:
        begin = time.perf_counter()
        prepared = [self.detector.prepare(image) for image in self.images]
        batch = stacked(prepared)
        ready = time.perf_counter()
        rows = self.detector.session.run(batch)
        ran = time.perf_counter()
        for place, (_, letterbox) in enumerate(prepared):
            self.detector.found_in(rows, place, letterbox)
        self.parts.append((ready - begin, ran - ready, time.perf_counter() - ran))


class _Rounds:
    """The rounds of one batch size; pictures are decoded for each anew, and how long that takes is kept."""

    def __init__(
        self,
        contenders: Sequence[Contender],
        pictures: Sequence[Load],
        batch: int,
        plan: Plan,
        clocks: ClockWatch,
        on_progress: Callable[[int, int], None],
    ) -> None:
        self.whole = {each.name: _Whole(each.detector) for each in contenders}
        self.decode: list[float] = []
        self._pictures, self._batch, self._plan = cycle(pictures), batch, plan
        self._clocks, self._on_progress = clocks, on_progress

    def __iter__(self) -> Iterator[Mapping[str, Turn]]:
        total = WARM_UP + self._plan.runs
        until = time.monotonic() + self._plan.seconds
        for number in range(total):
            if number > WARM_UP and time.monotonic() > until:
                break
            begin = time.perf_counter()
            images = [load() for load in islice(self._pictures, self._batch)]
            self.decode.append(time.perf_counter() - begin)
            turns: dict[str, Turn] = {}
            for name, whole in self.whole.items():
                whole.images = images
                ready = stacked([whole.detector.prepare(image) for image in images])
                turns[name], turns[bare(name)] = whole, partial(whole.detector.session.runner.run, ready)
            self._clocks.look()
            yield turns
            self._on_progress(number + 1, total)
        self._on_progress(total, total)


def bare(name: str) -> str:
    """What the bare call of a contender's library is called among the turns."""
    return f"{name}, bare"


def _row(contender: Contender, batch: int, timing: Timing, rounds: _Rounds) -> Row:
    name, session = contender.name, contender.detector.session
    letterbox, inference, post = (
        1000 * median(part) / batch for part in zip(*rounds.whole[name].parts[WARM_UP:], strict=True)
    )
    decode = 1000 * median(rounds.decode[WARM_UP:]) / batch
    latency = percentiles(timing.seconds[name])
    return Row(
        contender=name,
        bundle=contender.detector.manifest.name,
        backend=contender.detector.backend,
        runtime=session.runtime,
        file=session.file,
        threads=contender.threads,
        batch=batch,
        runs=len(timing.seconds[name]),
        latency=latency,
        images_per_second=1000 * batch / latency["mean"],
        parts={"decode": decode, "letterbox": letterbox, "inference": inference, "post": post},
        overhead=(letterbox + post) / inference,
        bare_ratio=timing.paired_ratio(bare(name), baseline=name),
        relative=timing.paired_ratio(next(iter(rounds.whole)), baseline=name),
    )
