"""What is counted, and how workers' numbers come out of the api's text."""

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.jobs import JobStatus, Timings, WorkerInfo
from service.metrics import ApiMetrics, EngineMetrics


def samples_of(text: bytes) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def published_by(metrics: EngineMetrics) -> str:
    return generate_latest(metrics.registry).decode()


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
    workers = [WorkerInfo(name=name, role="worker") for name in published]
    api.see_queue({("run", "low"): 3}, {"run": 1}, workers, published)
    samples = samples_of(api.render())
    assert samples["diffplugin_shared_batches_total", (("worker", "w1"),)] == 1
    assert samples["diffplugin_rows_total", (("plugin", "derain"), ("worker", "w2"))] == 1
    assert samples["diffplugin_queue_depth", (("priority", "low"), ("stage", "run"))] == 3
    assert samples["diffplugin_queue_running", (("stage", "run"),)] == 1
    assert samples["diffplugin_workers", (("role", "worker"),)] == 2
    assert samples["diffplugin_workers", (("role", "selector"),)] == 0


def test_each_family_is_declared_once_however_many_workers_there_are() -> None:
    text = published_by(EngineMetrics())
    api = ApiMetrics()
    api.see_queue({}, {}, [], {"w1": text, "w2": text})
    lines = api.render().decode().splitlines()
    assert len([line for line in lines if line == "# TYPE diffplugin_batch_size histogram"]) == 1


def test_lost_queue_clears_what_was_seen_of_it() -> None:
    api = ApiMetrics()
    api.see_queue({("run", "low"): 3}, {"run": 1}, [], {"w1": published_by(EngineMetrics())})
    api.lose_queue()
    text = api.render().decode()
    assert "diffplugin_queue_up 0.0" in text
    assert 'stage="run"' not in text
    assert 'worker="w1"' not in text
