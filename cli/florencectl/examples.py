"""The examples under every command's help; a test runs the parser over each line.

Those of ``data import FORMAT`` are told by the format.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "submit": (
        "submit -f jobs/samples/digits.yaml --local",
        "submit -f job.yaml --set mixed.optimizer.lr=3e-4 --set mixed.steps=2000 --wait",
        "submit -f job.yaml --dry-run=server",
    ),
    "submit pretrain": (
        "submit pretrain --data s3://bucket/shards --batch-size 1024 --steps 20000 "
        "--preset coswin-t --gpus 8 --image florence-jobs:0.1.0 --artifacts s3://bucket/runs",
        "submit pretrain --data builtin:digits/train --batch-size 64 --steps 100 "
        "--resolution 64 --preset coswin-nano --set text.templates=digits --local",
    ),
    "submit finetune": (
        "submit finetune --mode head --data flowers/train --validation flowers/test "
        "--batch-size 64 --epochs 10 --from runs/default/web/pretrain --local",
        "submit finetune --mode linearProbe --data flowers/train --validation flowers/test "
        "--from runs/default/web/pretrain --local",
    ),
    "submit detection": (
        "submit detection --data shards/street --validation shards/street-val --batch-size 16 "
        "--epochs 12 --from runs/default/web/pretrain --local",
    ),
    "submit vlp": (
        "submit vlp --data shards/coco --roberta models/roberta-base --batch-size 256 --epochs 10 "
        "--resolution 384 --window 12 --from runs/default/web/pretrain --local",
    ),
    "submit vqa": (
        "submit vqa --data shards/vqa-train --validation shards/vqa-val --batch-size 256 "
        "--epochs 10 --set optimizer.lr=8e-6 --from runs/default/fusion/vlp --local",
    ),
    "submit caption": (
        "submit caption --data shards/coco-train --validation shards/coco-test --batch-size 256 "
        "--epochs 10 --from runs/default/fusion/vlp --local",
    ),
    "submit video": (
        "submit video --mode actions --data shards/k400-train --validation shards/k400-val "
        "--batch-size 64 --epochs 30 --from runs/default/web/pretrain --local",
        "submit video --mode retrieval --data shards/msrvtt-train --validation shards/msrvtt-1ka "
        "--batch-size 128 --epochs 5 --from runs/default/web/pretrain --local",
    ),
    "submit evaluate": (
        "submit evaluate --model runs/default/web/pretrain --local "
        "--set 'zeroShot=[{name: food, data: food101/test, prompts: food101}]'",
    ),
    "sweep": (
        "sweep -f job.yaml --local --set optimizer.lr=1e-4,3e-4 --set seed=0..2",
        "sweep -f job.yaml --set mixed.batchSize=1024,4096 --wait --metric eval/imagenet/top1",
    ),
    "get": ("get", "get digits -o yaml --local", "get -A -l team=vision", "get -w"),
    "top": ("top", "top -A --once", "top digits --local"),
    "describe": ("describe digits",),
    "why": ("why digits",),
    "events": ("events digits -w",),
    "logs": ("logs digits -f", "logs digits --stage mixed --attempt 1 --rank 0 --tail 50"),
    "evidence": (
        "evidence digits",
        "evidence digits --stage mixed --attempt 2 --rank 7",
        "evidence digits -o hang",
    ),
    "exec": ("exec digits", "exec digits --rank 3 -- nvidia-smi"),
    "stop": ("stop digits --local",),
    "wait": ("wait digits", "wait digits --for running --timeout 10m"),
    "suspend": ("suspend digits",),
    "resume": ("resume digits",),
    "retry": ("retry digits",),
    "delete": ("delete digits", "delete digits --artifacts --local", "delete -l team=vision --yes"),
    "artifacts ls": ("artifacts ls digits", "artifacts ls digits mixed/model"),
    "artifacts get": ("artifacts get digits mixed/model -o models/digits",),
    "storage prepare": (
        "storage prepare s3://florence/runs --endpoint http://minio:9000 -n vision -n speech "
        "--read digits",
        "storage prepare s3://florence/runs --endpoint http://minio:9000 -n vision "
        "--secret-out secrets.yaml",
    ),
    "storage check": (
        "storage check s3://florence/runs --endpoint http://minio:9000 -n vision --secret minio",
    ),
    "storage usage": (
        "storage usage s3://florence/runs --endpoint http://minio:9000 --by job",
        "storage usage s3://florence/runs -n vision -o json",
    ),
    "storage gc": (
        "storage gc s3://florence/runs --endpoint http://minio:9000",
        "storage gc s3://florence/runs -n vision --older-than 7d --yes",
    ),
    "doctor": ("doctor", "doctor -f jobs/samples/florence-h.yaml"),
    "plan": (
        "plan -f jobs/samples/florence-h.yaml",
        "plan --preset coswin-h --gpus 64 --gpu H100 --mfu 0.35",
    ),
    "predict": (
        "predict MODEL cat.jpg dog.png --labels 'cat,dog'",
        "predict MODEL cat.jpg --labels 'cat,dog' --templates imagenet -o json",
    ),
    "embed": (
        "embed MODEL cat.jpg dog.png caption.txt -o embeddings.npz",
        "embed MODEL images -o embeddings.parquet",
        "embed MODEL cat.jpg -o json",
    ),
    "search": ('search MODEL index.npz "a person skating" --top 5',),
    "model import": (
        "model import swin_tiny.safetensors OUT",
        "model import swin_base.safetensors clip_text.pt OUT --text-heads 8",
    ),
    "export": (
        "export MODEL exported --format hf",
        "export MODEL exported --format onnx",
        "export MODEL exported --format timm",
        "export models:/web-contrastive@champion s3://bucket/web --format safetensors",
    ),
    "models list": ("models list", "models list digits-contrastive -o wide"),
    "models show": ("models show digits-contrastive@champion",),
    "models promote": (
        "models promote digits-contrastive --if 'digits/top1 >= champion + 0.002'",
        "models promote digits-contrastive/3 --to staging",
    ),
    "models alias": (
        "models alias digits-contrastive/2 champion",
        "models alias digits-contrastive staging --delete",
    ),
    "models lineage": ("models lineage digits-classification@champion -o wide",),
    "models compare": ("models compare digits-contrastive@champion digits-contrastive@candidate",),
    "models export": ("models export digits-contrastive@champion exported/digits --format hf",),
    "pipeline list": ("pipeline list",),
    "pipeline compile": ("pipeline compile pretrain-and-adapt -f pipeline.yaml",),
    "pipeline run": (
        "pipeline run pretrain-and-adapt --local",
        "pipeline run finetune-and-promote --local --set job=@job.yaml --set model=MODEL "
        "--set evaluation=@evaluation.yaml",
    ),
    "pipeline submit": (
        "pipeline submit finetune-and-promote --endpoint http://kfp:8888 --set job=@job.yaml "
        "--set model=models:/web-contrastive@champion --set evaluation=@evaluation.yaml",
        "pipeline submit nightly-evaluation --endpoint http://kfp:8888 --cron '0 2 * * *' "
        "--set model=models:/web-contrastive@champion --set evaluation=@evaluation.yaml "
        "--set gate='food/top1 > 0.8'",
    ),
    "data index": (
        "data index shards/web",
        "data index s3://bucket/web --endpoint http://minio:9000",
    ),
    "data check": ("data check shards/web",),
    "data digits": ("data digits shards/digits",),
    "data pseudo-label": (
        "data pseudo-label runs/boxes/model shards/imagenet shards/imagenet-boxes --threshold 0.5",
    ),
    "data curate": ("data curate shards/web shards/clean --against food101/test",),
    "serve": ("serve MODEL", "serve s3://bucket/model --endpoint http://minio:9000 --port 5002"),
    "ui": ("ui", "ui --port 5001"),
    "completion": ("completion bash",),
    "version": ("version",),
}


def examples_text(lines: Sequence[str], program: str) -> str:
    """The last part of a command's help."""
    shown = "\n".join(f"  {program} {line}" for line in lines)
    return f"\b\nExamples:\n{shown}"


def with_examples(command: Any, path: str, program: str) -> Any:
    """A Click command whose help, and that of its sub-commands, ends with its examples."""
    if path in EXAMPLES:
        command.epilog = examples_text(EXAMPLES[path], program)
    for name, below in getattr(command, "commands", {}).items():
        with_examples(below, f"{path} {name}", program)
    return command
