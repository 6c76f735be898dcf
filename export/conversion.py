"""From the FP32 master to the precision that ships, with the proof itself as the judge of candidates."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx

from detheads.data.dataset import Dataset
from detheads.export.bundle_writer import Master, write_graph
from detheads.export.precision.calibration import IMAGES, Calibration, choose_calibration
from detheads.export.precision.plan import Converted, Judge, Plan
from detheads.export.verify import Reference, compare
from detheads.foundation import atomic
from detheads.foundation.bundle import write_manifest
from detheads.foundation.contents import PRECISION_NAME
from detheads.foundation.manifest import BundleManifest, Precision
from detheads.foundation.progress import Progress


@dataclass(frozen=True)
class Conversion:
    """The precision that is asked for.

    Attributes:
        calibration: what pictures are chosen from (see :func:`choose_calibration`); the training split of ``data``
            when None.
        images: pictures that are chosen.
        data: the dataset folder that the proof is made on.
        method, fallback: see :class:`detheads.export.precision.plan.Plan`.
    """

    precision: Precision = "fp32"
    calibration: str | None = None
    images: int = IMAGES
    data: Path | None = None
    method: str = "minmax"
    fallback: bool = True

    def plan(self, size: tuple[int, int], proven_on: Sequence[Dataset], *, engine: bool) -> Plan:
        """With its pictures, for a model input of ``size`` (height, width).

        Raises:
            UserError: when there are no pictures, or one is in a proof.
        """
        chosen: Calibration | None = None
        if self.precision != "fp32":
            for proof in proven_on or (None,):
                chosen = choose_calibration(self.calibration, size, count=self.images, data=self.data, proof=proof)
        return Plan(self.precision, chosen, method=self.method, fallback=self.fallback, engine=engine)


@dataclass(frozen=True)
class Judgement:
    """What the proof says of a candidate: the mean AP of its heads, 0..1."""

    passed: bool
    ap: float
    reasons: list[str]


def judge_of(
    folder: Path,
    master: Master,
    precision: Precision,
    references: Mapping[str, Reference],
    on_progress: Progress,
) -> Judge | None:
    """A judge that holds dense graphs against PyTorch on all images of the proof, one image in a run.

    What ships is proven at every batch size afterwards; a search needs one.

    Args:
        folder: where candidates are written, and removed again.
        references: PyTorch's side for each head; without any there is no judge.
    """
    single: Sequence[Reference] = [
        replace(one, proof=replace(one.proof, batch_sizes=(1,))) for one in references.values()
    ]
    if not single:
        return None

    def judge(dense: onnx.ModelProto) -> Judgement:
        with tempfile.TemporaryDirectory(dir=folder, prefix="candidate-") as place:
            write_graph(Path(place), "candidate", master, dense, precision)
            reports = [compare(Path(place), reference, on_progress) for reference in single]
        aps = [report.worst.statistics.require_ap() for report in reports]
        return Judgement(
            all(report.passed for report in reports),
            sum(aps) / len(aps),
            [reason for report in reports for reason in report.reasons],
        )

    return judge


def store_conversion(folder: Path, manifest: BundleManifest, plan: Plan, converted: Converted) -> BundleManifest:
    """Write ``precision.json`` and, into the manifest, the calibration pictures; nothing for FP32."""
    if plan.calibration is None:
        return manifest
    atomic.write_json(folder / PRECISION_NAME, {"precision": plan.precision, **converted.details})
    return write_manifest(folder, manifest.model_copy(update={"calibration": plan.calibration.entry()}))
