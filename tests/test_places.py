"""What the words of --teacher stand for, and a teacher from each of them."""

import json
from pathlib import Path

import pytest
import torch
from foreign_weights import ARCHITECTURE, SIZE, features, hugging_face, network
from timm.models import save_for_hf

from cikd_cli.errors import CikdError
from cikd_cli.models.places import find_place, weights_in, whole_name
from cikd_cli.models.pretrained import open_pretrained, own_file
from cikd_cli.models.spec import HALF, ModelSpec
from cikd_cli.models.weights import encode_model
from cikd_cli.runs.directory import RunDir


@pytest.mark.parametrize(
    ("name", "kind", "text"),
    [
        ("hf-hub:timm/x", "hub", "timm/x"),
        ("hf_hub:org/x@main", "hub", "org/x@main"),
        ("HF-HUB:org/x", "hub", "org/x"),
        ("timm/vit_tiny_patch16_224.augreg_in21k", "hub", "timm/vit_tiny_patch16_224.augreg_in21k"),
        ("vit_tiny_patch16_224.augreg_in21k", "timm", "vit_tiny_patch16_224.augreg_in21k"),
    ],
)
def test_the_sources_of_timm_mean_what_they_do_there(name, kind, text):
    place = find_place(name)
    assert (place.kind, place.text) == (kind, text)


@pytest.mark.parametrize("name", ["x.PTH", "x.pth.tar", "x.ckpt", "x.pt", "x", "vit_tiny_patch16_224", "timm/x", "x.7"])
def test_a_file_that_is_there_is_a_file_whatever_its_name(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("timm").mkdir()
    Path(name).write_text("")
    assert find_place(name).kind == "file"
    assert find_place(str(Path(name).resolve())).kind == "file"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.PTH", "There is no weights file none.PTH"),
        ("/no/such/file", "There is no weights file /no/such/file"),
        ("./none", "There is no weights file ./none"),
        ("runs/teacher-009", "There is no run and no weights file runs/teacher-009"),
        ("local-dir:none", "There is no folder none"),
        ("none.onnx", "There is no weights file none.onnx"),
        ("https://example.org/x.pth", "is an address, not a file"),
        ("a" * 5000 + ".pth", "There is no weights file"),
    ],
)
def test_what_is_not_there_is_said(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CikdError, match=message):
        find_place(name)


def test_a_folder_gives_its_only_weights_file_or_that_of_the_usual_name(tmp_path):
    with pytest.raises(CikdError, match="is not a run and holds no weights file"):
        weights_in(tmp_path)
    for name in ("notes.txt", "best.CKPT"):
        (tmp_path / name).write_text("")
    assert weights_in(tmp_path).name == "best.CKPT"
    (tmp_path / "last.pth").write_text("")
    with pytest.raises(CikdError, match=r"holds 2 weights files: best\.CKPT, last\.pth"):
        weights_in(tmp_path)
    (tmp_path / "pytorch_model.bin").write_text("")
    assert weights_in(tmp_path).name == "pytorch_model.bin"


def test_weights_in_parts_are_said(tmp_path):
    for name in (
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ):
        (tmp_path / name).write_text("{}")
    with pytest.raises(CikdError, match="are in 2 parts"):
        weights_in(tmp_path)


@pytest.mark.parametrize("source", ["", "local-dir:"])
@pytest.mark.parametrize("safe", [True, False])
def test_a_folder_that_timm_saved_is_a_teacher_with_its_normalisation(tmp_path, source, safe):
    saved = network(size=64)
    saved.pretrained_cfg = {**saved.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    save_for_hf(saved, str(tmp_path / "mine"), safe_serialization=safe)
    found = open_pretrained(f"{source}{tmp_path / 'mine'}", num_classes=5, image_size=64)
    assert (found.architecture, found.mean, found.std) == (ARCHITECTURE, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert found.model.head.out_features == 5
    assert torch.equal(features(found.model, 64), features(saved, 64))


def test_a_folder_of_a_network_that_timms_name_alone_does_not_make_is_refused(tmp_path):
    save_for_hf(network(num_heads=4), str(tmp_path), model_args={"num_heads": 4, "img_size": SIZE})
    with pytest.raises(CikdError, match=r"describes a test_vit with .*num_heads = 4, another network"):
        open_pretrained(f"local-dir:{tmp_path}", num_classes=5, image_size=SIZE)


@pytest.mark.parametrize("file", ["", "model.safetensors"])
def test_a_folder_of_hugging_faces_says_its_architecture_heads_and_normalisation(tmp_path, file):
    source = hugging_face(tmp_path / "mine")
    images = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}
    (tmp_path / "mine" / "preprocessor_config.json").write_text(json.dumps(images))
    found = open_pretrained(str(tmp_path / "mine" / file), num_classes=5, image_size=SIZE)
    assert (found.architecture, found.mean, found.std) == ("vit_tiny_patch16_224", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert torch.equal(features(found.model), features(source))


def test_other_heads_than_the_description_says_are_refused(tmp_path):
    hugging_face(tmp_path / "mine", num_attention_heads=6)
    with pytest.raises(CikdError, match="head counts cannot be read off"):
        open_pretrained(str(tmp_path / "mine"), num_classes=5, image_size=SIZE)
    with pytest.raises(CikdError, match="a network with 6 heads, but a vit_tiny_patch16_224 has 3"):
        open_pretrained(str(tmp_path / "mine"), num_classes=5, image_size=SIZE, architecture="vit_tiny_patch16_224")


def test_a_description_that_is_no_json_is_said(tmp_path):
    hugging_face(tmp_path / "mine")
    (tmp_path / "mine" / "config.json").write_text("{")
    with pytest.raises(CikdError, match=r"config\.json is damaged"):
        open_pretrained(str(tmp_path / "mine"), num_classes=5, image_size=SIZE)


def test_an_image_size_that_the_patches_do_not_tile_is_refused_from_every_place(tmp_path):
    save_for_hf(network(), str(tmp_path / "timm"), safe_serialization=True)
    hugging_face(tmp_path / "hf")
    for name, arch in (
        (tmp_path / "timm", None),
        (f"local-dir:{tmp_path / 'timm'}", None),
        (tmp_path / "timm" / "model.safetensors", ARCHITECTURE),
        (tmp_path / "hf", None),
        ("vit_tiny_patch16_224.augreg_in21k", None),
        ("timm/vit_tiny_patch16_224.augreg_in21k", None),
    ):
        with pytest.raises(CikdError, match="40 is not a multiple of the patch size 16") as caught:
            open_pretrained(str(name), num_classes=5, image_size=40, architecture=arch)
        assert caught.value.hint == "--image-size 32"


def test_a_folder_is_named_whole_so_that_a_run_can_be_continued_from_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert whole_name("local-dir:mine") == f"local-dir:{tmp_path / 'mine'}"
    assert whole_name("hf-hub:timm/x") == "hf-hub:timm/x"


def test_weights_of_ours_are_known_without_a_run_around_them(cikd, teacher, photos, recipe):
    Path("runs/teacher/model.safetensors").rename("ours.bin")
    Path("copy").mkdir()
    Path("copy/model.safetensors").write_bytes(Path("ours.bin").read_bytes())
    for name in ("ours.bin", "copy", "local-dir:copy"):
        assert own_file(name) is not None
        told = cikd("finetune-teacher", "--data", photos, "--recipe", recipe, "--teacher", name, "--dry-run")
        assert "scratch 3 blocks" in told.stdout


def test_a_checkpoint_of_another_program_becomes_a_teacher(cikd, photos, recipe):
    torch.save({"student": network().state_dict(), "teacher": network().state_dict()}, "best.PTH")
    words = ("finetune-teacher", "--data", photos, "--recipe", recipe, "--teacher", "best.PTH", "--dry-run")
    told = cikd(*words, "--teacher-arch", ARCHITECTURE)
    assert "best.PTH; of student and teacher the teacher" in told.stdout
    assert f"{ARCHITECTURE} 6 blocks" in told.stdout
    assert "head counts cannot be read off" in cikd(*words, code=2).stderr


def untiled(name: str) -> RunDir:
    """A finished teacher of 40 px with patches of 16, as versions before made them."""
    old = RunDir.open("runs/teacher")
    model = network("vit_tiny_patch16_224", size=40)
    spec = ModelSpec.describe(model, "vit_tiny_patch16_224", classes=("bars", "dots", "rows"), mean=HALF, std=HALF)
    config = old.config() | {"image_size": 40, "teacher": "vit_tiny_patch16_224"}
    own = {"format", "stage", "id", "status", "started", "weights", "config_sha256", "images"}
    record = old.record.model_dump(exclude=own, exclude_none=True)
    run = RunDir.create("runs", "finetune-teacher", prefix="teacher", name=name, record=record, config=config)
    run.update(model=json.loads(json.dumps(spec.as_dict())))
    run.weights.write_bytes(encode_model(model, spec))
    run.finish(old.result.model_dump(exclude_none=True))
    return run


@pytest.mark.parametrize("words", [("ali",), ("lm",), ("ali", "--image-size", "40")])
def test_a_student_of_a_teacher_whose_patches_do_not_tile_is_refused_with_a_command_that_works(
    cikd, teacher, recipe, words
):
    untiled("odd")
    told = cikd(*words, "--teacher", "runs/odd", "--recipe", recipe, code=2).stderr
    assert "The image size 40 is not a multiple of the patch size 16" in told
    assert "hint: cikd finetune-teacher --data " in told
    assert "--image-size 32" in told


def test_a_teacher_whose_patches_do_not_tile_can_start_another_at_a_size_that_they_do(cikd, teacher, photos, recipe):
    untiled("odd")
    words = ("finetune-teacher", "--data", photos, "--recipe", recipe, "--teacher", "runs/odd", "--dry-run")
    assert "40 is not a multiple of the patch size 16" in cikd(*words, "--image-size", 40, code=2).stderr
    assert "patch 16" in cikd(*words, "--image-size", 32).stdout
