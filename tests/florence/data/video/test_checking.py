"""``data check`` decodes the clips of shards, as it decodes images."""

from __future__ import annotations

from pathlib import Path

from florence.data.indexing import check_data, index_data
from tests.florence.data.making import write_samples
from tests.florence.data.video.clips import counting


def test_a_clip_whose_last_frames_are_damaged_is_named(tmp_path: Path) -> None:
    """It opens: only what decodes all of it notices."""
    whole = counting(18)
    damaged = bytearray(whole)
    media = whole.index(b"mdat")
    end = whole.index(b"moov") if whole.index(b"moov") > media else len(whole)
    middle = media + (end - media) * 2 // 3
    damaged[middle:end] = bytes(end - middle)
    samples = [("good", whole), ("bad", bytes(damaged)), ("none", b"no video")]
    write_samples(
        tmp_path / "clips.tar", [(key, {"mp4": data, "txt": b"x"}) for key, data in samples]
    )
    assert not index_data(str(tmp_path)).problems
    found = check_data(str(tmp_path)).problems
    assert [problem.member for problem in found] == ["bad.mp4", "none.mp4"]
    assert all(problem.reason.startswith("broken video: ") for problem in found)
