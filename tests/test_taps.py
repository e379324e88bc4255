"""Taps against forward hooks on the qkv projections of the stock network."""

from collections import Counter

import pytest
import reference
import torch
from timm.models.deit import VisionTransformerDistilled
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from cikd_cli.errors import CikdError
from cikd_cli.models import QKV, create_student, tap_qkv
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.taps import drop_extra_prefix

VARIANTS = {
    "plain": {},
    "q and k norm": {"qk_norm": True},
    "attention norm": {"scale_attn_norm": True},
    "layer scale": {"init_values": 0.3},
    "pre norm": {"pre_norm": True},
    "register tokens": {"reg_tokens": 2},
    "positions on patches only": {"no_embed_class": True, "reg_tokens": 1},
    "no qkv bias": {"qkv_bias": False},
    "heads narrower than the width": {"num_heads": 2},
}


def network(*, cls: type[VisionTransformer] = VisionTransformer, **settings: object) -> VisionTransformer:
    """A small stock ViT with weights large enough for every block to matter."""
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 8, "num_classes": 3, "embed_dim": 20, "depth": 4, "num_heads": 4}
    vit = cls(**sizes | settings)
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.3)
    return vit.eval()


def set_fused(vit: VisionTransformer, fused: bool) -> VisionTransformer:
    for block in vit.blocks:
        block.attn.fused_attn = fused
    return vit


def images(count: int = 2) -> Tensor:
    return reference.seeded(count, 3, 16, 16)


def hooked(vit: VisionTransformer) -> dict[int, QKV]:
    """q, k, v of every block in one stock forward pass, cut out of the projection one head at a time."""
    seen: dict[tuple[int, str], Tensor] = {}
    handles = []
    for number, block in enumerate(vit.blocks, start=1):
        for name in ("qkv", "q_norm", "k_norm"):
            module = getattr(block.attn, name)
            handles.append(
                module.register_forward_hook(lambda _m, _i, out, key=(number, name): seen.update({key: out}))
            )
    with torch.no_grad():
        vit(images())
    for handle in handles:
        handle.remove()
    result = {}
    for number, block in enumerate(vit.blocks, start=1):
        width = block.attn.num_heads * block.attn.head_dim
        parts = [
            torch.stack(
                [
                    seen[number, "qkv"][:, :, part * width + head * block.attn.head_dim :][:, :, : block.attn.head_dim]
                    for head in range(block.attn.num_heads)
                ],
                dim=1,
            )
            for part in range(3)
        ]
        if not isinstance(block.attn.q_norm, nn.Identity):
            parts[0], parts[1] = seen[number, "q_norm"], seen[number, "k_norm"]
        result[number] = QKV(*parts)
    return result


def counted(vit: VisionTransformer, blocks: list[int]) -> Counter[str]:
    """How often each module was called by a tap."""
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda _m, _i, _o, name=name: calls.update([name]))
        for name, module in vit.named_modules()
    ]
    tap_qkv(vit, images(), blocks)
    for handle in handles:
        handle.remove()
    return calls


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain attention"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_taps_are_what_hooks_see_in_the_stock_network(variant, fused):
    vit = set_fused(network(**VARIANTS[variant]), fused)
    with torch.no_grad():
        taps = tap_qkv(vit, images(), [1, 2, 4])
    assert list(taps) == [1, 2, 4]
    for number, qkv in hooked(vit).items():
        if number in taps:
            torch.testing.assert_close(tuple(taps[number]), tuple(qkv), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fused", [True, False], ids=["fused", "plain attention"])
def test_taps_of_a_student_with_different_heads_a_block_are_what_hooks_see(fused):
    torch.manual_seed(0)
    sizes = {"width": 24, "depth": 4, "heads": 2}
    vit = create_student("custom", num_classes=3, image_size=16, patch_size=8, end_heads=6, **sizes).eval()
    set_fused(vit, fused)
    with torch.no_grad():
        taps = tap_qkv(vit, images(), [1, 2, 3, 4])
    assert [tuple(qkv.q.shape) for qkv in taps.values()] == [(2, 6, 5, 4), (2, 2, 5, 12), (2, 2, 5, 12), (2, 6, 5, 4)]
    for number, qkv in hooked(vit).items():
        torch.testing.assert_close(tuple(taps[number]), tuple(qkv), rtol=1e-4, atol=1e-5)


def test_query_and_key_make_the_attention_map_of_the_block():
    vit = set_fused(network(qk_norm=True), False)
    seen = []
    vit.blocks[2].attn.attn_drop.register_forward_hook(lambda _m, _i, out: seen.append(out))
    with torch.no_grad():
        vit(images())
        q, k, _ = tap_qkv(vit, images(), [3])[3]
    attention = reference.relation_log_map(q, k).exp()
    torch.testing.assert_close(seen[0].double(), attention, rtol=1e-4, atol=1e-6)


def test_each_part_is_images_heads_tokens_head_width():
    taps = tap_qkv(network(), images(3), [2])
    assert [tuple(part.shape) for part in taps[2]] == [(3, 4, 5, 5)] * 3


def test_blocks_count_from_one():
    vit = network()
    taps = tap_qkv(vit, images(), [1])
    first = vit.blocks[0]
    embedded = torch.cat([vit.cls_token.expand(2, -1, -1), vit.patch_embed(images())], dim=1) + vit.pos_embed
    torch.testing.assert_close(taps[1].v[:, 1], first.attn.qkv(first.norm1(embedded))[:, :, 45:50])


@pytest.mark.parametrize("block", [0, -1, 5])
def test_a_block_outside_the_network_is_refused_before_anything_runs(block):
    vit = network()
    vit.register_forward_pre_hook(lambda *_: pytest.fail("the network was run"))
    vit.patch_embed.register_forward_pre_hook(lambda *_: pytest.fail("the network was run"))
    with pytest.raises(CikdError, match=f"Block {block} is outside 1..4"):
        tap_qkv(vit, images(), [1, block])


def test_nothing_runs_behind_the_last_projection():
    calls = counted(network(), [1, 3])
    assert calls["blocks.2.norm1"] == calls["blocks.2.attn.qkv"] == 1
    behind = ["attn.proj", "norm2", "mlp", "mlp.fc1"]
    assert [calls[f"blocks.2.{name}"] for name in behind] == [0, 0, 0, 0]
    assert [name for name in calls if name == "norm" or name.startswith(("blocks.3", "head", "fc_norm"))] == []


def test_no_module_runs_twice():
    calls = counted(network(), [1, 2, 4])
    assert calls["blocks.0.attn.qkv"] == calls["blocks.1.attn.qkv"] == calls["blocks.3.attn.qkv"] == 1
    assert {name: count for name, count in calls.items() if count > 1} == {}


def test_the_same_block_twice_is_one_tap():
    vit = network()
    assert list(tap_qkv(vit, images(), [1, 1])) == [1]
    assert counted(vit, [1, 1])["blocks.0.attn.qkv"] == 1


def test_the_first_block_alone_runs_no_block_at_all():
    assert [name for name in counted(network(), [1]) if name.endswith((".proj", "mlp"))] == ["patch_embed.proj"]


def test_no_hook_stays_behind():
    vit = network()
    tap_qkv(vit, images(), [1, 2])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in vit.modules())


def test_dropping_register_tokens_keeps_the_class_token_and_the_patches():
    vit = network(reg_tokens=2)
    qkv = tap_qkv(vit, images(), [2])[2]
    kept = drop_extra_prefix(qkv, vit.num_prefix_tokens)
    for whole, part in zip(qkv, kept, strict=True):
        assert torch.equal(part, torch.cat([whole[:, :, :1], whole[:, :, 3:]], dim=2))


@pytest.mark.parametrize(
    "vit",
    [network(), network(reg_tokens=4), network(cls=VisionTransformerDistilled)],
    ids=["plain", "registers", "distilled"],
)
def test_a_frozen_teacher_shows_one_prefix_token_whatever_it_has(vit):
    taps = FrozenTeacher(vit, device=torch.device("cpu"), dtype=torch.float32).taps(images(), [1, 3])
    assert {tuple(part.shape) for qkv in taps.values() for part in qkv} == {(2, 4, 5, 5)}


def test_a_frozen_teacher_computes_in_its_own_precision_even_under_autocast():
    teacher = FrozenTeacher(network(), device=torch.device("cpu"), dtype=torch.float32)
    alone = teacher.taps(images(), [3])[3], teacher.logits(images())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(teacher.taps(images(), [3])[3].q, alone[0].q)
        assert torch.equal(teacher.logits(images()), alone[1])


def test_a_half_precision_teacher_gives_float32_logits():
    teacher = FrozenTeacher(network(), device=torch.device("cpu"), dtype=torch.bfloat16)
    assert teacher.logits(images()).dtype == torch.float32
    assert teacher.taps(images(), [1])[1].q.dtype == torch.bfloat16


def test_drop_path_still_acts_in_blocks_that_are_tapped_on_the_way():
    torch.manual_seed(0)
    vit = network(drop_path_rate=0.9, depth=3).train()
    assert isinstance(vit.blocks[1], Block)
    draws = {tuple(tap_qkv(vit, images(1), [2, 3])[3].q.flatten()[:3].tolist()) for _ in range(12)}
    assert len(draws) > 1
