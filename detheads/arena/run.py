"""An arena: every head on the same cache under the same budget, each in a process of its own."""

import glob
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from detheads import __version__
from detheads.arena.budget import described, require_same_budget
from detheads.arena.contest import Job
from detheads.arena.early import Halving
from detheads.arena.pool import Watch, run_local, run_ray
from detheads.arena.records import (
    SETTING_NAME,
    ControlOf,
    Row,
    Setting,
    pace_path,
    read_row,
    read_rows,
    row_path,
    run_folder,
    write_row,
)
from detheads.cache.reader import FeatureCache
from detheads.foundation import atomic, claims
from detheads.foundation.cores import available_cores
from detheads.foundation.errors import UserError
from detheads.foundation.ray_cluster import Workers
from detheads.headkit import registry
from detheads.headkit.head_file import load_head_file
from detheads.training.caches import require_trainable
from detheads.training.checkpoint import build_head, load_checkpoint
from detheads.training.config import TrainConfig
from detheads.training.same_run import recorded_options

ALL = "all"
MAY_DIFFER = ("train_cache", "val_cache", "machine", "versions")
"""What a restarted arena need not share with its beginning: the same caches may lie elsewhere."""
ARENA = claims.Kind(SETTING_NAME, "an arena", "running the arena")


@dataclass(frozen=True)
class Contestants:
    """The heads of an arena with the options given for each.

    Attributes:
        options: by name.
        head_files: of heads that are not in the package.
        controls: those of the names that are heads with an idea turned off.
    """

    options: Mapping[str, Mapping[str, Any]]
    head_files: tuple[Path, ...] = ()
    controls: Mapping[str, ControlOf] = field(default_factory=dict)


@dataclass(frozen=True)
class Where:
    """On what the heads run.

    Attributes:
        processes: at a time on this machine; one for each device when None.
        threads: of each process; a fair share of the cores when None.
        devices: torch's names of them; the processes of this machine share them out.
        ray: workers of a Ray cluster to use instead of this machine. They all use the one device of ``devices``.
    """

    processes: int | None = None
    threads: int | None = None
    devices: tuple[str, ...] = ("cpu",)
    ray: Workers | None = None

    @property
    def at_a_time(self) -> int:
        """Processes on this machine."""
        return self.processes or len(self.devices)

    @property
    def threads_each(self) -> int:
        """CPU threads of each process."""
        return self.ray.threads if self.ray else self.threads or max(1, available_cores() // self.at_a_time)


def choose(names: str, options: Sequence[tuple[str, str]] = (), head_files: Sequence[Path] = ()) -> Contestants:
    """The heads that take part.

    Args:
        names: comma-separated names, or ``all`` for every head that is trained.
        options: pairs of name and value: ``width`` for all heads that have it, ``fcos.width`` for one.
        head_files: files of further heads, which take part without being named.

    Raises:
        UserError: unknown head, an option that no head has, a value of the wrong type.
    """
    own = [load_head_file(path).name for path in head_files]
    listed = [name.strip() for name in names.split(",") if name.strip()]
    if ALL in listed:
        listed = list(registry.trainable())
    if not listed and not own:
        raise UserError("an arena needs at least one head; name some with --heads, or all.")
    chosen: dict[str, dict[str, Any]] = {registry.entry(name).name: {} for name in [*listed, *own]}
    for key, value in options:
        head, _, option = key.rpartition(".")
        if head and head not in chosen:
            raise UserError(f"the option {key} names a head that takes no part; the heads are {', '.join(chosen)}.")
        takers = [name for name in ([head] if head else chosen) if option in registry.defaults(registry.entry(name))]
        if not takers:
            raise UserError(f"no head of the arena has an option {option!r}; see 'detheads heads show NAME'.")
        for name in takers:
            chosen[name][option] = value
    for name, given in chosen.items():
        made = registry.config_dict(registry.entry(name), given)
        chosen[name] = {option: made[option] for option in given}
    return Contestants(chosen, tuple(path.resolve() for path in head_files))


def run_arena(
    contestants: Contestants,
    train: Path,
    val: Path,
    folder: Path,
    config: TrainConfig,
    *,
    where: Where | None = None,
    text: Path | None = None,
    retry_failed: bool = False,
    measure_latency: bool = True,
    watch: Watch | None = None,
    seeds: Sequence[int] = (),
    minutes: float | None = None,
    stop_early: bool = False,
) -> list[Row]:
    """Train and evaluate every head; started again it goes on with what is not finished.

    Args:
        train, val: feature caches.
        text: class embeddings for the heads that compare with text.
        retry_failed: heads whose row says failed or stopped run again, from the start.
        seeds: train each head once with each, and compare means; the training's own seed when empty.
        minutes: of each training, in place of the epochs or steps of ``config``: as many steps as fit into them.
        stop_early: end hopeless heads (see :mod:`detheads.arena.early`); on Ray only, and not with controls, for a
            claim needs both sides.
        measure_latency: time every head in ONNX Runtime when all have trained.

    Returns:
        The rows of these heads, best AP first.

    Raises:
        UserError: when the caches do not belong together, the folder holds another arena, or the disk is full.
    """
    where, watch = where or Where(), watch or Watch()
    halving = _halving(contestants, where) if stop_early else None
    caches = FeatureCache(train), FeatureCache(val)
    require_trainable(*caches)
    require_different(seeds)
    if seeds:
        config = replace(config, seed=seeds[0])
    training = described(recorded_options(asdict(config)), minutes)
    require_same_budget(folder, training)
    setting = _setting(*caches, training, seeds, text).model_dump(mode="json")
    remarks = {key: setting.pop(key) for key in MAY_DIFFER}
    with claims.claimed(folder, ARENA, setting, remarks):
        jobs = []
        for name, options in contestants.options.items():
            known = read_row(folder, name)
            if known is not None and known.status != "done" and retry_failed:
                row_path(folder, name).unlink()
                _forget_run(folder, name)
                known = None
            if known is None:
                control = contestants.controls.get(name)
                jobs.append(
                    Job(
                        arena=folder.resolve(),
                        head=control.head if control else name,
                        control=control,
                        options=dict(options),
                        train=train.resolve(),
                        val=val.resolve(),
                        training=asdict(config),
                        threads=where.threads_each,
                        minutes=minutes,
                        seeds=tuple(seeds),
                        text=text.resolve() if text else None,
                        head_files=contestants.head_files,
                        device=where.devices[0],
                    )
                )
            else:
                _require_same_options(folder, known, options)
                if halving is not None and known.status == "done":
                    halving.remember(folder, name)
                watch.on_row(known)
        if where.ray is not None:
            run_ray(jobs, where.ray, watch, halving)
        else:
            run_local(jobs, where.at_a_time, where.devices, watch)
        if measure_latency:
            for row in read_rows(folder):
                if row.head in contestants.options and row.status == "done" and row.milliseconds is None:
                    watch.on_latency(row.head)
                    write_row(folder, _with_latency(folder, row))
    return [row for row in read_rows(folder) if row.head in contestants.options]


def _halving(contestants: Contestants, where: Where) -> Halving:
    if where.ray is None:
        raise UserError("--stop-early is of heads that run on Ray; give the address of a cluster with --ray.")
    if contestants.controls:
        raise UserError(
            "--stop-early would leave claims with one side, for heads are stopped by their rank; leave it or the "
            "controls out."
        )
    return Halving(contestants.options)


def require_different(seeds: Sequence[int]) -> None:
    """Refuse seeds of which one stands there twice, for its run would count twice.

    Raises:
        UserError: in that case.
    """
    if len(set(seeds)) < len(seeds):
        raise UserError(f"the seeds {', '.join(map(str, seeds))} hold one twice; name each once.")


def _setting(
    train: FeatureCache, val: FeatureCache, training: dict[str, Any], seeds: Sequence[int], text: Path | None
) -> Setting:
    features = train.feature_spec
    return Setting(
        dataset=train.dataset.name,
        backbone=train.manifest.settings.backbone,
        height=features.height,
        width=features.width,
        classes=tuple(train.dataset.class_names),
        train_images=len(train),
        val_images=len(val),
        train_cache=str(train.folder.resolve()),
        val_cache=str(val.folder.resolve()),
        train_sha256=train.sha256,
        val_sha256=val.sha256,
        training=training,
        seeds=tuple(seeds),
        text_sha256=atomic.sha256_of(text) if text else None,
        machine=f"{available_cores()} cores, {platform.machine()}, {platform.system()}",
        versions={"detheads": __version__, "torch": torch.__version__},
    )


def _require_same_options(folder: Path, row: Row, options: Mapping[str, Any]) -> None:
    for option, value in options.items():
        if option in row.options and row.options[option] != value:
            raise UserError(
                f"{row.head} has run in {folder} with {option}={row.options[option]}, not {value}; choose another "
                "folder with -o."
            )


def _forget_run(folder: Path, head: str) -> None:
    pace_path(folder, head).unlink(missing_ok=True)
    runs = run_folder(folder, head).parent
    for run in [run_folder(folder, head), *runs.glob(f"{glob.escape(head)}.seed-*")]:
        for path in run.iterdir() if run.is_dir() else ():
            path.unlink()


def _with_latency(folder: Path, row: Row) -> Row:
    from detheads.bench.latency import head_milliseconds

    checkpoint = load_checkpoint(run_folder(folder, row.head))
    try:
        took = head_milliseconds(build_head(checkpoint), checkpoint.feature_spec)
    except Exception as error:  # a head of one's own may do what no ONNX file can
        first = next(iter(str(error).splitlines()), "")
        return row.model_copy(update={"latency_remark": f"{type(error).__name__}: {first}"})
    return row.model_copy(update={"milliseconds": round(took, 3), "latency_remark": None})
