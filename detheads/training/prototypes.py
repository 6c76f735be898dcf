"""What a head compares features with, by what it is given: text, or prototypes that it learns."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from detheads.foundation.errors import UserError
from detheads.headkit import registry


def with_prototypes(
    entry: registry.Entry,
    options: Mapping[str, Any],
    class_embeddings: Tensor | None,
    *,
    inherited: bool = False,
) -> dict[str, Any]:
    """Head options with text prototypes when embeddings are given, the head's other kind otherwise.

    Args:
        inherited: the weights that the head starts from bring embeddings of its classes.

    Raises:
        UserError: when the options ask for text and there is none, or for another dimension than there is.
    """
    result = dict(options)
    kinds = registry.choices(entry, "prototypes")
    if "text" not in kinds:
        return result
    if class_embeddings is not None:
        dimension = class_embeddings.shape[1]
        if result.get("text_dim", dimension) != dimension:
            raise UserError(
                f"the class embeddings have {dimension} dimensions, and text_dim={result['text_dim']} is asked for; "
                "leave that option out, or give embeddings of that encoder."
            )
        return result | {"prototypes": "text", "text_dim": dimension}
    if result.get("prototypes") == "text" and not inherited:
        raise UserError(f"head {entry.name} with prototypes=text needs class embeddings; give a file with --text.")
    return {"prototypes": next(kind for kind in kinds if kind != "text")} | result
