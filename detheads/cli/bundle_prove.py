"""``detheads bundle prove``: a device checks the bundle that it is to run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detheads.cli.backends import named_backend
from detheads.cli.checks import possible_threads, require_existing
from detheads.cli.options import BackendOption
from detheads.cli.output import JsonFlag, emit, remark, steps
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from detheads.deploy.prove import DeviceVerdict, Judge


def prove(
    bundle: Annotated[Path, typer.Argument(help="Folder NAME.detheads.")],
    backend: BackendOption = "cpu",
    data: Annotated[Path | None, typer.Option(help="Dataset folder to measure the mAP on, here.")] = None,
    split: Annotated[str | None, typer.Option(help="Split of it; the validation split when left out.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, callback=possible_threads, help="CPU threads.")] = None,
    as_json: JsonFlag = False,
) -> None:
    """Run the bundle's probes here and compare with what PyTorch found in them. Exits 1 where they differ.

    With --data the mAP is measured too, and held against the proof's where that was made on the same dataset. The
    verdict is written into the bundle (device.json); where that cannot be written, it is shown only.
    """
    from detheads.deploy.prove import prove as prove_here
    from detheads.deploy.prove import store
    from detheads.export.proof import proof_dataset

    require_existing(data)
    dataset = None if data is None else proof_dataset(data, split)
    judge = None if data is None else find_judge()
    backend = named_backend(bundle, backend, threads)
    with steps() as on_progress:
        verdict = prove_here(
            bundle, backend=backend, threads=threads, dataset=dataset, judge=judge, on_progress=on_progress
        )
    emit(verdict.model_dump(mode="json"), as_json, lambda console: console.print(*told(verdict), sep="\n"))
    refusal = store(bundle, verdict)  # after it was shown: nothing that fails now loses it
    if refusal:
        remark(refusal)
    if not verdict.passed:
        raise typer.Exit(1)


def told(verdict: "DeviceVerdict") -> list[str]:
    """A verdict for a reader."""
    lines = [f"{'proof holds' if verdict.passed else 'proof FAILED'}: {verdict.file} on {verdict.runtime}"]
    lines += [f"  {reason}" for reason in verdict.reasons]
    if verdict.probes is not None:
        probes = verdict.probes
        lines.append(
            f"probes: {probes.detections} detections in {probes.pictures} pictures, {100 * probes.matched:.1f} % "
            f"matched (required {100 * probes.required:.1f} %), at most {probes.box_difference:.3g} px and "
            f"{probes.score_difference:.3g} in score apart"
        )
    for data in verdict.data:
        proven = "no proof on these" if data.map_proven is None else f"PyTorch {data.map_proven:.4f}"
        found = "undefined" if data.map is None else f"{data.map:.4f}"
        lines.append(
            f"mAP of head {data.head} on {data.images} images of {data.dataset} {data.split}: {found} ({proven})"
        )
    return [*lines, f"{verdict.device}, {verdict.date}"]


def find_judge() -> "Judge":
    """pycocotools or hotcoco, whichever is installed; they give the same figures.

    Raises:
        UserError: when neither is.
    """
    from importlib.util import find_spec

    from detheads.evaluation.coco import Evaluator, evaluate

    installed: list[Evaluator] = [name for name in ("pycocotools", "hotcoco") if find_spec(name)]  # type: ignore[misc]
    if not installed:
        raise UserError("--data needs a COCO evaluator; install one with: pip install 'detheads[hotcoco]'.")

    def judge(truth: dict[str, Any], results: Sequence[dict[str, Any]]) -> float | None:
        return evaluate(truth, results, installed[0]).AP

    return judge
