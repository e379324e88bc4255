"""Weights under other programs' names give their network's features; other networks are named for what they are."""

import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from foreign_weights import (
    ARCHITECTURE,
    DINOV2,
    HUGGING_FACE,
    SIZE,
    VERSION_5,
    VIT,
    features,
    load_foreign,
    network,
    renamed,
)
from safetensors.torch import save_file
from torchvision.models import VisionTransformer as TorchvisionViT

from cikd_cli.errors import CikdError
from cikd_cli.models.checkpoints import open_checkpoint
from cikd_cli.models.foreign import architecture_of, fit

REGISTERS = "vit_small_patch14_reg4_dinov2"


def loaded(path: Path, content: dict, architecture: str = ARCHITECTURE, size: int = SIZE):
    torch.save(content, path)
    return load_foreign(path, architecture, num_classes=3, image_size=size)


@pytest.mark.parametrize("rules", [(HUGGING_FACE, VIT), (HUGGING_FACE, VIT, VERSION_5)], ids=["version 4", "version 5"])
@pytest.mark.parametrize("front", ["", "vit.", "model.module.vit."])
def test_hugging_faces_vit_gives_the_same_features(tmp_path, rules, front):
    source = network()
    weights = renamed(source.state_dict(), *rules, front=front)
    assert not any("qkv" in name for name in weights)
    assert torch.equal(features(loaded(tmp_path / "pytorch_model.bin", weights)), features(source))


def test_hugging_faces_distilled_deit_gives_the_same_features(tmp_path):
    name = "deit_tiny_distilled_patch16_224"
    source = network(name)
    weights = renamed(source.state_dict(), HUGGING_FACE, VIT, front="deit.")
    assert torch.equal(features(loaded(tmp_path / "x.bin", weights, name)), features(source))


@pytest.mark.parametrize("whose", ["meta", "meta, in training", "hugging face"])
@pytest.mark.parametrize("registers", [True, False])
def test_dinov2_gives_the_same_features(tmp_path, whose, registers):
    name = REGISTERS if registers else "vit_small_patch14_dinov2"
    source = network(name, size=28)
    weights = {key: value for key, value in source.state_dict().items() if not key.startswith("head")}
    weights["mask_token"] = torch.zeros(1, 384)
    if registers:  # their table has a row for the class token, timm's has none
        row = torch.randn(1, 1, 384)
        weights["register_tokens"] = weights.pop("reg_token")
        weights["cls_token"] = weights["cls_token"] - row
        weights["pos_embed"] = torch.cat([row, weights["pos_embed"]], dim=1)
    if whose == "meta, in training":
        weights = {key.replace("blocks.", "blocks.0."): value for key, value in weights.items()}
    elif whose == "hugging face":
        weights = renamed(weights, HUGGING_FACE, DINOV2, front="dinov2.")
    model = loaded(tmp_path / "x.pth", weights, name, 28)
    torch.testing.assert_close(features(model, 28), features(source, 28), rtol=1e-4, atol=1e-4)


def test_torchvisions_vit_gives_the_same_features(tmp_path):
    torch.manual_seed(0)
    source = TorchvisionViT(
        image_size=SIZE, patch_size=16, num_layers=6, num_heads=2, hidden_dim=64, mlp_dim=192, num_classes=3
    ).eval()
    for parameter in source.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model = loaded(tmp_path / "x.pth", source.state_dict())
    images = torch.randn(2, 3, SIZE, SIZE)
    with torch.no_grad():
        tokens = source._process_input(images)
        tokens = source.encoder(torch.cat([source.class_token.expand(2, -1, -1), tokens], dim=1))
        torch.testing.assert_close(model.eval().forward_features(images), tokens, rtol=1e-4, atol=1e-4)


def test_clips_image_half_gives_the_same_features(tmp_path):
    name = "vit_xsmall_patch16_clip_224"
    source, weights = network(name), {}
    names = (("patch_embed.proj", "conv1"), ("norm_pre", "ln_pre"), ("blocks.", "transformer.resblocks."))
    names += ((".norm", ".ln_"), ("attn.qkv.", "attn.in_proj_"), ("attn.proj", "attn.out_proj"))
    names += (("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"))
    for key, value in source.state_dict().items():
        new = "ln_post" + key[4:] if key.startswith("norm.") else key
        for one, other in names:
            new = new.replace(one, other)
        weights[f"visual.{new}"] = value
    weights["visual.class_embedding"] = weights.pop("visual.cls_token")[0, 0]
    weights["visual.positional_embedding"] = weights.pop("visual.pos_embed")[0]
    weights |= {"logit_scale": torch.zeros(()), "transformer.resblocks.0.ln_1.weight": torch.zeros(3)}
    assert torch.equal(features(loaded(tmp_path / "x.pt", weights, name)), features(source))


def test_the_norm_of_a_mean_pooled_network_is_taken_and_said(tmp_path):
    source = network()
    weights = {
        key.replace("norm.", "fc_norm.") if key[:5] == "norm." else key: value
        for key, value in source.state_dict().items()
    }
    path = tmp_path / "mae.pth"
    torch.save({"model": weights}, path)
    model, notes = fit(open_checkpoint(path), path, ARCHITECTURE, num_classes=3, image_size=SIZE)
    assert torch.equal(features(model), features(source))
    assert "mean-pooled" in notes[0]


def test_what_finds_no_place_beside_the_trunk_is_said(tmp_path):
    extra = {"decoder_blocks.0.norm1.weight": torch.ones(3), "projector.0.weight": torch.ones(3)}
    path = tmp_path / "x.pth"
    torch.save(network().state_dict() | extra, path)
    _, notes = fit(open_checkpoint(path), path, ARCHITECTURE, num_classes=3, image_size=SIZE)
    assert notes == ["left out: decoder_blocks, projector"]


@pytest.mark.parametrize("extra", ["norm_of_mine.weight", "cls_token_2", "blocks.0.adapter.weight", "embeddings.x"])
def test_what_finds_no_place_in_the_trunk_is_refused(tmp_path, extra):
    with pytest.raises(CikdError, match=r"does not fit.* 1 have no place"):
        loaded(tmp_path / "x.pth", network().state_dict() | {extra: torch.ones(3)})


@pytest.mark.parametrize(
    ("held", "asked", "message", "hint"),
    [
        ("deit_tiny_distilled_patch16_224", "deit_tiny_patch16_224", "a distillation token", "deit_tiny_distilled"),
        ("vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "no distillation token", "vit_tiny_patch16_224"),
        ("vit_tiny_patch16_224", "vit_small_patch16_224", "a width of 192, not 384", "vit_tiny_patch16_224"),
        ("vit_small_patch16_224", "vit_small_patch32_224", "patches of 16 px, not 32", "vit_small_patch16_224"),
        ("vit_small_patch32_224", "vit_small_patch16_224", "patches of 32 px, not 16", "vit_small_patch32_224"),
        ("vit_tiny_patch16_224", ARCHITECTURE, "12 blocks, not 6", "vit_tiny_patch16_224"),
        (REGISTERS, "vit_small_patch14_dinov2", "4 registers, not 0", REGISTERS),
        ("vit_small_patch14_dinov2", "vit_small_patch16_224", "layer scale", "vit_small_patch14_dinov2"),
    ],
)
def test_another_plain_vit_is_told_by_its_numbers_and_its_names_in_timm(tmp_path, held, asked, message, hint):
    size = 28 * 16
    weights = timm.create_model(held, num_classes=0, img_size=size).state_dict()
    with pytest.raises(CikdError, match=f"does not fit a {asked}: .*{message}") as caught:
        loaded(tmp_path / "x.pth", weights, asked, size)
    assert f"--teacher-arch {hint}" in str(caught.value.hint)


def test_a_shape_that_timm_has_not_is_described(tmp_path):
    weights = network(depth=5).state_dict()
    with pytest.raises(CikdError, match="5 blocks, not 6") as caught:
        loaded(tmp_path / "x.pth", weights)
    assert "64 wide, 5 blocks, patches of 16 px" in str(caught.value.hint)


def test_a_file_without_a_name_is_answered_with_the_names_of_its_shape_and_not_guessed(tmp_path):
    torch.save(timm.create_model("vit_small_patch16_224", num_classes=0).state_dict(), tmp_path / "best.pth")
    with pytest.raises(CikdError, match="head counts cannot be read off") as caught:
        architecture_of(tmp_path / "best.pth", None, open_checkpoint(tmp_path / "best.pth"))
    assert "vit_small_patch16_224 or deit_small_patch16_224" in str(caught.value.hint)


def names_of(model: str) -> list[str]:
    with torch.device("meta"):
        return list(timm.create_model(model).state_dict())


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (lambda: names_of("swin_tiny_patch4_window7_224"), "a Swin"),
        (lambda: names_of("resnet18"), "a ResNet"),
        (lambda: names_of("convnext_atto"), "convolutional"),
        (lambda: names_of("beit_base_patch16_224"), "a BEiT"),
        (lambda: ["vision_model.embeddings.class_embedding", "text_model.final_layer_norm.weight"], "a CLIP"),
        (lambda: ["base_model.model.blocks.0.attn.qkv.lora_A.weight"], "a LoRA adapter"),
        (lambda: ["backbone.0.body.layer1.0.conv1.weight", "bbox_embed.layers.0.weight"], "a detector"),
        (lambda: ["state.0.exp_avg", "state.0.exp_avg_sq"], "an optimizer's state"),
        (lambda: ["model.embed_tokens.weight"], "a language model"),
        (lambda: ["x"], "no ViT whose names we know"),
    ],
)
@pytest.mark.parametrize("arch", [ARCHITECTURE, None])
def test_a_network_that_is_no_plain_vit_is_named(tmp_path, names, what, arch):
    path = tmp_path / "x.safetensors"
    save_file({name: torch.ones(1) for name in names()}, path)
    if arch is None and "no ViT" in what:
        what = "does not say which architecture"
    checkpoint = open_checkpoint(path)
    with pytest.raises(CikdError, match=what):
        fit(checkpoint, path, architecture_of(path, arch, checkpoint), num_classes=3, image_size=SIZE)


def npz(path: Path) -> None:
    with path.open("wb") as file:
        np.savez_compressed(file, **{"Transformer/encoderblock_0/LayerNorm_0/scale": np.zeros(3)})


def zipped(name: str):
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")

    return write


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("x.pth"), io.BytesIO())


@pytest.mark.parametrize(
    ("write", "what"),
    [
        (npz, "an archive of NumPy arrays"),
        (lambda path: torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path), "TorchScript"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
        (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x032.0" + bytes(99)), "ONNX"),
        (lambda path: path.write_bytes(b""), "is empty"),
        (lambda path: path.write_text("<!DOCTYPE html><html>404</html>"), "a web page"),
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"), "Git LFS"),
        (lambda path: path.write_text(json.dumps({"weight_map": {}})), "JSON"),
        (tarred, "a tar archive"),
        (zipped("model.weights.h5"), "Keras"),
        (zipped("weights.pth"), "a zip archive"),
    ],
)
@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_file_of_another_format_is_named(tmp_path, write, what):
    path = tmp_path / "x.pth"
    write(path)
    with pytest.raises(CikdError, match=what):
        open_checkpoint(path)


def test_safetensors_under_another_name_is_read(tmp_path):
    source = network()
    save_file(source.state_dict(), tmp_path / "x.bin")
    model = load_foreign(tmp_path / "x.bin", ARCHITECTURE, num_classes=3, image_size=SIZE)
    assert torch.equal(features(model), features(source))
