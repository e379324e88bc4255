"""Our own weights files say what they are, and what is damaged in them is named."""

import json
from pathlib import Path

import pytest
import timm
import torch
from foreign_weights import TINY
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from timm.models.vision_transformer import VisionTransformer

from cikd_cli.errors import CikdError
from cikd_cli.models import create_student
from cikd_cli.models.spec import ModelSpec
from cikd_cli.models.teachers import create_scratch_teacher
from cikd_cli.models.weights import encode_model, load_model, read_spec

MEAN, STD = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)


def student() -> tuple[VisionTransformer, ModelSpec]:
    sizes = {"width": 24, "depth": 4, "heads": 2, "drop_path": 0.2}
    model = create_student("custom", num_classes=3, image_size=16, patch_size=8, end_heads=6, **sizes)
    return model.eval(), ModelSpec.describe(
        model, "student", classes=("a", "b", "ü"), mean=MEAN, std=STD, drop_path=0.2
    )


def stored(tmp_path: Path, **edits: object) -> Path:
    """A student's file, with parts of its description edited."""
    model, spec = student()
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_model(model, spec))
    if edits:
        whole = spec.as_dict()
        arguments = {key: edits.pop(key) for key in list(edits) if key in whole["arguments"] and key not in whole}
        described = json.dumps(whole | {"arguments": whole["arguments"] | arguments} | edits)
        save_file(load_file(path), path, metadata={"format": "pt", "cikd": described})
    return path


def test_a_file_comes_back_as_the_same_network_in_eval_mode(tmp_path):
    torch.manual_seed(0)
    model, spec = student()
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_model(model, spec))
    loaded, described = load_model(path)
    images = torch.randn(2, 3, 16, 16)
    assert described == spec
    assert not loaded.training
    assert torch.equal(loaded(images), model(images))


@pytest.mark.parametrize("architecture", ["scratch", TINY])
def test_a_teacher_comes_back_as_the_same_network(tmp_path, architecture):
    if architecture == "scratch":
        model = create_scratch_teacher(num_classes=3, image_size=16, patch_size=8, width=12, depth=2, heads=3)
    else:
        model = timm.create_model(architecture, num_classes=3, img_size=16)
    spec = ModelSpec.describe(model, architecture, classes=("a", "b", "c"), mean=MEAN, std=STD)
    path = tmp_path / "model.safetensors"
    path.write_bytes(encode_model(model, spec))
    loaded, described = load_model(path)
    images = torch.randn(2, 3, 16, 16)
    assert described == spec
    assert torch.equal(loaded(images), model.eval()(images))


def test_the_description_holds_heads_sizes_classes_and_normalisation():
    _, spec = student()
    assert spec == ModelSpec(
        builder="student",
        arguments={"width": 24, "depth": 4, "heads": [6, 2, 2, 6], "patch_size": 8, "drop_path": 0.2},
        heads=(6, 2, 2, 6),
        image_size=16,
        num_classes=3,
        classes=("a", "b", "ü"),
        mean=MEAN,
        std=STD,
    )


def test_a_description_survives_json():
    _, spec = student()
    assert ModelSpec.from_json(json.dumps(spec.as_dict())) == spec


def test_drop_path_comes_back_with_the_student(tmp_path):
    model, _ = load_model(stored(tmp_path))
    assert [getattr(block.drop_path1, "p", None) for block in model.blocks] == [None, 0.2, 0.2, None]


def test_a_file_without_a_description_is_refused(tmp_path):
    path = stored(tmp_path)
    save_file(load_file(path), path, metadata={"format": "pt"})
    assert read_spec(path) is None
    with pytest.raises(CikdError, match="no head list"):
        load_model(path)


def test_a_description_without_heads_is_refused(tmp_path):
    path = stored(tmp_path)
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["cikd"])
    del described["heads"]
    save_file(load_file(path), path, metadata={"format": "pt", "cikd": json.dumps(described)})
    with pytest.raises(CikdError, match=r"damaged .*heads"):
        load_model(path)


def test_a_description_that_is_not_json_is_refused(tmp_path):
    path = stored(tmp_path)
    save_file(load_file(path), path, metadata={"format": "pt", "cikd": "{"})
    with pytest.raises(CikdError, match="damaged"):
        load_model(path)


@pytest.mark.parametrize("heads", [[6, 3, 2, 6], [6, 2, 2, 3], [3, 2, 2, 6]])
def test_a_head_list_that_no_student_has_is_refused(tmp_path, heads):
    with pytest.raises(CikdError, match="heads"):
        load_model(stored(tmp_path, heads=heads))


@pytest.mark.parametrize("heads", [[6, 2, 6], [6, 2, 2, 2, 6], []])
def test_a_head_list_of_another_length_is_refused(tmp_path, heads):
    with pytest.raises(CikdError, match="6, 2, 2, 6; the same tensors with other heads are another network"):
        load_model(stored(tmp_path, heads=heads))


def test_heads_that_do_not_divide_the_width_are_refused(tmp_path):
    shape = {"width": 24, "depth": 4, "heads": [5, 2, 2, 5], "patch_size": 8}
    with pytest.raises(CikdError, match="5 heads do not divide"):
        load_model(stored(tmp_path, arguments=shape))


def test_edited_heads_of_a_timm_teacher_are_refused(tmp_path):
    model = timm.create_model(TINY, num_classes=3, img_size=16)
    spec = ModelSpec.describe(model, TINY, classes=("a", "b", "c"), mean=MEAN, std=STD)
    path = tmp_path / "model.safetensors"
    described = json.dumps(spec.as_dict() | {"heads": [6] * 12})
    save_file(model.state_dict(), path, metadata={"format": "pt", "cikd": described})
    with pytest.raises(CikdError, match=r"6, 6, .* heads, but a vit_tiny_patch16_224 has 3, 3,"):
        load_model(path)


@pytest.mark.parametrize(("key", "value"), [("width", 48), ("depth", 4), ("num_classes", 5), ("image_size", 32)])
def test_tensors_that_do_not_fit_the_description_are_refused(tmp_path, key, value):
    path = stored(tmp_path, **{key: value})
    if key == "depth":  # one tensor missing
        tensors = load_file(path)
        del tensors["blocks.3.mlp.fc1.bias"]
        save_file(tensors, path, metadata={"format": "pt", "cikd": json.dumps(student()[1].as_dict())})
    with pytest.raises(CikdError, match="does not fit"):
        load_model(path)


@pytest.mark.parametrize("content", [b"", b"not a safetensors file", b"\xff" * 64])
def test_a_damaged_file_is_one_sentence(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CikdError, match="not a readable safetensors file"):
        load_model(path)


def test_a_cut_off_file_is_one_sentence(tmp_path):
    path = stored(tmp_path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CikdError, match="not a readable safetensors file"):
        load_model(path)


@pytest.mark.parametrize("heads", [[], [6, 2, 6]])
def test_heads_that_are_not_one_for_each_block_are_refused_before_anything_is_built(tmp_path, heads):
    shape = {"width": 24, "depth": 4, "heads": heads, "patch_size": 8}
    with pytest.raises(CikdError, match="damaged"):
        load_model(stored(tmp_path, arguments=shape))
