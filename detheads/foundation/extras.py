"""Which optional packages are missing, and how to install them, read from the package's own metadata."""

import re
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, requires

COMMANDS = {"export": "export", "verify": "export", "make": "export", "demo": "export"}
"""Commands that need more than the first extra that has what is missing."""
DISTRIBUTIONS = {
    "anyio": "fastapi",  # whose starlette requires it
    "cuda": "cuda-python",
    "h11": "uvicorn",  # which requires it
    "huggingface_hub": "timm",  # likewise
    "markupsafe": "jinja2",  # likewise
    "open_clip": "open_clip_torch",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
    "starlette": "fastapi",  # which requires it
    "supervision": "trackers",  # likewise
    "yaml": "pyyaml",
    "zmq": "pyzmq",
}
"""Modules that are called otherwise than the distribution that brings them."""


def missing_extra(module: str, command: str) -> str | None:
    """The sentence for a module that ``command`` could not import; None when no extra brings it."""
    extras = extras_of(module)
    if not extras:
        return None
    extra = COMMANDS[command] if COMMANDS.get(command) in extras else extras[0]
    others = [name for name in _extras()[extra] if name != _distribution(module) and not _installed(name)]
    *first, last = module, *sorted(others)
    names, them = (f"{', '.join(first)} and {last}", "them") if first else (last, "it")
    return f"this command needs {names}; install {them} with: pip install 'detheads[{extra}]'."


def lacking(extra: str) -> list[str] | None:
    """Distributions of an extra that are not installed; None where detheads has no such extra, or no metadata."""
    names = _extras().get(extra)
    return None if names is None else [name for name in names if not _installed(name)]


def extras_of(module: str) -> list[str]:
    """The extras that bring a module."""
    return [extra for extra, names in _extras().items() if _distribution(module) in names]


@cache
def _extras() -> dict[str, tuple[str, ...]]:
    """Distributions of each extra, those of the extras it includes among them; not those of some platforms only."""
    direct: dict[str, list[str]] = {}
    for requirement in _requirements():
        name, _, marker = requirement.partition(";")
        extra = re.fullmatch(r"\s*extra\s*==\s*['\"]([\w-]+)['\"]\s*", marker)
        if extra:
            direct.setdefault(extra[1], []).append(name)
    return {extra: tuple(dict.fromkeys(_spelled_out(names, direct))) for extra, names in direct.items()}


def _spelled_out(names: list[str], direct: dict[str, list[str]]) -> list[str]:
    result = []
    for name in names:
        included = re.match(r"detheads\[([^]]*)]", name)
        if included:
            for extra in included[1].split(","):
                result += _spelled_out(direct.get(extra.strip(), []), direct)
        else:
            result.append(_normal(re.split(r"[^\w.-]", name.strip(), maxsplit=1)[0]))
    return result


def _requirements() -> list[str]:
    try:
        return requires("detheads") or []
    except PackageNotFoundError:  # a source tree that was never installed
        return []


def _distribution(module: str) -> str:
    return _normal(DISTRIBUTIONS.get(module, module))


def _normal(name: str) -> str:
    """A distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
