"""Compiled blocks: when, and that they compute the same."""

import pytest
import reference
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from cikd_cli.data.batch import Batch
from cikd_cli.engine.predict import predict
from cikd_cli.engine.tuning import WORTH_STEPS, compile_blocks, worth_compiling
from cikd_cli.methods import Moment
from cikd_cli.methods.ali import Ali, share_teacher
from cikd_cli.methods.lm import LogitMimicking
from cikd_cli.models import create_student
from cikd_cli.models.drop_path import draw, use_draws
from cikd_cli.models.frozen import FrozenTeacher

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
HALF = (0.5, 0.5, 0.5)

pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute")  # Dynamo looks at it itself


def method(kind):
    torch.manual_seed(0)
    sizes = {"num_classes": 3, "image_size": 16, "patch_size": 8, "end_heads": 3, "depth": 4, "heads": 2}
    teacher, student = (create_student("custom", width=width, **sizes) for width in (24, 12))
    frozen = FrozenTeacher(teacher, device=CPU, dtype=torch.float32)
    if kind == "ali":
        return Ali(student, frozen, pairs=((1, 1), (4, 4)), mean=HALF, std=HALF)
    return LogitMimicking(student, frozen, mean=HALF, std=HALF)


def gradients(trained, draws=None):
    images = (reference.seeded(4, 3, 16, 16).sigmoid() * 255).byte()
    batch = Batch(images, torch.tensor([0, 1, 2, 0]), None, torch.arange(4))
    use_draws(trained, draw(trained, seed=0, step=0, rows=4, rank=0, size=1) if draws is None else draws)
    trained.zero_grad()
    sum(trained.train()(batch, Moment(5)).values()).backward()
    return {name: p.grad.clone() for name, p in trained.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("kind", ["ali", "lm"])
def test_compiled_blocks_of_teacher_and_student_give_the_same_gradients(kind):
    torch._dynamo.reset()
    plain, counter = gradients(method(kind)), CompileCounterWithBackend("aot_eager")
    trained = method(kind)
    compile_blocks(trained, backend=counter)
    compiled = gradients(trained)
    assert counter.frame_count >= 2  # one network's blocks differ from the other's
    assert plain.keys() == compiled.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-6)


def test_a_second_step_compiles_nothing_again():
    torch._dynamo.reset()
    counter, trained = CompileCounterWithBackend("aot_eager"), method("lm")
    compile_blocks(trained, backend=counter)
    gradients(trained)
    once = counter.frame_count
    gradients(trained)
    assert counter.frame_count == once


def test_micro_batches_and_evaluation_compile_nothing_more():
    torch._dynamo.reset()
    counter, trained = CompileCounterWithBackend("aot_eager"), method("lm")
    compile_blocks(trained, backend=counter)
    gradients(trained)
    once = counter.frame_count
    draws = draw(trained, seed=0, step=1, rows=12, rank=0, size=1)
    for part in draws.chunk(3, dim=1):
        gradients(trained, part)
    pixels = torch.zeros(5, 3, 16, 16, dtype=torch.uint8)
    predict(
        trained.student, [Batch(pixels, torch.zeros(5).long(), None, torch.arange(5))], mean=HALF, std=HALF, device=CPU
    )
    assert counter.frame_count == once


def test_a_second_student_on_the_same_teacher_compiles_nothing_more_and_gives_the_same_gradients():
    torch._dynamo.reset()
    counter, first = CompileCounterWithBackend("aot_eager"), method("ali")
    second = Ali(method("ali").student, first.teacher, pairs=((1, 1), (1, 4)), mean=HALF, std=HALF)
    plain = gradients(second)
    share_teacher([first, second])
    for student in (first, second):
        compile_blocks(student, backend=counter)
    gradients(first)
    once = counter.frame_count
    compiled = gradients(second)
    assert 2 <= once == counter.frame_count
    for name, gradient in plain.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("wanted", "device", "steps", "answer"),
    [
        (True, CPU, 1, True),
        (False, CUDA, WORTH_STEPS, False),
        (None, CPU, WORTH_STEPS, False),
        (None, CUDA, WORTH_STEPS - 1, False),
    ],
)
def test_it_is_the_users_word_or_only_long_runs_on_a_gpu(wanted, device, steps, answer):
    assert worth_compiling(wanted, device, steps=steps) is answer


def test_a_long_run_on_a_gpu_with_triton_is_compiled(monkeypatch):
    monkeypatch.setattr("cikd_cli.kernels.relation_kl_cuda.available", lambda: True)
    assert worth_compiling(None, CUDA, steps=WORTH_STEPS)
