"""Prometheus' text format: the same samples as prometheus-client's parser finds, and broken pages are errors."""

from __future__ import annotations

import json

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from loadproof.collect.metrics_text import parse, values

PAGE = """\
# HELP ovms_requests_success Number of successful requests.
# TYPE ovms_requests_success counter
ovms_requests_success{api="KServe",interface="gRPC",method="ModelInfer",name="m",version="1"} 41
# TYPE ovms_inference_time_us histogram
ovms_inference_time_us_bucket{name="m",version="1",le="10"} 3
ovms_inference_time_us_sum{name="m",version="1"} 12.5

# TYPE python_gc_objects counter
python_gc_objects_total 7
"""
PROXIES = """\
haproxy_backend_http_requests_total{proxy="grpc_infer"} 8000
haproxy_backend_http_requests_total{proxy="rest_infer"} 16001
haproxy_backend_http_requests_total_other{proxy="rest_infer"} 9
haproxy_process_uptime_seconds 3
"""


def test_wanted_samples_keep_the_names_of_the_page() -> None:
    samples = parse(PAGE, ("ovms_",))
    assert {name: value for (name, _), value in samples.items()} == {
        "ovms_requests_success": 41,
        "ovms_inference_time_us_bucket": 3,
        "ovms_inference_time_us_sum": 12.5,
    }
    labels = next(labels for name, labels in samples if name == "ovms_requests_success")
    assert labels == json.dumps(
        {"api": "KServe", "interface": "gRPC", "method": "ModelInfer", "name": "m", "version": "1"}
    )


def test_it_finds_what_prometheus_client_s_parser_finds() -> None:
    registry = CollectorRegistry()
    text = 'a "quoted" } {, back\\slash = and a\nline \u00e4 1 2'
    Gauge("a", "A gauge.", ["x", "y"], registry=registry).labels(text, "").set(float("inf"))
    Counter("b", "Without labels.", registry=registry).inc(1e300)
    Histogram("c", "A histogram.", ["name"], registry=registry).labels("m").observe(0.3)
    page = generate_latest(registry).decode()
    expected = {
        (sample.name, json.dumps(sample.labels, sort_keys=True)): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }
    assert parse(page) == parse(page) == expected


def test_spaces_a_last_comma_and_a_timestamp_are_of_the_format() -> None:
    assert parse('a { x = "1" , } 3') == {("a", '{"x": "1"}'): 3}
    assert parse('a{x="1"} 3 1700000000000\nb 4 -1\nc\t5 ') == {("a", '{"x": "1"}'): 3, ("b", "{}"): 4, ("c", "{}"): 5}


@pytest.mark.parametrize(
    "line", ["ovms_a{", 'ovms_a{x="1"} abc', "ovms_a", "ovms_a{x=1} 3", 'ovms_a{x="1 2"}', 'ovms_a{x="1}"y="2"} 3']
)
def test_a_broken_page_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError, match="Prometheus' text format"):
        parse(line, "ovms_")


def test_values_are_those_of_the_name_that_have_the_labels() -> None:
    samples = parse(PROXIES)
    assert values(samples, "haproxy_backend_http_requests_total") == [8000, 16001]
    assert values(samples, "haproxy_backend_http_requests_total", proxy="rest_infer") == [16001]
    assert values(samples, "haproxy_process_uptime_seconds", proxy="rest_infer") == []
