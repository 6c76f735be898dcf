import torch

from detheads.ops.scores import detection_scores


def test_scores_combine_class_and_quality() -> None:
    logits, quality = torch.randn(2, 5, 3), torch.randn(2, 5)
    torch.testing.assert_close(detection_scores(logits, None), logits.sigmoid())
    expected = (logits.sigmoid() * quality.sigmoid()[..., None]) ** 0.5
    torch.testing.assert_close(detection_scores(logits, quality), expected)
