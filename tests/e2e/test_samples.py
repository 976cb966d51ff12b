"""The samples of the adaptations in their short forms, as stages of one job each."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.e2e import jobs
from tests.e2e.kube import Document, florencectl
from tools.samples import SAMPLES, metrics_of, of_stages, without_comparisons

ROOT = Path(__file__).parents[2]
POD = {"cpu": "250m", "memory": "3Gi"}


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["digits-video", "digits-detection", "digits-vision-language"])
def test_every_stage_of_a_sample_succeeds(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.yaml"
    job = on_cluster(name)
    file.write_text(yaml.safe_dump(job))
    short = of_stages(SAMPLES[name].short, job)
    settings = [word for each in short for word in ("--set", each)]
    florencectl("submit", "-f", str(file), *settings)
    florencectl("wait", name, "-n", jobs.NAMESPACE, "--for=succeeded", "--timeout=25m", limit=1600)

    status = jobs.status(name)
    assert {len(stage["attempts"]) for stage in status["stages"]} == {1}
    # So few steps learn nothing; they are measured.
    assert SAMPLES[name].chance.keys() <= metrics_of({"status": status}).keys()
    jobs.expect_nothing_left(name)
    jobs.delete(name)


def on_cluster(name: str) -> Document:
    """A sample as it is run on one machine, with an image, a storage and requests for its pods.

    Without what is there for comparison, and one stage after another: every pod makes its own
    digits first, and two cores that do that for ten pods at once do little else.
    """
    sample = yaml.safe_load((ROOT / f"jobs/samples/{name}.yaml").read_text())
    sample = without_comparisons(sample)
    small = jobs.small_job(name)
    spec = {
        **sample["spec"],
        **{key: small["spec"][key] for key in ("image", "artifacts", "runPolicy")},
        "stages": [
            {**stage, "resources": {**stage.get("resources", {}), **POD}}
            for stage in sample["spec"]["stages"]
        ],
    }
    for before, stage in pairwise(spec["stages"]):
        # A model comes from the first of these, as it did.
        stage["dependsOn"] = [*dict.fromkeys([*stage.get("dependsOn", ()), before["name"]])]
    return {**sample, "metadata": small["metadata"], "spec": spec}
