"""Attention Locality Imitation: the sum of eq. 5 and 6, what trains, and what never moves."""

from typing import Any

import pytest
import reference
import torch
from torch import Tensor, nn

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.engine.optim import create_optimizer, parameter_groups, set_learning_rate
from cikd_cli.errors import CikdError
from cikd_cli.methods import Moment
from cikd_cli.methods.ali import Ali, ali_loss, learning_objective_block
from cikd_cli.models import QKV, create_student, tap_qkv
from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.teachers import create_scratch_teacher

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


class Poison:
    """Targets that may not be looked at."""

    def __getattribute__(self, name: str) -> Any:
        raise AssertionError(f"ALI read targets.{name}")


def method(*, pairs: tuple[tuple[int, int], ...] = ((1, 1), (2, 4)), drop_path: float = 0.0, **settings: Any) -> Ali:
    """A teacher of 3 blocks, 4 heads of 3 channels; a student of 4 blocks, end heads of 5 channels, 2 heads between."""
    torch.manual_seed(0)
    student = create_student(
        "custom",
        num_classes=0,
        image_size=16,
        patch_size=8,
        end_heads=4,
        width=20,
        depth=4,
        heads=2,
        drop_path=drop_path,
    )
    teacher = create_scratch_teacher(num_classes=6, image_size=16, patch_size=8, width=12, depth=3, heads=4)
    for parameter in [*teacher.parameters(), *student.parameters()]:
        if parameter.requires_grad:
            nn.init.normal_(parameter, std=0.3)
    frozen = FrozenTeacher(teacher, device=torch.device("cpu"), dtype=torch.float32)
    return Ali(student, frozen, pairs=pairs, mean=MEAN, std=STD, **settings)


def batch(*, two_views: bool = True, targets: Any = None) -> Batch:
    pixels = torch.randint(0, 256, (2, 3, 3, 16, 16), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return Batch(pixels[0], targets, pixels[1] if two_views else None, torch.arange(3))


def random_qkv(width: int, seed: int) -> QKV:
    return QKV(*(reference.seeded(2, 3, 5, width, seed=seed + part) for part in range(3)))


def total(terms: dict[str, Tensor]) -> Tensor:
    return sum(terms.values(), torch.zeros(()))


def step(ali: Ali, rate: float = 1e-2) -> None:
    """One AdamW step with weight decay, as the engine makes it."""
    settings = {"weight_decay": 0.5, "layer_decay": 1.0, "token_decay": True}
    optimizer = create_optimizer(parameter_groups(ali.student, ali.student, **settings), betas=(0.9, 0.95))
    set_learning_rate(optimizer, rate)
    total(ali.train()(batch(), Moment(0))).backward()
    optimizer.step()


def test_the_loss_is_the_sum_over_pairs_and_both_kinds_with_weight_one():
    pairs = [(random_qkv(8, 1), random_qkv(5, 10)), (random_qkv(8, 20), random_qkv(4, 30))]
    terms = ali_loss(pairs)
    assert list(terms) == ["qk", "vv"]
    assert total(terms).item() == pytest.approx(reference.ali_loss(pairs), rel=1e-5)


def test_qk_is_made_of_queries_and_keys_and_vv_of_values_twice():
    teacher, student = random_qkv(8, 1), random_qkv(5, 10)
    terms = ali_loss([(teacher, student)])
    qk = reference.relation_kl((teacher.q, teacher.k), (student.q, student.k))
    vv = reference.relation_kl((teacher.v, teacher.v), (student.v, student.v))
    assert [terms["qk"].item(), terms["vv"].item()] == pytest.approx([qk, vv], rel=1e-5)


@pytest.mark.parametrize("kind", ["qk", "vv"])
def test_one_kind_of_relation_can_be_asked_for(kind):
    pairs = [(random_qkv(8, 1), random_qkv(5, 10))]
    terms = ali_loss(pairs, relations=[kind])
    assert list(terms) == [kind]
    assert torch.equal(terms[kind], ali_loss(pairs)[kind])
    assert list(method(**{"qk": kind == "qk", "vv": kind == "vv"})(batch(), Moment(0))) == [kind]


def test_no_kind_of_relation_is_refused():
    with pytest.raises(CikdError, match="at least one"):
        method(qk=False, vv=False)


def test_the_teacher_sees_the_clean_view_and_the_student_the_jittered_one():
    ali = method().eval()
    with torch.no_grad():
        student = tap_qkv(ali.student, normalise(batch().images, MEAN, STD), [1, 4])
        teacher = tap_qkv(ali.teacher.network, normalise(batch().teacher_images, MEAN, STD), [1, 2])
        terms = ali(batch(), Moment(0))
    expected = reference.ali_loss([(teacher[1], student[1]), (teacher[2], student[4])])
    assert total(terms).item() == pytest.approx(expected, rel=1e-4)


def test_with_one_view_both_see_the_same_images():
    ali = method().eval()
    same = batch(two_views=False)
    torch.testing.assert_close(
        total(ali(same, Moment(0))), total(ali(Batch(same.images, None, same.images.clone(), same.index), Moment(0)))
    )


def test_labels_are_never_read():
    total(method()(batch(targets=Poison()), Moment(0))).backward()


def test_lob_1_taps_the_teachers_first_block_for_both_pairs():
    ali = method(pairs=((1, 1), (1, 4))).eval()
    with torch.no_grad():
        student = tap_qkv(ali.student, normalise(batch().images, MEAN, STD), [1, 4])
        teacher = tap_qkv(ali.teacher.network, normalise(batch().teacher_images, MEAN, STD), [1])[1]
        terms = ali(batch(), Moment(0))
    expected = reference.ali_loss([(teacher, student[1]), (teacher, student[4])])
    assert total(terms).item() == pytest.approx(expected, rel=1e-4)


def test_the_teacher_runs_no_further_than_its_block():
    ali = method()
    ali.teacher.network.blocks[1].mlp.register_forward_pre_hook(lambda *_: pytest.fail("ran past the projection"))
    ali.teacher.network.blocks[2].norm1.register_forward_pre_hook(lambda *_: pytest.fail("ran past block 2"))
    ali(batch(), Moment(0))


def test_what_lies_behind_the_last_projection_gets_no_gradient_and_all_before_it_does():
    ali = method()
    total(ali(batch(), Moment(0))).backward()
    without = {name for name, p in ali.student.named_parameters() if p.grad is None}
    behind = ("attn.proj.weight", "attn.proj.bias", "norm2.weight", "norm2.bias")
    mlp = ("mlp.fc1.weight", "mlp.fc1.bias", "mlp.fc2.weight", "mlp.fc2.bias")
    assert without == {"pos_embed", "norm.weight", "norm.bias", *(f"blocks.3.{name}" for name in behind + mlp)}


def test_what_gets_no_gradient_says_so_for_several_processes_to_know():
    ali = method()
    total(ali(batch(), Moment(0))).backward()
    assert {n for n, p in ali.named_parameters() if p.requires_grad} == {
        n for n, p in ali.named_parameters() if p.grad is not None
    }


def test_a_head_gets_no_gradient_either():
    ali = method()
    ali.student.reset_classifier(7)
    ali = Ali(ali.student, ali.teacher, pairs=ali.pairs, mean=MEAN, std=STD)
    total(ali(batch(), Moment(0))).backward()
    assert ali.student.head.weight.grad is None
    assert not ali.student.head.weight.requires_grad


def test_a_shallower_last_pair_freezes_all_blocks_behind_it():
    ali = method(pairs=((1, 1),))
    total(ali(batch(), Moment(0))).backward()
    trained = {name for name, p in ali.student.named_parameters() if p.grad is not None}
    embedding = {"cls_token", "patch_embed.proj.weight", "patch_embed.proj.bias"}
    first = {f"blocks.0.{name}.{kind}" for name in ("norm1", "attn.qkv") for kind in ("weight", "bias")}
    assert trained == embedding | first


def test_weight_decay_does_not_move_what_gets_no_gradient():
    ali = method()
    before = {name: p.detach().clone() for name, p in ali.student.named_parameters()}
    step(ali)
    moved = {name for name, p in ali.student.named_parameters() if not torch.equal(p, before[name])}
    still = set(before) - moved
    assert {"blocks.3.attn.proj.weight", "blocks.3.mlp.fc1.weight", "norm.weight", "pos_embed"} <= still
    assert {"blocks.3.attn.qkv.weight", "blocks.2.mlp.fc2.weight", "cls_token"} <= moved


def test_the_teacher_is_unchanged_after_a_step_and_has_no_gradient():
    ali = method()
    before = {name: tensor.clone() for name, tensor in ali.teacher.network.state_dict().items()}
    step(ali)
    assert all(torch.equal(tensor, before[name]) for name, tensor in ali.teacher.network.state_dict().items())
    assert all(p.grad is None and not p.requires_grad for p in ali.teacher.network.parameters())


def test_the_teacher_is_neither_a_parameter_nor_saved_with_the_method():
    ali = method()
    own = {id(p) for p in ali.parameters()}
    assert own == {id(p) for p in ali.student.parameters()}
    assert all(name.startswith("student.") for name in ali.state_dict())


def test_training_the_method_leaves_the_teacher_in_eval_mode():
    ali = method().train()
    assert ali.student.training
    assert not any(module.training for module in ali.teacher.network.modules())


def test_a_teacher_in_train_mode_stops_the_step():
    ali = method()
    ali.teacher.network.train()
    with pytest.raises(AssertionError, match="eval mode"):
        ali(batch(), Moment(0))


def test_drop_path_is_active_in_the_student_while_it_trains():
    ali = method(drop_path=0.5).train()
    assert len({total(ali(batch(), Moment(0))).item() for _ in range(8)}) > 1
    assert len({total(ali.eval()(batch(), Moment(0))).item() for _ in range(8)}) == 1


def test_the_terms_are_float32_under_autocast():
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert {term.dtype for term in method()(batch(), Moment(0)).values()} == {torch.float32}


def test_steps_bring_the_loss_down():
    ali = method()
    before = total(ali(batch(), Moment(0))).item()
    for _ in range(10):
        ali.zero_grad()
        step(ali, rate=5e-3)
    assert total(ali(batch(), Moment(0))).item() < 0.9 * before


@pytest.mark.parametrize(
    ("images", "block"), [(20_000, 10), (19_999, 9), (5_000, 9), (4_999, 8), (2_000, 8), (1_999, 7)]
)
def test_auto_looks_shallower_for_less_data(images, block):
    assert learning_objective_block("auto", images=images, depth=12) == block
