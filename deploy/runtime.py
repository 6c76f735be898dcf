"""The one place that imports ``onnxruntime``: several builds of it exist under that name, and two damage each other.

Nothing is sent: since 1.29 the official builds report usage to their maker unless ``ORT_DISABLE_TELEMETRY`` is set
before they start, which :mod:`detheads` does when it is imported.
"""

import re
from importlib.metadata import distributions
from typing import Any

from detheads.foundation.errors import UserError

_BUILD = re.compile(r"onnxruntime(-[a-z0-9-]+)?")
_NOT_BUILDS = frozenset({"onnxruntime-tools", "onnxruntime-extensions", "onnxruntime-genai", "onnxruntime-easy"})


def installed_builds() -> dict[str, str]:
    """The installed distributions that bring the module ``onnxruntime``: name -> version."""
    found: dict[str, str] = {}
    for distribution in distributions():
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if _BUILD.fullmatch(name) and name not in _NOT_BUILDS:
            found.setdefault(name, distribution.version)
    return dict(sorted(found.items()))


def advice(builds: dict[str, str]) -> str:
    """What to do about the installed builds: a sentence, empty when exactly one is there."""
    if not builds:
        return (
            "No ONNX Runtime is installed; install one build of it: pip install 'detheads[cpu]', or [gpu] in its "
            "place; or run with another --backend, such as openvino."
        )
    if len(builds) > 1:
        keep = next((name for name in builds if name != "onnxruntime"), "onnxruntime")
        return (
            f"Several builds of ONNX Runtime overwrite each other's files ({', '.join(builds)}); keep one: "
            f"pip uninstall -y {' '.join(builds)}, then pip install {keep}."
        )
    return ""


def load_onnxruntime() -> Any:
    """The module ``onnxruntime``.

    Raises:
        UserError: when no build is installed, or the module does not start; the sentence says what to install.
    """
    try:
        import onnxruntime

        onnxruntime.get_available_providers()
        onnxruntime.InferenceSession  # noqa: B018 - absent where one of two builds was uninstalled
        onnxruntime.disable_telemetry_events()  # for a process that imported it before detheads
    except Exception as error:  # builds that do not fit numpy or the machine fail in many ways
        builds = installed_builds()
        if (isinstance(error, ModuleNotFoundError) and error.name == "onnxruntime") or not builds:
            raise UserError(advice({})) from None
        name = next(iter(builds))
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"ONNX Runtime does not start ({reason}). "
            + (advice(builds) or f"Install a newer build of it: pip install -U --force-reinstall {name}.")
        ) from None
    return onnxruntime
