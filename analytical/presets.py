"""Named configurations of the closed-form detector."""

from detheads.analytical.closed_form import Config
from detheads.foundation.errors import UserError

PRESETS = {
    "reference": Config(),
    "refined": Config(view="context", components=64, rounds=2, voting=0.7),
}
"""``reference`` is the source's detector (v3j); ``refined`` adds what was measured to help."""


def preset(name: str) -> Config:
    """The configuration of that name.

    Raises:
        UserError: when there is none.
    """
    if name not in PRESETS:
        raise UserError(f"unknown preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]
