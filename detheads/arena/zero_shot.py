"""A trained head on classes it never saw: the same weights, other class embeddings."""

from torch import Tensor

from detheads.backbones.features import FeatureSpec
from detheads.foundation.errors import UserError
from detheads.headkit import registry
from detheads.headkit.contract import Head
from detheads.training.checkpoint import Checkpoint


def with_other_classes(checkpoint: Checkpoint, spec: FeatureSpec, embeddings: Tensor) -> Head:
    """A text-aligned head for new classes, in evaluation mode.

    The weights are the trained ones; the class embeddings are the new ones, and each new class has the mean bias of
    the trained classes.

    Args:
        spec: the features it will see, which must be those it was trained on.
        embeddings: ``[K, D]`` of the new classes' names, from the text encoder of the training's embeddings.

    Raises:
        UserError: when the head does not compare classes with text, or features or dimension differ.
    """
    if checkpoint.head_config.get("prototypes") != "text":
        raise UserError(
            f"the head {checkpoint.head_name} was not trained with text embeddings, so it cannot look for other "
            "classes; train split_tower or prototype with --text."
        )
    if spec != checkpoint.feature_spec:
        raise UserError("the zero-shot head was trained on other features than these; use its backbone and input size.")
    dimension = checkpoint.head_config["text_dim"]
    if embeddings.shape[1] != dimension:
        raise UserError(
            f"the class embeddings have {embeddings.shape[1]} dimensions, the head's {dimension}; use embeddings of "
            "the same text encoder."
        )
    head = registry.build(checkpoint.head_name, spec, len(embeddings), checkpoint.head_config)
    head.set_class_embeddings(embeddings)
    state = head.state_dict()
    for name, trained in checkpoint.tensors.items():
        if name.endswith("cls_bias"):
            state[name] = trained.mean().expand_as(state[name]).clone()
        elif not name.endswith("embeddings"):
            state[name] = trained
    head.load_state_dict(state, strict=True)
    return head.eval()
