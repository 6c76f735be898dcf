"""Inputs that nobody meant: altered files of every kind, and command lines of wild values.

Every case ends with an answer or one sentence, within ten seconds and a gigabyte. The suite tries a few hundred, always
the same; ``make fuzz CASES=20000`` tries others.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from detheads.data import read_dataset
from detheads.foundation import images
from detheads.foundation.atomic import sha256_of
from detheads.foundation.reading import parse_json, read_yaml
from tests.docs.command_tree import LEAVES
from tests.fuzz.guard import CASES, answers, replaced, share, survives
from tests.fuzz.mutate import VALUES, WORDS, file_bytes, json_bytes, json_documents, texts
from tests.fuzz.seeds import Seeds

Test = Callable[..., None]


def cases(weight: float, *, by_default: int) -> Callable[[Test], Test]:
    """So many examples of a target; in the suite the same ones every time."""
    return settings(
        max_examples=share(weight, by_default=by_default),
        derandomize=not CASES,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Path]]:
    """Paths that do not exist yet."""
    root = tmp_path_factory.mktemp("out")

    def path() -> Path:
        shutil.rmtree(root / "out", ignore_errors=True)
        return root / "out"

    yield path


@cases(0.16, by_default=20)
@given(st.data())
def test_coco_files(seeds: Seeds, data: st.DataObject) -> None:
    path = seeds.coco / "annotations" / data.draw(st.sampled_from(["instances_train.json", "instances_val.json"]))
    skip_bad = data.draw(st.booleans())
    with replaced(path, data.draw(json_bytes(json.loads(path.read_bytes())))):
        survives(partial(read_dataset, skip_bad=skip_bad), seeds.coco, "train")
        survives(read_dataset, seeds.coco, "val")
        answers("data", "validate", seeds.coco, *["--skip-bad"] * skip_bad)


@cases(0.1, by_default=12)
@given(st.data())
def test_yolo_settings(seeds: Seeds, data: st.DataObject) -> None:
    path = seeds.yolo / "data.yaml"
    with replaced(path, data.draw(texts(path.read_text(encoding="utf-8")))):
        answers("data", "info", seeds.yolo)
        survives(read_dataset, seeds.yolo, "val")


@cases(0.1, by_default=12)
@given(st.data())
def test_yolo_labels(seeds: Seeds, data: st.DataObject) -> None:
    path = seeds.yolo / "labels" / "train" / "a.txt"
    skip_bad = data.draw(st.booleans())
    with replaced(path, data.draw(st.one_of(texts(path.read_text()), file_bytes(path.read_bytes())))):
        survives(partial(read_dataset, skip_bad=skip_bad), seeds.yolo, "train")
        answers("data", "validate", seeds.yolo)


@cases(0.06, by_default=20)
@given(st.data())
def test_yaml_and_json_text(seeds: Seeds, data: st.DataObject) -> None:
    words = "".join(data.draw(st.lists(st.sampled_from([*WORDS, " ", "  ", "a: ", "- "]), max_size=60)))
    path = seeds.root / "any"
    path.write_bytes(words.encode("utf-8", "surrogateescape"))
    survives(read_yaml, path)
    survives(parse_json, path.read_bytes(), "any")
    path.write_bytes(data.draw(st.binary(max_size=80)))
    survives(read_yaml, path)
    survives(parse_json, path.read_bytes(), "any")


@cases(0.13, by_default=30)
@given(st.data())
def test_pictures(seeds: Seeds, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(seeds.pictures))
    with replaced(path, data.draw(file_bytes(path.read_bytes()))):
        survives(images.read_header, path)
        survives(images.load_image, path)
        survives(images.load_image, path.read_bytes())


@cases(0.1, by_default=12)
@given(st.data())
def test_caches(seeds: Seeds, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(path for path in seeds.cache.iterdir() if path.is_file())))
    content = path.read_bytes()
    kinds = {".json": lambda: json_bytes(json.loads(content)), ".safetensors": lambda: _safetensors(content)}
    changed = data.draw(kinds.get(path.suffix, lambda: texts('["shard-00000.safetensors", "9 9 9 9", "0"]\n'))())
    digests = _digests_follow(seeds.cache, content, path) if data.draw(st.booleans()) else nullcontext()
    with replaced(path, changed), digests:
        survives(_read_all, seeds.cache)
        answers("cache", data.draw(st.sampled_from(["info", "verify"])), seeds.cache)


@cases(0.08, by_default=6)
@given(st.data())
def test_runs(seeds: Seeds, data: st.DataObject) -> None:
    files = [path for path in seeds.run.iterdir() if path.suffix in {".json", ".safetensors", ".jsonl"}]
    path = data.draw(st.sampled_from(sorted(files)))
    content = path.read_bytes()
    if path.suffix == ".json":
        changed = json_bytes(json.loads(content))
    else:
        changed = _safetensors(content) if path.suffix == ".safetensors" else texts(content.decode())
    which = data.draw(st.sampled_from(["best", "last"]))
    with replaced(path, data.draw(changed)):
        answers("eval", seeds.run, "--cache", seeds.cache, "--which", which)


@cases(0.13, by_default=15)
@given(st.data())
def test_bundles(seeds: Seeds, empty: Callable[[], Path], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["bundle.json", "bundle.json", "bundle.json", "model.onnx"]))
    path = seeds.bundle / name
    content = path.read_bytes()
    changed = json_bytes(json.loads(content)) if path.suffix == ".json" else file_bytes(content)
    with replaced(path, data.draw(changed)):
        answers("deploy", "run", seeds.bundle, seeds.pictures[0], "-o", empty())


@cases(0.05, by_default=12)
@given(st.data())
def test_files_that_are_no_files(seeds: Seeds, empty: Callable[[], Path], data: st.DataObject) -> None:
    """A pipe, a device, a loop of links, a folder in the place of any file."""
    commands: dict[Path, tuple[object, ...]] = {
        seeds.coco: ("data", "validate", seeds.coco),
        seeds.yolo: ("data", "validate", seeds.yolo),
        seeds.cache: ("cache", "verify", seeds.cache),
        seeds.run: ("eval", seeds.run, "--cache", seeds.cache),
        seeds.bundle: ("deploy", "run", seeds.bundle, seeds.pictures[0], "-o", empty()),
    }
    folder = data.draw(st.sampled_from(sorted(commands)))
    path = data.draw(st.sampled_from(sorted(path for path in folder.rglob("*") if path.is_file())))
    aside = path.with_name("aside")
    path.rename(aside)
    try:
        ODD[data.draw(st.sampled_from(sorted(ODD)))](path)
        answers(*commands[folder])
    finally:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        aside.rename(path)


ODD: dict[str, Callable[[Path], object]] = {
    "pipe": os.mkfifo,
    "folder": Path.mkdir,
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "nothing": lambda path: None,
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "link to a file": lambda path: path.symlink_to("aside"),
    "empty": Path.touch,
}
VALID_INPUTS = {
    **{("data", name): "coco" for name in ("info", "validate", "convert", "draw")},
    ("cache", "info"): "cache",
    ("cache", "verify"): "cache",
    ("deploy", "run"): "bundle",
    ("eval",): "run",
}
"""Commands that are quick on a small valid input; the others are given none, for their work would begin."""
ALWAYS_WORKING = {("doctor",), ("heads", "list"), ("bench", "analytical")}
"""Commands that need no input, and work for seconds or minutes."""
VALUES_OF_OPTIONS = sorted({str(value) for value in VALUES if len(str(value)) < 400} | set(WORDS))


@cases(0.14, by_default=30)
@given(st.data())
def test_command_lines(seeds: Seeds, empty: Callable[[], Path], data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(sorted(LEAVES.keys() - ALWAYS_WORKING)))
    words: list[str] = list(path)
    valid = VALID_INPUTS.get(path)
    odd_paths = [str(path) for path in seeds.odd]
    blocked = seeds.pictures[0]  # a file where a folder is needed: nothing is made
    for parameter in LEAVES[path].params:
        if parameter.name in {"help", "as_json"}:
            continue
        wild = data.draw(st.sampled_from([*VALUES_OF_OPTIONS, *odd_paths]))
        if parameter.param_type_name == "argument":
            words.append(str(getattr(seeds, valid)) if valid and data.draw(st.integers(0, 3)) else wild)
        elif "-o" in parameter.opts:
            words += ["-o", str(empty() if valid else blocked)]
        elif parameter.required or data.draw(st.integers(0, 3)) == 0:
            is_flag = getattr(parameter, "is_flag", False)
            words += [parameter.opts[0]] if is_flag else [f"{parameter.opts[0]}={wild}"]
    answers(*words)


TRIED_OPTIONS = {
    "train": (
        "--lr",
        "--weight-decay",
        "--ema-decay",
        "--seed",
        "--precision",
        "--eval-every",
        "--text",
        "-O",
        "--batch",
    ),
    "cache build": (
        "--size",
        "--layers",
        "--dtype",
        "--batch",
        "--limit",
        "--device",
        "--backbone",
        "--split",
        "--weights",
    ),
}


@cases(0.015, by_default=3)
@given(st.data())
def test_work_with_wild_options(seeds: Seeds, empty: Callable[[], Path], data: st.DataObject) -> None:
    """Training and caching on small valid inputs, with one to three options that may be anything."""
    command = data.draw(st.sampled_from(sorted(TRIED_OPTIONS)))
    words: list[object] = [*command.split(), "-o", empty()]
    if command == "train":
        words += ["fcos", "--cache", seeds.cache, "--val", seeds.cache, "--epochs", 1, "-O", "width=8"]
    else:
        words += [seeds.coco, "--backbone", "timm:test_vit", "--size", 32, "--random-weights"]
    for name in data.draw(st.lists(st.sampled_from(TRIED_OPTIONS[command]), min_size=1, max_size=3, unique=True)):
        value = data.draw(st.sampled_from([*VALUES_OF_OPTIONS, *map(str, seeds.odd)]))
        words.append(f"-Otower_blocks={value}" if name == "-O" else f"{name}={value}")
    answers(*words)


def _read_all(cache: Path) -> None:
    from detheads.cache.reader import FeatureCache

    opened = FeatureCache(cache)
    for index in range(len(opened)):
        opened[index]


def _safetensors(content: bytes) -> st.SearchStrategy[bytes]:
    """A file of tensors with another header, lengths that fit or do not, or other bytes."""
    length = int.from_bytes(content[:8], "little")
    header, body = json.loads(content[8 : 8 + length]), content[8 + length :]

    def joined(changed: Any) -> bytes:
        text = json.dumps(changed).encode()
        return len(text).to_bytes(8, "little") + text + body

    lengths = st.sampled_from([0, 1, 2**16, 2**40, 2**63, 2**64 - 1]).map(lambda size: size.to_bytes(8, "little"))
    return st.one_of(
        json_documents(header).map(joined), lengths.map(lambda size: size + content[8:]), file_bytes(content)
    )


@contextmanager
def _digests_follow(cache: Path, before: bytes, path: Path) -> Iterator[None]:
    """Correct what a cache records of a changed file, as whoever alters it on purpose would."""
    old, new = hashlib.sha256(before).hexdigest().encode(), sha256_of(path).encode()
    with ExitStack() as stack:
        for other in cache.glob("*.json"):
            if other != path and old in (content := other.read_bytes()):
                stack.enter_context(replaced(other, content.replace(old, new)))
        yield
