"""What tensors say about the network they are for: its shape, timm's names of that shape, or which other kind it is."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import timm
import torch
from torch import Tensor

# The word in timm's names for a width and a depth.
_WORDS = {
    (192, 12): "tiny",
    (384, 12): "small",
    (384, 36): "small",
    (512, 12): "medium",
    (640, 12): "betwixt",
    (768, 12): "base",
    (896, 12): "base",
    (1024, 24): "large",
    (1152, 27): "so400m",
    (1280, 32): "huge",
    (1408, 40): "giant",
    (1536, 40): "giant",
    (1664, 48): "gigantic",
}
_MOST = 3  # names in a hint

# What else people have: the kind, and a name that its tensors have and a plain ViT's have not. The first one counts.
_KINDS = (
    ("a LoRA adapter, the change of a network and not the network", r"lora_[AB]|lora_(up|down)|lokr_|loha_|hada_w"),
    ("a network of quantised weights", r"qweight|weight_packed|quant_state|_packed_params|absmax"),
    ("a detector's network", r"bbox_embed|bbox_head|rpn\.|roi_heads|detection_tokens|class_labels_classifier"),
    ("Segment Anything's encoder, with positions in its attention", r"rel_pos_h|image_encoder\.|mask_decoder\."),
    ("a DINOv3, whose attention turns query and key by position", r"storage_tokens|rope_embed|rope_embeddings"),
    ("a Swin", r"layers?\.\d+\.blocks\.\d+\.|layers\.\d+\.downsample"),
    ("a BEiT, with positions in its attention", r"relative_position|rel_pos_bias|attn\.q_bias"),
    ("an EVA, with another MLP or positions in its attention", r"rope\.|attn\.inner_attn_ln|mlp\.ffn_ln"),
    ("a CLIP in names that timm does not read", r"vision_model\.|text_model\.|text_projection|logit_scale"),
    ("a ResNet or another convolutional network", r"layer1\.0\.conv1|(^|\.)conv_stem|stages\.\d+\.|features\.\d+\."),
    ("a language model", r"word_embeddings|embed_tokens|\.wte\.|lm_head|token_embedding"),
    ("a network that makes images", r"down_blocks|up_blocks|time_embed|quant_conv|post_quant"),
    ("a decoder without its encoder", r"^decoder"),
)
_OPTIMIZER = re.compile(r"exp_avg|momentum_buffer|max_exp_avg_sq|square_avg|optimizer")


@dataclass(frozen=True)
class Shape:
    """What of a plain ViT shows in its tensors; heads do not. hidden: width of the MLP's first layer."""

    width: int
    depth: int
    patch: int
    registers: int
    distilled: bool
    hidden: int
    layer_scale: bool
    pre_norm: bool
    qk_norm: bool
    qkv_bias: bool

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Shape | None":
        """The shape of tensors under timm's names; None if they are no ViT's."""
        projection, mlp = tensors.get("patch_embed.proj.weight"), tensors.get("blocks.0.mlp.fc1.weight")
        if mlp is None:
            mlp = tensors.get("blocks.0.mlp.w12.weight")
        blocks = [int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))]
        if projection is None or mlp is None or projection.ndim != 4 or mlp.ndim != 2:
            return None
        registers = tensors.get("reg_token", tensors.get("register_tokens"))
        return cls(
            width=projection.shape[0],
            depth=max(blocks) + 1,
            patch=projection.shape[-1],
            registers=0 if registers is None or registers.ndim != 3 else registers.shape[1],
            distilled="dist_token" in tensors,
            hidden=mlp.shape[0],
            layer_scale="blocks.0.ls1.gamma" in tensors or "blocks.0.gamma_1" in tensors,
            pre_norm="norm_pre.weight" in tensors,
            qk_norm="blocks.0.attn.q_norm.weight" in tensors,
            qkv_bias="blocks.0.attn.qkv.bias" in tensors,
        )

    def describe(self) -> str:
        """'384 wide, 12 blocks, patches of 14 px, 4 registers, layer scale'."""
        extras = (
            (self.registers, f"{self.registers} registers"),
            (self.distilled, "a distillation token"),
            (self.layer_scale, "layer scale"),
            (self.pre_norm, "a norm before its blocks"),
            (self.qk_norm, "norms of query and key"),
        )
        parts = [f"{self.width} wide", f"{self.depth} blocks", f"patches of {self.patch} px"]
        return ", ".join(parts + [text for there, text in extras if there])


_SAID = {  # how a difference is told: found, wanted
    "width": "a width of {}, not {}",
    "depth": "{} blocks, not {}",
    "patch": "patches of {} px, not {}",
    "registers": "{} registers, not {}",
    "distilled": ("a distillation token", "no distillation token"),
    "hidden": "an MLP of {}, not {}",
    "layer_scale": ("layer scale", "no layer scale"),
    "pre_norm": ("a norm before its blocks, as CLIP's", "no norm before its blocks"),
    "qk_norm": ("norms of query and key", "no norms of query and key"),
    "qkv_bias": ("biases of query, key and value", "no biases of query, key and value"),
}


def differences(found: Shape, wanted: Shape) -> list[str]:
    """What tells a network from the wanted one, in words."""
    told = []
    for key, value in asdict(found).items():
        other, said = getattr(wanted, key), _SAID[key]
        if value != other and (key != "hidden" or found.width == wanted.width):
            told.append(said.format(value, other) if isinstance(said, str) else said[0] if value else said[1])
    return told


def names_of(shape: Shape) -> list[str]:
    """timm's names of plain ViTs of this shape, the plainest first; several may differ in heads or pretraining."""
    word = _WORDS.get((shape.width, shape.depth))
    if word is None:
        return []
    names = timm.list_models(f"*_{word}_*patch{shape.patch}_*", module="vision_transformer")
    names += timm.list_models(f"*_{word}_*patch{shape.patch}_*", module="deit")
    names = sorted((name for name in names if name.startswith(("vit_", "deit"))), key=lambda name: (len(name), name))
    found: dict[str, str] = {}
    for name in names:
        plain = name.rpartition("_")[0]  # without the image side
        if plain in found or len(found) == _MOST:
            continue
        with torch.device("meta"):
            if Shape.of(timm.create_model(name).state_dict()) == shape:
                found[plain] = name
    return list(found.values())


def kind_of(names: Iterable[str]) -> str | None:
    """What network other than a plain ViT has tensors of these names; None for one that we do not know."""
    names = list(names)
    for kind, pattern in _KINDS:
        if any(re.search(pattern, name) for name in names):
            return kind
    if names and all(_OPTIMIZER.search(name) for name in names):
        return "an optimizer's state, without the network's weights"
    return None
