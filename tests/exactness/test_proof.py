"""The machine-checked proof that the cofiber bands lose nothing, and that it speaks of the program's operators."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from detheads.ops.cofiber import decompose, low_passes, upsample_to

PROOF = Path(__file__).with_name("Cofiber.v")


def _compile(text: str, folder: Path) -> subprocess.CompletedProcess[str]:
    compiler = shutil.which("coqc") or pytest.skip("needs Coq (coqc)")
    (folder / PROOF.name).write_text(text)
    return subprocess.run([compiler, PROOF.name], cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def test_the_proof_is_whole_and_assumes_nothing_but_that_functions_are_their_values(tmp_path: Path) -> None:
    finished = _compile(PROOF.read_text(), tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.count("Closed under the global context") == 2
    axioms = [line.strip() for line in finished.stdout.partition("Axioms:")[2].splitlines()]
    assert axioms[1] == "functional_extensionality_dep"
    assert not any("functional" in line or "classic" in line for line in axioms[2:])
    assert "Admitted" not in PROOF.read_text()


@pytest.mark.parametrize(
    ("true", "false"),
    [
        ("product edge_band edge_low = eighth", "product edge_band edge_low = quarter"),
        ("= eighth * g (pred k)", "= quarter * g (pred k)"),
        ("M i := sub (residual f i)", "M i := sub zero"),
    ],
)
def test_what_is_false_is_not_proven(true: str, false: str, tmp_path: Path) -> None:
    text = PROOF.read_text()
    assert text.count(true) == 1
    assert _compile(text.replace(true, false), tmp_path).returncode != 0


def test_the_operators_of_the_proof_are_those_of_the_program() -> None:
    edge = torch.tensor([[[[1.0, 1.0, 0.0, 0.0]]]])
    low = low_passes(edge, 2)[1]
    assert low.flatten().tolist() == [1, 0]
    assert upsample_to(low, edge).flatten().tolist() == [1, 0.75, 0.25, 0]
    band = decompose(edge, 2)[0]
    assert band.flatten().tolist() == [0, 0.25, -0.25, 0]
    assert (band * upsample_to(low, edge)).sum() == 1 / 8  # bands_are_not_orthogonal
    assert low_passes(band, 2)[1].flatten()[0] == 1 / 8  # bands_keep_low_frequencies
    line = torch.rand(1, 1, 1, 9)
    smoothed = low_passes(upsample_to(line, torch.empty(1, 1, 1, 18)), 2)[1]
    expected = line[..., :-2] / 8 + line[..., 1:-1] * 6 / 8 + line[..., 2:] / 8
    torch.testing.assert_close(smoothed[..., 1:-1], expected)  # averaging_what_was_interpolated_smooths
