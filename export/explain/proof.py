"""A proof that tells why it failed."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx

from detheads.data.pictures import load_picture
from detheads.deploy import Detector
from detheads.export.explain.explain import Seen, Suspect, explain
from detheads.export.precision.executable import executions
from detheads.export.report import VerificationReport
from detheads.export.verify import Reference, compare
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent

LOOKED_AT = 8
"""Pictures that are run again. The proof's order is by what has no counterpart; of these, an explanation takes those
whose detections are furthest apart altogether."""


def prove(bundle: Path, reference: Reference, on_progress: Progress = silent) -> VerificationReport:
    """Compare a bundle with PyTorch; where the proof fails, or was asked to, find out where they depart and why.

    Raises:
        UserError: as :func:`detheads.export.verify.compare`.
    """
    report = compare(bundle, reference, on_progress)
    if report.passed and not reference.proof.explain:
        return report
    threads, batch = reference.proof.threads, min(report.artefacts, key=lambda one: one.versus_live.share).batch
    detector = executions(bundle, threads, reference.head)[-1].detector
    try:
        found = explain(
            Suspect(detector.detect, detector.prepare, onnx.load_model(str(bundle / report.artefacts[0].file))),
            reference.live,
            list(_pictures(reference, report, detector, batch)),
            reference.dataset.class_names,
            failed=not report.passed,
            head=reference.head,
            threads=threads,
            on_progress=on_progress,
        )
    except UserError as error:  # such as a graph whose inner tensors cannot be read: the verdict stands without it
        return replace(report, remarks=[*report.remarks, f"where the two sides depart could not be found: {error}"])
    known = found.cause is not None and found.cause.kind != "ties"
    return replace(report, explanation=found, advice=() if known else report.advice)


def _pictures(reference: Reference, report: VerificationReport, detector: Detector, batch: int) -> Iterator[Seen]:
    """The pictures of the proof that differ, run again at the batch size that differs most; any, where none does."""
    apart = {picture.picture: place for place, picture in enumerate(report.apart)}
    own = [
        (record.file_name, record, live) for record, live in zip(reference.dataset.images, reference.found, strict=True)
    ]
    chosen = sorted((one for one in own if one[0] in apart), key=lambda one: apart[one[0]])
    for name, record, live in (chosen or own)[:LOOKED_AT]:
        image = load_picture(record)
        yield Seen(name, image, live, detector.detect([image] * batch)[0])
    odd = zip(reference.odd_names, reference.odd_pictures, reference.odd_found, strict=True)
    for name, image, live in odd if not chosen else ():
        if name in apart:
            yield Seen(name, image, live, detector.detect([image])[0])
