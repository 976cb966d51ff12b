"""How fast a detector's parts are, beside torchvision's; with CUDA also CoSwin-H at 800 x 1333.

    python tests/benchmarks/bench_detection.py                 # ratios on this machine
    python tests/benchmarks/bench_detection.py --only nms      # or atss, deform, step, huge
    python tests/benchmarks/bench_detection.py --device cuda   # and CoSwin-H: images/s, MFU

What is compared takes turns within every round, so that whatever else the machine does meets all of
it; a ratio is the median over rounds of the ratio within a round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection import RetinaNet
from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelP6P7

sys.path.insert(0, str(Path(__file__).parents[2]))
from florence.config import ActivationCheckpointing, Precision, architecture_of
from florence.distributed.world import World
from florence.models.compilation import compile_blocks
from florence.models.image import CoSwin
from florence.models.precision import autocast
from florence.planner.memory import memory_per_gpu
from florence.planner.speed import gpu_named
from florence.tasks.detection import deformable
from florence.tasks.detection.anchors import anchors, levels_of
from florence.tasks.detection.assign import assign
from florence.tasks.detection.batch import DetectionBatch, Target
from florence.tasks.detection.boxes import centres, pairwise_iou
from florence.tasks.detection.cost import DetectionCost, planned_side
from florence.tasks.detection.detector import Detector, build_detector
from florence.tasks.detection.nms import nms, plain_nms
from florence.tasks.detection.objective import DetectionObjective
from florence.tasks.detection.settings import Detection, DetectionLoss
from florence.tasks.detection.shape import DetectorShape
from tests.benchmarks.cuda_steps import measured

Step = Callable[[], object]
STRIDES = (8, 16, 32, 64, 128)
CLASSES = 80
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def interleaved(steps: Mapping[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of every variant in every round, after one round of warming up."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for number in range(rounds + 1):
        for name in list(steps) if number % 2 else list(reversed(steps)):
            start = clock()
            steps[name]()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if number:
                times[name].append(clock() - start)
    return times


def report(title: str, times: dict[str, list[float]], baseline: str) -> None:
    """Milliseconds of each and its time over the baseline's, a median over rounds."""
    print(f"\n{title}")
    for name, seconds in times.items():
        ratios = [own / base for base, own in zip(times[baseline], seconds, strict=True)]
        print(
            f"  {name:28} {1e3 * statistics.median(seconds):9.3f} ms "
            f"(best {1e3 * min(seconds):.3f})   {statistics.median(ratios):6.3f} x {baseline}"
        )


def random_boxes(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Boxes of 10 to 200 pixels in an image of this size."""
    generator = torch.Generator().manual_seed(seed)
    side = 10 + 190 * torch.rand(count, 2, generator=generator)
    room = torch.tensor([width, height]) - side
    low = torch.rand(count, 2, generator=generator) * room
    return torch.cat([low, low + side], dim=1)


def all_pairs_atss(boxes: Tensor, every: Tensor, sizes: Sequence[int]) -> Tensor:
    """ATSS as DyHead's release has it: all distances and overlaps of anchors and objects."""
    overlap = pairwise_iou(every, boxes)
    distance = torch.cdist(centres(every), centres(boxes))
    picked, start = [], 0
    for size in sizes:
        own = distance[start : start + size].topk(min(9, size), dim=0, largest=False).indices
        picked.append(own + start)
        start += size
    candidates = torch.cat(picked)
    found = overlap.gather(0, candidates)
    threshold = found.mean(dim=0) + found.std(dim=0)
    middle = centres(every)[candidates]
    inside = torch.cat([middle - boxes[:, :2], boxes[:, 2:] - middle], dim=-1).amin(dim=-1) > 0.01
    best = torch.full_like(overlap, -1.0)
    best.scatter_(0, candidates, torch.where((found >= threshold) & inside, found, -1.0))
    value, number = best.max(dim=1)
    return torch.where(value >= 0, number, -1)


def bench_atss(rounds: int) -> None:
    """100 boxes on 800 x 1344."""
    levels = levels_of(800, 1344, STRIDES)
    boxes, every = random_boxes(100, 800, 1344), anchors(levels)
    sizes = [level.cells for level in levels]
    assert torch.equal(assign(levels, [boxes])[0], all_pairs_atss(boxes, every, sizes))
    steps: dict[str, Step] = {
        "all pairs": lambda: all_pairs_atss(boxes, every, sizes),
        "florence": lambda: assign(levels, [boxes]),
        "florence, batch of 8": lambda: assign(levels, [boxes] * 8),
    }
    report("ATSS, 100 boxes on 800 x 1344", interleaved(steps, rounds), "all pairs")


def bench_nms(rounds: int) -> None:
    """1,000 boxes, scattered and in clusters."""
    generator = torch.Generator().manual_seed(0)
    for name, clusters in (("scattered", 1_000), ("in 100 clusters", 100)):
        around = random_boxes(clusters, 800, 1344)
        which = torch.randint(0, clusters, (1_000,), generator=generator)
        moved = torch.randn(1_000, 2, generator=generator) * 5
        boxes = around[which] + moved.repeat(1, 2)
        scores = torch.rand(1_000, generator=generator)
        expected = torchvision.ops.nms(boxes, scores, 0.6)
        assert torch.equal(plain_nms(boxes, scores, 0.6), expected)
        steps: dict[str, Step] = {
            "torchvision": lambda b=boxes, s=scores: torchvision.ops.nms(b, s, 0.6),
            "florence, plain torch": lambda b=boxes, s=scores: plain_nms(b, s, 0.6),
            "florence": lambda b=boxes, s=scores: nms(b, s, 0.6),
        }
        report(f"NMS, 1,000 boxes {name}", interleaved(steps, 5 * rounds), "torchvision")


def bench_deformable(rounds: int) -> None:
    """Deformable convolution in plain torch beside torchvision's operator, both on the CPU."""
    for maps, channels, side in ((2, 32, 32), (2, 64, 32), (2, 256, 32), (2, 64, 8)):
        generator = torch.Generator().manual_seed(0)
        shapes = ((maps, channels), (maps, 18), (maps, 9))
        given = [
            torch.randn(*shape, side, side, generator=generator).requires_grad_()
            for shape in shapes
        ]
        weight = torch.randn(channels, channels, 3, 3, generator=generator).requires_grad_()
        forward: dict[str, Callable[[], Tensor]] = {
            "torchvision": partial(_torchvisions_deform_conv, *given, weight),
            "florence": partial(deformable.plain_deform_conv, *given, weight, stride=1),
        }
        results = [step() for step in forward.values()]
        torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3)
        title = f"Deformable convolution of {maps} maps of {side} x {side}, {channels} channels"
        with torch.no_grad():
            report(title, interleaved(forward, rounds), "torchvision")
        both = {name: partial(_forward_and_backward, step) for name, step in forward.items()}
        report(f"{title}, forward and backward", interleaved(both, rounds), "torchvision")


def _torchvisions_deform_conv(x: Tensor, offset: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    return torchvision.ops.deform_conv2d(x, offset, weight, padding=1, mask=mask)


def _forward_and_backward(step: Callable[[], Tensor]) -> None:
    step().sum().backward()


class _Backbone(nn.Module):
    """CoSwin with torchvision's pyramid, for torchvision's RetinaNet."""

    def __init__(self, tower: CoSwin, channels: int) -> None:
        super().__init__()
        self.tower = tower
        self.out_channels = channels
        width = tower.config.width
        self.pyramid = FeaturePyramidNetwork(
            [width << stage for stage in (1, 2, 3)],
            channels,
            extra_blocks=LastLevelP6P7(channels, channels),
        )

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.tower.feature_maps(images)[1:]
        found: dict[str, Tensor] = self.pyramid({str(i): x for i, x in enumerate(maps)})
        return found


def retina_net(size: int, channels: int) -> RetinaNet:
    """torchvision's RetinaNet on the same tower, images taken as they are."""
    architecture = architecture_of("coswin-nano")
    tower = CoSwin(architecture.image, architecture.embed_dim)
    return RetinaNet(
        _Backbone(tower, channels),
        CLASSES,
        min_size=size,
        max_size=size,
        image_mean=list(MEAN),
        image_std=list(STD),
    )


def flops_of(forward: Step) -> int:
    """FLOPs of a forward pass that torch counts."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        forward()
    return counter.get_total_flops()


def bench_step(rounds: int, size: int, batch: int) -> None:
    """Forward, loss and backward beside torchvision's RetinaNet on the same tower.

    Both heads have 64 channels; the dynamic head has as many blocks as bring its FLOPs nearest to
    those of RetinaNet's, and what is left of the difference is divided out.
    """
    channels = 64
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 255, (batch, 3, size, size), generator=generator, dtype=torch.uint8)
    boxes = [random_boxes(8, size, size, seed) for seed in range(batch)]
    labels = [torch.randint(0, CLASSES, (8,), generator=generator) for _ in range(batch)]
    retina = retina_net(size, channels).train()
    images = list(pixels.float() / 255)
    targets = [{"boxes": b, "labels": k} for b, k in zip(boxes, labels, strict=True)]
    theirs = flops_of(lambda: retina(images, targets))
    data = DetectionBatch(
        keys=tuple(map(str, range(batch))),
        images=tuple(pixels),
        targets=tuple(Target.of(b, k) for b, k in zip(boxes, labels, strict=True)),
    )
    models = {blocks: _nano(blocks, channels) for blocks in (1, 2, 3, 4, 5, 6)}
    counted = {blocks: _counted(model, size) * batch for blocks, model in models.items()}
    blocks = min(counted, key=lambda number: abs(counted[number] - theirs))
    model, ours = models[blocks], counted[blocks]
    objective = DetectionObjective(STRIDES, MEAN, STD, DetectionLoss(), World())

    def retina_step() -> None:
        retina.zero_grad(set_to_none=True)
        sum(retina(images, targets).values()).backward()

    def florence_step() -> None:
        model.zero_grad(set_to_none=True)
        prepared = objective.prepare(data)
        objective.loss(objective.outputs(model, data), data, prepared).value.backward()

    times = interleaved({"torchvision": retina_step, "florence": florence_step}, rounds)
    title = f"Forward, loss, backward, {batch} images of {size}, {blocks} blocks"
    report(f"{title}: {theirs / 1e9:.1f} and {ours / 1e9:.1f} GFLOPs", times, "torchvision")
    ratios = [a / b for a, b in zip(times["torchvision"], times["florence"], strict=True)]
    at_equal = statistics.median(ratios) * ours / theirs
    print(f"  images/s at equal FLOPs: {at_equal:.3f} x torchvision")


def _nano(blocks: int, channels: int) -> Detector:
    shape = DetectorShape(classes=CLASSES, channels=channels, blocks=blocks)
    return build_detector(architecture_of("coswin-nano"), shape, seed=0, window=4).train()


def _counted(model: Detector, size: int) -> int:
    """By deformable convolution in plain torch: the compiled operator's FLOPs are not counted."""
    found, deformable.operator_on = deformable.operator_on, lambda device: None
    try:
        return flops_of(lambda: model([torch.zeros(1, 3, size, size)]))
    finally:
        deformable.operator_on = found


def bench_huge(rounds: int, device: torch.device) -> None:
    """CoSwin-H at 800 x 1344 in bf16: images/s, MFU, peak memory beside the planner's."""
    architecture = architecture_of("coswin-h")
    settings = Detection(
        data="x",
        batch_size=1,
        steps=1,
        precision=Precision.BF16,
        activation_checkpointing=ActivationCheckpointing.FULL,
    )
    shape = settings.shape(CLASSES)
    height, width = 800, 1344
    side = (height * width) ** 0.5
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 255, (3, height, width), generator=generator, dtype=torch.uint8)
    target = Target.of(random_boxes(20, height, width), torch.randint(0, CLASSES, (20,)))
    data = DetectionBatch(keys=("0",), images=(image,), targets=(target,)).to(device)
    objective = DetectionObjective(shape.strides, MEAN, STD, DetectionLoss(), World(device=device))
    peak = gpu_named(torch.cuda.get_device_name(device).replace(" ", "-")).peak(Precision.BF16)
    larger = (side / planned_side(settings)) ** 2
    flops = 6 * larger * DetectionCost().forward_macs(architecture, settings).total
    plan = memory_per_gpu(architecture, settings, cost=DetectionCost(), processes=1, cuda=True)
    planned = plan.model_states + larger * (plan.activations + plan.batch + plan.logits)
    for compiled in (False, True):
        model = build_detector(
            architecture,
            shape,
            seed=0,
            window=architecture.image.window,
            checkpointing=ActivationCheckpointing.FULL,
        ).to(device)
        if compiled:
            compile_blocks(model, dynamic=True)
        for name in ("norm", "projection"):
            getattr(model.image, name).requires_grad_(False)
        optimizer = torch.optim.AdamW(
            [p for p in model.parameters() if p.requires_grad], fused=True
        )

        def step(model: Detector = model, optimizer: torch.optim.AdamW = optimizer) -> None:
            prepared = objective.prepare(data)
            with autocast("cuda", Precision.BF16):
                outputs = objective.outputs(model, data)
            objective.loss(outputs, data, prepared).value.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        seconds, memory = measured(step, rounds)
        print(
            f"\nCoSwin-H, 1 image of {height} x {width}, bf16, blocks recomputed, "
            f"{'compiled' if compiled else 'eager'}: {1 / seconds:.2f} images/s, "
            f"MFU {flops / seconds / peak:.1%}, peak {memory / 2**30:.1f} GiB, "
            f"{memory / planned:.3f} x what is planned beside the context"
        )
        del model, optimizer, step
        torch.cuda.empty_cache()


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", choices=("atss", "nms", "deform", "step", "huge"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    wanted = [arguments.only] if arguments.only else ["atss", "nms", "deform", "step"]
    if not arguments.only and device.type == "cuda":
        wanted.append("huge")
    print(f"torch {torch.__version__}, {arguments.threads} threads")
    if "atss" in wanted:
        bench_atss(arguments.rounds)
    if "nms" in wanted:
        bench_nms(arguments.rounds)
    if "deform" in wanted:
        bench_deformable(arguments.rounds)
    if "step" in wanted:
        bench_step(arguments.rounds, arguments.size, arguments.batch)
    if "huge" in wanted:
        bench_huge(arguments.rounds, device)


if __name__ == "__main__":
    main()
