from __future__ import annotations

from pathlib import Path

import pytest

from florence.config import Training
from florence.planner import GPUS, StageRequest, estimate_job
from florence.planner.memory import memory_per_gpu
from florence.planner.sizes import image_stages
from florence.tasks.detection.settings import Detection
from florence.tasks.finetune.settings import Finetune
from florence.tasks.pretrain.settings import Pretrain
from florence.tasks.video.settings import Video
from florence_jobs.recipes.detection import (
    FLOD_BOXES,
    FLOD_IMAGES,
    coco_detection,
    flod_pretraining,
    objects365_detection,
    visual_genome_detection,
    zero_shot_detection,
)
from florence_jobs.recipes.finetuning import imagenet_finetune, retrieval_finetune
from florence_jobs.recipes.florence import florence_h
from florence_jobs.recipes.florence_all import florence_all
from florence_jobs.recipes.registry import RECIPES, write_samples
from florence_jobs.recipes.roboflow import main as print_roboflow
from florence_jobs.recipes.video import kinetics, msrvtt_zero_shot
from florence_operator.api import FlorenceJob, load_job

SAMPLES = Path(__file__).parents[2] / "jobs" / "samples"


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_sample_is_the_recipe_written_out(name: str) -> None:
    assert load_job(SAMPLES / f"{name}.yaml").spec == RECIPES[name].job().spec
    assert (SAMPLES / f"{name}.yaml").read_text() == RECIPES[name].sample()


def test_the_papers_schedule() -> None:
    stages = [s.config for s in florence_h().spec.stages if isinstance(s.config, Pretrain)]
    assert [s.steps for s in stages] == [1_000_000, 180_000, 80_000]
    assert {s.batch_size for s in stages} == {24_576}
    assert [s.resolution for s in stages] == [224, 224, 384]
    assert [s.exclude_augmented for s in stages] == [False, True, True]
    assert all(
        s.resources.processes == 512 for s in florence_h().spec.stages if s.kind.name == "pretrain"
    )


def test_a_stale_sample_is_found(tmp_path: Path) -> None:
    assert write_samples(tmp_path, check=True) == 1
    assert write_samples(tmp_path, check=False) == 0
    assert write_samples(tmp_path, check=True) == 0
    (tmp_path / "digits.yaml").write_text("# changed\n")
    assert write_samples(tmp_path, check=True) == 1


def test_the_papers_fine_tunings() -> None:
    (imagenet,), (retrieval,) = imagenet_finetune().spec.stages, retrieval_finetune().spec.stages
    first, second = imagenet.config, retrieval.config
    assert isinstance(first, Finetune)
    assert isinstance(second, Finetune)
    assert (first.mode, second.mode) == ("contrastive", "retrieval")
    assert (first.resolution, first.batch_size, first.epochs) == (512, 8_192, 10)
    assert (second.resolution, second.batch_size, second.epochs) == (384, 3_072, 12)
    assert [c.optimizer.lr for c in (first, second)] == [2e-5, 2e-5]
    assert [c.optimizer.warmup_steps for c in (first, second)] == [500, 200]
    assert first.prompts == "imagenet"
    assert second.pairs.label == "image"
    # Windows tile the maps of all four stages at these resolutions.
    for stage in (imagenet, retrieval):
        config, preset = stage.config, florence_h().spec.model.architecture()
        assert isinstance(config, Finetune)
        maps = image_stages(preset.image, config.resolution, config.window)
        assert all(each.side == each.padded for each in maps)


@pytest.mark.parametrize("job", [imagenet_finetune(), retrieval_finetune()])
def test_fine_tunings_fit_their_gpus(job: FlorenceJob) -> None:
    (stage,) = job.spec.stages
    assert isinstance(stage.config, Finetune)
    assert stage.kind.cost is not None
    memory = memory_per_gpu(
        job.spec.model.architecture(),
        stage.config,
        cost=stage.kind.cost,
        processes=stage.resources.processes,
        cuda=True,
    )
    assert memory.total < 40e9


@pytest.mark.parametrize(
    ("job", "epochs", "classes", "side"),
    [
        (flod_pretraining(), None, 25_190, 1_333),
        (coco_detection(), 12, 80, 2_500),
        (objects365_detection(), 12, 365, 1_333),
        (visual_genome_detection(), 24, 1_594, 3_000),
        (zero_shot_detection(), None, 25_190, 1_333),
    ],
)
def test_the_papers_detectors(
    job: FlorenceJob, epochs: float | None, classes: int, side: int
) -> None:
    (stage,) = job.spec.stages
    config = stage.config
    assert isinstance(config, Detection)
    assert (config.epochs, config.classes, config.boxes.max_side) == (epochs, classes, side)
    assert config.optimizer.lr == 1e-4
    assert config.optimizer.decay_at == (0.67, 0.89)
    assert config.tower_lr_scale == 0.1


def test_pretraining_on_flod_is_the_papers() -> None:
    """12 epochs of 8,967,286 images at 128 are 840,683 steps; in 7 days one takes 0.72 s."""
    (stage,) = flod_pretraining().spec.stages
    config = stage.config
    assert isinstance(config, Detection)
    assert (config.steps, config.batch_size) == (840_683, 128)
    assert stage.resources.processes == 128
    assert config.samples_per_process(128) == 1
    assert pytest.approx(3.73, abs=0.005) == FLOD_BOXES / FLOD_IMAGES
    assert stage.kind.cost is not None
    request = StageRequest(
        name=stage.name,
        settings=config,
        cost=stage.kind.cost,
        processes=128,
        gpu=GPUS["A100-40GB"],
    )
    estimate = estimate_job(flod_pretraining().spec.model.architecture(), [request], days=7)
    pace = estimate.stages[0].pace
    assert pace is not None
    assert pace.step_seconds == pytest.approx(0.72, abs=0.005)
    assert pace.samples_per_second == pytest.approx(178, abs=0.5)


def test_the_zero_shot_detector_leaves_the_towers_alone() -> None:
    (stage,) = zero_shot_detection().spec.stages
    config = stage.config
    assert isinstance(config, Detection)
    assert (config.class_agnostic, config.frozen_tower) == (True, True)
    assert stage.kind.makes(config) == "zeroShotDetection"


def test_a_roboflow_benchmark_is_printed_as_a_job(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def printed(*options: str) -> FlorenceJob:
        assert print_roboflow(["aquarium", "--data", "s3://a/", "--model", "s3://m", *options]) == 0
        path = tmp_path / "job.yaml"
        path.write_text(capsys.readouterr().out)
        return load_job(path)

    few = printed("--shots", "5")
    train, test = few.spec.stages
    assert isinstance(train.config, Detection)
    assert few.metadata.name == "aquarium-5-shot"
    assert (train.config.classes, train.config.shots, train.config.shots_seed) == (7, 5, 3)
    # 35 images at most, twice each in an epoch, 4 a step; 200 such epochs.
    assert (train.config.epochs, train.config.evaluate_every_steps) == (400, 18)
    assert (train.config.optimizer.patience, train.config.early_stop) == (4, 8)
    assert test.depends_on == ("train",)
    whole = printed().spec.stages[0].config
    assert isinstance(whole, Detection)
    assert (whole.shots, whole.epochs, whole.early_stop) == (None, 200, 4)
    (zero,) = printed("--zero-shot").spec.stages
    assert zero.initial_model == "s3://m"
    with pytest.raises(SystemExit):
        printed("--shots", "7")


def test_the_papers_kinetics() -> None:
    (stage,) = kinetics().spec.stages
    settings = stage.config
    assert isinstance(settings, Video)
    assert (settings.resolution, settings.epochs, settings.optimizer.lr) == (384, 30, 2e-4)
    assert (settings.drop_path, settings.views.spans, settings.views.crops) == (0.5, 4, 3)
    assert (settings.clip.frames, settings.clip.stride) == (32, 2)
    assert settings.head.tower_lr_scale == 0.1
    again = FlorenceJob.model_validate(kinetics().manifest())
    assert again.spec == kinetics().spec


def test_msrvtt_is_measured_by_the_protocol_of_1ka() -> None:
    (stage,) = msrvtt_zero_shot().spec.stages
    (one,) = stage.config.video_retrieval
    assert (one.frames, one.captions_per_clip) == (12, 1)
    assert not one.dual_softmax


def test_the_whole_paper_is_one_job_with_a_price() -> None:
    job = florence_all()
    after = {stage.name: stage.depends_on for stage in job.spec.stages}
    assert after == {
        "mixed": (),
        "clean": ("mixed",),
        "high-resolution": ("clean",),
        "imagenet": ("high-resolution",),
        "boxes": ("high-resolution",),
        "vlp": ("high-resolution",),
        "vqa": ("vlp",),
        "caption": ("vlp",),
        "kinetics": ("high-resolution",),
        "evaluate": ("high-resolution",),
    }
    requests = [
        StageRequest(
            name=stage.name,
            settings=stage.config,
            cost=stage.kind.cost,
            processes=stage.resources.processes,
            gpu=GPUS["A100-40GB"],
        )
        for stage in job.spec.stages
        if isinstance(stage.config, Training) and stage.kind.cost is not None
    ]
    assert len(requests) == len(after) - 1
    estimate = estimate_job(job.spec.model.architecture(), requests, mfu=0.3)
    prices = {stage.name: stage for stage in estimate.stages}
    # 30 epochs of 240,000 clips by 64.
    assert prices["kinetics"].steps == 112_500
    assert prices["imagenet"].steps == pytest.approx(10 * 1_281_167 / 8_192, abs=1)
    assert all(stage.pace is not None and stage.pace.days > 0 for stage in estimate.stages)
