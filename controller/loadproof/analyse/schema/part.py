"""The base of all types of summary.json: they never change, and reading one ignores keys that it does not know."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

# A section of the plan, a model's record, facts of a machine: its keys are those of the version that wrote it.
Table = dict[str, Any]


class Part(BaseModel):
    """A part of summary.json; its dump has the keys of the file.

    A key that came later than the first version has None as its default: what an older directory lacks is null.
    """

    model_config = ConfigDict(frozen=True, populate_by_name=True, serialize_by_alias=True)

    def _named(self, name: str) -> Any:
        """The field of that name; KeyError where there is none."""
        if name not in type(self).model_fields:
            raise KeyError(name)
        return getattr(self, name)


class Copied(Part):
    """A part that is copied from campaign.json or run.json: keys that are not known here stay in it."""

    model_config = ConfigDict(extra="allow")
