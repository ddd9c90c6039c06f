"""The model repository: real models by name, the user's own by path, laid out as OVMS reads it.

`get` and `installed` are what the rest of the controller uses; `CATALOGUE` is the table of names.
"""

from loadproof.models.catalogue import CATALOGUE, Entry
from loadproof.models.repository import get, installed
from loadproof.models.store import Model

__all__ = ["CATALOGUE", "Entry", "Model", "get", "installed"]
