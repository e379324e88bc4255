"""Views made a batch at a time: the same batches as image by image."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cikd_cli.data.decode import DecodedSplit
from cikd_cli.data.device_loader import DeviceLoader, pays
from cikd_cli.data.loader import TrainLoader
from cikd_cli.data.splits import Split
from cikd_cli.data.views import ViewLaw
from cikd_cli.errors import CikdError

CPU = torch.device("cpu")
COUNT = 22
LAWS = {
    "jitter": ViewLaw(8, jitter=(0.4, 0.4, 0.4)),
    "trivial": ViewLaw(8, (0.08, 1.0), "bilinear", augment="trivial"),
    "affine": ViewLaw(8, (1.0, 1.0), flip=0.0, augment="affine"),
}


@pytest.fixture(scope="module")
def arrays() -> DecodedSplit:
    rng = np.random.default_rng(0)
    return DecodedSplit(Split(rng.integers(0, 256, (COUNT, 10, 12, 3), dtype=np.uint8), rng.integers(0, 5, COUNT)))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> DecodedSplit:
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(1)
    paths = []
    for number in range(COUNT):
        paths.append(folder / f"{number}.png")
        Image.fromarray(rng.integers(0, 256, (9 + number, 14, 3), dtype=np.uint8)).save(paths[-1])
    return DecodedSplit(Split(paths, np.zeros(COUNT, dtype=np.int64)))


def batches(make, decoded, law, start=0, stop=8, **settings):
    loader = make(decoded, law, **{"batch_size": 4, "seed": 1, "two_views": True} | settings)
    return loader.steps_per_epoch, list(loader.batches(start, stop))


def assert_same(decoded, law, **settings):
    steps, found = batches(DeviceLoader, decoded, law, device=CPU, **settings)
    expected_steps, expected = batches(TrainLoader, decoded, law, workers=0, **settings)
    assert steps == expected_steps
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("images", "targets", "index"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
        if theirs.teacher_images is None:
            assert ours.teacher_images is None
        else:
            assert torch.equal(ours.teacher_images, theirs.teacher_images)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("kind", ["arrays", "photographs"])
def test_the_batches_are_those_made_image_by_image(kind, law, request):
    assert_same(request.getfixturevalue(kind), law)


@pytest.mark.parametrize(
    "settings",
    [
        {"two_views": False},
        {"rank": 1, "size": 2},
        {"views_per_image": 1},
        {"start": 3, "stop": 7},
        {"seed": 5, "batch_size": 7},
    ],
)
def test_so_they_are_for_every_share_start_and_period(arrays, settings):
    assert_same(arrays, LAWS["jitter"], **settings)


def test_images_that_are_not_in_memory_are_refused_with_what_helps(photographs):
    outside = DecodedSplit(photographs.split, limit_mb=0)
    with pytest.raises(CikdError, match="do not fit") as caught:
        DeviceLoader(outside, LAWS["jitter"], device=CPU, batch_size=4, seed=0, two_views=True)
    assert "--views cpu" in caught.value.hint


def test_a_batch_larger_than_the_split_is_refused(arrays):
    with pytest.raises(CikdError, match="larger than the 22 training images"):
        DeviceLoader(arrays, LAWS["jitter"], device=CPU, batch_size=23, seed=0, two_views=True)


@pytest.mark.parametrize(("free", "answer"), [(10**9, True), (5000, False)])
def test_images_stay_on_a_gpu_only_where_it_has_room(arrays, free, answer, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, free))
    assert pays(arrays, torch.device("cuda"), 224) is answer


def test_on_a_cpu_small_views_of_small_images_are_made_a_batch_at_a_time(arrays, photographs):
    large = DecodedSplit(Split(np.zeros((2, 33, 33, 3), dtype=np.uint8), np.zeros(2, dtype=np.int64)))
    assert pays(arrays, CPU, 32)
    assert pays(photographs, CPU, 32)
    assert not pays(arrays, CPU, 40)
    assert not pays(large, CPU, 32)
    assert not pays(DecodedSplit(photographs.split, limit_mb=0), CPU, 32)


def test_where_views_are_made_does_not_change_the_weights(cikd, teacher, recipe):
    for place in ("cpu", "device"):
        cikd("ali", "--teacher", teacher, "--recipe", recipe, "--views", place, "--name", place)
    assert Path("runs/cpu/model.safetensors").read_bytes() == Path("runs/device/model.safetensors").read_bytes()
