from __future__ import annotations

from prometheus_client import CollectorRegistry

from florence_operator.runtime.metrics import Metrics

FAMILIES = {
    "controller_runtime_reconcile_total": "counter",
    "controller_runtime_reconcile_errors_total": "counter",
    "controller_runtime_terminal_reconcile_errors_total": "counter",
    "controller_runtime_reconcile_time_seconds": "histogram",
    "controller_runtime_max_concurrent_reconciles": "gauge",
    "controller_runtime_active_workers": "gauge",
    "workqueue_depth": "gauge",
    "workqueue_adds_total": "counter",
    "workqueue_queue_duration_seconds": "histogram",
    "workqueue_work_duration_seconds": "histogram",
    "workqueue_retries_total": "counter",
    "rest_client_requests_total": "counter",
    "leader_election_master_status": "gauge",
    "florence_stages": "gauge",
    "florence_stages_not_heard": "gauge",
    "florence_attempts_total": "counter",
    "florence_gpu_seconds_used_total": "counter",
    "florence_gpu_seconds_lost_total": "counter",
    "florence_stage_seconds_total": "counter",
    "florence_node_strikes": "gauge",
    "florence_queued_seconds": "histogram",
    "florence_checkpoint_age_seconds": "gauge",
    "florence_status_writes_total": "counter",
    "florence_progress_reports_total": "counter",
}


def test_the_families_have_the_names_that_dashboards_know() -> None:
    text = Metrics(CollectorRegistry()).exposition().decode()
    types = dict(line.split()[2:] for line in text.splitlines() if line.startswith("# TYPE"))
    # The process's own, such as its memory, are there on Linux.
    assert {k: v for k, v in types.items() if not k.startswith("process_")} == FAMILIES


def test_a_controller_is_visible_before_its_first_reconcile() -> None:
    metrics = Metrics(CollectorRegistry())
    controller = metrics.controller("jobs", 50)
    controller.started()
    text = metrics.exposition().decode()
    assert 'controller_runtime_reconcile_total{controller="jobs",result="error"} 0.0' in text
    assert 'controller_runtime_max_concurrent_reconciles{controller="jobs"} 50.0' in text
    assert 'controller_runtime_active_workers{controller="jobs"} 1.0' in text
    assert "_created" not in text


def test_stages_that_are_gone_are_counted_no_more() -> None:
    metrics = Metrics(CollectorRegistry())
    metrics.count_stages({"Running": 3, "Queued": 1})
    metrics.count_stages({"Running": 2})
    values = {
        state: metrics.registry.get_sample_value("florence_stages", {"state": state})
        for state in ("Running", "Queued")
    }
    assert values == {"Running": 2, "Queued": 0}


def test_the_age_of_a_checkpoint_grows_until_the_job_ends() -> None:
    now = [1000.0]
    metrics = Metrics(CollectorRegistry(), clock=lambda: now[0])
    labels = {"namespace": "lab", "job": "a"}

    def age() -> float | None:
        return metrics.registry.get_sample_value("florence_checkpoint_age_seconds", labels)

    metrics.committed("lab", "a", at=990.0)
    assert age() == 10
    now[0] = 1100.0
    assert age() == 110
    metrics.committed("lab", "a", at=1095.0)
    assert age() == 5
    metrics.ended("lab", "a")
    metrics.ended("lab", "a")
    assert age() is None
