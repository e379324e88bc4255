"""Weights files from elsewhere must prove what they are; code in them never runs."""

import math
from pathlib import Path

import pytest
import timm
import torch
from foreign_weights import TINY, load_foreign
from safetensors.torch import save_file
from torch import Tensor

from cikd_cli.errors import CikdError
from cikd_cli.models.foreign import architecture_of
from cikd_cli.models.network import head_counts
from cikd_cli.models.spec import HALF
from cikd_cli.models.weights import pretraining_statistics


class Malicious:
    """Unpickling this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def timm_weights(name: str = TINY, image_size: int = 32, classes: int = 7, **settings: object) -> dict[str, Tensor]:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=classes, img_size=image_size, **settings)
    return model.state_dict()


def agree(model: torch.nn.Module, weights: dict[str, Tensor]) -> bool:
    own = model.state_dict()
    return all(torch.equal(own[name], tensor) for name, tensor in weights.items() if not name.startswith("head"))


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_timm_file_loads_with_a_fresh_classifier(tmp_path, suffix):
    weights = timm_weights()
    path = tmp_path / f"weights{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    model = load_foreign(path, TINY, num_classes=3, image_size=32)
    assert agree(model, weights)
    assert model.head.out_features == 3


def test_positions_are_resampled_to_the_grid_and_everything_else_is_kept(tmp_path):
    weights = timm_weights(image_size=224)
    rows, cols = torch.meshgrid(torch.arange(14.0), torch.arange(14.0), indexing="ij")
    weights["pos_embed"][0, 1:, 0], weights["pos_embed"][0, 1:, 1] = rows.flatten(), cols.flatten()
    path = tmp_path / "weights.safetensors"
    save_file(weights, path)
    model = load_foreign(path, TINY, num_classes=3, image_size=32)
    positions = model.pos_embed[0].detach()
    assert positions.shape == (5, 192)
    assert torch.equal(positions[0], weights["pos_embed"][0, 0])
    row, col = positions[1:, 0].tolist(), positions[1:, 1].tolist()  # a plane stays a plane: first rows, then columns
    assert row == pytest.approx([3, 3, 10, 10], abs=0.5)
    assert col == pytest.approx([3, 10, 3, 10], abs=0.5)
    assert agree(model, {name: tensor for name, tensor in weights.items() if name != "pos_embed"})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda weights: {"model": weights, "epoch": 3},
        lambda weights: {"state_dict": {f"module.{k}": v for k, v in weights.items()}},
        lambda weights: {"teacher": {f"module.backbone.{k}": v for k, v in weights.items()}, "student": {"x": 1}},
        lambda weights: {"state_dict": {f"model.{k}": v for k, v in weights.items()}},
        lambda weights: {
            "state_dict": {
                **{f"module.base_encoder.{k}": v for k, v in weights.items()},
                **{f"module.momentum_encoder.{k}": v + 1 for k, v in weights.items()},
                "module.predictor.weight": torch.zeros(3),
            }
        },
    ],
    ids=["model", "module", "dino", "lightning", "moco v3"],
)
def test_the_usual_wrappers_come_off(tmp_path, wrap):
    weights = timm_weights()
    path = tmp_path / "weights.pth"
    torch.save(wrap(weights), path)
    model = load_foreign(path, TINY, num_classes=3, image_size=32)
    assert agree(model, weights)


def test_code_in_a_pth_file_never_runs(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "it-ran"
    torch.save({"model": timm_weights(), "extra": Malicious(trace)}, path)
    with pytest.raises(CikdError, match="cannot be read as plain weights") as caught:
        load_foreign(path, TINY, num_classes=3, image_size=32)
    assert not trace.exists()
    assert "\n" not in caught.value.message
    torch.load(path, weights_only=False)
    assert trace.exists()  # so the file was a trap indeed


@pytest.mark.parametrize("content", [torch.zeros(3), [1, 2]], ids=["tensor", "list"])
def test_a_pth_file_that_is_no_dictionary_is_refused(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save(content, path)
    with pytest.raises(CikdError, match="not a dictionary"):
        load_foreign(path, TINY, num_classes=3, image_size=32)


def test_missing_tensors_are_refused(tmp_path):
    weights = timm_weights()
    del weights["blocks.5.mlp.fc1.weight"]
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(CikdError, match=r"1 tensors are missing.*blocks\.5\.mlp\.fc1\.weight"):
        load_foreign(tmp_path / "weights.safetensors", TINY, num_classes=3, image_size=32)


def test_weights_of_another_width_are_refused(tmp_path):
    save_file(timm_weights("vit_small_patch16_224"), tmp_path / "weights.safetensors")
    with pytest.raises(CikdError, match="fit"):
        load_foreign(tmp_path / "weights.safetensors", TINY, num_classes=3, image_size=32)


@pytest.mark.parametrize(
    "settings",
    [{"depth": 13}, {"init_values": 0.1}, {"qk_norm": True}, {"reg_tokens": 2}, {"pre_norm": True}],
    ids=["deeper", "layer scale", "q and k norm", "registers", "pre norm"],
)
def test_weights_that_hold_more_than_the_architecture_are_another_network(tmp_path, settings):
    save_file(timm_weights(**settings), tmp_path / "weights.safetensors")
    with pytest.raises(CikdError, match="fit"):
        load_foreign(tmp_path / "weights.safetensors", TINY, num_classes=3, image_size=32)


def test_a_distilled_deit_does_not_load_as_a_plain_one(tmp_path):
    save_file(timm_weights("deit_tiny_distilled_patch16_224"), tmp_path / "weights.safetensors")
    with pytest.raises(CikdError, match="fit"):
        load_foreign(tmp_path / "weights.safetensors", "deit_tiny_patch16_224", num_classes=3, image_size=32)


def test_a_decoder_or_mask_token_beside_the_trunk_is_left_out(tmp_path):
    weights = timm_weights()
    extra = {"decoder_blocks.0.norm1.weight": torch.ones(3), "decoder_pos_embed": torch.zeros(1, 5, 3)}
    torch.save({"model": weights | extra}, tmp_path / "weights.pth")
    assert agree(load_foreign(tmp_path / "weights.pth", TINY, num_classes=3, image_size=32), weights)


@pytest.mark.parametrize(
    ("file", "named", "architecture"),
    [
        ("vit_tiny_patch16_224.safetensors", None, "vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.augreg_in21k.safetensors", None, "vit_tiny_patch16_224.augreg_in21k"),
        ("vit_tiny_patch16_224.mine.pth", None, "vit_tiny_patch16_224"),
        ("whatever.pth", "deit_tiny_patch16_224", "deit_tiny_patch16_224"),
        ("vit_tiny_patch16_224.safetensors", "deit_tiny_patch16_224", "deit_tiny_patch16_224"),
    ],
)
def test_the_architecture_is_the_named_one_else_the_files_own_name(file, named, architecture):
    assert architecture_of(Path(file), named) == architecture


def test_a_file_that_does_not_say_its_architecture_is_refused():
    with pytest.raises(CikdError, match="cannot be read off the weights") as caught:
        architecture_of(Path("best.pth"), None)
    assert "--teacher-arch" in str(caught.value.hint)


def test_a_named_file_becomes_a_teacher_with_its_heads(tmp_path):
    path = tmp_path / f"{TINY}.safetensors"
    save_file(timm_weights(), path)
    model = load_foreign(path, architecture_of(path, None), num_classes=3, image_size=32)
    assert head_counts(model) == (3,) * 12
    assert model.blocks[0].attn.scale == pytest.approx(1 / math.sqrt(64))


@pytest.mark.parametrize(
    ("architecture", "mean"),
    [
        ("vit_base_patch16_224.dino", (0.485, 0.456, 0.406)),
        ("vit_tiny_patch16_224", (0.5, 0.5, 0.5)),
        ("scratch", (0.5, 0.5, 0.5)),
    ],
)
def test_normalisation_is_that_of_the_pretraining(architecture, mean):
    assert pretraining_statistics(architecture)[0] == mean
    assert pretraining_statistics("scratch") == (HALF, HALF)
