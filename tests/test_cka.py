"""CKA against Gram matrices and HSIC1 written out in float64."""

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from cikd_cli.analysis.cka import (
    MinibatchCKA,
    compare,
    diagonal,
    layer_features,
    linear_cka,
    matched_layers,
    usable_images,
)
from cikd_cli.errors import CikdError


def features(n: int, width: int, seed: int) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(seed))


def slow_hsic(x: Tensor, y: Tensor) -> float:
    """HSIC1 of docs/method.md by its sums over indices, from raw features, not centred."""
    n = len(x)
    k = [[float(x[i].double() @ x[j].double()) if i != j else 0.0 for j in range(n)] for i in range(n)]
    m = [[float(y[i].double() @ y[j].double()) if i != j else 0.0 for j in range(n)] for i in range(n)]
    both = sum(k[i][j] * m[i][j] for i in range(n) for j in range(n))
    sum_k, sum_m = sum(map(sum, k)), sum(map(sum, m))
    crossed = sum(k[i][j] * m[j][u] for i in range(n) for j in range(n) for u in range(n))
    return (both + sum_k * sum_m / ((n - 1) * (n - 2)) - 2 / (n - 2) * crossed) / (n * (n - 3))


def slow_cka(batches: list[tuple[Tensor, Tensor]]) -> float:
    means = [
        sum(slow_hsic(*pair) for pair in pairs) / len(batches)
        for pairs in (batches, [(x, x) for x, _ in batches], [(y, y) for _, y in batches])
    ]
    return means[0] / math.sqrt(means[1] * means[2])


@pytest.mark.parametrize(("n", "p", "q"), [(6, 40, 9), (50, 7, 4)])
def test_linear_cka_is_the_ratio_of_centred_norms_for_wide_and_for_narrow_features(n, p, q):
    x, y = features(n, p, 1) + 3, features(n, q, 2) - 5
    x[:, : min(p, q)] += y[:, : min(p, q)]
    a, b = x.double() - x.double().mean(0), y.double() - y.double().mean(0)
    norm = torch.linalg.matrix_norm
    expected = norm(b.T @ a) ** 2 / (norm(a.T @ a) * norm(b.T @ b))
    assert linear_cka(x, y) == pytest.approx(float(expected), rel=1e-10)


def test_linear_cka_of_rotated_scaled_and_shifted_features_is_one():
    x = features(20, 6, 1)
    rotation = torch.linalg.qr(features(6, 6, 2)).Q
    assert linear_cka(x, 3 * x @ rotation + 4) == pytest.approx(1, abs=1e-6)


def test_linear_cka_refuses_different_numbers_of_images():
    with pytest.raises(CikdError, match="4 and 5"):
        linear_cka(features(4, 3, 1), features(5, 3, 1))


def test_minibatch_cka_is_unbiased_hsic_averaged_over_batches_and_divided_last():
    batches = [(features(6, 8, seed), features(6, 5, seed + 50)) for seed in range(3)]
    batches = [(x, y + x[:, :5]) for x, y in batches]
    estimate = MinibatchCKA()
    for x, y in batches:
        estimate.update([x], [y])
    divided_first = sum(slow_cka([batch]) for batch in batches) / 3
    assert estimate.compute().item() == pytest.approx(slow_cka(batches), rel=1e-9)
    assert estimate.compute().item() != pytest.approx(divided_first, rel=1e-3)


def test_every_pair_of_layers_has_its_place_in_the_matrix():
    xs, ys = [features(6, width, width) for width in (3, 4)], [features(6, width, width + 9) for width in (5, 6, 7)]
    estimate = MinibatchCKA()
    estimate.update(xs, ys)
    matrix = estimate.compute()
    assert matrix.shape == (2, 3)
    assert matrix.dtype == torch.float64
    assert matrix[1, 2].item() == pytest.approx(slow_cka([(xs[1], ys[2])]), rel=1e-9)


def test_a_large_common_shift_does_not_spoil_the_estimate():
    x, y = features(16, 50, 1), features(16, 50, 2)
    y = y + x
    plain, shifted = MinibatchCKA(), MinibatchCKA()
    plain.update([x], [y])
    shifted.update([x.double() + 1e6], [y.double() - 1e6])
    assert shifted.compute().item() == pytest.approx(plain.compute().item(), rel=1e-6)


def test_independent_features_have_no_bias():
    estimate, biased = MinibatchCKA(), []
    for seed in range(200):
        x, y = features(8, 30, seed), features(8, 30, seed + 1000)
        estimate.update([x], [y])
        biased.append(linear_cka(x, y))
    assert abs(estimate.compute().item()) < 0.05
    assert sum(biased) / len(biased) > 0.5


def test_a_network_with_itself_is_one():
    estimate = MinibatchCKA()
    estimate.update([features(8, 5, 1)], [features(8, 5, 1)])
    assert estimate.compute().item() == pytest.approx(1, abs=1e-12)


def test_features_that_never_differ_give_nan():
    estimate = MinibatchCKA()
    estimate.update([torch.ones(5, 3)], [features(5, 3, 1)])
    assert math.isnan(estimate.compute().item())


def test_batches_of_three_images_are_refused():
    with pytest.raises(CikdError, match="at least 4"):
        MinibatchCKA().update([features(3, 5, 1)], [features(3, 5, 2)])


@pytest.mark.parametrize("sizes", [(8, 8, 5), (9, 4), (4, 7, 6)])
def test_batches_of_different_sizes_of_at_least_four_count_the_same(sizes):
    batches = [(features(n, 8, seed), features(n, 5, seed + 50)) for seed, n in enumerate(sizes)]
    batches = [(x, y + x[:, :5]) for x, y in batches]
    estimate = MinibatchCKA()
    for x, y in batches:
        estimate.update([x], [y])
    assert estimate.compute().item() == pytest.approx(slow_cka(batches), rel=1e-9)


def test_a_refused_batch_leaves_the_estimate_as_it_was():
    estimate = MinibatchCKA()
    estimate.update([features(8, 5, 1)], [features(8, 5, 2)])
    before = estimate.compute()
    with pytest.raises(CikdError, match="at least 4 images in a batch, not 3"):
        estimate.update([features(3, 5, 1)], [features(3, 5, 2)])
    assert torch.equal(estimate.compute(), before)


def test_layers_of_different_numbers_of_images_are_refused():
    with pytest.raises(CikdError, match="same images in every layer, not of 5 and 8"):
        MinibatchCKA().update([features(8, 5, 1)], [features(5, 5, 2)])


def test_no_batch_is_an_error():
    with pytest.raises(CikdError, match="no batch"):
        MinibatchCKA().compute()


def tiny(depth: int = 3, **settings: object) -> VisionTransformer:
    torch.manual_seed(depth)
    return VisionTransformer(
        img_size=12, patch_size=4, embed_dim=24, depth=depth, num_heads=2, num_classes=5, **settings
    ).eval()


def test_layers_are_the_ln1_outputs_and_the_final_norm_without_prefix_tokens():
    vit, images = tiny(reg_tokens=1), torch.randn(2, 3, 12, 12)
    found = layer_features(vit, images)
    assert [layer.shape for layer in found] == 4 * [(2, 9 * 24)]
    x = vit._pos_embed(vit.patch_embed(images))
    torch.testing.assert_close(found[0], vit.blocks[0].norm1(x)[:, 2:].flatten(1))
    for block in vit.blocks[:2]:
        x = block(x)
    torch.testing.assert_close(found[2], vit.blocks[2].norm1(x)[:, 2:].flatten(1))
    torch.testing.assert_close(found[3], vit.forward_features(images)[:, 2:].flatten(1))


def test_no_hook_stays_behind():
    vit = tiny()
    layer_features(vit, torch.randn(1, 3, 12, 12))
    assert not any(module._forward_hooks for module in vit.modules())


@pytest.mark.parametrize(("total", "used"), [(8, 8), (10, 8), (11, 8), (12, 12), (14, 12), (17, 16), (5, 4), (4, 4)])
def test_networks_of_different_sizes_are_compared_over_all_images_but_a_last_batch_of_fewer_than_four(total, used):
    student, teacher = tiny(2), VisionTransformer(img_size=16, patch_size=4, embed_dim=12, depth=4, num_heads=3)
    small, large = torch.randn(total, 3, 12, 12), torch.randn(total, 3, 16, 16)
    batches = list(zip(small.split(4), large.split(4), strict=True))
    matrix, images = compare(student, teacher, batches)
    assert matrix.shape == (3, 5)
    assert images == used == usable_images(total, 4)
    again, _ = compare(student, teacher, [pair for pair in batches if len(pair[0]) > 3])
    assert torch.equal(matrix, again)


def test_a_smaller_last_batch_counts_in_a_comparison():
    student, teacher, images = tiny(2), tiny(3), torch.randn(13, 3, 12, 12)
    batches = [(images[:8], images[:8]), (images[8:], images[8:])]
    matrix, used = compare(student, teacher, batches)
    assert used == usable_images(13, 8) == 13
    pairs = [(layer_features(student, part)[1], layer_features(teacher, part)[2]) for part, _ in batches]
    assert matrix[1, 2].item() == pytest.approx(slow_cka(pairs), rel=1e-9)


def test_fewer_than_four_images_are_refused():
    with pytest.raises(CikdError, match="at least 4"):
        compare(tiny(2), tiny(3), [(torch.randn(3, 3, 12, 12),) * 2])


def test_matched_layers_are_the_diagonal_for_equal_depth():
    assert matched_layers(13, 13) == list(range(13))
    matrix = torch.arange(9.0).reshape(3, 3)
    assert diagonal(matrix) == [0, 4, 8]


def test_matched_layers_of_different_depth_go_by_relative_depth():
    assert matched_layers(7, 13) == [0, 2, 4, 6, 8, 10, 12]
    assert matched_layers(13, 7)[0] == 0
    assert matched_layers(13, 7)[-1] == 6
