"""Plans: everything that is accepted resolves to runs, and every mistake is told, all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clients.spec import Load, LoadSpec
from controller.errors import Exit, PlanError
from controller.plan import Plan, Run, read, resolve

PLANS = sorted((Path(__file__).parents[2] / "plans").glob("*.toml"))


def plan(**sections: Any) -> dict[str, Any]:
    return {"name": "p", "server": {"model": "m"}, **sections}


def runs_of(raw: dict[str, Any]) -> list[Run]:
    return resolve(raw, "plan")[1]


def mistakes_of(raw: dict[str, Any]) -> list[str]:
    with pytest.raises(PlanError) as caught:
        resolve(raw, "plan")
    assert caught.value.exit_code == Exit.USAGE
    return caught.value.mistakes


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.name)
def test_the_shipped_plans_are_good(path: Path) -> None:
    checked, runs = read(path)
    assert checked.name == path.stem
    assert runs


def test_all_mistakes_are_told_at_once_each_with_key_finding_and_what_is_allowed() -> None:
    raw = {
        "nam": "x",
        "server": {"model": "m", "hint": "fast"},
        "load": {"clientz": 4, "clients": 0, "protocol": "soap", "payload": "foo", "ranges": {"x": [2, 1]}},
        "measure": {"duration_s": True},
        "sweep": {"load.batch": [1, "two"], "load.verify": []},
    }
    assert sorted(mistakes_of(raw)) == sorted(
        [
            "name: missing; it has to be given",
            "nam: unknown key; allowed: did you mean name? name, server, load, measure, slo, sweep",
            "server.hint: found \"fast\"; allowed: 'latency' or 'throughput'",
            "load.clientz: unknown key; allowed: did you mean clients? " + ", ".join(Load.model_fields),
            "load.clients: found 0; allowed: greater than or equal to 1",
            "load.protocol: found \"soap\"; allowed: 'grpc' or 'rest'",
            'load.payload: found "foo"; allowed: random, images, images:DIR, npy:FILE',
            "load.ranges: x: low 2.0 is over high 1.0",
            "measure.duration_s: found true; allowed: a valid number",
            "sweep.load.verify: found []; allowed: at least one value",
        ]
    )


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({"hint": "latency", "streams": 2}, "hint and streams exclude each other"),
        ({"launch": "external"}, "needs server.address"),
        ({"address": "h:1"}, "server.address is for launch"),
        ({"launch": "external", "address": "nowhere"}, "allowed: host:port"),
        ({"launch": "external", "address": "h:65536"}, "allowed: host:port"),
        ({"launch": "external", "address": "h:0"}, "allowed: host:port"),
        ({"launch": "external", "address": "user@h:1"}, "allowed: host:port"),
        ({"launch": "external", "rest_address": "h:1"}, "needs server.address of the external server"),
        ({"launch": "external", "address": "h:1", "metrics": "h:1"}, "/metrics"),
    ],
)
def test_server_keys_that_do_not_go_together_are_a_mistake(server: dict[str, Any], message: str) -> None:
    assert any(message in text for text in mistakes_of(plan(server={"model": "m", **server})))


def test_an_ipv6_address_stands_in_brackets() -> None:
    external = {"model": "m", "launch": "external"}
    assert runs_of(plan(server={**external, "address": "[::1]:9000"}))[0].server.address == "[::1]:9000"
    assert any("allowed: host:port" in text for text in mistakes_of(plan(server={**external, "address": "::1:9000"})))


def test_a_sweep_of_more_runs_than_can_be_is_a_mistake_and_is_not_unrolled() -> None:
    sweep = {f"load.{key}": list(range(1, 101)) for key in ("clients", "seed", "batch", "payloads", "processes")}
    assert any("sweep: found 10,000,000,000 runs" in text for text in mistakes_of(plan(sweep=sweep)))
    many = plan(sweep={"load.seed": list(range(101))}, measure={"repeats": 100})
    assert mistakes_of(many) == ["sweep: found 10,100 runs, repeats included; allowed: at most 10,000"]


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ({"arrivals": "constant"}, 'arrivals = "constant" needs load.rate_rps'),
        ({"arrivals": "steps", "rate_rps": 5}, 'arrivals = "steps" needs load.steps'),
        ({"rate_rps": 5}, 'load.rate_rps is for arrivals = "constant" or "poisson"; here it is "closed"'),
        ({"arrivals": "trace", "trace": "/nowhere/t.txt"}, "load.trace: /nowhere/t.txt is no file"),
        ({"arrivals": "constant", "rate_rps": 1e6, "clients": 9}, None),
    ],
)
def test_open_loop_keys_that_do_not_go_together_are_a_mistake(load: dict[str, Any], message: str | None) -> None:
    if message is None:
        assert runs_of(plan(load=load))[0].load.is_open
        load, message = {**load, "rate_rps": 1e6}, "load.rate_rps: "
        assert any(message in text for text in mistakes_of(plan(load=load, measure={"duration_s": 3600})))
    else:
        assert any(message in text for text in mistakes_of(plan(load=load)))


def test_a_sweep_is_every_combination_and_repeats_are_interleaved() -> None:
    raw = plan(sweep={"load.clients": [1, 4], "server.streams": [1, 2]}, measure={"repeats": 2})
    names = [run.name for run in runs_of(raw)]
    assert names == [
        f"clients={clients}, streams={streams} #{repeat}"
        for repeat in (1, 2)
        for clients in (1, 4)
        for streams in (1, 2)
    ]
    assert [run.load.clients for run in runs_of(raw)][:4] == [1, 1, 4, 4]


def test_streams_drop_an_inherited_hint_and_a_hint_drops_inherited_streams() -> None:
    swept = runs_of(plan(server={"model": "m", "hint": "latency"}, sweep={"server.streams": [2]}))[0].server
    assert (swept.hint, swept.streams) == (None, 2)
    assert swept.plugin_config() == {"NUM_STREAMS": "2"}
    swept = runs_of(plan(server={"model": "m", "streams": 2}, sweep={"server.hint": ["throughput"]}))[0].server
    assert swept.plugin_config() == {"PERFORMANCE_HINT": "THROUGHPUT"}


def test_there_are_never_more_processes_than_clients() -> None:
    runs = runs_of(plan(load={"processes": 2}, sweep={"load.clients": [1, 4]}))
    assert [run.load.processes for run in runs] == [1, 2]


def test_settings_lie_over_the_file_and_over_its_sweep(tmp_path: Path) -> None:
    path = tmp_path / "p.toml"
    path.write_text('name = "p"\n[server]\nmodel = "m"\nhint = "latency"\n[sweep]\n"load.clients" = [1, 2]\n')
    settings = ["load.clients=8", "load.protocol=rest", 'load.payload="images"', "server.threads=3", "load.verify=0.5"]
    (run,) = read(path, settings)[1]
    assert (run.load.clients, run.load.protocol, run.load.payload) == (8, "rest", "images")
    assert (run.server.hint, run.server.threads, run.load.verify) == (None, 3, 0.5)


@pytest.mark.parametrize("setting", ["clients=3", "load.clients", "zoo.clients=3", "name.x=3", "=3"])
def test_a_setting_without_a_known_section_and_key_is_a_mistake(tmp_path: Path, setting: str) -> None:
    path = tmp_path / "p.toml"
    path.write_text('name = "p"\n[server]\nmodel = "m"\n')
    with pytest.raises(PlanError, match="one mistake") as caught:
        read(path, [setting])
    assert caught.value.mistakes[0].startswith(f"--set {setting}: allowed: section.key=value")


@pytest.mark.parametrize(("text", "mistake"), [(None, "cannot be read"), ("name = ", "is not TOML"), (b"\xff", "TOML")])
def test_a_file_that_is_no_plan_is_told_in_one_line(tmp_path: Path, text: str | bytes | None, mistake: str) -> None:
    path = tmp_path / "p.toml"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(PlanError) as caught:
        read(path)
    assert mistake in caught.value.mistakes[0]


def test_what_the_load_is_told_survives_its_json() -> None:
    run = runs_of(plan(load={"shapes": {"x": [1, 3]}, "ranges": {"x": [-1, 1]}}))[0]
    spec = LoadSpec(run="r1", url="127.0.0.1:1", model="m", load=run.load, measure=run.measure)
    assert LoadSpec.model_validate_json(spec.model_dump_json()) == spec


def test_the_schema_for_editors_knows_every_section() -> None:
    schema = json.loads(json.dumps(Plan.model_json_schema()))
    assert set(schema["properties"]) == {"name", "server", "load", "measure", "slo", "sweep"}


def test_a_file_nested_too_deeply_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(PlanError, match="one mistake"):
        read(path)
