"""A tiny ViT of timm's in the wrappers and under the names of other programs."""

import json
import re
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cikd_cli.models.checkpoints import open_checkpoint
from cikd_cli.models.foreign import fit

ARCHITECTURE = "test_vit"  # 64 wide, 6 blocks, patches of 16 px
SIZE = 32
HF_CONFIG = {
    "model_type": "vit",
    "hidden_size": 192,
    "num_hidden_layers": 12,
    "num_attention_heads": 3,
    "intermediate_size": 768,
    "patch_size": 16,
}

HUGGING_FACE = {  # timm's names and Hugging Face's, before version 5
    r"^cls_token": "embeddings.cls_token",
    r"^dist_token": "embeddings.distillation_token",
    r"^register_tokens": "embeddings.register_tokens",
    r"^mask_token": "embeddings.mask_token",
    r"^pos_embed": "embeddings.position_embeddings",
    r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
    r"^norm\.": "layernorm.",
    r"^blocks\.": "encoder.layer.",
    r"\.attn\.(query|key|value)": r".attention.attention.\1",
    r"\.attn\.proj": ".attention.output.dense",
}
VIT = {
    r"\.norm1": ".layernorm_before",
    r"\.norm2": ".layernorm_after",
    r"\.mlp\.fc1": ".intermediate.dense",
    r"\.mlp\.fc2": ".output.dense",
}
DINOV2 = {r"\.ls(\d)\.gamma": r".layer_scale\1.lambda1"}
VERSION_5 = {
    r"^encoder\.layer\.": "layers.",
    r"\.attention\.attention\.(q|k|v)(uery|ey|alue)": r".attention.\1_proj",
    r"\.attention\.output\.dense": ".attention.o_proj",
    r"\.intermediate\.dense": ".mlp.fc1",
    r"(?<!attention)\.output\.dense": ".mlp.fc2",
}


def network(name: str = ARCHITECTURE, *, size: int = SIZE, **settings: object) -> VisionTransformer:
    """With numbers in every tensor that show in its features."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, img_size=size, **settings)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


@torch.no_grad()
def features(model: VisionTransformer, size: int = SIZE) -> Tensor:
    """Of two random images, the same each time."""
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))
    return model.eval().forward_features(images)


def renamed(weights: dict[str, Tensor], *rules: dict[str, str], front: str = "") -> dict[str, Tensor]:
    """Under other names; query, key and value each on their own."""
    apart: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if ".attn.qkv." in name:
            for part, own in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                apart[name.replace("qkv", part)] = own.clone()
        else:
            apart[name] = tensor
    named = {}
    for name, tensor in apart.items():
        new = name
        for rule in rules:
            for pattern, replacement in rule.items():
                new = re.sub(pattern, replacement, new)
        named[("" if new.startswith("head") else front) + new] = tensor
    return named


def fronted(weights: dict[str, Tensor], front: str) -> dict[str, Tensor]:
    return {front + name: tensor for name, tensor in weights.items()}


def hugging_face(folder: Path, **changes: object) -> VisionTransformer:
    """A folder as Hugging Face's programs save a ViT-Tiny, whose network is returned."""
    source = network("vit_tiny_patch16_224")
    folder.mkdir(exist_ok=True)
    save_file(renamed(source.state_dict(), HUGGING_FACE, VIT, front="vit."), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(HF_CONFIG | changes))
    return source


TINY = "vit_tiny_patch16_224"


def load_foreign(path: Path, architecture: str, *, num_classes: int, image_size: int) -> VisionTransformer:
    """A timm network with the weights of a file, whatever may be said about them."""
    return fit(open_checkpoint(path), path, architecture, num_classes=num_classes, image_size=image_size)[0]
