"""One score from a class logit and a localisation quality: what evaluation and the deployed graph rank by."""

from torch import Tensor


def detection_scores(logits: Tensor, quality: Tensor | None) -> Tensor:
    """Scores of all boxes and classes.

    Args:
        logits: ``[B, N, K]`` class logits.
        quality: ``[B, N]`` logits of the localisation quality, or None.

    Returns:
        ``[B, N, K]``: ``sqrt(sigmoid(logits) * sigmoid(quality))``, or ``sigmoid(logits)`` without quality.
    """
    scores = logits.sigmoid()
    if quality is None:
        return scores
    return (scores * quality.sigmoid().unsqueeze(2)).sqrt()
