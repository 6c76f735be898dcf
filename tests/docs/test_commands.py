"""Every command line of the documentation runs, page by page, or says what it needs that is absent here."""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from detheads.cli.main import run
from detheads.data.scenes import generate
from detheads.headkit import registry
from detheads.headkit.head_file import PACKAGE
from tests.docs.command_tree import find
from tests.docs.pages import COMMANDS, PAGES, Block, Page

THRIFT = {
    "demo": "--epochs 1",
    "make": "--size 96 --head slim_fcos --epochs 1",
    "data scenes": "--train 4 --val 2 --size 96",
    "cache build": "--size 96",
    "train": "--epochs 1 --threads 1",
    "recipe ladder": "--epochs 1 --threads 1",
    "export": "--onnx-only --batch-sizes 2",
    "verify": "--batch-sizes 2",
    "arena run": "--heads slim_fcos,fcos --epochs 1 --no-latency --jobs 1 --threads 1",
    "arena report": "--pictures 1",
    "arena domains": "--heads slim_fcos --size 96 --epochs 1 --threads 1",
    "analytical fit": "--threads 1",
    "analytical collect": "--threads 1",
    "analytical sweep": "--alphas 10,100 --threads 1",
    "analytical ablate": "--row reference --threads 1",
    "bench cache": "--size 96 --images 8",
    "bench train": "--steps 3",
    "deploy bench": "--runs 2 --pause 0",
    "bench analytical": "--rows 2000 --dimensions 16 --fit-rows 1000 --repeats 1",
}
"""Options that make a command cheap. They come last on its line, where they replace those on the page."""


class Walk:
    """Runs pages, each once, and hands out copies of the folders they leave behind."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._left_by = folder, dict[str, Path]()
        self._start = folder / "start"
        generate(self._start / "pictures", 16, 6, size=128, seed=5)
        shutil.copytree(self._start / "pictures" / "val", self._start / "photos")
        for number in (1, 2):
            generate(self._start / "datasets" / f"domain{number}", 6, 3, size=96, seed=number)

    def enter(self, page: Page, name: str) -> Path:
        """A new folder that holds what there is before the page's first line."""
        before = self.visit(PAGES[page.continues]) if page.continues else self._start
        return Path(shutil.copytree(before, self.folder / name))

    def visit(self, page: Page) -> Path:
        """The folder that the page leaves behind."""
        if page.name not in self._left_by:
            place = self.enter(page, page.name.replace("/", "-"))
            follow(page, place, slow=False)
            self._left_by[page.name] = place
        return self._left_by[page.name]


def follow(page: Page, place: Path, *, slow: bool) -> None:
    """Do in ``place`` what the page says, block by block, without the lines of the page it continues."""
    before = PAGES[page.continues].blocks if page.continues else []
    done = [words for block in before if block.language in COMMANDS for words in block.commands()]
    with contextlib.chdir(place) if sys.version_info >= (3, 11) else _inside(place):
        for block in page.blocks:
            where = f"{page.name}, line {block.line}"
            assert block.language, f"{where}: a block without a language; text that is no command is 'text'"
            if block.needs or (block.slow and not slow):
                continue
            if block.language in COMMANDS:
                for words in block.commands():
                    if words not in done:
                        _run_command(words, where)
            elif block.language == "python":
                _run_python(block, where)


def _run_command(words: list[str], where: str) -> None:
    if words[:3] == ["python", "-m", "detheads"]:
        words = words[2:]
    assert words[0] == "detheads", f"{where}: {words[0]} is not run by this test; say above the block what it needs"
    path, _ = find(words[1:])
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        code = run([*words[1:], *THRIFT.get(" ".join(path), "").split()])
    assert code == 0, f"{where}: {' '.join(words)} exits {code}:\n{printed.getvalue()[-2000:]}"


def _run_python(block: Block, where: str) -> None:
    first = block.text.partition("\n")[0]
    if first.startswith("# ") and first.endswith(".py"):
        Path(first.removeprefix("# ")).write_text(block.text, encoding="utf-8")
        return
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(compile(block.text, where, "exec"), {"__name__": "__main__"})
    assert printed.getvalue().strip(), f"{where}: an example prints something"


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def walk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Walk]:
    """Heads that a page brings along are forgotten in the end, and threads are as before."""
    import torch

    threads = torch.get_num_threads()
    yield Walk(tmp_path_factory.mktemp("walk"))
    torch.set_num_threads(threads)
    for module in [name for name in sys.modules if name.startswith(f"{PACKAGE}.")]:
        registry.forget(module.rpartition(".")[2])
        del sys.modules[module]


@pytest.mark.parametrize("name", PAGES)
def test_the_command_lines_of_a_page_run(name: str, walk: Walk) -> None:
    walk.visit(PAGES[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if any(block.slow for block in page.blocks)])
def test_the_slow_command_lines_of_a_page_run(name: str, walk: Walk) -> None:
    page = PAGES[name]
    follow(page, walk.enter(page, "slow-" + page.path.stem), slow=True)


def test_every_shortened_command_exists() -> None:
    for line in THRIFT:
        assert " ".join(find(line.split())[0]) == line


def test_a_line_that_is_neither_run_nor_marked_fails(tmp_path: Path) -> None:
    for text in ("```console\n$ curl somewhere\n```\n", "```\ndetheads doctor\n```\n"):
        path = PAGES["README.md"].path.parent / "docs" / "absent.md"
        page = Page(path)
        vars(page)["text"] = text
        with pytest.raises(AssertionError, match=r"absent\.md, line 1"):
            follow(page, tmp_path, slow=False)
