from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from server.metric_names import BUCKETS_US
from server.metrics import Histogram, Metrics


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """As Prometheus's Python parser reads them: it gives a counter's samples the suffix _total where it is missing."""
    families = text_string_to_metric_families(metrics.render().decode())
    return {(row.name, tuple(sorted(row.labels.items()))): row.value for family in families for row in family.samples}


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
