from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from loadproof_server.dataplane.metric_names import BUCKETS_US, METRICS
from loadproof_server.dataplane.metrics import Histogram, Metrics, total


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus's Python parser reads them: it gives a counter's samples the suffix _total where it is missing."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(row.name, tuple(sorted(row.labels.items()))): row.value for family in families for row in family.samples}


def as_text(metrics: Metrics) -> str:
    return metrics.render().decode()


def test_a_value_on_a_bound_is_in_the_bucket_below_it() -> None:
    histogram = Histogram()
    for value_us in (10, 10.5, 18, BUCKETS_US[-1], BUCKETS_US[-1] + 1):
        histogram.observe(value_us)
    assert histogram.counts[0] == 1
    assert histogram.counts[1] == 2
    assert histogram.counts[-2:] == [1, 1]


def test_prometheus_reads_the_names_and_labels_of_ovms() -> None:
    metrics = Metrics()
    model = metrics.add_model("m", "3", streams=2)
    model.interfaces["gRPC"].success = 5
    model.interfaces["REST"].fail = 1
    model.interfaces["gRPC"].request_time.observe(20)
    model.wait_time.observe(1)
    model.inference_time.observe(12.5)
    model.current_requests = 4
    found = samples(metrics)
    name_version = (("name", "m"), ("version", "3"))

    def requests(interface: str) -> tuple[tuple[str, str], ...]:
        return ("api", "KServe"), ("interface", interface), ("method", "ModelInfer"), *name_version

    assert found["ovms_streams", name_version] == 2
    assert found["ovms_current_requests", name_version] == 4
    assert found["ovms_requests_success_total", requests("gRPC")] == 5
    assert found["ovms_requests_success_total", requests("REST")] == 0
    assert found["ovms_requests_fail_total", requests("REST")] == 1
    assert found["ovms_request_time_us_sum", (("interface", "gRPC"), *name_version)] == 20
    assert found["ovms_request_time_us_bucket", (("interface", "gRPC"), ("le", "32"), *name_version)] == 1
    assert found["ovms_request_time_us_bucket", (("interface", "gRPC"), ("le", "18"), *name_version)] == 0
    assert found["ovms_inference_time_us_count", name_version] == 1
    assert found["ovms_wait_for_infer_req_time_us_bucket", (("le", "+Inf"), *name_version)] == 1


def test_lookups_are_counted_by_method_and_readiness_without_a_version() -> None:
    metrics = Metrics()
    metrics.add_model("m", "3", streams=2)
    metrics.count_lookup("gRPC", "ModelMetadata", "m", "3", success=True)
    metrics.count_lookup("REST", "ModelReady", "m", "", success=True)
    metrics.count_lookup("REST", "ModelReady", "", "", success=False)
    text = metrics.render().decode()
    labels = 'api="KServe",interface="{}",method="{}",name="{}"'
    assert f'ovms_requests_success{{{labels.format("gRPC", "ModelMetadata", "m")},version="3"}} 1\n' in text
    assert f"ovms_requests_success{{{labels.format('REST', 'ModelReady', 'm')}}} 1\n" in text
    assert f"ovms_requests_fail{{{labels.format('REST', 'ModelReady', '')}}} 1\n" in text
    assert f"ovms_requests_fail{{{labels.format('gRPC', 'ModelReady', 'm')}}} 0\n" in text


def test_only_the_listed_metrics_are_shown_and_all_can_be() -> None:
    metrics = Metrics(["ovms_infer_req_queue_size", "ovms_infer_req_active", "ovms_current_graphs"])
    model = metrics.add_model("m", "3", streams=2)
    model.queue_size = 4
    model.active = lambda: 3
    name_version = (("name", "m"), ("version", "3"))
    assert samples(metrics) == {
        ("ovms_infer_req_queue_size", name_version): 4,
        ("ovms_infer_req_active", name_version): 3,
    }
    assert "# TYPE ovms_current_graphs gauge\n" in metrics.render().decode()
    everything = Metrics(METRICS).render().decode()
    assert [name for name in METRICS if f"# HELP {name} " not in everything] == []
    assert "ovms_infer_req" not in Metrics().render().decode()


def test_counters_have_exactly_the_names_of_ovms() -> None:
    text = Metrics().render().decode()
    labels = 'api="KServe",interface="REST",method="ModelInfer",name="",version=""'
    assert f"ovms_requests_fail{{{labels}}} 0\n" in text
    assert f"ovms_requests_success{{{labels}}} 0\n" in text
    assert "_total" not in text
    assert "_created" not in text


def test_label_values_are_escaped() -> None:
    metrics = Metrics()
    metrics.add_model('a"b\\c\nd', "1", streams=1)
    assert samples(metrics)["ovms_streams", (("name", 'a"b\\c\nd'), ("version", "1"))] == 1


def test_the_total_of_several_processes_has_every_series_once_and_in_its_family() -> None:
    one, other = Metrics(METRICS), Metrics(METRICS)
    for metrics, requests in ((one, 2), (other, 3)):
        model = metrics.add_model("m \u2028 1 ", "1", streams=1)
        model.interfaces["gRPC"].success = requests
        model.current_requests = requests
        for value_us in range(requests):
            model.inference_time.observe(value_us * 20 + 0.0625)
    other.add_model("only", "1", streams=4)
    text = total([one.render(), other.render()]).decode()
    labels = 'name="m \u2028 1 ",version="1"'
    assert f'interface="gRPC",method="ModelInfer",{labels}}} 5\n' in text
    assert f"ovms_current_requests{{{labels}}} 5\n" in text
    assert f'ovms_inference_time_us_bucket{{{labels},le="10"}} 2\n' in text
    assert f'ovms_inference_time_us_bucket{{{labels},le="+Inf"}} 5\n' in text
    assert f"ovms_inference_time_us_sum{{{labels}}} 80.313\n" in text
    found, expected = (sorted(line.rpartition(" ")[0] for line in each.split("\n")) for each in (text, as_text(other)))
    assert found == expected
    families = [family.name for family in text_string_to_metric_families(text)]
    assert families == [family.name for family in text_string_to_metric_families(as_text(other))]
    assert total([one.render()]) == one.render()
