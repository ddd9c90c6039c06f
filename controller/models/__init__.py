"""The model repository: real models by name, the user's own by path, laid out as OVMS reads it.

`get` and `installed` are what the rest of the controller uses; `CATALOGUE` is the table of names.
"""

from controller.models.catalogue import CATALOGUE, Entry
from controller.models.repository import get, installed
from controller.models.store import Model

__all__ = ["CATALOGUE", "Entry", "Model", "get", "installed"]
