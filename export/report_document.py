"""The proof for readers: one document, written as Markdown and as a page that needs neither network nor other files."""

from collections.abc import Iterator, Sequence

from detheads import __version__
from detheads.evaluation.coco import NAMES, UNDEFINED
from detheads.export.criteria import Criterion
from detheads.export.diagnosis import LISTED
from detheads.export.matching import BEST_BOXES, Comparison
from detheads.export.profiles.result import profiles_section
from detheads.export.report import NOT_EXECUTED, ArtefactResult, VerificationReport
from detheads.export.report_plots import classes_plot, conversion_plot, curves_plots
from detheads.report.markdown import render_markdown
from detheads.report.page import render_page
from detheads.report.pictures import draw_examples
from detheads.report.sections import Column, Document, Section, Table, Value

LISTED_CLASSES = 20
"""Classes in the Markdown; the page and the JSON have all."""
DROP = "+.4f"


def report_markdown(report: VerificationReport) -> str:
    """The report as Markdown, without plots and pictures."""
    return render_markdown(_document(report, list(_sections(report, LISTED_CLASSES, drawn=False))))


def report_page(report: VerificationReport) -> str:
    """The report as a page, with plots and pictures.

    Raises:
        UserError: when an image that is to be drawn is not what it was during the proof.
    """
    return render_page(_document(report, list(_sections(report, None, drawn=True))))


def _document(report: VerificationReport, sections: Sequence[Section]) -> Document:
    low, high = report.aspect_ratios
    facts = {
        "Images": f"{report.images} of {report.dataset} {report.split} with {report.boxes} boxes, width / height from "
        f"{low:.2f} to {high:.2f}",
        "PyTorch": f"{report.live_runtime}, image files, batch 1",
        "Precision": report.precision,
        "Limits": report.limits.told(),
        "Licence": report.licence,
        "Graph": f"SHA-256 {report.onnx_sha256}",
        "Checkpoint": f"SHA-256 {report.checkpoint_sha256}",
        "Data": f"SHA-256 {report.dataset_sha256}",
        "Made": f"{report.date}, detheads {__version__}",
    }
    outcome = "passed" if report.passed else "FAILED"
    return Document(
        title=f"Verification of {report.head_title}{report.bundle}: {outcome}",
        verdict=f"{report.verdict[:1].upper()}{report.verdict[1:]}.",
        facts={title: text for title, text in facts.items() if text},
        sections=sections,
    )


def _sections(report: VerificationReport, listed: int | None, drawn: bool) -> Iterator[Section]:
    notes = [
        *report.reasons,
        *(f"Likely cause: {sentence}" for sentence in report.advice[:1]),
        *report.advice[1:],
        *(f"Note: {text}" for text in (report.caveat, *report.shortcomings, *report.remarks) if text),
        *(f"Left out: {reason}" for reason in report.skipped.values()),
    ]
    if notes:
        yield Section("What to know" if report.passed else "Why it failed", remarks=notes)
    if report.explanation is not None:
        yield Section("Where the two sides depart", remarks=list(report.explanation.told()))
    yield _artefacts(report)
    yield _figures(report)
    classes = sorted((each for each in report.worst.criteria if each.kind == "class"), key=lambda each: -abs(each.drop))
    if classes:
        yield _classes(classes, listed, drawn)
    yield _statistics(report)
    if drawn and report.curves:
        yield Section("Precision and recall", plots=curves_plots(report.curves))
    if (steps := report.conversion.get("curve", ())) and len(steps) > 1:
        yield _conversion(report, drawn)
    yield _boxes(report)
    if report.apart or (drawn and report.scenes):
        further = len(report.apart) - LISTED
        yield Section(
            "Pictures that differ most",
            sentences=["Left what PyTorch finds, right what the artefact finds; what only one of them finds is red."]
            if drawn and report.scenes
            else (),
            remarks=[
                *(picture.told(report.classes) for picture in report.apart[:LISTED]),
                *([f"and {further} more pictures"] if further > 0 else []),
            ],
            examples=draw_examples(report.scenes) if drawn else (),
        )
    yield _tensors(report)
    if report.best_scores:
        rule = report.best_scores_rule
        table = Table([Column("class"), Column("best score", ".3f")], list(report.best_scores.items()))
        yield Section("Best scores", [table], sentences=[f"{rule[:1].upper()}{rule[1:]}."])
    if report.profiles:
        yield profiles_section(report.profiles)
    if report.engines:
        yield _engines(report)


def _artefacts(report: VerificationReport) -> Section:
    runtimes = list(dict.fromkeys(each.runtime for each in report.artefacts))
    several = len(runtimes) > 1
    columns = [
        Column("artefact"),
        Column("precision"),
        Column("batch"),
        *([Column("run by")] if several else []),
        Column("AP", ".4f"),
        Column("AP50", ".4f", absent=UNDEFINED),
        Column("AP75", ".4f", absent=UNDEFINED),
        Column("drop", DROP, note="AP of PyTorch less that of the artefact"),
        Column("95 % interval", note="of the drop when the images are drawn anew, 1000 times"),
        Column("worst class", note="and by how much its AP drops"),
        Column("matched", note="share of detections that both sides have"),
        Column("MB", ".1f"),
        Column("ms an image", ".1f", note="in this proof, resizing included; 'detheads deploy bench' measures speed"),
    ]
    live = report.live
    rows: list[Sequence[Value]] = [
        ("PyTorch", "fp32", 1, *([None] if several else []), live.AP, live.AP50, live.AP75, *[None] * 6),
        *(_artefact(each, several) for each in report.artefacts),
    ]
    return Section("Artefacts", [Table(columns, rows)], sentences=[] if several else [f"Runtime: {runtimes[0]}."])


def _artefact(each: ArtefactResult, several: bool) -> Sequence[Value]:
    worst = each.worst_class
    return (
        each.file,
        each.precision,
        each.batch,
        *([each.runtime] if several else []),
        each.statistics.AP,
        each.statistics.AP50,
        each.statistics.AP75,
        _near(each.map_drop),
        None if each.interval is None else each.interval.told(),
        None if worst is None else f"{worst.name} {_near(worst.drop):+.4f}",
        f"{100 * each.versus_live.share:.2f} %",
        None if each.bytes is None else each.bytes / 1e6,
        each.milliseconds,
    )


def _near(value: float) -> float:
    """To the four digits that are shown, so that rounding alone gives no minus."""
    return round(value, 4) + 0.0


def _figures(report: VerificationReport) -> Section:
    rows = [_criterion(each) for each in report.worst.criteria if each.kind != "class"]
    title = f"Differences of {report.worst.title}, the furthest"
    return Section(title, [Table(_criterion_columns("figure"), rows)])


def _classes(classes: Sequence[Criterion], listed: int | None, drawn: bool) -> Section:
    rows = sorted(classes[:listed], key=lambda each: -each.drop)
    table = Table(_criterion_columns("class"), [_criterion(each) for each in rows], sorted_by=3, rising=False)
    left = len(classes) - len(table.rows)
    sentences = [f"These are the {len(table.rows)} classes that differ most; the page has all."] if left else []
    plots = [classes_plot(classes)] if drawn else []
    return Section("Classes", [table], plots, sentences)


def _criterion_columns(first: str) -> list[Column]:
    return [
        Column(first, high_first=False),
        Column("PyTorch", ".4f"),
        Column("artefact", ".4f"),
        Column("drop", DROP),
        Column("95 % interval", high_first=False),
        Column("allowed", "g"),
        Column("boxes", ","),
        Column("judged", high_first=False, note="few means too few boxes to judge by the difference alone"),
    ]


def _criterion(each: Criterion) -> Sequence[Value]:
    judged = "FAILED" if each.failed else "good" if each.enough else "few"
    interval = None if each.interval is None else each.interval.told()
    return each.name, each.live, each.artefact, _near(each.drop), interval, each.limit, each.boxes, judged


def _statistics(report: VerificationReport) -> Section:
    worst, live, cached = report.worst, report.live.require_ap(), report.map_cache
    sources = Table(
        [Column("from"), Column("mAP", ".4f"), Column("difference to the line above")],
        [
            ("feature cache, as trained", "not recorded" if cached is None else cached, ""),
            ("PyTorch on the image files", live, "" if cached is None else f"{live - cached:+.4f}"),
            (f"{worst.title}, the furthest", worst.statistics.AP, f"{0.0 - worst.map_drop:+.6f}"),
        ],
    )
    compared = {"PyTorch": report.live} | {each.title: each.statistics for each in report.artefacts}
    statistics = Table(
        [Column("statistic"), *(Column(title, ".4f", absent=UNDEFINED) for title in compared)],
        [[name, *(getattr(each, name) for each in compared.values())] for name in NAMES],
    )
    return Section("mAP", [sources, statistics], sentences=["AP over IoU 0.50:0.95 by pycocotools, in 0..1."])


def _conversion(report: VerificationReport, drawn: bool) -> Section:
    steps = sorted(report.conversion["curve"], key=lambda step: step["share"])
    live = report.live.require_ap()
    table = Table(
        [Column("layers in INT8"), Column("share"), Column("AP", ".4f"), Column("drop", DROP), Column("passes")],
        [
            (step["layers"], f"{100 * step['share']:.0f} %", step["ap"], live - step["ap"], step["passed"])
            for step in steps
        ],
    )
    return Section("AP against the share of INT8 layers", [table], [conversion_plot(steps, report)] if drawn else [])


def _boxes(report: VerificationReport) -> Section:
    rows = [_compared(f"PyTorch, {each.title}", each.versus_live) for each in report.artefacts]
    rows += [_compared(f"{each.title}, at batch 1", each.versus_single) for each in report.artefacts if each.batch > 1]
    rows.append(_compared("PyTorch, artefact, on strips 8:1 and 1:8 and odd sizes", report.odd_shapes))
    columns = [
        Column("compared"),
        Column("images"),
        Column("matched"),
        Column("unmatched (first, second)"),
        Column("largest box difference, px", ".3g"),
        Column("of score", ".3g"),
    ]
    return Section("Boxes", [Table(columns, rows)])


def _compared(what: str, comparison: Comparison) -> Sequence[Value]:
    return (
        what,
        comparison.images,
        f"{100 * comparison.share:.2f} %",
        f"{comparison.only_first}, {comparison.only_second}",
        comparison.box_difference,
        comparison.score_difference,
    )


def _tensors(report: VerificationReport) -> Section:
    t = report.tensors
    sentences = [
        f"Over {t.images} images the largest differences to PyTorch are {t.boxes:.3g} px on all boxes "
        f"({t.relative_boxes:.3g} of a box's longer side), {t.best_boxes:.3g} px on the {BEST_BOXES} boxes of best "
        f"score of each image, and {t.scores:.3g} on scores."
    ]
    if t.ties:
        sentences.append(
            f"Of the head's choices between near-equal numbers {t.ties} were made otherwise, by rounding alone."
        )
    return Section("Tensors before suppression, read inside the shipped graph", sentences=sentences)


def _engines(report: VerificationReport) -> Section:
    titles = ("file", "builder", "for", "batch", "MB", "seconds", "layer outputs", "status")
    columns = [Column(title, ".1f" if title in ("MB", "seconds") else "") for title in titles]
    rows = [
        (
            engine.file,
            engine.builder,
            ", ".join(engine.compute_capabilities),
            ":".join(map(str, engine.batch)),
            engine.bytes / 1e6,
            engine.build_seconds,
            ", ".join(f"{count} {name}" for name, count in engine.layer_types.items()),
            engine.status,
        )
        for engine in report.engines
    ]
    waiting = any("not" in engine.status for engine in report.engines)
    return Section("Engines", [Table(columns, rows)], sentences=[f"Not executed: {NOT_EXECUTED}."] if waiting else [])
