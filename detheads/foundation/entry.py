"""The base of everything that a bundle's manifest says."""

from pydantic import BaseModel, ConfigDict


class Entry(BaseModel):
    """Unknown fields are refused, and what was read does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)
