"""The nearest-neighbour check of weights that are said to be pretrained."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cikd_cli.analysis.pretrained import NeighbourTest, neighbour_test
from cikd_cli.data.splits import Split
from cikd_cli.data.views import normalise
from cikd_cli.models.spec import HALF, ModelSpec
from cikd_cli.models.teachers import create_scratch_teacher

CPU = torch.device("cpu")


def hues(classes: int, each: int) -> Split:
    """Images of heavy noise whose only difference between classes is a slight tint."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), each)
    angles = 2 * np.pi * labels[:, None] / classes + np.array([0, 2, 4]) * np.pi / 3
    pixels = 128 + 12 * np.cos(angles)[:, None, None, :] + rng.normal(0, 60, (len(labels), 32, 32, 3))
    return Split(pixels.clip(0, 255).astype(np.uint8), labels.astype(np.int64))


def network(*, knows_colour: bool = False) -> tuple[VisionTransformer, ModelSpec]:
    """A small ViT; one that knows colour averages each channel over all patches into its class token."""
    torch.manual_seed(0)
    model = create_scratch_teacher(num_classes=4, image_size=32, patch_size=8, width=12, depth=1, heads=1)
    if knows_colour:
        for parameter in model.parameters():
            nn.init.zeros_(parameter)
        with torch.no_grad():
            for channel in range(3):
                model.patch_embed.proj.weight[channel, channel] = 1.0
            block = model.blocks[0]
            block.norm1.weight.fill_(1)
            block.attn.qkv.weight[24:] = torch.eye(12)
            block.attn.proj.weight.copy_(torch.eye(12))
            model.norm.weight.fill_(1)
    return model, ModelSpec.describe(model, "scratch", classes=tuple("abcd"), mean=HALF, std=HALF)


def test_a_network_that_knows_the_classes_is_told_from_random_weights():
    model, spec = network(knows_colour=True)
    found = neighbour_test(model, hues(4, 12), spec, device=CPU)
    assert found.loaded > 90
    assert found.untrained < 60


def test_the_score_is_the_share_of_images_whose_nearest_other_image_has_their_label():
    model, spec = network()
    split = hues(3, 5)
    images = torch.from_numpy(np.asarray(split.items)).permute(0, 3, 1, 2)
    with torch.no_grad():
        tokens = model.eval().forward_features(normalise(images, HALF, HALF))[:, 0].double()
    hits = 0
    for image in range(15):
        others = [other for other in range(15) if other != image]
        nearest = max(others, key=lambda other: F.cosine_similarity(tokens[image], tokens[other], dim=0).item())
        hits += split.labels[nearest] == split.labels[image]
    assert neighbour_test(model, split, spec, device=CPU).loaded == pytest.approx(100 * hits / 15)


@pytest.mark.parametrize(("classes", "each", "images"), [(12, 15, 120), (3, 4, 12), (2, 20, 24)])
def test_at_most_twelve_images_of_at_most_ten_classes_are_looked_at(classes, each, images):
    model, spec = network()
    assert neighbour_test(model, hues(classes, each), spec, device=CPU).images == images


def test_the_network_keeps_its_weights():
    model, spec = network()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = neighbour_test(model, hues(2, 3), spec, device=CPU)
    assert isinstance(found, NeighbourTest)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
