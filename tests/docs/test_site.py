"""The documentation builds without a warning into pages that load nothing from elsewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--config-file", ROOT / "mkdocs.yml", "-d", folder]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return folder


def test_every_page_is_built_and_reachable(site: Path) -> None:
    start = (site / "index.html").read_text("utf-8")
    for page in PAGES.values():
        if page.name.startswith("docs/") and page.path.stem != "index":
            assert (site / page.path.stem / "index.html").is_file()
            assert f'href="{page.path.stem}/"' in start


def test_the_site_loads_nothing_from_a_network(site: Path) -> None:
    for path in site.rglob("*.html"):
        text = path.read_text("utf-8")
        loaded = re.findall(r'<(?:script|img|iframe)[^>]*src="([^"]+)"', text)
        loaded += re.findall(r'<link[^>]*href="([^"]+)"', text)
        assert loaded
        assert [source for source in loaded if re.match(r"(https?:)?//", source)] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_of_the_repositorys_own_pages_lead_somewhere(name: str, site: Path) -> None:
    """Those that the site does not check: files and headings by their place in the repository."""
    for target in re.findall(r"\]\(([^)]+)\)", PAGES[name].text):
        if target.startswith("https://"):
            continue
        path, _, heading = target.partition("#")
        assert (ROOT / path).is_file(), target
        if heading:
            assert f'id="{heading}"' in (site / Path(path).stem / "index.html").read_text("utf-8"), target


def test_the_readme_is_short() -> None:
    assert len(PAGES["README.md"].text.splitlines()) <= 150
