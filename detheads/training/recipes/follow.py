"""Training what a recipe says, stage after stage."""

from collections.abc import Callable
from pathlib import Path

from detheads.backbones.text import Embeddings
from detheads.cache.reader import FeatureCache
from detheads.training.distributed import Processes
from detheads.training.only import chosen
from detheads.training.recipes.following import trainings
from detheads.training.recipes.recipe import Recipe
from detheads.training.status import TrainResult
from detheads.training.trainer import Trainer


def follow(
    recipe: Recipe,
    train: FeatureCache,
    val: FeatureCache,
    run: Path,
    fit: Callable[[str, Trainer], TrainResult],
    *,
    processes: Processes,
    embeddings: Embeddings | None = None,
    init: Path | None = None,
    skip: int = 0,
    readers: int | None = None,
) -> TrainResult:
    """Train all stages, or go on with them; a stage that has finished is not trained again.

    Args:
        run: folder of the last stage, see :func:`~detheads.training.recipes.following.trainings`.
        fit: called with the name of each stage and its trainer.
        init: what the first stage starts from.
        skip: stages that are done already; ``init`` is the run of the last of them.

    Returns:
        That of the last stage.

    Raises:
        UserError: as :class:`Trainer`, whatever the stage.
    """
    rows = embeddings.of(train.dataset.class_names) if embeddings else None
    encoder = embeddings.encoder if embeddings else None
    written = recipe.to_toml(resolved=True)
    stages = trainings(recipe, run, init, skip)
    for stage in stages:
        trainer = Trainer(
            recipe.head,
            recipe.options,
            train,
            val,
            stage.run,
            stage.config,
            processes=processes,
            class_embeddings=rows,
            encoder=encoder,
            init=stage.init,
            readers=readers,
            recipe=written,
        )
        if stage is stages[0]:  # what a later one cannot train is told before the first has taken its hours
            for later in stages:
                chosen(trainer.head, later.config.train_only)
        result = fit(stage.stage, trainer)
        processes.from_first(lambda: None)  # nobody starts from weights that the first is still writing
    return result
