"""`loadproof worker`: this process becomes a load worker of another machine's campaign."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from loadproof.commands.options import host_port


def worker(
    master: Annotated[str, typer.Option(metavar="HOST[:PORT]", help="where the controller's Locust master listens")],
    token_file: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="has the campaign's token, and is read for each run; or LOADPROOF_TOKEN has it"
        ),
    ] = None,
    wait_s: Annotated[
        float, typer.Option("--wait", metavar="SECONDS", min=0, help="how long to wait for a run to come")
    ] = 300,
    once: Annotated[bool, typer.Option("--once", help="leave after one run")] = False,
) -> None:
    """Join a campaign as a load worker, from this or another machine: wait for its runs, leave after the last one.

    `loadproof run --listen` prints this command, with the token that its campaign has. Exit codes: 0 good, 1 no run
    came, 2 refused: no token or another one, another version of Loadproof, or one worker too many for --once.
    """
    from loadproof.launch.child import python_environment

    has_port = ":" in master.rpartition("]")[2]
    host, port = host_port(master if has_port else f"{master}:5557", "--master")
    command = [sys.executable, "-m", "loadproof_clients.load.worker", "--host", host, "--port", str(port)]
    command += ["--wait", str(wait_s), *(["--once"] if once else [])]
    command += ["--token-file", str(token_file)] if token_file else []
    # Locust patches a process when it is imported: it gets one of its own
    os.execve(sys.executable, command, python_environment())
