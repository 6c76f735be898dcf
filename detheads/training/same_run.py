"""Whether a folder holds this very training; where it does not, a sentence in the words of the command line."""

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, replace
from pathlib import Path
from typing import Any

from detheads.foundation import atomic
from detheads.foundation.errors import UserError
from detheads.foundation.reading import read_json
from detheads.headkit import registry
from detheads.headkit.options import to_json, to_text
from detheads.training.checkpoint import Checkpoint

OTHERWISE = "give the same, or another folder with -o"
ABSENT: Mapping[str, Any] = {
    "shuffle_window": 0,
    "channels_last": False,
    "compile": False,
    "mirror": "auto",
    "sweep": 0,
    "hold_out": 0,
    "train_only": [],
    "steps": 0,
}
"""Options of a training that are not recorded where they have this value, which all runs had before there were such
options: those go on."""


def recorded_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a training as a run's record holds them."""
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in options.items()}
    return {name: value for name, value in values.items() if name not in ABSENT or value != ABSENT[name]}


def recorded_head(record: Path, identity: Checkpoint, parameters: int) -> dict[str, Any]:
    """A head as a run's record holds it: without those options at their default of which a record that is there has
    never heard, which all runs had before there were such options.

    Args:
        record: file of the record, which need not be there.
        parameters: learnable ones of the head.
    """
    options = identity.head_config
    known: Mapping[str, Any] = options
    if record.is_file():
        known = _mapping(_mapping(_mapping(read_json(record)).get("head")).get("config"))
    defaults = registry.defaults(registry.entry(identity.head_name))

    def is_new(name: str) -> bool:
        return name not in known and defaults[name] is not MISSING and options[name] == to_json(defaults[name])

    kept = {name: value for name, value in options.items() if not is_new(name)}
    return {"name": identity.head_name, "config": kept, "parameters": parameters}


def recorded_identity(identity: Checkpoint) -> dict[str, Any]:
    """What else of a head's origin makes it another run."""
    return {
        "cache_sha256": identity.cache_sha256,
        "classes": [category.name for category in identity.categories],
        "class_embeddings_sha256": identity.class_embeddings_sha256,
        "backbone": identity.backbone_name,
    }


def is_of(kept: Checkpoint, identity: Checkpoint) -> bool:
    """Whether a checkpoint is of a training.

    Options of the head that it does not name were not there yet and had their default. One that names no embeddings is
    of an older version, or learned its own; the run's record has been compared already.
    """
    if kept.head_name != identity.head_name:
        return False
    options = registry.config_dict(registry.entry(kept.head_name), kept.head_config)
    kept = replace(kept, head_config=options, metrics={}, progress={}, tensors={}, checkpoint_sha256="")
    if kept.class_embeddings_sha256 is None:
        kept = replace(kept, class_embeddings_sha256=identity.class_embeddings_sha256, encoder=identity.encoder)
    return kept == identity


def record_extensions(record: Path, recorded: Mapping[str, Any], extensions: Sequence[int]) -> None:
    """Record the extensions of a run, which may get more of them and never less.

    Args:
        record: file of the record.
        recorded: what it says.

    Raises:
        UserError: when others were recorded.
    """
    before = tuple(recorded.get("extensions") or ())
    if tuple(extensions[: len(before)]) != before:
        given = " ".join(f"--extend {epochs}" for epochs in before)
        raise UserError(f"{record.parent} was extended already; give {given} and then what is to come, or another -o.")
    if tuple(extensions) != before:
        atomic.write_json(record, {**recorded, "extensions": list(extensions)})


def require_same(run: Path, record: str, described: Mapping[str, Any], features: Mapping[str, str]) -> None:
    """Compare what a run folder records with what is to be trained; a folder without a record is new.

    Args:
        record: name of the folder's record.
        described: JSON values that make it another training when they differ.
        features: digests of the features of ``train`` and ``val``, which other annotations leave as they are.

    Raises:
        UserError: saying what differs, with the option to give.
    """
    path = run / record
    if not path.is_file():
        return
    recorded = read_json(path)
    if not isinstance(recorded, dict) or not described.keys() <= recorded.keys():
        raise UserError(f"{path} does not describe a training run of this version; choose another folder with -o.")
    difference = _difference(run, recorded, described, features)
    if difference:
        raise UserError(f"{run} {difference}.")


def _difference(
    run: Path, recorded: Mapping[str, Any], described: Mapping[str, Any], features: Mapping[str, str]
) -> str | None:
    head, other = _mapping(recorded["head"]), described["head"]
    if head.get("name") != other["name"]:
        return f"holds a run of the head {head.get('name')}, not of {other['name']}; choose another folder with -o"
    for key in ("cache_sha256", "val_cache_sha256"):
        if recorded[key] != described[key]:
            return _other_cache(run, key, _mapping(recorded.get("features")), features)
    for option, value in other["config"].items():
        before = _mapping(head.get("config")).get(option)
        if before != value:
            return f"was trained with -O {option}={to_text(before)}, now {to_text(value)}; {OTHERWISE}"
    trained = {**ABSENT, **_mapping(recorded["training"])}
    for name, value in {**ABSENT, **described["training"]}.items():
        before = trained.get(name)
        if before != value:
            more = {
                "epochs": f" (more epochs: --epochs {before} --extend N)",
                "batch": " (of several processes, the images of all of them count)",
            }.get(name, "")
            option = f"--{name.replace('_', '-')}"
            if isinstance(value, bool):
                return f"was trained {'without' if value else 'with'} {option}; {OTHERWISE}"
            if name == "train_only":
                before, value = (",".join(map(str, names or ["all"])) for names in (before, value))
            return f"was trained with {option} {before}, now {value}; {OTHERWISE}{more}"
    if recorded["init_sha256"] != described["init_sha256"]:
        return f"did not start from these weights (--init); {OTHERWISE}"
    if recorded["class_embeddings_sha256"] != described["class_embeddings_sha256"]:
        return f"was trained with other class embeddings (--text); {OTHERWISE}"
    if recorded != {**recorded, **described}:
        return f"holds another training (its head has {head.get('parameters')} parameters); {OTHERWISE}"
    return None


def _other_cache(run: Path, key: str, recorded: Mapping[str, Any], features: Mapping[str, str]) -> str:
    split = "train" if key == "cache_sha256" else "val"
    verb, option = ("trained", "--cache") if split == "train" else ("evaluated", "--val")
    if recorded.get(split) == features[split]:
        return (
            f"was {verb} on other annotations of the same features ({option}); to go on from its weights with these "
            f"give --init {run} and another folder with -o"
        )
    return (
        f"was {verb} on another cache ({option}); give that one, or another folder with -o "
        f"(--init {run} starts from its weights)"
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
