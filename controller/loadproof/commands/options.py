"""Options and arguments that several commands have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from loadproof.launch.stack import Stack

Repository = Annotated[Path, typer.Option("--models", help="the model repository")]
MODELS = Path("models")
Attached = Annotated[
    str | None,
    typer.Option(
        "--stack",
        metavar="KEY=VALUE...",
        envvar="LOADPROOF_STACK",
        help="server, balancer and workers run already, as compose.yaml starts them; "
        "the keys are in loadproof/launch/stack.py",
    ),
]


def host_port(address: str, option: str) -> tuple[str, int]:
    """The parts of HOST:PORT, an IPv6 address without its brackets; BadParameter names the option."""
    host, _, port = address.rpartition(":")
    name, address_v6 = re.fullmatch(r"[^\s/:\[\]]+", host), re.fullmatch(r"\[([0-9a-fA-F:.]*:[0-9a-fA-F:.]*)\]", host)
    if not (name or address_v6) or not port.isdecimal() or not 0 < int(port) < 65536:
        raise typer.BadParameter(f"{address}: allowed: HOST:PORT, [IPv6]:PORT", param_hint=option)
    return address_v6[1] if address_v6 else host, int(port)


def read_stack(text: str | None) -> Stack | None:
    """The value of --stack; BadParameter says what is wrong with it."""
    from loadproof.launch import stack

    try:
        return stack.parse(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--stack") from None
