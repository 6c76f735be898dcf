import pytest
import torch

from detheads.ops.ranking import highest

TIED = (torch.rand(3, 900, generator=torch.Generator().manual_seed(5)) * 4).round() / 4


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_or_not_the_lower_index_comes_first_of_equal_scores(backend: str) -> None:
    expected = [sorted(range(900), key=lambda index: (-row[index], index))[:100] for row in TIED]
    values, indices = torch.compile(lambda scores: highest(scores, 100), backend=backend)(TIED)
    assert indices.tolist() == expected
    assert torch.equal(values, TIED.gather(1, indices))
    assert highest(TIED, 100)[1].tolist() == expected
