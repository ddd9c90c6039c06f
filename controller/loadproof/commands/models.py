"""`loadproof model`: what is in the model repository, and how it comes there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loadproof import plan as plans
from loadproof.commands.options import MODELS, Attached, Repository, read_stack

app = typer.Typer(help="The model repository: models/<name>/<version>/.", no_args_is_help=True)


@app.command("get")
def model_get(
    model: Annotated[
        str, typer.Argument(metavar="NAME|PATH", help="a name of `loadproof model list`, or a model file or directory")
    ],
    name: Annotated[str | None, typer.Option(help="what a PATH is to be called; default its stem")] = None,
    repository: Repository = MODELS,
) -> None:
    """Bring a model into the repository: a name of the catalogue, or anything that OpenVINO converts."""
    from loadproof import models

    found = models.get(model, repository, name=name)
    print(f"{found.name}: {found.directory} ({found.size_bytes / 1e6:.1f} MB, {found.licence})")


@app.command("provide")
def model_provide(
    plan: Annotated[Path, typer.Argument(help="a campaign in TOML, as in plans/quick.toml")],
    stack: Attached = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE")] = None,
    repository: Repository = MODELS,
) -> None:
    """Have a stack's server serve what a plan's first run wants: for a server platform without a controller."""
    from loadproof import models

    if (deployed := read_stack(stack)) is None:
        raise typer.BadParameter("give it: it says where the server is", param_hint="--stack")
    _, runs = plans.read(plan, settings or ())
    first = min(runs, key=lambda run: (run.repeat, run.point))
    model = models.get(first.server.model, repository)
    deployed.configure(first.server, model)
    print(f"{deployed.server_rest} serves {model.name} as {plan} wants it")


@app.command("list")
def model_list(repository: Repository = MODELS) -> None:
    """List the models that can be had by name, and those in the repository."""
    from loadproof import models

    here = {model.name: model for model in models.installed(repository)}
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("name", "here", "licence", "source", "what it is"):
        table.add_column(heading)
    for name, entry in models.CATALOGUE.items():
        table.add_row(name, "yes" if name in here else "", entry.licence, entry.source, entry.description)
    for name, model in here.items():
        if name not in models.CATALOGUE:
            path = model.source.get("path", "")
            table.add_row(name, "yes", *(escape(text) for text in (model.licence, path, model.description)))
    Console().print(table)
