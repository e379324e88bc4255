"""The class token's pass against the stock network."""

import pytest
import reference
import torch
from test_taps import VARIANTS, network, set_fused
from timm.models.deit import VisionTransformerDistilled
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from cikd_cli.models import create_student
from cikd_cli.models.blocks import class_token_of, embed
from cikd_cli.models.drop_path import draw, use_draws
from cikd_cli.models.readout import class_logits, reads_class_token


def images(count: int = 3) -> Tensor:
    return reference.seeded(count, 3, 16, 16)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", VARIANTS)
def test_the_logits_are_those_of_the_stock_network(name, fused):
    vit = set_fused(network(**VARIANTS[name]), fused)
    assert reads_class_token(vit)
    torch.testing.assert_close(class_logits(vit, images()), vit(images()), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{"global_pool": "avg"}, {"cls": VisionTransformerDistilled}])
def test_a_network_that_reads_more_than_the_class_token_runs_as_it_is(settings):
    vit = network(**settings)
    assert not reads_class_token(vit)
    assert torch.equal(class_logits(vit, images()), vit(images()))


@pytest.mark.parametrize("name", VARIANTS)
def test_the_gradients_are_those_of_the_stock_network(name):
    vit = network(**VARIANTS[name])
    wanted = torch.autograd.grad(vit(images()).logsumexp(1).sum(), list(vit.parameters()))
    found = torch.autograd.grad(class_logits(vit, images()).logsumexp(1).sum(), list(vit.parameters()))
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5 * theirs.abs().max().item() + 1e-7)


def test_a_student_drops_the_same_samples_as_in_the_stock_pass():
    sizes = {"width": 12, "depth": 3, "heads": 3}
    student = create_student("custom", num_classes=3, image_size=16, patch_size=8, end_heads=2, drop_path=0.5, **sizes)
    outputs = []
    for forward in (class_logits, lambda vit, x: vit(x)):
        use_draws(student, draw(student, seed=0, step=1, rows=3, rank=0, size=1))
        outputs.append(forward(student.train(), images()))
    torch.testing.assert_close(*outputs)


def test_only_one_token_reaches_the_last_mlp():
    vit, seen = network(), []
    vit.blocks[-1].mlp.register_forward_hook(lambda _m, args, _o: seen.append(args[0].shape[1]))
    class_logits(vit, images())
    assert seen == [1]


def test_no_token_but_the_first_is_projected_in_the_last_block():
    block, tokens = network(embed_dim=64).blocks[-1], reference.seeded(1, 50, 64)
    with FlopCounterMode(display=False) as counter:
        class_token_of(block, tokens)
    assert counter.get_total_flops() < 2 * 50 * 64 * 64  # of keys alone


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("sharp", [1, 3])  # logits of standard deviation 1 and 10
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_class_token_is_as_exact_as_the_stock_blocks_in_half_precision(dtype, sharp, fused):
    vit = set_fused(network(embed_dim=64), fused)
    block = vit.blocks[-1]
    block.attn.qkv.weight.data[:128] *= sharp
    block, tokens = block.to(dtype), reference.seeded(64, 50, 64).to(dtype)
    plain, ours = block(tokens)[:, :1].double(), class_token_of(block, tokens).double()
    exact = block.double()(tokens.double())[:, :1]
    assert (ours - exact).norm() <= 1.1 * (plain - exact).norm()


def test_around_a_student_half_precision_hardly_changes_the_stock_blocks_gradient():
    block, tokens = network(embed_dim=64).blocks[-1], reference.seeded(64, 50, 64)
    (exact,) = torch.autograd.grad(block(tokens)[:, :1].square().sum(), block.attn.qkv.weight)
    with torch.autocast("cpu", torch.bfloat16):
        out = class_token_of(block, tokens)
    (half,) = torch.autograd.grad(out.float().square().sum(), block.attn.qkv.weight)
    assert (half - exact).norm() <= 0.05 * exact.norm()


def test_in_half_precision_the_patch_embedding_is_a_matrix_product_with_the_convolutions_result():
    vit = network().bfloat16()
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.05)
    pixels = images().bfloat16()
    stock = vit.norm_pre(vit._pos_embed(vit.patch_embed(pixels)))
    called = []
    vit.patch_embed.proj.register_forward_hook(lambda *_: called.append(True))
    torch.testing.assert_close(embed(vit, pixels), stock, rtol=1e-2, atol=1e-2)
    assert not called
