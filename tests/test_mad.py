"""Mean attention distance against eq. 19 written out in loops."""

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cikd_cli.analysis.mad import attention_distances, mean_attention_distance, uniform_distance
from cikd_cli.errors import CikdError
from cikd_cli.models import create_student


def slow_distance(logits: Tensor, grid: tuple[int, int], patch: int, prefix: int, renormalise: bool = True) -> Tensor:
    """Eq. 19 in float64, one head, image, query and key at a time."""
    images, heads, _, _ = logits.shape
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    result = torch.zeros(heads, dtype=torch.float64)
    for image in range(images):
        for head in range(heads):
            for query, (query_row, query_column) in enumerate(places):
                row = logits[image, head, prefix + query].double()
                keys = (row[prefix:] if renormalise else row).softmax(0)
                keys = keys if renormalise else keys[prefix:]
                for key, (key_row, key_column) in enumerate(places):
                    distance = patch * math.hypot(query_row - key_row, query_column - key_column)
                    result[head] += keys[key] * distance / (images * len(places))
    return result


def random_logits(*shape: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_uniform_attention_on_14_by_14_patches_is_116_49_pixels():
    flat = mean_attention_distance(torch.zeros(1, 2, 197, 197), grid=(14, 14), patch_size=16)
    assert flat.tolist() == pytest.approx([116.49, 116.49], abs=0.005)
    assert uniform_distance((14, 14), 16) == pytest.approx(116.49, abs=0.005)


@pytest.mark.parametrize("prefix", [0, 1, 2])
def test_it_equals_the_definition_on_a_grid_that_is_not_square(prefix):
    logits = random_logits(2, 3, 12 + prefix, 12 + prefix)
    fast = mean_attention_distance(logits, grid=(3, 4), patch_size=8, prefix_tokens=prefix)
    assert fast.dtype == torch.float32
    torch.testing.assert_close(fast.double(), slow_distance(logits, (3, 4), 8, prefix), rtol=1e-5, atol=1e-5)


def test_kept_softmax_mass_is_the_smaller_number_without_renormalising():
    logits = random_logits(2, 3, 13, 13)
    kept = mean_attention_distance(logits, grid=(3, 4), patch_size=8, keep_softmax_mass=True)
    torch.testing.assert_close(
        kept.double(), slow_distance(logits, (3, 4), 8, 1, renormalise=False), rtol=1e-5, atol=1e-5
    )
    assert (kept < mean_attention_distance(logits, grid=(3, 4), patch_size=8)).all()


@pytest.mark.parametrize("scale", [50.0, 600.0])
def test_large_logits_and_half_precision_stay_finite_and_right(scale):
    logits = (random_logits(1, 2, 10, 10, scale=scale)).to(torch.bfloat16)
    fast = mean_attention_distance(logits, grid=(3, 3), patch_size=16)
    torch.testing.assert_close(fast.double(), slow_distance(logits, (3, 3), 16, 1), rtol=1e-4, atol=1e-4)


def test_a_head_that_looks_at_itself_has_distance_zero():
    logits = 1e4 * torch.eye(10).expand(1, 1, 10, 10)
    assert mean_attention_distance(logits, grid=(3, 3), patch_size=16).item() == 0


def test_the_class_token_changes_nothing():
    logits = random_logits(1, 2, 10, 10)
    other = logits.clone()
    other[..., 0, :], other[..., :, 0] = 7.0, -9.0
    expected = mean_attention_distance(logits, grid=(3, 3), patch_size=16)
    assert torch.equal(mean_attention_distance(other, grid=(3, 3), patch_size=16), expected)


def test_logits_that_do_not_fit_the_grid_are_refused():
    with pytest.raises(CikdError, match="3 x 3 patches"):
        mean_attention_distance(torch.zeros(1, 1, 9, 9), grid=(3, 3), patch_size=16)


def tiny(**settings: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=12, patch_size=4, embed_dim=24, depth=3, num_heads=2, num_classes=0, **settings
    ).eval()


def test_distances_of_a_network_come_from_its_attention_logits():
    vit = tiny()
    images = torch.randn(2, 3, 12, 12)
    block = vit.blocks[0]
    tokens = block.norm1(vit._pos_embed(vit.patch_embed(images)))
    q, k, _ = block.attn.qkv(tokens).reshape(2, 10, 3, 2, 12).permute(2, 0, 3, 1, 4)
    expected = slow_distance((q @ k.transpose(-1, -2) / math.sqrt(12)).detach(), (3, 3), 4, 1)
    found = attention_distances(vit, [images])
    assert [len(heads) for heads in found] == [2, 2, 2]
    torch.testing.assert_close(found[0].double(), expected, rtol=1e-5, atol=1e-5)


def test_every_image_weighs_the_same_whatever_its_batch():
    vit, images = tiny(), 5 * torch.randn(5, 3, 12, 12)
    whole = attention_distances(vit, [images])
    for one, other in zip(whole, attention_distances(vit, [images[:4], images[4:]]), strict=True):
        torch.testing.assert_close(one, other)
    unequal = attention_distances(vit, [images[:4]])[0] / 2 + attention_distances(vit, [images[4:]])[0] / 2
    assert not torch.allclose(whole[0], unequal)


def test_blocks_may_differ_in_heads_and_drop_path_is_off():
    torch.manual_seed(0)
    student = create_student(
        "custom", width=24, depth=3, heads=2, end_heads=6, num_classes=0, image_size=12, patch_size=4, drop_path=0.9
    ).train()
    images = torch.randn(4, 3, 12, 12)
    once, again = attention_distances(student, [images]), attention_distances(student, [images])
    assert [len(heads) for heads in once] == [6, 2, 6]
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))


def test_register_tokens_are_left_out():
    vit = tiny(reg_tokens=2)
    assert vit.num_prefix_tokens == 3
    uniform = uniform_distance((3, 3), 4)
    assert all(
        0 < distance < 2 * uniform
        for heads in attention_distances(vit, [torch.randn(2, 3, 12, 12)])
        for distance in heads
    )


def test_no_image_is_an_error_and_not_a_zero():
    with pytest.raises(CikdError, match="no image"):
        attention_distances(tiny(), [])
