"""Class logits of a ViT that reads its class token, without the work on the other tokens that nobody reads."""

from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor

from cikd_cli.models.blocks import class_token_of, embed


def class_logits(vit: VisionTransformer, images: Tensor) -> Tensor:
    """vit(images), (B, classes); of the last block only the class token is worked out.

    About a twelfth less work for a network of twelve blocks. A network that pools other tokens, or has another head
    than one linear layer behind the class token, runs as it is.
    """
    if not reads_class_token(vit):
        stock: Tensor = vit(images)
        return stock
    x = embed(vit, images)
    for block in vit.blocks[:-1]:
        x = block(x)
    logits: Tensor = vit.forward_head(vit.norm(class_token_of(vit.blocks[-1], x)))
    return logits


def reads_class_token(vit: VisionTransformer) -> bool:
    """Whether the first token's output is all that the classifier sees."""
    return (
        type(vit) is VisionTransformer
        and type(vit.blocks[-1]) is Block
        and vit.global_pool == "token"
        and vit.attn_pool is None
        and getattr(vit.blocks[-1].attn, "gate", None) is None
    )
