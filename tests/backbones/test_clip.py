"""Text embeddings of names, computed by a real text encoder with random weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from detheads.backbones.clip import (
    TEMPLATES,
    TextEncoder,
    activation_of,
    chosen_architecture,
    find_encoder,
    parse_prompts,
)
from detheads.backbones.text import load_class_embeddings, read_embeddings
from detheads.data import read_dataset
from detheads.foundation import atomic
from detheads.foundation.errors import UserError

if TYPE_CHECKING:
    from tests.export.toy import Toy

ARCHITECTURE = "ViT-S-32-alt"
"""The smallest of open_clip's that needs nothing but open_clip."""
OPENAI_B32 = "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"
"""SHA-256 of OpenAI's ViT-B-32.pt, as it publishes it."""


@pytest.fixture(scope="module")
def clip_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A weight file of a real architecture with random weights, in half precision."""
    open_clip = pytest.importorskip("open_clip")
    torch.manual_seed(0)
    model = open_clip.create_model(ARCHITECTURE)
    path: Path = tmp_path_factory.mktemp("clip") / "clip.pt"
    torch.save({name: value.half() for name, value in model.state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def reference(clip_weights: Path) -> torch.nn.Module:
    """The same model, made by open_clip and loaded by PyTorch."""
    import open_clip

    model: torch.nn.Module = open_clip.create_model(ARCHITECTURE).eval()
    model.load_state_dict(torch.load(clip_weights, weights_only=True))
    return model


@pytest.fixture(scope="module")
def encoder(clip_weights: Path) -> TextEncoder:
    return find_encoder(ARCHITECTURE, clip_weights)


def _embedded(model: Any, name: str, prompts: tuple[str, ...]) -> torch.Tensor:
    import open_clip

    tokens = open_clip.tokenizer.SimpleTokenizer()([prompt.format(name) for prompt in prompts])
    with torch.no_grad():
        embedded = model.encode_text(tokens)
    mean = (embedded / embedded.norm(dim=1, keepdim=True)).mean(dim=0)
    return mean / mean.norm()


@pytest.mark.parametrize("prompts", ["8", "1", "file"])
def test_embeddings_of_a_real_encoder_are_the_mean_of_their_prompts(
    prompts: str, encoder: TextEncoder, reference: torch.nn.Module, tmp_path: Path
) -> None:
    templates = TEMPLATES if prompts == "8" else ("a {}",)
    if prompts == "file":
        (tmp_path / "prompts.txt").write_text("ein {}\n\nzwei {}, viele {}\n", encoding="utf-8")
        prompts, templates = str(tmp_path / "prompts.txt"), ("ein {}", "zwei {0}, viele {0}")
    found = encoder.embed(["cat", "traffic light"], parse_prompts(prompts))
    expected = _embedded(reference, "traffic light", templates)
    torch.testing.assert_close(found[1], expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[0], found[1])
    assert len(TEMPLATES) == 8


def test_the_command_writes_a_file_that_training_reads_and_computes_new_classes_only(
    clip_weights: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    target = tmp_path / "new folder" / "text.npz"
    line = ("--weights", clip_weights, "--model", ARCHITECTURE, "-o", target, "--json")
    finished = detheads("text", "embed", "--classes", "cat, größte Eule", *line)
    assert finished.code == 0, finished.err
    assert json.loads(finished.out) == {
        "output": str(target),
        "classes": 2,
        "computed": 2,
        "dimension": 256,
        "model": ARCHITECTURE,
        "prompts": 8,
    }
    loaded = load_class_embeddings(target, ["größte Eule", "cat"])
    torch.testing.assert_close(loaded.norm(dim=1), torch.ones(2))
    assert [path.name for path in target.parent.iterdir()] == ["text.npz"]
    made_by = read_embeddings(target).encoder
    assert made_by is not None
    assert made_by.weights_sha256 == atomic.sha256_of(clip_weights)

    again = json.loads(detheads("text", "embed", "--classes", "dog", "--classes", "cat", *line).out)
    assert (again["classes"], again["computed"]) == (2, 1)
    torch.testing.assert_close(load_class_embeddings(target, ["cat"])[0], loaded[1])
    single = json.loads(detheads("text", "embed", "--classes", "dog,cat", "--prompts", "1", *line).out)
    assert single["computed"] == 2


def test_names_come_from_a_dataset(
    clip_weights: Path, toy: "Toy", tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    line = ("--weights", clip_weights, "--model", ARCHITECTURE, "--prompts", "1", "-o", tmp_path / "text.npz")
    finished = detheads("text", "embed", "--data", toy.data, "--split", "val", *line)
    assert finished.code == 0, finished.err
    assert list(read_embeddings(tmp_path / "text.npz").names or ()) == read_dataset(toy.data, "val").class_names


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (("--classes", "cat,dog,cat"), "--classes has the class 'cat' twice; give each class once."),
        (("--classes", "cat,,dog"), "such as helmet,vest; one of them is empty."),
        ((), "give the names with --classes NAME,... or a dataset whose classes they are with --data."),
        (("--classes", "cat", "--pretrained", "openai"), "or weights to download with --pretrained, one of both."),
        (("--classes", "cat", "--prompts", "7"), "--prompts is 8, 1 or a text file with one prompt a line, not '7'."),
    ],
)
def test_questions_that_make_no_sense_are_one_sentence(
    line: tuple[str, ...], sentence: str, clip_weights: Path, tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    finished = detheads(
        "text", "embed", *line, "--weights", clip_weights, "--model", ARCHITECTURE, "-o", tmp_path / "a.npz"
    )
    assert (finished.code, finished.result) == (1, "")
    assert finished.err.splitlines()[-1].endswith(sentence)
    assert not (tmp_path / "a.npz").exists()


@pytest.mark.parametrize("text", ["a cat\n", "\n \n", "{} \n" * 1001])
def test_prompt_files_without_a_place_for_the_name_or_without_prompts_are_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text(text)
    with pytest.raises(UserError, match=r"prompts\.txt"):
        parse_prompts(str(tmp_path / "prompts.txt"))


def test_openais_weights_are_known_by_their_digest_and_get_their_activation(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    known = activation_of(tmp_path / "renamed.pt", OPENAI_B32)
    assert known == "quickgelu"
    assert chosen_architecture("ViT-B-32", tmp_path, known, None) == "ViT-B-32-quickgelu"
    with pytest.raises(UserError, match="was trained with quickgelu, and gelu is asked for"):
        chosen_architecture("ViT-B-32", tmp_path, known, "gelu")


def test_the_configuration_beside_a_weight_file_tells_its_activation(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    weights = tmp_path / "open_clip_model.safetensors"
    for stated, name in ((True, "ViT-L-14-quickgelu"), (False, "ViT-L-14")):
        (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": {"quick_gelu": stated}}))
        assert chosen_architecture("ViT-L-14", weights, activation_of(weights, "0" * 64), None) == name
    with pytest.raises(UserError, match="was trained with gelu, and quickgelu is asked for"):
        chosen_architecture("ViT-L-14-quickgelu", weights, activation_of(weights, "0" * 64), None)


def test_weights_that_do_not_tell_their_activation_are_refused_until_somebody_says_it(tmp_path: Path) -> None:
    pytest.importorskip("open_clip")
    with pytest.raises(UserError, match=r"nothing tells whether .* was trained with QuickGELU"):
        chosen_architecture("ViT-B-32", tmp_path / "x.pt", None, None)
    assert chosen_architecture("ViT-B-32", tmp_path / "x.pt", None, "quickgelu") == "ViT-B-32-quickgelu"
    assert chosen_architecture("ViT-B-32", tmp_path / "x.pt", None, "gelu") == "ViT-B-32"
    assert chosen_architecture(ARCHITECTURE, tmp_path / "x.pt", None, None) == ARCHITECTURE  # which has no other


def test_a_torchscript_archive_as_openai_publishes_them_is_read(reference: torch.nn.Module, tmp_path: Path) -> None:
    state = reference.state_dict()
    archive = tmp_path / "archive.pt"
    torch.jit.script(_tree(state | {"context_length": torch.tensor(77)})).save(str(archive))
    assert activation_of(archive, "0" * 64) == "quickgelu"
    found = find_encoder(ARCHITECTURE, archive).embed(["cat"], ("a {}",))
    torch.testing.assert_close(found[0], _embedded(reference, "cat", ("a {}",)), rtol=1e-4, atol=1e-5)


def _tree(state: dict[str, torch.Tensor]) -> torch.nn.Module:
    """A module with these tensors, and nothing it can do."""
    root = torch.nn.Module()
    for name, value in state.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in dict(place.named_children()):
                place.add_module(part, torch.nn.Module())
            place = place.get_submodule(part)
        place.register_buffer(last, value)
    return root


def test_weights_that_cannot_be_downloaded_are_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, detheads: Callable[..., Any]
) -> None:
    pytest.importorskip("open_clip")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    line = ("text", "embed", "--classes", "cat", "--model", "ViT-B-32", "-o", tmp_path / "a.npz", "--pretrained")
    finished = detheads(*line, "openai")
    assert finished.code == 1
    assert "the weights openai of ViT-B-32 could not be downloaded (" in finished.err.splitlines()[-1]
    unknown = detheads(*line, "opemai")
    assert "open_clip has no weights 'opemai' of ViT-B-32, but openai, laion400m_e31" in unknown.err


@pytest.mark.parametrize(
    ("model", "content", "sentence"),
    [
        ("ViT-Q-77", None, "open_clip has no architecture 'ViT-Q-77'"),
        ("ViT-S-16-alt", None, "is damaged or does not fit open_clip's ViT-S-16-alt"),
        (ARCHITECTURE, b"", "is damaged or does not fit"),
        (ARCHITECTURE, b"hello world" * 50, "is damaged or does not fit"),
        (ARCHITECTURE, b"PK\x03\x04" + b"\x00" * 90, "is damaged or does not fit"),
    ],
)
def test_unknown_architectures_and_files_that_do_not_fit_are_one_sentence(
    model: str,
    content: bytes | None,
    sentence: str,
    clip_weights: Path,
    tmp_path: Path,
    detheads: Callable[..., Any],
) -> None:
    weights = clip_weights
    if content is not None:
        weights = tmp_path / "weights.pt"
        weights.write_bytes(content)
    finished = detheads(
        "text", "embed", "--classes", "cat", "--weights", weights, "--model", model, "-o", tmp_path / "a.npz"
    )
    assert (finished.code, finished.result) == (1, "")
    assert sentence in finished.err.splitlines()[-1]
    assert not (tmp_path / "a.npz").exists()


class Harmful:
    """Unpickling it would write a file."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


def test_code_inside_a_weight_file_is_not_run(tmp_path: Path) -> None:
    torch.save({"a": Harmful(tmp_path / "harm")}, tmp_path / "weights.pt")
    with pytest.raises(UserError, match="is damaged or does not fit"):
        find_encoder(ARCHITECTURE, tmp_path / "weights.pt").embed(["cat"], ("a {}",))
    assert not (tmp_path / "harm").exists()


def test_files_that_are_not_there_and_wrong_endings_are_one_sentence(
    tmp_path: Path, detheads: Callable[..., Any]
) -> None:
    weights = tmp_path / "none.pt"
    absent = detheads(
        "text", "embed", "--classes", "cat", "--weights", weights, "--model", ARCHITECTURE, "-o", tmp_path / "a.npz"
    )
    assert (absent.code, absent.err) == (1, f"error: {weights} does not exist.\n")
    ending = detheads("text", "embed", "--classes", "cat", "--weights", weights, "-o", tmp_path / "a.csv")
    assert (ending.code, ending.err) == (1, f"error: {tmp_path / 'a.csv'} must end in .npz.\n")
