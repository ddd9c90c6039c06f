"""How fast this machine's load generator is by itself: measured against a server that answers at once, and kept."""

from loadproof.calibration.cells import CELLS, Cell, calibrate
from loadproof.calibration.drive import null_server
from loadproof.calibration.store import CURE, Calibration, identity, path, read, write

__all__ = ["CELLS", "CURE", "Calibration", "Cell", "calibrate", "identity", "null_server", "path", "read", "write"]
