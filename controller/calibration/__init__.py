"""How fast this machine's load generator is by itself: measured against a server that answers at once, and kept."""

from controller.calibration.drive import null_server
from controller.calibration.store import CURE, Calibration, identity, path, read, write
from controller.calibration.ways import WAYS, calibrate

__all__ = ["CURE", "WAYS", "Calibration", "calibrate", "identity", "null_server", "path", "read", "write"]
