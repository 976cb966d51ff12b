"""What the commands of the pages find around them: files, models, jobs, a bucket and a cluster."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

from florence.checkpoint import write_final_model
from florence.config.storage import S3Settings
from florence.models.stored import ModelCard, model_bytes
from florence.storage import open_storage
from florence_jobs.local import Records
from florence_jobs.local.records import WORKING_DIRECTORY
from florence_operator.api import FlorenceJob, JobStatus, StageStatus, State
from florence_operator.api.status import Attempt
from florence_operator.kube.resources import FLORENCE_JOBS
from tests.cli import cluster_objects
from tests.cli.cluster_server import ServedCluster
from tests.cli.test_evidence import fill as leave_evidence
from tests.cli.test_submit import job
from tests.florence.data.making import picture, write_samples
from tests.florence.models.importing.foreign import EMBED, clip_text, swin, unicl
from tests.small_model import CARD, model_files, network, save

STANDING_FOR = {
    "http://minio:9000": "$FLORENCE_S3_ENDPOINT",
    "NAMESPACE": "team",
    "JOB": "big",
    "STAGE": "mixed",
}
"""What the pages write where everybody has something else."""


def lay_out(folder: Path) -> None:
    """The files that the pages name."""
    save(folder / "MODEL")
    for name in ("cat.jpg", "dog.jpg", "photo.jpg", "digit.png"):
        (folder / name).write_bytes(picture(len(name), 64, 64, _kind(name)))
    for path in ("images/a.jpg", "images/b.jpg", "more/a/b.png", "photos/old.jpg"):
        _put(folder / path, picture(len(path), 48, 40, _kind(path)))
    for parent in ("photos/train", "pets/train"):
        for number, animal in enumerate(("cat", "dog", "cat", "dog")):
            path = folder / parent / animal / f"{number}.jpg"
            _put(path, picture(number, 260, 220, "JPEG"))
    _put(folder / "texts/one.txt", b"the number one\n")
    _put(folder / "yesterday", b"")
    os.utime(folder / "yesterday", (0, 0))
    names = sorted(str(p.relative_to(folder / "photos")) for p in folder.glob("photos/train/*/*"))
    rows = "".join(f"{name},a fine picture of number {i}\n" for i, name in enumerate(names))
    _put(folder / "pairs.csv", f"image,title\n{rows}".encode())
    captions = [{"raw": "one animal"}, {"raw": "an animal, seen from afar"}]
    images = [{"filename": name, "split": "test", "sentences": captions} for name in names]
    _put(folder / "dataset_coco.json", json.dumps({"images": images}).encode())
    web = [
        (f"{i}", {"jpg": picture(i, 256, 224, "JPEG"), "txt": f"thing number {i}".encode()})
        for i in range(4)
    ]
    write_samples(folder / "shards/web/00000.tar", web)
    _foreign_models(folder)
    for name, document in (("job.yaml", job()), ("jobs/samples/digits.yaml", _short_digits())):
        _put(folder / name, yaml.safe_dump(document).encode())
    for sample in ("florence-h", "digits-finetune", "digits-vision-language"):
        text = (Path(__file__).parents[2] / f"jobs/samples/{sample}.yaml").read_bytes()
        _put(folder / f"jobs/samples/{sample}.yaml", text)


def fill_home(home: Path, user: Path) -> None:
    """Jobs that have run on this machine, and a classifier where such a job leaves it.

    Args:
        home: the home folder of florence.
        user: that of the user.
    """
    records = Records(home)
    stopped = FlorenceJob.model_validate(job())
    where = {WORKING_DIRECTORY: str(Path.cwd())}
    metadata = stopped.metadata.model_copy(update={"name": "cats", "annotations": where})
    ended = Attempt(number=1, start_time=_TIME, completion_time=_TIME, exit_code=143)
    stage = StageStatus(name="mixed", state=State.SUSPENDED, attempts=(ended,))
    status = JobStatus(phase=State.SUSPENDED, start_time=_TIME, stages=(stage,))
    cats = stopped.model_copy(update={"metadata": metadata, "status": status})
    records.save(cats)
    _put(records.log_file(cats, "mixed", 1), b"[rank 0] INFO Step 1\n")
    labels = tuple("0123456789")
    head = {"weight": torch.zeros(10, 8 * CARD.architecture.image.width), "bias": torch.zeros(10)}
    tensors = {f"head.fc.{name}": tensor for name, tensor in head.items()}
    tensors |= {k: v for k, v in network().state_dict().items() if k.startswith("image.")}
    made = {"classes": 10, "dropout": 0.0, "exclusive": True}
    card = ModelCard(**{**dict(CARD), "task": "classification", "labels": labels, "head": made})
    folder = user / ".florence/artifacts/default/probe/finetune/model"
    for name, content in model_bytes(tensors, card).items():
        _put(folder / name, content)


def fill_buckets(s3: S3Settings, files: Path) -> None:
    """Shards, models and a photo under the URIs that the pages name.

    Args:
        files: where :func:`lay_out` has been.
    """
    import boto3

    client = boto3.client("s3", endpoint_url=s3.endpoint, region_name="us-east-1")
    known = {bucket["Name"] for bucket in client.list_buckets()["Buckets"]}
    for name in {"bucket", "florence", "photos"} - known:
        client.create_bucket(Bucket=name)
    for uri in ("runs/default/cats/clean", "runs/default/digits/mixed"):
        write_final_model(open_storage(f"s3://florence/{uri}", s3), model_files(), attempt=1)
    open_storage("s3://photos", s3).write("cat.jpg", picture(0, 64, 64, "JPEG"))
    shard = (files / "shards/web/00000.tar").read_bytes()
    open_storage("s3://bucket/shards", s3).write("00000.tar", shard)


def fill_cluster(cluster: ServedCluster, phase: str, s3: S3Settings) -> None:
    """The jobs that the pages ask a cluster about, in the same state, and what they left."""
    state = "Succeeded" if phase == "Succeeded" else "Running"
    for name, namespace in (("big", "team"), ("digits-cluster", "florence"), ("job", "vision")):
        ended: dict[str, Any] = {"completionTime": cluster_objects.FIVE_MINUTES_AGO}
        attempts = [
            cluster_objects.attempt(**ended, cause="Stalled"),
            cluster_objects.attempt(2, **(ended if phase == "Succeeded" else {})),
        ]
        document = cluster_objects.job(
            phase, cluster_objects.stage("mixed", state, attempts=attempts)
        )
        document["metadata"] |= {"name": name, "namespace": namespace}
        cluster.put(document)
        made = cluster.do(lambda server, of=(namespace, name): server.get(FLORENCE_JOBS, *of))
        folder = f"{namespace}/{name}-{made['metadata']['uid'][:8]}/mixed"
        left = open_storage(f"s3://florence/runs/{folder}", s3)
        leave_evidence(left, "logs/attempt-2", "logs/attempt-1")
        left.write("model/config.json", b"{}")


_TIME = "2026-01-01T00:00:00Z"


def _short_digits() -> dict[str, Any]:
    document = job(steps=60, checkpoints={"everySteps": 5})
    document["metadata"]["name"] = "digits"
    document["spec"]["stages"] = document["spec"]["stages"][:1]
    return document


def _foreign_models(folder: Path) -> None:
    """Checkpoints of other projects, by all the names that the pages give them."""
    image, text = swin(), clip_text(quick=True)
    for name in ("swin.pth", "swin_tiny.pth"):
        torch.save(image.state_dict(), folder / name)
    torch.save(text.state_dict(), folder / "clip.pt")
    tensors = {name: tensor.contiguous() for name, tensor in text.state_dict().items()}
    save_file(tensors, folder / "clip_text.safetensors")
    state = unicl(image, text, torch.randn(128, EMBED), torch.tensor(3.5))
    torch.save({"model": state}, folder / "unicl.pth")


def _kind(name: str) -> str:
    return "PNG" if name.endswith("png") else "JPEG"


def _put(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
