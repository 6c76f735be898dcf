"""What the README and the pages of ``docs/`` say in code: blocks with their marks, and commands mentioned in prose."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

COMMANDS = frozenset({"console", "bash", "sh", "shell"})

_MARK = re.compile(r"^<!-- (?:(needs|continues): (.+?)|(slow)) -->$", re.MULTILINE)
_FENCE = re.compile(r"```(\w*)")


@dataclass(frozen=True)
class Block:
    """A fenced block. ``needs``: what is absent here, so that it cannot be run; ``slow``: over a minute."""

    line: int
    language: str
    text: str
    needs: str = ""
    slow: bool = False

    def commands(self) -> list[list[str]]:
        """The words of each command line; comments are left out, continued lines joined."""
        joined = self.text.replace("\\\n", " ")
        lines = joined.splitlines()
        if self.language == "console":
            lines = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
        return [words for line in lines if (words := shlex.split(line, comments=True))]


@dataclass(frozen=True)
class Page:
    """A page. ``continues``: name of the page whose folder it starts with; empty for a fresh one."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path.relative_to(ROOT))

    @cached_property
    def text(self) -> str:
        return self.path.read_text(encoding="utf-8")

    @cached_property
    def continues(self) -> str:
        found = [match[2] for match in _MARK.finditer(self.text) if match[1] == "continues"]
        assert len(found) <= 1, f"{self.name} continues several pages"
        return str((self.path.parent / found[0]).resolve().relative_to(ROOT)) if found else ""

    @cached_property
    def blocks(self) -> list[Block]:
        return list(self._parse())

    def _parse(self) -> Iterator[Block]:
        needs, slow = "", False
        lines = enumerate(self.text.splitlines(), start=1)
        for number, line in lines:
            if mark := _MARK.fullmatch(line):
                needs, slow = mark[2] if mark[1] == "needs" else needs, slow or mark[3] is not None
            elif fence := _FENCE.match(line):
                content = []
                for _, inner in lines:
                    if inner == "```":
                        break
                    content.append(inner)
                yield Block(number, fence[1], "\n".join(content) + "\n", needs, slow)
                needs, slow = "", False
            elif line.strip():  # a mark speaks of the block right below it
                assert not (needs or slow), f"{self.name}, line {number}: a mark without a block below it"

    @property
    def mentions(self) -> list[str]:
        """What stands in backticks outside of blocks, each as one line."""
        prose = re.sub(r"^```.*?^```$", "", self.text, flags=re.DOTALL | re.MULTILINE)
        return [" ".join(span.split()) for span in re.findall(r"(?<!`)`([^`]+)`(?!`)", prose)]


def _all_pages() -> list[Page]:
    written = [path for path in sorted((ROOT / "docs").glob("*.md")) if not path.is_symlink()]
    return [Page(path) for path in (*sorted(ROOT.glob("*.md")), *written)]


PAGES = {page.name: page for page in _all_pages()}
