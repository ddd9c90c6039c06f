"""Files of a run directory that hold what they cannot hold: one clear line, soon, from every command that reads one."""

from __future__ import annotations

import itertools
import json
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from loadproof import analyse, report
from loadproof.rundir import RunDirectoryError
from tests.controller.test_cli import ROOT, loadproof

OLD: Final = ROOT / "tests/data/0.1.0/run"
RUN: Final = "runs/001-quick/run.json"
DEEP: Final = "[" * 3000 + "]" * 3000
ODD: Final[tuple[Any, ...]] = (
    None,
    True,
    -1,
    0,
    1e300,
    10**30,
    "",
    "x",
    "../../x",
    [],
    [None],
    {},
    {"x": None},
    [[[]]],
)
TEXTS: Final = {
    "empty": "",
    "cut": '{"schema": 1, "na',
    "another-kind": "[1]",
    "nearly-empty": '{"schema": 1}',
    "deep": f'{{"schema": 1, "events": {DEEP}}}',
    "infinite": '{"schema": 1, "t0_epoch_us": 1e999}',
    "half-a-character": r'{"schema": 1, "name": "\ud800", "created": "\ud800"}',
    "binary": "\x00\x01",
    "many-digits": '{"schema": 1, "planned": ' + "9" * 5000 + "}",
}
SAMPLE: Final = 60  # of all odd places and values; the whole takes minutes


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return Path(shutil.copytree(OLD, tmp_path / "campaign"))


def places(content: Any, depth: int = 3) -> Iterator[tuple[Any, ...]]:
    """The paths to what is in a JSON document, not too deep."""
    if isinstance(content, dict | list) and depth:
        for key, value in content.items() if isinstance(content, dict) else enumerate(content):
            yield (key,)
            yield from ((key, *rest) for rest in places(value, depth - 1))


def replaced(content: Any, place: tuple[Any, ...], value: Any) -> Any:
    copy = json.loads(json.dumps(content))
    inside = copy
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return copy


@pytest.mark.parametrize("name", ["campaign.json", RUN, "summary.json"])
@pytest.mark.parametrize("text", TEXTS)
def test_a_broken_file_is_one_line_that_names_it(directory: Path, name: str, text: str) -> None:
    # run.json may have nothing to say: then the run did not end, and is INVALID
    (directory / name).write_text("{}" if (name, text) == (RUN, "nearly-empty") else TEXTS[text])
    began_s = time.monotonic()
    with pytest.raises(RunDirectoryError, match=Path(name).name) as raised:
        analyse.read(directory) if name == "summary.json" else analyse.campaign(directory)
    assert len(str(raised.value).splitlines()) == 1 and len(str(raised.value)) < 700
    assert time.monotonic() - began_s < 10


@pytest.mark.parametrize("name", ["campaign.json", RUN])
def test_not_a_number_is_no_figure(directory: Path, name: str) -> None:
    text = (directory / name).read_text()
    (directory / name).write_text(text.replace('"schema": 1', '"schema": 1, "more": NaN', 1))
    with pytest.raises(RunDirectoryError, match=f"{Path(name).name}: cannot be read"):
        analyse.campaign(directory)


def test_whatever_stands_in_a_place_it_is_analysed_or_refused(directory: Path) -> None:
    """Every value of campaign.json and run.json in turn becomes an odd one: a sample of them, the same each time."""
    contents = {name: json.loads((directory / name).read_text()) for name in ("campaign.json", RUN)}
    cases = [
        (name, place, value)
        for name, content in contents.items()
        for place, value in itertools.product(places(content), ODD)
    ]
    for name, place, value in random.Random(7).sample(cases, SAMPLE):
        (directory / name).write_text(json.dumps(replaced(contents[name], place, value)))
        try:
            analyse.campaign(directory)
            report.render(directory)
        except RunDirectoryError:
            pass
        except Exception as error:
            raise AssertionError(f"{name}: {place} = {value!r}") from error
        (directory / name).write_text(json.dumps(contents[name]))


@pytest.mark.parametrize("command", [["report"], ["run", "--resume"], ["history"], ["compare"]])
@pytest.mark.parametrize("name", ["campaign.json", "summary.json", RUN])
def test_every_command_says_so_in_a_line(directory: Path, command: list[str], name: str) -> None:
    (directory / name).write_text('{"schema": 1}')
    directories = [str(directory)] * (2 if command == ["compare"] else 1)
    done = loadproof(*command, *directories)
    assert "Traceback" not in done.stderr + done.stdout, done.stderr
    if name == "campaign.json" and command != ["history"]:
        assert done.returncode in (1, 2) and "campaign.json" in done.stderr, done.stderr


def test_a_run_of_the_campaign_lies_in_its_directory(directory: Path) -> None:
    content = json.loads((directory / "campaign.json").read_text())
    content["runs"][0]["directory"] = "../../elsewhere"
    (directory / "campaign.json").write_text(json.dumps(content))
    with pytest.raises(RunDirectoryError, match=r"runs\.0\.directory"):
        analyse.campaign(directory)
