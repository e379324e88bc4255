"""Checkpoints of other programs: whatever is wrapped around a ViT comes off, and nothing in them runs."""

import argparse
import random
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch
from foreign_weights import ARCHITECTURE, SIZE, features, fronted, load_foreign, network
from safetensors.torch import save_file

from cikd_cli.errors import CikdError
from cikd_cli.models.checkpoints import open_checkpoint
from cikd_cli.models.foreign import architecture_of, fit

DICTIONARIES = ("state_dict", "model", "model_state_dict", "net", "network", "encoder", "backbone", "module", "weights")
FRONTS = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "encoder.", "vit.", "image_encoder.trunk.", "0.")


def few() -> dict[str, torch.Tensor]:
    names = ("patch_embed.proj.weight", "blocks.0.norm1.weight", "cls_token")
    return {name: torch.full((2,), float(number)) for number, name in enumerate(names)}


def opened(path: Path, content: object):
    torch.save(content, path)
    return open_checkpoint(path)


@pytest.mark.parametrize("seed", range(25))
def test_wrappers_come_off_in_any_order_and_number(tmp_path, seed):
    draw = random.Random(seed)
    content: dict = fronted(few(), "".join(draw.choices(FRONTS, k=draw.randrange(4))))
    for name in draw.choices(DICTIONARIES, k=draw.randrange(4)):
        content = {name: content, "epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.zeros(2)}}}}
    found = opened(tmp_path / "x.pth", content)
    assert found.is_vit
    assert found.tensors.keys() == few().keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in few().items())


@pytest.mark.parametrize(
    ("front", "inside"),
    [
        ("_orig_mod.", ""),
        ("module._orig_mod.", ""),
        ("_orig_mod.module.", ""),
        ("model.module.", ""),
        ("net.", ""),
        ("_fsdp_wrapped_module.", "_fsdp_wrapped_module."),
        ("", "_orig_mod."),
        ("", "_checkpoint_wrapped_module."),
    ],
)
def test_a_wrapped_network_gives_the_features_of_the_plain_one(tmp_path, front, inside):
    source = network()
    weights = {
        front + (name.replace(".attn", f".{inside}attn") if name.startswith("blocks.") else name): tensor
        for name, tensor in source.state_dict().items()
    }
    torch.save({"state_dict": weights}, tmp_path / "x.ckpt")
    model = load_foreign(tmp_path / "x.ckpt", ARCHITECTURE, num_classes=5, image_size=SIZE)
    assert torch.equal(features(model), features(source))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_other_precisions_are_read_as_float32(tmp_path, kind, suffix):
    weights = {name: tensor.to(kind) for name, tensor in network().state_dict().items()}
    path = tmp_path / f"x{suffix}"
    save_file(weights, path) if suffix == ".safetensors" else torch.save(weights, path)
    model = load_foreign(path, ARCHITECTURE, num_classes=3, image_size=SIZE)
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    own = model.state_dict()
    assert all(torch.equal(own[name], weights[name].float()) for name in own if not name.startswith("head"))


@pytest.mark.parametrize(
    ("content", "taken", "factor"),
    [
        ({"student": ("module.backbone.", 1), "teacher": ("backbone.", 2)}, "of student and teacher the teacher", 2),
        ({"model": ("", 1), "model_ema": ("", 2)}, "of model and model_ema the model_ema", 2),
        ({"state_dict": ("module.", 1), "state_dict_ema": ("", 2)}, "the state_dict_ema", 2),
        ({"state_dict": ("student.", 1), "other": ("momentum_teacher.", 2)}, "the other", 2),
        ({"base_encoder": ("", 1), "momentum_encoder": ("", 2)}, "the base_encoder", 1),
        ({"encoder": ("module.", 1), "target_encoder": ("module.", 2)}, "the target_encoder", 2),
    ],
)
def test_of_several_networks_the_teacher_or_the_average_is_taken_and_said(tmp_path, content, taken, factor):
    weights = network().state_dict()
    torch.save(
        {
            key: fronted({name: tensor * times for name, tensor in weights.items()}, front)
            for key, (front, times) in content.items()
        },
        tmp_path / "x.pth",
    )
    checkpoint = open_checkpoint(tmp_path / "x.pth")
    model, notes = fit(checkpoint, tmp_path / "x.pth", ARCHITECTURE, num_classes=3, image_size=SIZE)
    assert torch.equal(model.cls_token, weights["cls_token"] * factor)
    assert taken in "; ".join(notes)


def test_of_several_networks_none_is_taken_at_random(tmp_path):
    other = {name: tensor + 1 for name, tensor in few().items()}
    with pytest.raises(CikdError, match="holds 2 networks, left and right, and does not say which"):
        opened(tmp_path / "x.pth", {"left": few(), "right": other})


def test_the_same_network_twice_is_one(tmp_path):
    assert opened(tmp_path / "x.pth", {"state_dict": few(), "model": few()}).tensors.keys() == few().keys()


def test_a_training_checkpoint_is_read_with_the_settings_stored_in_it(tmp_path):
    source = network()
    optimizer = torch.optim.AdamW(source.parameters())
    source(torch.zeros(1, 3, SIZE, SIZE)).sum().backward()
    optimizer.step()
    args = argparse.Namespace(model=ARCHITECTURE, lr=np.float64(1e-3), output_dir=Path("out"))
    content = {
        "model": OrderedDict(fronted(source.state_dict(), "module.")),
        "optimizer": optimizer.state_dict(),
        "args": args,
        "best": np.float32(3.5),
        "when": np.datetime64("2026-01-01").astype(object),
        "history": defaultdict(list, {"loss": [1.0]}),
        "last": deque([1, 2], maxlen=3),
        "rng": np.arange(3),
        "epoch": np.int64(3),
    }
    for zipped in (True, False):
        path = tmp_path / "checkpoint.pth.tar"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        checkpoint = open_checkpoint(path)
        assert architecture_of(path, None, checkpoint) == ARCHITECTURE
        model, _ = fit(checkpoint, path, ARCHITECTURE, num_classes=3, image_size=SIZE)
        assert torch.equal(features(model), features(source))


@pytest.mark.parametrize(
    "args", [{"model": "resnet_of_mine"}, {"model": ARCHITECTURE, "model_kwargs": {"num_heads": 4}}]
)
def test_a_recorded_architecture_that_is_not_timms_own_is_not_taken(tmp_path, args):
    checkpoint = opened(tmp_path / "x.pth", {"model": few(), "args": argparse.Namespace(**args)})
    assert checkpoint.architecture is None


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    "hidden", [lambda trap: trap, lambda trap: argparse.Namespace(x=trap), lambda trap: [{0: trap}]]
)
def test_code_beside_the_weights_never_runs_and_is_named(tmp_path, hidden):
    with pytest.raises(CikdError, match=r"more than tensors: (pathlib\.Path\.touch|builtins\.getattr|getattr)"):
        opened(tmp_path / "x.pth", {"model": few(), "extra": hidden(Trap(tmp_path / "it-ran"))})
    assert not (tmp_path / "it-ran").exists()


def test_a_whole_network_in_a_pickle_is_named(tmp_path):
    with pytest.raises(CikdError, match=r"more than tensors: timm\.models\.vision_transformer\.VisionTransformer"):
        opened(tmp_path / "x.pth", network())


def test_a_dictionary_that_holds_itself_is_read(tmp_path):
    content: dict = {"model": few()}
    content["again"] = {"and": content}
    assert opened(tmp_path / "x.pth", content).tensors.keys() == few().keys()
