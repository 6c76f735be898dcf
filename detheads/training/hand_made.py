"""A head trained in a loop of one's own, saved as a run: ``eval``, ``export`` and ``--init`` take it as any other."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from detheads.cache.reader import FeatureCache
from detheads.evaluation.predict import evaluate_cache
from detheads.foundation import claims
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.training.caches import require_trainable, trained_on_too
from detheads.training.checkpoint import build_head, checkpoint_path, require_finite, save_checkpoint, untrained


def save_run(
    folder: str | Path,
    head: Head,
    cache: FeatureCache,
    *,
    options: Mapping[str, Any] | None = None,
    val: FeatureCache | None = None,
) -> dict[str, Any]:
    """Save a trained head as a run.

    Example::

        head = detheads.build("fcos", cache.feature_spec, len(cache.dataset.categories), {"width": 64})
        ...  # a loop of one's own
        save_run("my-run", head, cache, options={"width": 64}, val=val)

    Args:
        folder: new or empty.
        head: of a registered class (``@register``, or one of the package), on any device.
        cache: what it was trained on; its features and classes become the run's.
        options: with which the head was built, where they are not the defaults.
        val: evaluated for the run's metrics; without it there are none.

    Returns:
        The COCO statistics on ``val``; empty without it.

    Raises:
        UserError: when the class is not registered, options or classes are not those of the weights, a weight is not
            finite, or the folder is in use. Nothing is written then.
    """
    folder = Path(folder)
    entry = next((known for known in registry.entries().values() if known.head is type(head)), None)
    if entry is None:
        raise UserError(
            f"{type(head).__name__} is no registered head, so nobody could build it again; decorate its class with "
            "@register(Config), or load its file with load_head_file."
        )
    identity = untrained(entry.name, registry.config_dict(entry, options or {}), cache)
    tensors = {name: value.detach().cpu() for name, value in head.state_dict().items()}
    require_finite(tensors, checkpoint_path(folder, "best"))
    rebuilt = build_head(replace(identity, tensors=tensors))
    metrics: dict[str, Any] = {}
    if val is not None:
        require_trainable(cache, val)
        identity = replace(identity, validated_on_trained=trained_on_too(cache, val))
        metrics = evaluate_cache(rebuilt, val).to_dict()
    with claims.new_folder(folder) as made:
        checkpoint = replace(identity, tensors=tensors, metrics=metrics)
        save_checkpoint(checkpoint_path(made, "best"), checkpoint)
    return metrics
