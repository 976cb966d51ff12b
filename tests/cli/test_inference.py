"""``florencectl predict`` and ``embed`` on a small model, and everything that can be wrong."""

from __future__ import annotations

import csv
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from florence.checkpoint import write_final_model
from florence.kinds import MODEL_TASKS
from florence.models.stored import model_bytes
from florence.storage import open_storage
from florence.tasks.inputs import Column, Inputs, Parameter
from florence.tasks.kind import ModelTask
from florence.text.templates import DIGITS
from florence.text.tokenizer import tokenize
from florencectl import inference
from florencectl.commands import embed as embedding
from florencectl.commands import predict as predicting
from florencectl.main import app
from tests.child import run_child
from tests.small_model import CARD, DIGITS_CARD, NANO, embedded, model_files, network, picture, save

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model as plain files, the same as a stage's result, and images."""
    root = tmp_path_factory.mktemp("inference")
    save(root / "plain", DIGITS_CARD)
    write_final_model(open_storage(str(root / "stage")), model_files(DIGITS_CARD), attempt=1)
    for number in range(3):
        picture(number).save(root / f"{number}.png")
    (root / "a.txt").write_text("the number seven\n")
    (root / "broken.png").write_bytes(b"\x89PNG nothing")
    (root / "latin.txt").write_bytes("für".encode("latin-1"))
    return root


MEASURER = ModelTask(
    name="measurement",
    help="answers how large a thing is",
    inputs=Inputs(
        columns=(
            Column(name="image", type="image", help="a picture"),
            Column(name="thing", type="text", help="what to measure"),
        ),
        parameters=(Parameter(name="size", type="number", help="of a pixel", default=1.0),),
    ),
    predictor=f"{__name__}:Measurer",
)


class Measurer:
    """Predicts with no network: the mean of the picture, times the size of a pixel."""

    inputs = MEASURER.inputs

    def __init__(self, stored: Any, device: torch.device) -> None:
        self.card, self.module = stored.card, torch.nn.Identity()

    def predict(self, rows: Any, parameters: Any) -> list[dict[str, Any]]:
        size = parameters.get("size", 1.0)
        return [
            {"thing": row["thing"], "extent": float(np.asarray(row["image"]).mean()) * size}
            for row in rows
        ]


@pytest.fixture(autouse=True)
def measurer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another task than those of the package."""
    monkeypatch.setitem(MODEL_TASKS, "measurement", MEASURER)
    monkeypatch.setitem(sys.modules, __name__, sys.modules[Measurer.__module__])
    monkeypatch.setattr(predicting, "predict", predicting.command())


@pytest.fixture(autouse=True)
def inside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def invoke(*arguments: str) -> Any:
    return RUNNER.invoke(app, arguments)


def reference_images(folder: Path) -> torch.Tensor:
    """Embeddings of the three images, from pixels and the model alone."""
    return embedded([Image.open(folder / f"{number}.png") for number in range(3)])


def test_predict_is_the_softmax_over_prompt_ensembles(folder: Path) -> None:
    model = network()
    classes = []
    with torch.no_grad():
        for name in ("zero", "one", "two"):
            texts = [template.replace("{}", name) for template in DIGITS]
            mean = model.encode_text(tokenize(texts)).mean(dim=0)
            classes.append(mean / mean.norm())
        similarity = reference_images(folder) @ torch.stack(classes).T
        expected = (similarity * model.logit_scale.exp()).softmax(dim=1)
    result = invoke(
        *("predict", "plain", "0.png", "1.png", "2.png"),
        *("--labels", "zero, one,two", "-o", "json"),
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [row["image"] for row in document] == ["0.png", "1.png", "2.png"]
    for row, probabilities in zip(document, expected.tolist(), strict=True):
        assert [row["probabilities"][n] for n in ("zero", "one", "two")] == pytest.approx(
            probabilities, abs=2e-5
        )
        assert row["label"] == max(row["probabilities"], key=row["probabilities"].get)
        assert list(row["probabilities"].values()) == sorted(
            row["probabilities"].values(), reverse=True
        )


@pytest.mark.parametrize("uri", ["plain", "stage", "stage/model", "stage/"])
def test_a_model_is_found_in_a_folder_and_in_a_stage(uri: str) -> None:
    result = invoke("predict", uri, "0.png", "--labels", "cat,dog,cow", "--top", "2")
    assert result.exit_code == 0, result.stderr
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["IMAGE", "LABEL", "PROBABILITY"]
    assert len(rows) == 2


def test_a_model_is_found_in_s3(
    folder: Path, s3_storage: Any, s3_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "model.safetensors"):
        s3_storage.write(name, folder / "plain" / name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_settings.endpoint)
    result = invoke("predict", s3_storage.uri, "0.png", "--labels", "cat,dog")
    assert result.exit_code == 0, result.stderr


def test_a_model_and_images_in_s3_are_reached_through_the_endpoint(
    folder: Path, s3_storage: Any, s3_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("config.json", "model.safetensors"):
        s3_storage.write(f"m/{name}", folder / "plain" / name)
    s3_storage.write("0.png", folder / "0.png")
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    where = [f"{s3_storage.uri}/m", f"{s3_storage.uri}/0.png", "--endpoint", s3_settings.endpoint]
    result = invoke("predict", *where, "--labels", "cat,dog", "-o", "json")
    assert result.exit_code == 0, result.stderr
    (there,) = json.loads(result.stdout)
    (here,) = json.loads(
        invoke("predict", "plain", "0.png", "--labels", "cat,dog", "-o", "json").stdout
    )
    assert there["image"] == where[1]
    assert there["probabilities"] == here["probabilities"]
    gone = invoke("predict", where[0], f"{s3_storage.uri}/1.png", *where[2:], "--labels", "cat,dog")
    assert gone.exit_code == 3
    assert "1.png does not exist" in gone.stderr
    output = folder / "s3.npz"
    assert invoke("embed", *where, "-o", str(output)).exit_code == 0
    with np.load(output) as saved:
        assert list(saved["names"]) == [where[1]]


@pytest.fixture
def album(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of images in folders, with other files beside them."""
    for name in ("b.png", "a/c.PNG", "a/deep/d.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(folder / "0.png", tmp_path / name)
    (tmp_path / "a" / "notes.md").write_text("no image")
    shutil.copytree(folder / "plain", tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def images_of(result: Any) -> list[str]:
    return [row["image"] for row in json.loads(result.stdout)]


@pytest.mark.parametrize(
    ("named", "stdin", "found"),
    [
        (["a", "b.png"], "", ["a/c.PNG", "a/deep/d.png", "b.png"]),
        (["*.png"], "", ["b.png"]),
        (["**/*.png", "b.png"], "", ["a/deep/d.png", "b.png", "b.png"]),
        (["-"], "b.png\n\na/c.PNG\n", ["b.png", "a/c.PNG"]),
        (["-", "b.png"], "a\n", ["a/c.PNG", "a/deep/d.png", "b.png"]),
    ],
)
def test_images_are_named_by_folder_glob_and_stdin(
    album: Path, named: list[str], stdin: str, found: list[str]
) -> None:
    words = ["predict", "model", *named, "--labels", "cat,dog", "-o", "json"]
    result = RUNNER.invoke(app, words, input=stdin)
    assert result.exit_code == 0, result.stderr
    assert images_of(result) == found


def test_a_file_whose_name_looks_like_a_glob_is_that_file(album: Path) -> None:
    (album / "b.png").rename("[b].png")
    result = invoke("predict", "model", "[b].png", "--labels", "cat,dog", "-o", "json")
    assert images_of(result) == ["[b].png"]


def test_bad_images_are_told_beside_the_answers_for_good_ones(folder: Path) -> None:
    files = ["none.png", "0.png", "broken.png", "1.png"]
    result = invoke("predict", "plain", *files, "--labels", "cat,dog", "-o", "json")
    assert result.exit_code == 3
    assert images_of(result) == ["0.png", "1.png"]
    missing, broken = result.stderr.splitlines()
    assert "none.png: cannot be read: No such file" in missing
    assert "broken.png: broken image" in broken


def test_embed_leaves_bad_files_out(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "some.npz"
    files = ["broken.png", "1.png", "latin.txt", "a.txt", "none.txt", "0.png"]
    result = invoke("embed", "plain", *files, "-o", str(output))
    assert result.exit_code == 3
    told = [line.split(": ")[1] for line in result.stderr.splitlines()[:3]]
    assert told == ["none.txt", "latin.txt", "broken.png"]
    with np.load(output) as saved:
        assert list(saved["names"]) == ["1.png", "a.txt", "0.png"]
        images = torch.from_numpy(saved["embeddings"][[2, 0]])
    torch.testing.assert_close(images, reference_images(folder)[:2], atol=1e-5, rtol=1e-5)


def test_answers_as_csv(folder: Path, tmp_path: Path) -> None:
    labels = 'cat,"dog, grey"'
    result = invoke("predict", "plain", "0.png", "1.png", "--labels", labels, "-o", "csv")
    rows = list(csv.DictReader(result.stdout.splitlines()))
    assert [row["image"] for row in rows] == ["0.png", "0.png", "1.png", "1.png"]
    assert {row["label"] for row in rows} == {"cat", "dog, grey"}
    assert float(rows[0]["probability"]) + float(rows[1]["probability"]) == pytest.approx(
        1, abs=2e-4
    )


def test_the_prompts_of_an_evaluation_are_templates(folder: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.yaml"
    prompts.write_text("classes: [cat, dog]\ntemplates: ['a {} from afar', 'one {}']\n")
    lines = tmp_path / "templates.txt"
    lines.write_text("a {} from afar\none {}\n")

    def answer(templates: str) -> Any:
        labels = ["--labels", "cat,dog", "--templates", templates]
        result = invoke("predict", "plain", "0.png", *labels, "-o", "json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    assert answer(str(prompts)) == answer(str(lines))
    assert answer("cifar10") != answer("imagenet")


IMPORTED = """
import sys
from florencectl.main import app
sys.exit_code = 0
try:
    app(sys.argv[1:])
except SystemExit as end:
    sys.exit_code = end.code
names = ("sympy", "torch._dynamo", "torch._inductor", "ftfy", "mlflow", "pandas", "scipy", "boto3")
print(sys.exit_code, *(name for name in names if name in sys.modules), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("command", "absent"),
    [
        (["predict", "plain", "0.png", "--labels", "cat"], "torch._dynamo"),
        (["embed", "plain", "0.png", "a.txt", "-o", "imported.npz"], "torch._dynamo"),
        (["predict", "plain", "none.png", "--labels", "cat"], "torch"),
        (["embed", "plain", "none.png", "-o", "imported.npz"], "torch"),
    ],
)
def test_what_is_imported(folder: Path, command: list[str], absent: str) -> None:
    probe = IMPORTED.replace("names = (", 'names = ("torch", ') if absent == "torch" else IMPORTED
    done = subprocess.run(
        [sys.executable, "-c", probe, *command], capture_output=True, text=True, check=True
    )
    code = "0" if absent != "torch" else "3"
    assert done.stderr.splitlines()[-1] == code


def test_templates_change_the_answer() -> None:
    def answer(*more: str) -> dict[str, float]:
        result = invoke("predict", "plain", "0.png", "--labels", "cat,dog", "-o", "json", *more)
        probabilities: dict[str, float] = json.loads(result.stdout)[0]["probabilities"]
        return probabilities

    assert answer() == answer("--templates", "digits")
    assert answer() != answer("--templates", "imagenet")


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plain", "broken.png", "--labels", "a"], 3, "broken.png: broken image"),
        (["plain", "none.png", "--labels", "a"], 3, "none.png: cannot be read: No such file"),
        (["plain", "plain", "--labels", "a"], 3, "plain: cannot be read: no .jpg or .jpeg"),
        (["plain", "*.jpg", "--labels", "a"], 3, "*.jpg: cannot be read: no file matches"),
        (["nowhere", "none.png", "--labels", "a"], 3, "none.png: cannot be read: No such file"),
        (["plain", "0.png", "--labels", "a", "--device", "abacus"], 2, "device 'abacus' cannot"),
        (["plain", "0.png", "--labels", "a", "--device", "cuda:99"], 2, "device 'cuda:99' cannot"),
        (["s3://b/m", "0.png", "--labels", "a", "--endpoint", "minio:9"], 2, "must look like http"),
        (["nowhere", "0.png", "--labels", "a"], 3, "no model: there is no config.json"),
        ([".", "0.png", "--labels", "a"], 3, "no model: there is no config.json"),
        (["ftp://x/y", "0.png", "--labels", "a"], 2, "ftp://"),
        (["plain", "0.png", "--labels", " , "], 2, "--labels names no word"),
        (["plain", "0.png", "--labels", "a,b,a"], 2, "--labels names 'a' twice"),
        (["plain", "0.png", "--labels", "a", "--templates", "x"], 2, "--templates: 'x'"),
        (
            ["plain", "0.png"],
            2,
            "--labels is needed by contrastive models: words to choose from, with commas",
        ),
        (
            ["plain", "0.png", "--labels", "a", "--size", "1.5"],
            2,
            "--size is not for contrastive models, which take --labels, --templates",
        ),
        (["plain", "0.png", "--labels", "a", "--size", "x"], 2, "--size: 'x' is not a number"),
    ],
)
def test_what_predict_refuses(arguments: list[str], code: int, message: str) -> None:
    result = invoke("predict", *arguments)
    assert result.exit_code == code, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert message in line


def test_any_task_predicts_with_inputs_of_its_own(folder: Path, tmp_path: Path) -> None:
    card = CARD.model_copy(update={"task": "measurement"})
    for name, content in model_bytes({"weight": torch.zeros(1)}, card).items():
        (tmp_path / name).write_bytes(content)
    means = [float(np.asarray(Image.open(folder / f"{n}.png")).mean()) for n in range(2)]
    result = invoke(
        *("predict", str(tmp_path), "0.png", "1.png", "--thing", "a cup", "--size", "0.5"),
        *("-o", "json"),
    )
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == [
        {"image": f"{n}.png", "thing": "a cup", "extent": round(means[n] * 0.5, 6)}
        for n in range(2)
    ]
    table = invoke("predict", str(tmp_path), "0.png", "--thing", "cup").stdout.splitlines()
    assert table[0].split() == ["IMAGE", "THING", "EXTENT"]
    refused = invoke("predict", str(tmp_path), "0.png")
    assert refused.exit_code == 2
    assert "--thing is needed by measurement models: what to measure" in refused.stderr


def test_images_are_decoded_some_at_a_time(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Image.Image]] = []
    most = 0
    decode = inference.decode

    def decode_and_count(data: bytes) -> Image.Image:
        nonlocal most
        image = decode(data)
        held.append(weakref.ref(image))
        most = max(most, sum(ref() is not None for ref in held))
        return image

    monkeypatch.setattr(inference, "decode", decode_and_count)
    monkeypatch.setattr(predicting, "IMAGES_AT_ONCE", 3)
    monkeypatch.setattr(embedding, "IMAGES_AT_ONCE", 3)
    many = [f"{number % 3}.png" for number in range(10)]
    result = invoke("predict", "plain", *many, "--labels", "a,b", "-o", "json")
    assert result.exit_code == 0, result.stderr
    assert [row["image"] for row in json.loads(result.stdout)] == many
    assert (len(held), most) == (10, 3)
    assert invoke("embed", "plain", *many, "-o", "many.npz").exit_code == 0
    assert (len(held), most) == (20, 3)
    with np.load("many.npz") as saved:
        assert list(saved["names"]) == many
        np.testing.assert_allclose(saved["embeddings"][0], saved["embeddings"][3], atol=1e-6)


def test_a_damaged_result_of_a_stage_is_refused(folder: Path, tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "stage"))
    write_final_model(storage, model_files(), attempt=1)
    (weights,) = (tmp_path / "stage" / "model").glob("*/model.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    result = invoke("predict", str(tmp_path / "stage"), "0.png", "--labels", "a")
    assert result.exit_code == 3
    assert "differs from what was committed" in result.stderr


@pytest.mark.parametrize("where", ["stage", "model", "files"])
def test_the_folder_that_one_stands_in_is_checked_too(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = Path("0.png").absolute()
    storage = open_storage(str(tmp_path / "stage"))
    write_final_model(storage, model_files(), attempt=1)
    (weights,) = (tmp_path / "stage" / "model").glob("*/model.safetensors")
    folders = {"stage": tmp_path / "stage", "model": weights.parent.parent, "files": weights.parent}
    monkeypatch.chdir(folders[where])
    words = ["predict", ".", str(image), "--labels", "cat"]
    assert invoke(*words).exit_code == 0
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    result = invoke(*words)
    assert result.exit_code == 3
    assert "differs from what was committed" in result.stderr


def test_embed_keeps_the_order_of_images_and_texts(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.npz"
    result = invoke("embed", "plain", "0.png", "a.txt", "1.png", "2.png", "-o", str(output))
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    with np.load(output) as saved:
        assert list(saved["names"]) == ["0.png", "a.txt", "1.png", "2.png"]
        embeddings = torch.from_numpy(saved["embeddings"])
    assert embeddings.dtype == torch.float32
    torch.testing.assert_close(
        embeddings[[0, 2, 3]], reference_images(folder), atol=1e-5, rtol=1e-5
    )
    with torch.no_grad():
        text = network().encode_text(tokenize(["the number seven"]))
    torch.testing.assert_close(embeddings[1:2], text, atol=1e-5, rtol=1e-5)


def read_npz(content: bytes) -> list[tuple[str, list[float]]]:
    with np.load(io.BytesIO(content)) as saved:
        return list(zip(saved["names"], saved["embeddings"].tolist(), strict=True))


def read_parquet(content: bytes) -> list[tuple[str, list[float]]]:
    import pyarrow as pa
    from pyarrow.parquet import read_table

    table = read_table(io.BytesIO(content))
    assert pa.types.is_fixed_size_list(table.schema.field("embedding").type)
    return [(row["name"], row["embedding"]) for row in table.to_pylist()]


def read_csv(content: bytes) -> list[tuple[str, list[float]]]:
    header, *rows = csv.reader(io.StringIO(content.decode()))
    assert header == ["name", *map(str, range(NANO.embed_dim))]
    return [(name, [float(number) for number in numbers]) for name, *numbers in rows]


def read_json(content: bytes) -> list[tuple[str, list[float]]]:
    return [(row["name"], row["embedding"]) for row in json.loads(content)]


def read_json_lines(content: bytes) -> list[tuple[str, list[float]]]:
    return read_json(b"[%s]" % b",".join(content.splitlines()))


@pytest.mark.parametrize(
    ("output", "read"),
    [
        ("e.npz", read_npz),
        ("e.parquet", read_parquet),
        ("e.csv", read_csv),
        ("e.json", read_json),
        ("e.jsonl", read_json_lines),
        ("csv", read_csv),
        ("json", read_json),
        ("jsonl", read_json_lines),
    ],
)
def test_embeddings_are_the_same_in_every_format(
    album: Path, folder: Path, output: str, read: Any
) -> None:
    result = invoke("embed", "model", "b.png", "a/c.PNG", "-o", output)
    assert result.exit_code == 0, result.stderr
    content = Path(output).read_bytes() if "." in output else result.stdout.encode()
    assert (result.stdout == "") is ("." in output)
    rows = read(content)
    assert [name for name, _ in rows] == ["b.png", "a/c.PNG"]
    expected = reference_images(folder)[:1].expand(2, -1)
    numbers = torch.tensor([row for _, row in rows])
    torch.testing.assert_close(numbers, expected, atol=1e-5, rtol=1e-5)
    assert ("2 embeddings of length" in result.stderr) is ("." in output)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (
            ["plain", "0.png", "-o", "out.txt"],
            2,
            "-o out.txt: name a file that ends in one of .npz, .parquet, .csv, .jsonl, .json, or "
            "print with one of csv, json, jsonl",
        ),
        (["plain", "0.png", "-o", "nowhere/out.npz"], 2, "no such folder"),
        (["plain", "broken.png", "-o", "out.npz"], 3, "broken.png: broken image"),
        (["plain", "none.png", "-o", "out.npz"], 3, "none.png: cannot be read: No such file"),
        (["plain", "latin.txt", "-o", "out.npz"], 3, "latin.txt: not a UTF-8 text"),
        (["nowhere", "a.txt", "-o", "out.npz"], 3, "no model"),
    ],
)
def test_what_embed_refuses_and_leaves_nothing(
    folder: Path, arguments: list[str], code: int, message: str
) -> None:
    before = set(folder.rglob("*"))
    result = invoke("embed", *arguments)
    assert result.exit_code == code, result.output
    (line,) = result.stderr.splitlines()
    assert message in line
    assert set(folder.rglob("*")) == before


def embed_on_a_full_disk(folder: str) -> tuple[int, str, list[str]]:
    """Runs where files may have a few bytes only, which is what a full disk does to a write."""
    import signal

    os.chdir(folder)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))
    before = set(os.listdir(folder))
    result = RUNNER.invoke(app, ["embed", "plain", "0.png", "-o", "full.npz"])
    return result.exit_code, result.stderr, sorted(set(os.listdir(folder)) - before)


def test_a_full_disk_is_one_line_and_leaves_nothing(folder: Path) -> None:
    code, message, left = run_child(embed_on_a_full_disk, str(folder), answer=True)
    assert code == 2
    assert left == []
    (line,) = message.splitlines()
    assert "full.npz cannot be written" in line


def test_an_existing_output_survives_a_failure(folder: Path) -> None:
    (folder / "kept.npz").write_bytes(b"old")
    result = invoke("embed", "plain", "broken.png", "-o", "kept.npz")
    assert result.exit_code == 3
    assert (folder / "kept.npz").read_bytes() == b"old"
