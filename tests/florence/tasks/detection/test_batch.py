import torch

from florence.data.batch import BrokenSample
from florence.tasks.detection.batch import DetectionBatch, Target


def batch(sizes: list[tuple[int, int]]) -> DetectionBatch:
    return DetectionBatch(
        keys=tuple(f"s/{n}" for n in range(len(sizes))),
        broken=(BrokenSample("s.tar", "9", "why"),),
        images=tuple(torch.full((3, h, w), n, dtype=torch.uint8) for n, (h, w) in enumerate(sizes)),
        targets=tuple(
            Target.of(torch.full((n, 4), float(n)), torch.full((n,), n)) for n in range(len(sizes))
        ),
    )


def test_a_chunk_holds_its_images_with_their_targets() -> None:
    whole = batch([(3, 5), (7, 2), (4, 4)])
    chunks = whole.chunk(2)
    assert [len(chunk) for chunk in chunks] == [1, 2]
    assert [len(chunk.broken) for chunk in chunks] == [1, 0]
    images = [image for chunk in chunks for image in chunk.images]
    targets = [target for chunk in chunks for target in chunk.targets]
    assert [tuple(image.shape[1:]) for image in images] == [(3, 5), (7, 2), (4, 4)]
    assert [len(target) for target in targets] == [0, 1, 2]


def test_moving_a_batch_moves_its_images_and_every_tensor_of_its_targets() -> None:
    moved = batch([(3, 5), (7, 2)]).to("meta")
    assert {image.device.type for image in moved.images} == {"meta"}
    assert {target.boxes.device.type for target in moved.targets} == {"meta"}
    assert {target.scores.device.type for target in moved.targets} == {"meta"}
    assert moved.targets[0].annotated is None


def test_plain_boxes_count_in_full() -> None:
    target = Target.of(torch.tensor([[0, 0, 2, 2]]), torch.tensor([3]))
    assert target.boxes.dtype == torch.float32
    assert target.scores.tolist() == [1]
    assert target.crowd.tolist() == [False]
