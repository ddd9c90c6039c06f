"""The distinct inputs of a run: their shapes, where their values come from, and how they are made."""
