"""Plans: everything that is accepted resolves to runs, and every mistake is told, all at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loadproof.errors import Exit, PlanError
from loadproof.plan import Plan, Run, read, resolve
from loadproof_clients.spec import Load, LoadSpec

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
            "nam: unknown key; allowed: did you mean name? " + ", ".join(Plan.model_fields),
            "server.hint: found \"fast\"; allowed: 'latency' or 'throughput'",
            "load.clientz: unknown key; allowed: did you mean clients? " + ", ".join(Load.model_fields),
            "load.clients: found 0; allowed: greater than or equal to 1",
            "load.protocol: found \"soap\"; allowed: 'grpc' or 'rest'",
            'load.payload: found "foo"; allowed: random, images, images:DIR, npy:FILE',
            "load.ranges: x: low 2.0 is over high 1.0",
            "measure.duration_s: found true; allowed: a valid number",
            "sweep: load.verify: found []; allowed: at least one value, in a list",
        ]
    )


@pytest.mark.parametrize(
    "server",
    [
        {"image": "openvino/model_server:2026.2", "cpus": "0-3,6", "cpu_limit": 2, "memory_mb": 2000},
        {
            "image": "registry.example:5000/a/b@sha256:0f",
            "engine": "ssh://me@h:22/run/user/1/docker.sock",
            "address": "h:1",
        },
        {"engine": "tcp://[2001:db8::7]:2376", "rest_address": "[2001:db8::7]:8000"},
    ],
)
def test_a_container_is_described(server: dict[str, Any]) -> None:
    (run,) = runs_of(plan(server={"model": "m", "launch": "docker", **server}))
    assert run.spec()["server"].items() >= {"model": "m", "launch": "docker", **server}.items()
    assert run.server.is_on_loopback == ("engine" not in server)


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
        ({"cpus": "0"}, 'server.cpus is for launch = "docker" only'),
        ({"image": "x"}, 'server.image is for launch = "docker" only'),
        ({"launch": "external", "address": "h:1", "engine": "tcp://h:2375"}, "server.engine is for launch"),
        ({"launch": "docker", "address": "h:1"}, 'server.address is for launch = "external", and for "docker"'),
        ({"launch": "docker", "metrics": "none"}, 'server.metrics is for launch = "external" only'),
        ({"launch": "docker", "engine": "tcp://h:2375"}, "server.engine needs server.address"),
        ({"launch": "docker", "engine": "unix:///x", "address": "h:1"}, 'server.engine: found "unix:///x"; allowed:'),
        ({"launch": "docker", "engine": "ssh://-oProxyCommand=x", "address": "h:1"}, "server.engine: found"),
        ({"launch": "docker", "cpus": "3-1"}, 'server.cpus: found "3-1"; allowed: numbers of CPUs'),
        ({"launch": "docker", "cpus": "all"}, 'server.cpus: found "all"; allowed: numbers of CPUs'),
        ({"launch": "docker", "cpu_limit": 0.0}, "server.cpu_limit: found 0.0"),
        ({"launch": "docker", "memory_mb": 1}, "server.memory_mb: found 1"),
        ({"launch": "docker", "image": "two words"}, "server.image: found"),
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
    grid = {"load.clients": [1, 4], "server.streams": [1, 2]}
    raw = plan(sweep={**grid, "order": "listed"}, measure={"repeats": 2})
    names = [run.name for run in runs_of(raw)]
    assert names == [
        f"clients={clients}, streams={streams} #{repeat}"
        for repeat in (1, 2)
        for clients in (1, 4)
        for streams in (1, 2)
    ]
    assert [run.load.clients for run in runs_of(raw)][:4] == [1, 1, 4, 4]


def test_a_random_order_is_seeded_and_each_block_has_every_point_once() -> None:
    def order(**sweep: Any) -> list[tuple[int, int]]:
        raw = plan(sweep={"load.clients": list(range(1, 9)), **sweep}, measure={"repeats": 3})
        return [(run.repeat, run.point) for run in runs_of(raw)]

    once = order(seed=1)
    assert [repeat for repeat, _ in once] == sorted([1, 2, 3] * 8)
    blocks = [[point for repeat, point in once if repeat == block] for block in (1, 2, 3)]
    assert all(sorted(block) == list(range(1, 9)) for block in blocks)
    assert len({tuple(block) for block in blocks}) == 3
    assert once == order(seed=1) == order() != order(seed=2)


def test_listed_points_are_runs_and_each_meets_every_combination() -> None:
    points = [{"load.clients": 1, "load.batch": 8}, {"load.clients": 8}]
    runs = runs_of(plan(sweep={"points": points, "order": "listed"}))
    assert [(run.load.clients, run.load.batch) for run in runs] == [(1, 8), (8, 1)]
    runs = runs_of(plan(sweep={"points": points, "server.streams": [1, 2], "order": "listed"}))
    assert [(run.load.clients, run.server.streams) for run in runs] == [(1, 1), (1, 2), (8, 1), (8, 2)]


@pytest.mark.parametrize("sweep", [{"clients": [1]}, {"points": [{"clients": 1}]}, {"orde": "random"}])
def test_what_cannot_be_swept_is_told(sweep: dict[str, Any]) -> None:
    (mistake,) = mistakes_of(plan(sweep=sweep))
    assert "allowed: points, order, seed" in mistake


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
    sections = {"server", "load", "measure", "slo", "sweep", "search", "tune", "sweet_spot", "cost", "power"}
    assert set(schema["properties"]) == {"name", *sections}


def test_a_file_nested_too_deeply_is_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("a = " + "[" * 100_000)
    with pytest.raises(PlanError, match="one mistake"):
        read(path)


TUNE = {"slo": {"p95_ms": 50}, "tune": {"streams": [1, 2, 4], "batch": [1, 8]}}


def test_a_tuning_begins_in_the_middle_and_drops_the_hint_that_streams_exclude() -> None:
    (run,) = runs_of({**plan(**TUNE), "server": {"model": "m", "hint": "latency"}})
    assert (run.name, run.server.streams, run.server.hint, run.load.batch) == ("streams=2, batch=1", 2, None, 1)


def test_another_batch_is_the_first_dimension_of_every_shape() -> None:
    (run,) = runs_of(plan(load={"shapes": {"x": [1, 3, 48, 192], "y": [1]}}, **TUNE))
    again = run.at({"load.batch": 8, "server.streams": 4}, point=2, repeat=3)
    assert (again.name, again.point, again.repeat) == ("batch=8, streams=4 #3", 2, 3)
    assert again.load.shapes == {"x": [8, 3, 48, 192], "y": [8]}
    assert again.at({"load.batch": 1, "server.streams": 2}).spec() == run.spec()


@pytest.mark.parametrize(
    ("raw", "mistake"),
    [
        ({"slo": {"error_rate": 0}}, "tune needs a latency limit"),
        ({"load": {"arrivals": "constant", "rate_rps": 5}}, 'tune needs load.arrivals = "closed"'),
        ({"sweep": {"load.clients": [1, 2]}}, "tune goes without [sweep]"),
        ({"tune": {"streams": [2]}}, "tune: give two values or more of at least one of streams, batch"),
        ({"tune": {"batch": [1, 1]}}, "tune: batch: a value stands there twice"),
        (
            {"tune": {"batch": [1, 2], "runs_max": 3}},
            "tune: runs_max = 3 is under two configurations of tries = 2 runs",
        ),
        ({"tune": {"batch": [0, 1]}}, "tune.batch.0: found 0; allowed: greater than or equal to 1"),
        ({"search": {"key": "load.clients", "low": 1}}, "search and tune: each chooses the runs"),
        ({"server": {"model": "m", "launch": "external", "address": "h:1"}}, "tune: an external server is measured"),
        ({"sweet_spot": {"p95_ms": 5, "p99_ms": 9}}, "sweet_spot: give one limit; found p95_ms, p99_ms"),
    ],
)
def test_a_tuning_without_sense_is_refused(raw: dict[str, Any], mistake: str) -> None:
    assert any(one.startswith(mistake) for one in mistakes_of({**plan(**TUNE), **raw}))


def test_rapl_is_of_this_machine_and_a_price_has_a_lifetime() -> None:
    for away in ({"launch": "external"}, {"launch": "docker", "engine": "tcp://h:2376"}):
        raw = {**plan(power={"source": "rapl"}), "server": {"model": "m", "address": "h:1", **away}}
        assert mistakes_of(raw)[0].startswith('power.source = "rapl" is of this machine')
    for cost in ({}, {"price": 5.0}, {"per_hour": 1.0, "price": 5.0, "lifetime_years": 1.0}):
        assert mistakes_of(plan(cost={"currency": "EUR", **cost})) == [
            "cost: give per_hour, or price and lifetime_years"
        ]
    assert mistakes_of(plan(cost={"per_hour": 1.0})) == ["cost.currency: missing; it has to be given"]


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * 2000 + "]" * 2000, "x = " + "[" * 40 + "]" * 40, ".".join("a" * 50_000) + " = 1"],
    ids=["too-deep-for-python", "too-deep-for-a-plan", "dotted"],
)
def test_a_plan_is_nested_within_reason(tmp_path: Path, text: str) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(f'name = "t"\n{text}\n')
    with pytest.raises(PlanError) as raised:
        read(path)
    assert "nested more than 32 deep" in raised.value.detail
