"""How fast this machine's load generator is by itself: measured against a server that answers at once, and kept."""

from loadproof.calibration.drive import null_server
from loadproof.calibration.store import CURE, Calibration, identity, path, read, write
from loadproof.calibration.ways import WAYS, calibrate

__all__ = ["CURE", "WAYS", "Calibration", "calibrate", "identity", "null_server", "path", "read", "write"]
