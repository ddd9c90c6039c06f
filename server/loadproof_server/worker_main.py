"""`python -m loadproof_server.worker_main`: a worker process of a server of several, which the supervisor starts."""

from __future__ import annotations

import sys

from loadproof_server import main
from loadproof_server.workers import worker

if __name__ == "__main__":
    worker.start(sys.argv[1:], main.run)
