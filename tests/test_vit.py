"""Students, teachers and positions (docs/method.md)."""

import math

import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cikd_cli.errors import CikdError
from cikd_cli.models import create_student, create_teacher, sincos_positions
from cikd_cli.models.network import head_counts
from cikd_cli.models.teachers import create_scratch_teacher
from cikd_cli.models.vit import set_heads

COUNTS = {  # docs/method.md: (name, classes) -> parameters with and without the position table
    ("vit_tiny", 0): (5_524_416, 5_486_592),
    ("vit_tiny", 4): (5_525_188, 5_487_364),
    ("vit_tiny", 10): (5_526_346, 5_488_522),
    ("vit_tiny", 37): (5_531_557, 5_493_733),
    ("vit_tiny", 100): (5_543_716, 5_505_892),
    ("vit_tiny", 102): (5_544_102, 5_506_278),
    ("vit_tiny", 196): (5_562_244, 5_524_420),
    ("vit_small", 0): (21_665_664, 21_590_016),
    ("vit_small", 4): (21_667_204, 21_591_556),
    ("vit_small", 10): (21_669_514, 21_593_866),
    ("vit_small", 37): (21_679_909, 21_604_261),
    ("vit_small", 100): (21_704_164, 21_628_516),
    ("vit_small", 102): (21_704_934, 21_629_286),
    ("vit_small", 196): (21_741_124, 21_665_476),
}


BASE = {0: 85_798_656, 4: 85_801_732, 10: 85_806_346, 37: 85_827_109, 100: 85_875_556, 102: 85_877_094, 196: 85_949_380}


def small(**settings: object) -> VisionTransformer:
    torch.manual_seed(0)
    defaults = {
        "num_classes": 3,
        "image_size": 16,
        "patch_size": 8,
        "end_heads": 6,
        "width": 24,
        "depth": 4,
        "heads": 2,
    }
    return create_student("custom", **defaults | settings)


def parameters(model: nn.Module) -> tuple[int, int]:
    return sum(p.numel() for p in model.parameters()), sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize(("name", "classes"), list(COUNTS))
def test_a_student_has_the_published_number_of_parameters(name, classes):
    assert parameters(create_student(name, num_classes=classes)) == COUNTS[name, classes]


@pytest.mark.parametrize("classes", list(BASE))
def test_the_default_teacher_has_the_published_number_of_parameters(classes):
    with torch.device("meta"):
        teacher = create_teacher("vit_base_patch16_224.dino", num_classes=classes)
    assert parameters(teacher)[0] == BASE[classes]


@pytest.mark.parametrize(("name", "widths"), [("vit_tiny", (16, 32)), ("vit_small", (32, 64))])
def test_a_student_has_12_heads_at_both_ends_and_6_between_in_all_three_places_timm_keeps_them(name, widths):
    ends, middle = widths
    student = create_student(name, num_classes=3)
    assert head_counts(student) == (12, *[6] * 10, 12)
    for number, block in enumerate(student.blocks, start=1):
        width = ends if number in (1, 12) else middle
        assert (block.attn.num_heads * width, block.attn.head_dim) == (student.embed_dim, width)
        assert block.attn.scale == pytest.approx(width**-0.5)


def test_the_ends_take_the_heads_of_the_teacher():
    assert head_counts(create_student("vit_tiny", num_classes=3, end_heads=3)) == (3, *[6] * 10, 3)


def test_fused_and_plain_attention_agree_whatever_the_heads():
    student = small().eval()
    images = torch.randn(2, 3, 16, 16)
    outputs = []
    for fused in (True, False):
        for block in student.blocks:
            block.attn.fused_attn = fused
        outputs.append(student(images))
    torch.testing.assert_close(*outputs)


def test_setting_heads_is_building_with_them():
    torch.manual_seed(0)
    sizes = {"img_size": 16, "patch_size": 8, "num_classes": 3, "embed_dim": 24, "depth": 2}
    built, changed = VisionTransformer(num_heads=6, **sizes).eval(), VisionTransformer(num_heads=2, **sizes).eval()
    changed.load_state_dict(built.state_dict())
    images = torch.randn(2, 3, 16, 16)
    assert not torch.allclose(changed(images), built(images), atol=1e-4)
    set_heads(changed, [6, 6])
    for network in (built, changed):
        for block in network.blocks:
            block.attn.fused_attn = False  # the path that uses `scale`
    torch.testing.assert_close(changed(images), built(images))


def test_positions_are_sines_and_cosines_of_the_column_and_then_of_the_row():
    rows, cols, width = 3, 5, 24
    table = sincos_positions((rows, cols), width)
    assert table.shape == (1 + rows * cols, width)
    assert table.dtype == torch.float32
    for row in range(rows):
        for col in range(cols):
            expected = []
            for place in (col, row):
                angles = [place * 10000 ** (-m / (width / 4)) for m in range(width // 4)]
                expected += [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
            assert table[1 + row * cols + col].tolist() == pytest.approx(expected, abs=1e-6)


def test_the_class_row_of_the_positions_is_zero():
    assert sincos_positions((2, 2), 8)[0].abs().max() == 0


def test_a_student_carries_the_table_and_does_not_train_it():
    student = small(image_size=32)
    assert torch.equal(student.pos_embed[0], sincos_positions((4, 4), 24))
    assert not student.pos_embed.requires_grad
    assert [name for name, p in student.named_parameters() if not p.requires_grad] == ["pos_embed"]


def test_linear_layers_start_xavier_uniform_with_zero_bias():
    student = create_student("vit_tiny", num_classes=100)
    for module in student.modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(6 / (module.in_features + module.out_features))
            assert module.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
            assert module.bias.abs().max() == 0


def test_the_patch_projection_starts_xavier_uniform_as_a_matrix():
    projection = create_student("vit_tiny", num_classes=3).patch_embed.proj
    bound = math.sqrt(6 / (192 + 3 * 16 * 16))
    assert projection.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert projection.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.02)
    assert projection.bias.abs().max() == 0


def test_the_class_token_starts_normal_with_a_deviation_of_0_02():
    torch.manual_seed(0)
    tokens = torch.cat([create_student("vit_small", num_classes=0).cls_token.flatten() for _ in range(3)])
    assert tokens.std().item() == pytest.approx(0.02, rel=0.1)
    assert tokens.mean().item() == pytest.approx(0, abs=0.003)


def test_layer_norms_start_at_one_and_zero_with_an_epsilon_of_1e_6():
    norms = [module for module in small().modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 2 * 4 + 1
    assert all((norm.weight == 1).all() and (norm.bias == 0).all() and norm.eps == 1e-6 for norm in norms)


def test_a_student_is_a_stock_pre_norm_vit_with_exact_gelu_read_out_at_the_class_token():
    student = create_student("vit_tiny", num_classes=3)
    assert type(student) is VisionTransformer
    block = student.blocks[3]
    assert isinstance(block.mlp.act, nn.GELU)
    assert block.mlp.act.approximate == "none"
    assert block.mlp.fc1.out_features == 4 * 192
    assert block.attn.qkv.bias is not None
    assert student.global_pool == "token"


def test_without_classes_there_is_no_classifier():
    assert isinstance(create_student("vit_pico", num_classes=0).head, nn.Identity)


def test_vit_pico_is_96_wide_and_12_deep():
    student = create_student("vit_pico", num_classes=17, end_heads=3)
    assert (student.embed_dim, head_counts(student)) == (96, (3, *[6] * 10, 3))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"end_heads": 5}, "5 heads do not divide a width of 24"),
        ({"heads": 7}, "7 heads do not divide a width of 24"),
        ({"width": 30}, "30 is not a multiple of 4"),
        ({"image_size": 20}, "20 is not a multiple of the patch size 8"),
        ({"depth": None}, "needs its width, depth and heads"),
    ],
)
def test_a_student_that_cannot_be_is_refused(settings, message):
    with pytest.raises(CikdError, match=message):
        small(**settings)


def test_an_unknown_student_is_answered_with_the_nearest():
    with pytest.raises(CikdError, match="no student named vit_tinny") as caught:
        create_student("vit_tinny", num_classes=3)
    assert caught.value.hint == "did you mean vit_tiny?"


def test_an_unknown_teacher_is_answered_with_the_nearest():
    with pytest.raises(CikdError, match="no model named vit_tiny_patch16_225") as caught:
        create_teacher("vit_tiny_patch16_225", num_classes=3)
    assert "vit_tiny_patch16_224" in caught.value.hint


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_network_without_patches_is_refused_before_any_weights_are_fetched(pretrained):
    with pytest.raises(CikdError, match="resnet18 is a ResNet; ALI copies query, key and value"):
        create_teacher("resnet18", num_classes=3, pretrained=pretrained)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("xcit_nano_12_p16_224", "is a Xcit; ALI copies"),
        ("vit_base_patch16_siglip_224", "no class token"),
        ("deit3_small_patch16_224", None),
        ("vit_small_patch14_reg4_dinov2", None),
    ],
)
def test_a_teacher_is_a_vit_with_a_class_token_or_is_refused_with_the_reason(name, message):
    with torch.device("meta"):
        if message is None:
            assert create_teacher(name, num_classes=3, image_size=56 if "14" in name else 32).num_classes == 3
            return
        with pytest.raises(CikdError, match=message):
            create_teacher(name, num_classes=3)


def test_a_teacher_at_another_size_has_positions_for_its_own_grid():
    teacher = create_teacher("vit_tiny_patch16_224", num_classes=5, image_size=48)
    assert teacher.pos_embed.shape == (1, 1 + 9, 192)
    assert teacher(torch.zeros(1, 3, 48, 48)).shape == (1, 5)


def test_a_teacher_from_scratch_has_the_asked_shape():
    teacher = create_scratch_teacher(num_classes=5, image_size=16, patch_size=8, width=24, depth=3, heads=4)
    assert (teacher.embed_dim, head_counts(teacher), teacher.num_classes) == (24, (4, 4, 4), 5)
    assert teacher(torch.zeros(1, 3, 16, 16)).shape == (1, 5)
