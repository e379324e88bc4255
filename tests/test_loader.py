"""Batches depend on (seed, step) alone, are shared out among processes, and workers leave Ctrl-C to the parent."""

import multiprocessing
import os
import signal
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cikd_cli.data import loader as loader_module
from cikd_cli.data.batch import Batch
from cikd_cli.data.decode import DecodedSplit
from cikd_cli.data.loader import TrainLoader, eval_batches
from cikd_cli.data.order import epoch_order
from cikd_cli.data.splits import Split
from cikd_cli.data.views import ViewLaw, evaluation_view, uniforms, views
from cikd_cli.data.workers import auto_workers
from cikd_cli.errors import CikdError

COUNT = 22
LAW = ViewLaw(8, jitter=(0.4, 0.4, 0.4))


@pytest.fixture(scope="module")
def decoded() -> DecodedSplit:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (COUNT, 10, 12, 3), dtype=np.uint8)
    return DecodedSplit(Split(pixels, rng.integers(0, 5, COUNT)))


def loader(decoded: DecodedSplit, **settings: object) -> TrainLoader:
    return TrainLoader(decoded, LAW, **{"batch_size": 4, "seed": 1, "two_views": True, "workers": 0} | settings)


def same(first: Batch, second: Batch) -> bool:
    return all(
        torch.equal(getattr(first, name), getattr(second, name))
        for name in ("images", "targets", "teacher_images", "index")
    )


# --- order


def test_the_order_is_a_permutation_of_its_own_for_each_seed_and_epoch() -> None:
    orders = [epoch_order(seed, epoch, 50).tolist() for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 0))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert orders[0] == orders[3]
    assert orders[0] != orders[1]
    assert orders[0] != orders[2]


def test_the_order_owes_nothing_to_the_augmentation() -> None:
    assert epoch_order(0, 0, 200).tolist() != np.argsort(uniforms(0, 0, 200).reshape(-1)[:200]).tolist()


def test_an_epoch_shows_every_image_at_most_once_and_drops_the_short_batch(decoded: DecodedSplit) -> None:
    train = loader(decoded)
    assert train.steps_per_epoch == 5
    shown = torch.cat([batch.index for batch in train.batches(0, 5)])
    assert len(shown) == 20
    assert len(shown.unique()) == 20


def test_the_images_left_out_change_with_the_epoch(decoded: DecodedSplit) -> None:
    train = loader(decoded)
    epochs = [set(torch.cat([b.index for b in train.batches(5 * e, 5 * e + 5)]).tolist()) for e in range(3)]
    assert epochs[0] != epochs[1] or epochs[1] != epochs[2]


# --- content


def test_a_batch_holds_the_views_of_its_images(decoded: DecodedSplit) -> None:
    batch = next(iter(loader(decoded).batches(7, 8)))
    assert batch.index.tolist() == epoch_order(1, 1, COUNT)[8:12].tolist()
    for place, index in enumerate(batch.index.tolist()):
        student, teacher = views(decoded.image(index), uniforms(1, 1, COUNT)[index], LAW, two=True)
        assert np.array_equal(batch.images[place].permute(1, 2, 0).numpy(), student)
        assert np.array_equal(batch.teacher_images[place].permute(1, 2, 0).numpy(), teacher)
        assert batch.targets[place] == decoded.labels[index]


def test_a_batch_is_bytes_with_channels_first(decoded: DecodedSplit) -> None:
    batch = next(iter(loader(decoded).batches(0, 1)))
    assert (batch.images.shape, batch.images.dtype) == ((4, 3, 8, 8), torch.uint8)
    assert (batch.targets.dtype, batch.index.dtype) == (torch.int64, torch.int64)
    assert batch.images.is_contiguous()


def test_one_view_carries_no_teacher_images(decoded: DecodedSplit) -> None:
    assert next(iter(loader(decoded, two_views=False).batches(0, 1))).teacher_images is None


def test_batches_are_the_same_with_and_without_workers(decoded: DecodedSplit) -> None:
    alone, helped = loader(decoded), loader(decoded, workers=2)
    pairs = list(zip(alone.batches(2, 13), helped.batches(2, 13), strict=True))
    assert len(pairs) == 11
    assert all(same(*pair) for pair in pairs)


def test_batches_of_a_large_set_have_the_same_views(decoded: DecodedSplit, monkeypatch: pytest.MonkeyPatch) -> None:
    small = list(loader(decoded).batches(0, 13))
    monkeypatch.setattr(loader_module, "_TABLE", 1)
    assert all(same(*pair) for pair in zip(small, loader(decoded).batches(0, 13), strict=True))


def test_batches_are_the_same_wherever_iteration_starts(decoded: DecodedSplit) -> None:
    whole = list(loader(decoded).batches(0, 12))
    train = loader(decoded)
    parts = [*train.batches(0, 3), *train.batches(3, 7), *train.batches(7, 12)]
    assert all(same(*pair) for pair in zip(whole, parts, strict=True))


def test_an_iteration_that_was_left_early_does_not_disturb_the_next(decoded: DecodedSplit) -> None:
    whole = list(loader(decoded).batches(4, 8))
    train = loader(decoded, workers=2)
    for _ in train.batches(0, 20):
        break
    assert all(same(*pair) for pair in zip(whole, train.batches(4, 8), strict=True))


@pytest.mark.parametrize("size", [2, 4])
def test_the_shares_of_all_processes_make_up_the_global_batch(decoded: DecodedSplit, size: int) -> None:
    whole = list(loader(decoded).batches(3, 9))
    shares = [list(loader(decoded, rank=rank, size=size).batches(3, 9)) for rank in range(size)]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        names = ("images", "targets", "teacher_images", "index")
        assert same(batch, Batch(*(torch.cat([getattr(part, name) for part in parts]) for name in names)))


def test_another_seed_shows_other_batches(decoded: DecodedSplit) -> None:
    first, second = (next(iter(loader(decoded, seed=seed).batches(0, 1))) for seed in (1, 2))
    assert not torch.equal(first.images, second.images)


@pytest.mark.parametrize("workers", [0, 1])
def test_iterating_leaves_the_global_random_state_alone(decoded: DecodedSplit, workers: int) -> None:
    before = torch.get_rng_state()
    list(loader(decoded, workers=workers).batches(0, 2))
    list(eval_batches(decoded, 8, batch_size=9, workers=workers))
    assert torch.equal(before, torch.get_rng_state())


# --- refusals


def test_a_batch_larger_than_the_training_set_is_refused(decoded: DecodedSplit) -> None:
    with pytest.raises(CikdError, match="The batch of 64 is larger than the 22 training images") as caught:
        loader(decoded, batch_size=64)
    assert caught.value.hint == "--batch-size 22"


def test_the_smaller_batch_that_is_suggested_can_be_divided(decoded: DecodedSplit) -> None:
    with pytest.raises(CikdError) as caught:
        loader(decoded, batch_size=64, size=4)
    assert caught.value.hint == "--batch-size 20"


def test_a_batch_that_cannot_be_divided_among_processes_is_refused(decoded: DecodedSplit) -> None:
    with pytest.raises(CikdError, match="batch of 10 cannot be divided among 4 processes") as caught:
        loader(decoded, batch_size=10, size=4)
    assert caught.value.hint == "--batch-size 8"


# --- workers


def test_small_images_in_memory_need_no_workers(decoded: DecodedSplit, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    on_disk = DecodedSplit(Split([tmp_path / "a.png"], np.zeros(1, dtype=np.int64)), limit_mb=0)
    assert auto_workers(decoded, 64, batch_size=4) == 0
    assert 1 <= auto_workers(on_disk, 64, batch_size=4) <= 8
    assert 1 <= auto_workers(decoded, 65, batch_size=4) <= 8
    assert auto_workers(decoded, 65, batch_size=8, processes=1000) <= 1


def test_workers_are_as_many_as_shared_memory_has_room_for(decoded: DecodedSplit) -> None:
    assert auto_workers(decoded, 100_000, batch_size=10_000) == 0


def test_workers_persist_and_leave_signals_to_the_parent(decoded: DecodedSplit) -> None:
    train = loader(decoded, workers=2)
    list(train.batches(0, 4))
    pids = {child.pid for child in multiprocessing.active_children()}
    for pid in pids:
        os.kill(pid, signal.SIGINT)
        subprocess.run(["kill", "-TERM", str(pid)], check=True)  # from another process than the parent
    assert all(same(*pair) for pair in zip(loader(decoded).batches(4, 9), train.batches(4, 9), strict=True))
    assert pids <= {child.pid for child in multiprocessing.active_children()}


def test_a_file_that_breaks_during_training_is_one_sentence(tmp_path: Path) -> None:
    for number in range(4):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{number}.png")
    paths = sorted(tmp_path.iterdir())
    decoded = DecodedSplit(Split(paths, np.zeros(4, dtype=np.int64)), limit_mb=0)
    paths[2].write_bytes(b"")
    try:
        list(loader(decoded, workers=1).batches(0, 1))
    except CikdError as error:
        told = (error.message, error.hint)
    assert told == (f"{paths[2]} cannot be read: it is empty.", "replace or delete the file")


# --- evaluation


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_shows_every_image_once_in_order_with_a_short_last_batch(
    decoded: DecodedSplit, workers: int
) -> None:
    batches = list(eval_batches(decoded, 8, batch_size=9, workers=workers))
    assert [len(batch.index) for batch in batches] == [9, 9, 4]
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(COUNT))
    assert torch.cat([batch.targets for batch in batches]).tolist() == decoded.labels.tolist()
    expected = evaluation_view(decoded.image(20), 8)
    assert np.array_equal(batches[2].images[2].permute(1, 2, 0).numpy(), expected)


def test_a_batch_moves_with_everything_it_carries(decoded: DecodedSplit) -> None:
    batch = next(iter(loader(decoded).batches(0, 1)))
    assert same(batch, batch.to("cpu"))
    moved = batch.to("meta")
    assert {moved.images.device.type, moved.teacher_images.device.type, moved.targets.device.type} == {"meta"}
    assert next(iter(loader(decoded, two_views=False).batches(0, 1))).to("meta").teacher_images is None
