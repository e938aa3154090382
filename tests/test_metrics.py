"""What is counted, and how workers' numbers come out of the api's text."""

from types import SimpleNamespace

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.jobs import JobStatus, Priority, Timings, WorkerInfo
from service.metrics import ApiMetrics
from service.metrics_worker import EngineMetrics
from service.queue_records import Stage, StageDepth

ONE_LOW = {Stage.RUN: StageDepth(3, 1, {Priority.LOW: 3}, {Priority.LOW: 2.5})}


class Engine:
    """Just what is measured of it."""

    residency = SimpleNamespace(
        num_hits=5, num_host_hits=4, num_misses=2, num_evictions=1, load_s=0.5, resident_bytes=99
    )
    device_memory = {"allocated": 7}
    edit_memory = {"needed": 5, "budget": 9}
    num_short_of_memory = 2
    num_padding_rows = 3


def samples_of(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def published_by(metrics: EngineMetrics) -> str:
    return generate_latest(metrics.registry).decode()


def workers_called(*names: str) -> list[WorkerInfo]:
    return [WorkerInfo(name=name, role="worker", seen_at=1e9) for name in names]


def test_batch_is_counted_by_size_rows_and_plugins() -> None:
    metrics = EngineMetrics()
    metrics.observe_batch(("derain", "lowlight", "derain"), 0.2)
    metrics.observe_batch(("derain",), 0.1)
    value = metrics.registry.get_sample_value
    assert value("diffplugin_batches_total") == 2
    assert value("diffplugin_batch_size_sum") == 4
    assert value("diffplugin_steps_total") == 4
    assert value("diffplugin_rows_total", {"plugin": "derain"}) == 3
    assert value("diffplugin_rows_total", {"plugin": "lowlight"}) == 1


def test_only_batches_of_two_plugins_count_as_shared() -> None:
    metrics = EngineMetrics()
    metrics.observe_batch(("derain", "derain"), 0.1)
    assert metrics.registry.get_sample_value("diffplugin_shared_batches_total") == 0
    metrics.observe_batch(("derain", "desnow"), 0.1)
    assert metrics.registry.get_sample_value("diffplugin_shared_batches_total") == 1


def test_finished_job_is_counted_by_status_and_stage() -> None:
    metrics = EngineMetrics()
    timings = Timings(denoise_s=1.5, total_s=2.0)
    metrics.observe_job(JobStatus.SUCCEEDED, timings)
    value = metrics.registry.get_sample_value
    assert value("diffplugin_jobs_total", {"status": "succeeded"}) == 1
    assert value("diffplugin_stage_seconds_sum", {"stage": "denoise"}) == 1.5
    assert value("diffplugin_stage_seconds_count", {"stage": "plan"}) is None


def test_workers_metrics_come_out_of_the_api_labelled_by_worker() -> None:
    first, second = EngineMetrics(), EngineMetrics()
    first.observe_batch(("derain", "desnow"), 0.1)
    second.observe_batch(("derain",), 0.1)
    api = ApiMetrics()
    published = {"w1": published_by(first), "w2": published_by(second)}
    workers = workers_called(*published)
    api.see_queue(ONE_LOW, 4, workers, published)
    samples = samples_of(api.render())
    assert samples["diffplugin_shared_batches_total", (("worker", "w1"),)] == 1
    assert samples["diffplugin_rows_total", (("plugin", "derain"), ("worker", "w2"))] == 1
    assert samples["diffplugin_queue_depth", (("priority", "low"), ("stage", "run"))] == 3
    assert samples["diffplugin_queue_lag_seconds", (("priority", "low"), ("stage", "run"))] == 2.5
    assert samples["diffplugin_dead_letters", ()] == 4
    heartbeat = (("role", "worker"), ("worker", "w2"))
    assert samples["diffplugin_worker_heartbeat_timestamp_seconds", heartbeat] == 1e9
    assert samples["diffplugin_queue_running", (("stage", "run"),)] == 1
    assert samples["diffplugin_workers", (("role", "worker"),)] == 2
    assert samples["diffplugin_workers", (("role", "selector"),)] == 0


def test_each_family_is_declared_once_however_many_workers_there_are() -> None:
    text = published_by(EngineMetrics())
    api = ApiMetrics()
    api.see_queue({}, 0, [], {"w1": text, "w2": text})
    lines = api.render().decode().splitlines()
    assert len([line for line in lines if line == "# TYPE diffplugin_batch_size histogram"]) == 1


def test_lost_queue_clears_what_was_seen_of_it() -> None:
    api = ApiMetrics()
    api.see_queue(ONE_LOW, 0, workers_called("w1"), {"w1": published_by(EngineMetrics())})
    api.lose_queue()
    text = api.render().decode()
    assert "diffplugin_queue_up 0.0" in text
    assert 'stage="run"' not in text
    assert 'worker="w1"' not in text


def test_jobs_are_counted_by_each_plugin_and_how_they_ended() -> None:
    metrics = EngineMetrics()
    metrics.observe_job(JobStatus.SUCCEEDED, Timings(), ("derain", "lowlight"))
    metrics.observe_job(JobStatus.FAILED, Timings(), ("derain",), "edit_failed")
    metrics.observe_job(JobStatus.SUCCEEDED, Timings())
    value = metrics.registry.get_sample_value
    assert value("diffplugin_requests_total", {"plugin": "derain", "code": "ok"}) == 1
    assert value("diffplugin_requests_total", {"plugin": "derain", "code": "edit_failed"}) == 1
    assert value("diffplugin_requests_total", {"plugin": "lowlight", "code": "ok"}) == 1
    assert value("diffplugin_requests_total", {"plugin": "none", "code": "ok"}) == 1


def test_how_full_a_batch_was() -> None:
    metrics = EngineMetrics()
    metrics.observe_batch(("derain", "desnow"), 0.1, max_edits=8)
    value = metrics.registry.get_sample_value
    assert value("diffplugin_batch_occupancy_ratio_sum") == 0.25


def test_the_engines_own_numbers_are_read_when_they_are_asked_for() -> None:
    metrics = EngineMetrics(Engine())
    value = metrics.registry.get_sample_value
    assert value("diffplugin_padding_rows_total") == 3
    assert value("diffplugin_plugin_hits_total") == 5
    assert value("diffplugin_plugin_misses_total") == 2
    assert value("diffplugin_plugin_evictions_total") == 1
    assert value("diffplugin_plugin_load_seconds_total") == 0.5
    assert value("diffplugin_plugin_resident_bytes") == 99
    assert value("diffplugin_device_memory_bytes", {"kind": "allocated"}) == 7
    assert value("diffplugin_edit_memory_bytes", {"kind": "budget"}) == 9
    assert value("diffplugin_edits_short_of_memory") == 2
    assert value("diffplugin_process_resident_memory_bytes") > 10**6
