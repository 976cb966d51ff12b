"""The paper's open-set detection benchmarks as jobs: eleven Roboflow sets (its table 7).

``python -m florence_jobs.recipes.roboflow NAME --data FOLDER --model MODEL [--shots K]`` prints a
FlorenceJob for ``florencectl submit -f`` or, over the protocol's three seeds, ``florencectl sweep
-f … --set shotsSeed=3,30,300``. FOLDER holds ``train``, ``valid`` and ``test``, each as
``florencectl data import roboflow EXPORT FOLDER/train --split train`` writes it.

The protocol of training is GLIP's (arXiv 2112.03857, 5.3), as the paper's table has it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence

from florence.config import EngineKind, Evaluate, ModelConfig, Optimizer, Schedule
from florence.config.detection import Detection as BoxEvaluation
from florence.config.detection import Inference
from florence.tasks.detection.augmentation import DetectionAugmentation
from florence.tasks.detection.few_shot import COPIES, EPOCHS, SEEDS
from florence.tasks.detection.roboflow import ROBOFLOW, RoboflowSet
from florence.tasks.detection.settings import Detection
from florence_operator.api import FlorenceJob, JobSpec, Stage, to_yaml
from florence_operator.api.v1alpha1 import API_VERSION, KIND, Metadata, Resources

BATCH = 4
INFERENCE = Inference()


def roboflow_training(name: str, data: str, model: str, *, shots: int | None = 5) -> FlorenceJob:
    """Fine-tuning on ``shots`` boxes of every class, or on all images, then AP on the test split.

    Training reads the validation split once an epoch: the rate falls tenfold when it has not risen
    in a while, training ends later, and the best model is what is tested.

    Args:
        name: of the benchmark, such as ``aquarium``.
        data: folder or ``s3://`` prefix of the three splits.
        model: the detector to start from.
        shots: 1, 3, 5 or 10; None for all images.

    Raises:
        KeyError: there is no such benchmark, or no such number of shots.
    """
    known = ROBOFLOW[name]
    copies = 1 if shots is None else COPIES[shots]
    # At most as many images are chosen as boxes are asked for.
    images = known.images if shots is None else min(known.images, shots * len(known.classes))
    patience, stop = (2, 4) if shots is None else (3, 8)
    settings = Detection(
        data=f"{data}/train",
        validation=f"{data}/valid",
        classes=len(known.classes),
        shots=shots,
        shots_seed=SEEDS[0],
        batch_size=BATCH,
        epochs=EPOCHS * copies,
        resolution=800,
        frozen_stages=2,
        boxes=DetectionAugmentation(short_side_min=480, short_side_max=800, max_side=1_333),
        optimizer=Optimizer(
            lr=1e-4,
            weight_decay=0.05,
            schedule=Schedule.PLATEAU,
            # torch's schedule lets `patience` evaluations pass and falls at the next one.
            patience=patience + 1,
            warmup_steps=0,
            beta2=0.999,
            eps=1e-8,
            clip_norm=1.0,
        ),
        evaluate_every_steps=math.ceil(images * copies / BATCH),
        keep_best=True,
        early_stop=stop,
        engine=EngineKind.TORCH,
        inference=INFERENCE,
    )
    train = Stage(name="train", initial_model=model, resources=_one_gpu(), detection=settings)
    test = Stage(name="test", depends_on=("train",), resources=_one_gpu(), evaluate=_test(data))
    return _job(f"{name}-{'full' if shots is None else f'{shots}-shot'}", known, (train, test))


def roboflow_zero_shot(name: str, data: str, model: str) -> FlorenceJob:
    """AP on the test split of a zero-shot detector that is told the classes' names.

    Args:
        name: of the benchmark, such as ``aquarium``.
        data: folder or ``s3://`` prefix of the splits.
        model: a zero-shot detector.

    Raises:
        KeyError: there is no such benchmark.
    """
    stage = Stage(name="test", initial_model=model, resources=_one_gpu(), evaluate=_test(data))
    return _job(f"{name}-zero-shot", ROBOFLOW[name], (stage,))


def _test(data: str) -> Evaluate:
    return Evaluate(
        detection=(BoxEvaluation(name="boxes", data=f"{data}/test", inference=INFERENCE),)
    )


def _one_gpu() -> Resources:
    return Resources(workers=1, gpus_per_worker=1)


def _job(name: str, known: RoboflowSet, stages: tuple[Stage, ...]) -> FlorenceJob:
    annotations = {
        "florence.dev/benchmark": known.name,
        "florence.dev/paper-zero-shot": str(known.zero_shot),
        "florence.dev/paper-five-shot": str(known.five_shot),
    }
    return FlorenceJob(
        api_version=API_VERSION,
        kind=KIND,
        metadata=Metadata(name=name, annotations=annotations),
        spec=JobSpec(model=ModelConfig(preset="coswin-h"), stages=stages),
    )


def main(arguments: Sequence[str]) -> int:
    """Print the job that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m florence_jobs.recipes.roboflow")
    parser.add_argument("name", choices=ROBOFLOW, metavar="NAME", help=", ".join(ROBOFLOW))
    parser.add_argument("--data", required=True, help="folder of train, valid and test")
    parser.add_argument("--model", required=True, help="URI of the detector")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--shots", type=int, choices=COPIES, help="default: all images")
    how.add_argument("--zero-shot", action="store_true", help="no training")
    given = parser.parse_args(arguments)
    data = given.data.rstrip("/")
    if given.zero_shot:
        job = roboflow_zero_shot(given.name, data, given.model)
    else:
        job = roboflow_training(given.name, data, given.model, shots=given.shots)
    print(to_yaml(job.manifest()), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
