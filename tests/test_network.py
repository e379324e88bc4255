"""What networks of any type say of themselves, and what is seen at points of one pass."""

import pytest
import torch
from timm.layers import DropPath

from cikd_cli.errors import CikdError
from cikd_cli.models import create_student, tap_qkv
from cikd_cli.models.drop_path import StochasticDepth
from cikd_cli.models.network import blocks, classifier_names, create_timm, head_counts, levels, read
from cikd_cli.models.spec import HALF, ModelSpec
from cikd_cli.models.weights import encode_model, load_model

CNN = "mobilenetv4_conv_small_035"


def student():
    torch.manual_seed(0)
    shape = {"width": 24, "depth": 3, "heads": 2}
    return create_student("custom", num_classes=3, image_size=16, patch_size=8, end_heads=6, **shape).eval()


def test_one_pass_of_a_vit_gives_taps_tokens_and_the_logits_of_the_plain_pass():
    model, images = student(), torch.randn(2, 3, 16, 16)
    seen = read(model, images, ("qkv:2", "hidden:3", "logits"))
    torch.testing.assert_close(seen["logits"], model(images))
    torch.testing.assert_close(tuple(seen["qkv:2"]), tuple(tap_qkv(model, images, [2])[2]))
    torch.testing.assert_close(model.forward_head(model.norm(seen["hidden:3"])), model(images))


@pytest.mark.parametrize("point", ["hidden:4", "qkv:0", "nothing"])
def test_a_point_that_a_vit_has_not_is_a_sentence(point):
    with pytest.raises(CikdError, match=f"has no {point}"):
        read(student(), torch.randn(1, 3, 16, 16), (point,))


def test_a_network_of_stages_gives_maps_and_the_logits_of_the_plain_pass_but_no_attention():
    model, images = create_timm(CNN, num_classes=3, image_size=32).eval(), torch.randn(2, 3, 32, 32)
    seen = read(model, images, ("hidden:2", "logits"))
    torch.testing.assert_close(seen["logits"], model(images))
    assert seen["hidden:2"].dim() == 4
    with pytest.raises(CikdError, match="has no qkv:1"):
        read(model, images, ("qkv:1",))


def test_the_drop_path_of_a_timm_network_gives_way_to_the_seeded_one_at_its_rate():
    model = create_timm("levit_128s", num_classes=3, image_size=224, drop_path=0.2)
    assert not any(isinstance(module, DropPath) for module in model.modules())
    rates = {module.p for module in model.modules() if isinstance(module, StochasticDepth)}
    assert rates == {0.2}


def test_heads_blocks_levels_and_classifier_are_found_whatever_they_are_called():
    assert head_counts(student()) == (6, 2, 6)
    assert len(blocks(create_timm("levit_128s", num_classes=3, image_size=224))) == 9
    model = create_timm(CNN, num_classes=3, image_size=32)
    assert head_counts(model) == ()
    assert classifier_names(model) == {"classifier.weight", "classifier.bias"}
    found, deepest = levels(model)
    assert found["conv_stem.weight"] == 0
    assert found["classifier.weight"] == deepest > 1


def test_a_network_with_batch_norm_comes_back_from_its_file_and_a_tensor_too_many_is_refused(tmp_path):
    model = create_timm(CNN, num_classes=3, image_size=32)
    model.train()(torch.randn(4, 3, 32, 32))  # statistics that are not those of a new network
    spec = ModelSpec.describe(model, CNN, classes=("a", "b", "c"), mean=HALF, std=HALF, image_size=32)
    path, images = tmp_path / "model.safetensors", torch.randn(2, 3, 32, 32)
    path.write_bytes(encode_model(model, spec))
    torch.testing.assert_close(load_model(path)[0](images), model.eval()(images))
    model.register_buffer("more", torch.zeros(1))
    path.write_bytes(encode_model(model, spec))
    with pytest.raises(CikdError, match="1 have no place"):
        load_model(path)
