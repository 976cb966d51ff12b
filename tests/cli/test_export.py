from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from florence.models.stored import read_folder
from florencectl.main import app
from tests import small_model


def export(*words: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["export", *words])
    return done.exit_code, done.stdout, done.stderr


def test_a_model_is_written_whole_and_not_over_another(tmp_path: Path) -> None:
    source, out = small_model.save(tmp_path / "m"), tmp_path / "out"
    code, told, note = export(str(source), str(out))
    assert (code, told.split()) == (0, [f"{out}/model.safetensors", f"{out}/config.json"])
    assert "a contrastive model" in note
    copy, model = read_folder(out), read_folder(source)
    assert copy.card == model.card
    assert copy.state.keys() == model.state.keys()
    assert all(copy.state[name].equal(value) for name, value in model.state.items())
    code, _, told = export(str(source), str(out), "--format", "hf")
    assert code == 2
    assert "--force replaces it" in told
    code, told, _ = export(str(source), str(out), "--format", "hf", "--force")
    assert code == 0
    assert {Path(line).name for line in told.split()} == {
        *("model.safetensors", "config.json", "modeling_florence.py", "README.md"),
        "preprocessor_config.json",
    }


def test_a_format_that_cannot_hold_a_model_is_refused_before_anything_is_written(
    tmp_path: Path,
) -> None:
    card = small_model.CARD.model_copy(update={"task": "detection"})
    source = small_model.save(tmp_path / "m", card)
    for form in ("hf", "onnx", "torch-export", "timm", "open-clip"):
        code, _, told = export(str(source), str(tmp_path / "out"), "--format", form)
        assert code == 2
        assert "'detection'" in told
        assert not (tmp_path / "out").exists()
    code, _, told = export(str(small_model.save(tmp_path / "m")), "out", "--format", "timm")
    assert (code, "are convolutions, which no model of timm has" in told) == (2, True)
