"""The teacher's logits on disk: computed once, and equal to computed anew."""

import errno
from pathlib import Path

import torch

from cikd_cli.models.frozen import FrozenTeacher
from cikd_cli.models.logit_cache import TeacherCache
from cikd_cli.models.teachers import create_scratch_teacher


def frozen_teacher():
    torch.manual_seed(0)
    vit = create_scratch_teacher(num_classes=5, image_size=16, patch_size=8, width=24, depth=2, heads=4)
    torch.nn.init.normal_(vit.head.weight)
    return FrozenTeacher(vit, device=torch.device("cpu"), dtype=torch.float32)


def normal_images(count):
    return torch.randn(count, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def test_logits_are_the_direct_ones_rounded_to_half_precision_when_written_and_when_read(tmp_path):
    teacher, images, index = frozen_teacher(), normal_images(4), torch.tensor([6, 0, 3, 2])
    rounded = teacher.logits(images).half().float()
    writer = TeacherCache(tmp_path / "key", {"seed": 0}, images=7, classes=5)
    assert torch.equal(writer.logits(teacher, images, index, 2), rounded)
    writer.flush()
    reader = TeacherCache(tmp_path / "key", {"seed": 0}, images=7, classes=5)
    assert torch.equal(reader.logits(teacher, images.fill_(float("nan")), index, 2), rounded)


def test_only_the_rows_that_are_missing_are_computed(tmp_path, passes):
    teacher, images = frozen_teacher(), normal_images(6)
    for index in ([1, 4], [4, 0, 1, 5], [5, 4, 1, 0]):
        cache = TeacherCache(tmp_path / "key", {}, images=6, classes=5)
        found = cache.logits(teacher, images[index], torch.tensor(index), 0)
        cache.flush()
        torch.testing.assert_close(found, teacher.logits(images[index]).half().float(), rtol=1e-3, atol=1e-3)
        passes.pop()  # the line above
    assert passes == [2, 2]


def test_batches_that_are_partly_known_do_not_make_the_teacher_compile_again(tmp_path, passes):
    teacher, images, compiled = frozen_teacher(), normal_images(8), []

    def backend(graph, _):
        compiled.append(graph)
        return graph

    for block in teacher.network.blocks:
        block.compile(dynamic=False, backend=backend)
    cache = TeacherCache(tmp_path / "key", {}, images=8, classes=5)
    cache.logits(teacher, images[:2], torch.arange(2), 0)
    cache.flush()
    assert len(compiled) == 1
    for end in (4, 7, 8):
        cache.logits(teacher, images[:end], torch.arange(end), 0)
        cache.flush()
    assert passes == [2, 2, 3, 1]
    assert len(compiled) == 1


def test_a_view_epoch_knows_nothing_of_another(tmp_path, passes):
    teacher, index = frozen_teacher(), torch.arange(3)
    cache = TeacherCache(tmp_path / "key", {}, images=3, classes=5)
    first = cache.logits(teacher, normal_images(3), index, 0)
    second = cache.logits(teacher, -normal_images(3), index, 1)
    assert not torch.equal(first, second)
    assert torch.equal(cache.logits(teacher, normal_images(3), index, 0), first)
    assert len(passes) == 2


def test_what_a_peer_has_written_meanwhile_is_read_after_a_flush(tmp_path, passes):
    teacher, images = frozen_teacher(), normal_images(4)
    ours, theirs = (TeacherCache(tmp_path / "c", {}, images=4, classes=5) for _ in range(2))
    ours.logits(teacher, images[:2], torch.tensor([0, 1]), 0)
    theirs.logits(teacher, images[2:], torch.tensor([2, 3]), 0)
    for cache in (ours, theirs):
        cache.flush()
    passes.clear()
    for cache in (ours, theirs):
        cache.logits(teacher, images, torch.arange(4), 0)
    assert not passes


def test_a_part_that_cannot_be_read_just_now_is_computed_again_and_stays(tmp_path, monkeypatch):
    teacher, images = frozen_teacher(), normal_images(4)
    cache = TeacherCache(tmp_path / "c", {}, images=4, classes=5)
    expected = cache.logits(teacher, images, torch.arange(4), 0)
    cache.flush()
    (part,) = cache.parts(0)
    told = []
    again = TeacherCache(tmp_path / "c", {}, images=4, classes=5)
    again.warn = told.append

    def busy(path):
        raise OSError(errno.ESTALE, "Stale file handle")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", busy)
        assert torch.equal(again.logits(teacher, images, torch.arange(4), 0), expected)
    assert part.exists()
    assert "cannot be read" in told[0]
