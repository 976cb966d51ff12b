import torch
from hypothesis import given
from hypothesis import strategies as st

from florence.tasks.detection.box_coder import decode, encode

side = st.floats(1, 900, allow_nan=False, width=32)
place = st.floats(-500, 500, allow_nan=False, width=32)


@given(place, place, side, side, place, place, side, side)
def test_decoding_leads_back_to_the_box(
    x: float, y: float, w: float, h: float, ax: float, ay: float, aw: float, ah: float
) -> None:
    box = torch.tensor([[x, y, x + w, y + h]])
    anchor = torch.tensor([[ax, ay, ax + aw, ay + ah]])
    if w / aw > 62 or h / ah > 62:
        return
    torch.testing.assert_close(decode(encode(box, anchor), anchor), box, rtol=1e-4, atol=1e-2)


def test_an_anchor_is_no_difference_from_itself() -> None:
    anchor = torch.tensor([[4.0, 8.0, 68.0, 72.0]])
    assert encode(anchor, anchor).tolist() == [[0, 0, 0, 0]]


def test_differences_are_weighted_as_in_faster_r_cnn() -> None:
    anchor = torch.tensor([[0.0, 0.0, 100.0, 100.0]])
    moved = torch.tensor([[10.0, 0.0, 110.0, 100.0]])
    assert encode(moved, anchor)[0].tolist() == [1.0, 0.0, 0.0, 0.0]
    wider = torch.tensor([[-50.0, 0.0, 150.0, 100.0]])
    torch.testing.assert_close(
        encode(wider, anchor)[0], torch.tensor([0.0, 0.0, 5 * torch.log(torch.tensor(2.0)), 0.0])
    )


def test_a_side_grows_no_further_than_62_and_a_half_times() -> None:
    anchor = torch.tensor([[0.0, 0.0, 16.0, 16.0]])
    huge = decode(torch.tensor([[0.0, 0.0, 500.0, 500.0]]), anchor)
    torch.testing.assert_close(huge[0, 2] - huge[0, 0], torch.tensor(1000.0))
