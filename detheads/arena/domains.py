"""Many datasets, the same heads: does a head that was tuned on one benchmark do well elsewhere?

Each dataset folder is a domain. Its images are cached once; then every head is trained on it in an arena of its own,
or a trained text-aligned head is evaluated on it as it is (zero-shot).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean

from scipy.stats import rankdata

from detheads.arena.claims import Claim, claims_of
from detheads.arena.findings import claims_section
from detheads.arena.pool import Watch
from detheads.arena.records import Row
from detheads.arena.run import Contestants, Where, require_different, run_arena
from detheads.backbones.backbone import Backbone
from detheads.backbones.text import read_embeddings
from detheads.cache.builder import build_cache
from detheads.cache.reader import FeatureCache
from detheads.data import read_dataset
from detheads.data.layout import find_splits
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.progress import Progress, silent, under
from detheads.report.markdown import plain, section_lines, table_lines
from detheads.report.sections import Column, Table, Value
from detheads.training.checkpoint import build_head, load_checkpoint
from detheads.training.config import TrainConfig
from detheads.training.vocabulary import with_classes

DOMAINS_NAME = "domains.json"
MAX_DEPTH = 3
"""Folders below the root in which datasets are looked for."""


@dataclass(frozen=True)
class Domain:
    """A dataset folder: its name (the path below the root), its training and its validation split."""

    name: str
    folder: Path
    train: str
    val: str


@dataclass(frozen=True)
class Skipped:
    """A folder that takes no part, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class DomainsResult:
    """What the heads did on all domains.

    Attributes:
        rows: by domain, best AP first.
        skipped: domains that took no part, with the reason.
    """

    rows: Mapping[str, Sequence[Row]]
    skipped: Sequence[Skipped] = field(default_factory=tuple)

    @property
    def claims(self) -> list[Claim]:
        """What became of the claims of the heads that have a control, over all domains."""
        return claims_of(self.rows)

    @property
    def heads(self) -> list[str]:
        """Names of the heads, best mean rank first."""
        names = {row.head for rows in self.rows.values() for row in rows}
        return sorted(names, key=lambda head: (self.mean_rank(head), head))

    def ap(self, domain: str, head: str) -> float | None:
        """AP of a head in a domain; None where it failed or is undefined."""
        row = next((row for row in self.rows[domain] if row.head == head), None)
        return row.metrics["AP"] if row is not None and row.status == "done" else None

    def cell(self, domain: str, head: str) -> str | float:
        """AP of a head in a domain, or why there is none, with its spread over several seeds."""
        row = next((row for row in self.rows[domain] if row.head == head), None)
        ap = self.ap(domain, head)
        if row is None or ap is None:
            return "failed" if row is None or row.status == "done" else row.status
        return ap if row.spread is None else f"{ap:.3f} ± {row.spread:.3f}"

    def mean(self, head: str) -> float:
        """Mean AP over the domains; a failure counts as 0."""
        return fmean(self.ap(domain, head) or 0.0 for domain in self.rows)

    def mean_rank(self, head: str) -> float:
        """Mean over the domains of the head's rank by AP, 1 the best, equals sharing; failures come last."""
        return fmean(self._ranks(domain)[head] for domain in self.rows)

    def _ranks(self, domain: str) -> dict[str, float]:
        names = sorted({row.head for rows in self.rows.values() for row in rows})
        scores = [self.ap(domain, name) for name in names]
        ranks = rankdata([2.0 if score is None else -score for score in scores])
        return dict(zip(names, map(float, ranks), strict=True))


def find_domains(root: Path) -> list[Domain | Skipped]:
    """The dataset folders below ``root`` (or ``root`` itself), in the order of their names.

    A folder without a dataset anywhere in it is skipped, as is one without a training or a validation split.

    Raises:
        UserError: when ``root`` is no folder or has no folder in it.
    """
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; give the folder that holds the datasets.")
    if _has_dataset(root):
        return [_domain(root, root.resolve().name)]
    found: list[Domain | Skipped] = []
    for child in _folders(root):
        datasets = list(_datasets(child, MAX_DEPTH - 1))
        if datasets:
            found += [_domain(folder, folder.relative_to(root).as_posix()) for folder in datasets]
        else:
            found.append(Skipped(child.name, "no dataset: neither COCO, Roboflow nor YOLO annotations"))
    if not found:
        raise UserError(f"{root} holds no dataset folder.")
    return found


def run_domains(
    domains: Sequence[Domain | Skipped],
    contestants: Contestants,
    backbone: Backbone,
    folder: Path,
    config: TrainConfig,
    *,
    flips: bool = False,
    where: Where | None = None,
    text: Path | None = None,
    measure_latency: bool = False,
    watch: Watch | None = None,
    on_cache: Progress = silent,
    seeds: Sequence[int] = (),
    minutes: float | None = None,
    stop_early: bool = False,
) -> DomainsResult:
    """Cache every domain once and run an arena on it; started again it goes on.

    A domain that cannot be used becomes a skipped row. Results are written to ``folder/domains.json`` after each one.
    """
    require_different(seeds)  # before anything is cached
    rows: dict[str, Sequence[Row]] = {}
    skipped: list[Skipped] = []
    for domain in domains:
        if isinstance(domain, Skipped):
            skipped.append(domain)
            continue
        place = folder / domain.name
        try:
            train, val = place / "cache-train", place / "cache-val"
            _cache(domain, domain.train, backbone, train, flips, on_cache)
            _cache(domain, domain.val, backbone, val, False, on_cache)
        except UserError as error:
            skipped.append(Skipped(domain.name, str(error)))
            continue
        rows[domain.name] = run_arena(
            contestants,
            train,
            val,
            place / "arena",
            config,
            where=where,
            text=text,
            measure_latency=measure_latency,
            watch=watch,
            seeds=seeds,
            minutes=minutes,
            stop_early=stop_early,
        )
        _write(folder, DomainsResult(rows, skipped))
    return _finish(folder, rows, skipped)


def run_zero_shot(
    domains: Sequence[Domain | Skipped],
    run: Path,
    text: Path,
    backbone: Backbone,
    folder: Path,
    *,
    on_cache: Progress = silent,
) -> DomainsResult:
    """Evaluate a trained head on every domain with embeddings of the domain's own classes (see
    :mod:`detheads.training.vocabulary`).

    Args:
        run: training run of the head.
        text: embeddings with names for the classes of all domains; a domain with a class it lacks is skipped.

    Raises:
        UserError: when the head was trained on other features, or can be used on none of the domains.
    """
    checkpoint = load_checkpoint(run)
    trained = checkpoint.backbone_name, checkpoint.backbone_weights_sha256, checkpoint.feature_spec
    if trained != (backbone.spec.name, backbone.weights_sha256, backbone.feature_spec):
        raise UserError(
            f"{run} was trained on {checkpoint.backbone_name} at {checkpoint.feature_spec.width}x"
            f"{checkpoint.feature_spec.height}; give the same --backbone, --weights, --size and --layers."
        )
    rows: dict[str, Sequence[Row]] = {}
    skipped: list[Skipped] = []
    embeddings = read_embeddings(text)
    for domain in domains:
        if isinstance(domain, Skipped):
            skipped.append(domain)
            continue
        try:
            categories = read_dataset(domain.folder, domain.val).categories
            embeddings.of([category.name for category in categories])
            head = build_head(with_classes(checkpoint, categories, embeddings, str(run)))
            place = folder / domain.name / "cache-val"
            _cache(domain, domain.val, backbone, place, False, on_cache)
            cache = FeatureCache(place)
            cache.require_objects("evaluate on")
        except UserError as error:
            skipped.append(Skipped(domain.name, str(error)))
            continue
        statistics = evaluate_cache(head, cache).to_dict()
        per_class = {name: values["AP"] for name, values in statistics.pop("per_class").items()}
        rows[domain.name] = [
            Row(
                head=checkpoint.head_name,
                summary="zero-shot",
                status="done",
                options=checkpoint.head_config,
                metrics=statistics,
                per_class=per_class,
            )
        ]
        _write(folder, DomainsResult(rows, skipped))
    return _finish(folder, rows, skipped)


def _finish(folder: Path, rows: Mapping[str, Sequence[Row]], skipped: Sequence[Skipped]) -> DomainsResult:
    if not rows:
        reasons = "; ".join(f"{entry.name}: {entry.reason}" for entry in skipped[:3])
        raise UserError(f"no domain could be used ({reasons}).")
    result = DomainsResult(rows, skipped)
    _write(folder, result)
    return result


def _cache(
    domain: Domain,
    split: str,
    backbone: Backbone,
    folder: Path,
    flips: bool,
    on_cache: Progress,
) -> None:
    name = f"{domain.name} {split}"
    build_cache(
        read_dataset(domain.folder, split),
        backbone,
        folder,
        flips=flips,
        on_progress=under(name, on_cache),
    )


def _write(folder: Path, result: DomainsResult) -> None:
    answer = {
        "domains": {domain: [row.model_dump() for row in rows] for domain, rows in result.rows.items()},
        "skipped": {entry.name: entry.reason for entry in result.skipped},
        "heads": {head: {"mean_AP": result.mean(head), "mean_rank": result.mean_rank(head)} for head in result.heads},
        "claims": [claim.to_dict() for claim in result.claims],
    }
    atomic.write_json(folder / DOMAINS_NAME, answer)
    atomic.write_text(folder / "domains.md", markdown(result))


def markdown(result: DomainsResult) -> str:
    """Heads by domains: AP in each, mean and mean rank; what became of their claims; the domains left out."""
    columns = [Column("head"), *(Column(domain, ".3f") for domain in result.rows)]
    columns += [Column("mean AP", ".3f"), Column("mean rank", ".2f")]
    rows: list[list[Value]] = []
    for head in result.heads:
        cells = [result.cell(domain, head) for domain in result.rows]
        rows.append([head, *cells, result.mean(head), result.mean_rank(head)])
    lines = [*table_lines(Table(columns, rows)), ""]
    if claims := result.claims:
        lines += [*section_lines(claims_section(claims)), ""]
    lines += [f"Left out: {plain(f'{entry.name} ({entry.reason})')}" for entry in result.skipped]
    return "\n".join(lines).rstrip() + "\n"


def _domain(folder: Path, name: str) -> Domain | Skipped:
    splits = list(find_splits(folder))
    train = next((split for split in splits if split.startswith("train")), None)
    val = next((split for split in splits if split.startswith("val")), None) or next(
        (split for split in splits if split.startswith("test")), None
    )
    if train is None or val is None:
        return Skipped(name, f"it has the splits {', '.join(splits)}, but a training and a validation split are needed")
    return Domain(name, folder, train, val)


def _datasets(folder: Path, depth: int) -> Iterator[Path]:
    if _has_dataset(folder):
        yield folder
    elif depth > 0:
        for child in _folders(folder):
            yield from _datasets(child, depth - 1)


def _has_dataset(folder: Path) -> bool:
    try:
        return bool(find_splits(folder))
    except UserError:
        return False


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
