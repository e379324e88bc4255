"""Predictions over a split, the two scores of training, and what is counted meanwhile."""

import time

import pytest
import torch
from torch import nn

from cikd_cli.data.batch import Batch
from cikd_cli.data.views import normalise
from cikd_cli.engine.clock import Clock, Every
from cikd_cli.engine.predict import best_guesses, count_hits, predict
from cikd_cli.engine.totals import Totals
from cikd_cli.errors import EXIT_FAILED, CikdError
from cikd_cli.models import create_student
from cikd_cli.processes.world import World

CPU = torch.device("cpu")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)


def student(**settings: float) -> nn.Module:
    torch.manual_seed(0)
    sizes = {"width": 12, "depth": 3, "heads": 3} | settings
    return create_student("custom", num_classes=4, image_size=16, patch_size=8, end_heads=3, **sizes)


def batches(*sizes: int) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (sum(sizes), 3, 16, 16), generator=generator, dtype=torch.uint8)
    whole = Batch(pixels, torch.arange(sum(sizes)) % 4, None, torch.arange(sum(sizes)))
    ends = torch.tensor(sizes).cumsum(0).tolist()
    return [
        Batch(whole.images[end - size : end], whole.targets[end - size : end], None, whole.index[end - size : end])
        for size, end in zip(sizes, ends, strict=True)
    ]


def test_predictions_come_in_order_with_the_short_last_batch():
    model = student().eval()
    logits, targets = predict(model, batches(3, 3, 1), mean=MEAN, std=STD, device=CPU)
    (whole,) = batches(7)
    torch.testing.assert_close(logits, model(normalise(whole.images, MEAN, STD)).detach(), atol=1e-5, rtol=1e-4)
    assert torch.equal(targets, whole.targets)


def test_prediction_is_in_eval_mode_and_gives_the_mode_back():
    model = student(drop_path=0.9).train()
    first, _ = predict(model, batches(4), mean=MEAN, std=STD, device=CPU)
    second, _ = predict(model, batches(4), mean=MEAN, std=STD, device=CPU)
    assert torch.equal(first, second)
    assert model.training
    assert not predict(model.eval(), batches(4), mean=MEAN, std=STD, device=CPU)[0].requires_grad
    assert not model.training


def test_predictions_in_bf16_are_kept_in_float32():
    logits, _ = predict(student(), batches(2), mean=MEAN, std=STD, device=CPU, precision="bf16")
    assert logits.dtype == torch.float32


def test_the_target_may_be_anywhere_among_the_k_highest():
    logits = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0], [4.0, 3.0, 2.0, 1.0]])
    targets = torch.tensor([1, 0, 3])
    assert [count_hits(best_guesses(logits, k), targets) for k in (1, 2, 3, 4)] == [0, 1, 1, 3]


def test_k_beyond_the_classes_is_all_of_them():
    assert count_hits(best_guesses(torch.zeros(3, 2), 5), torch.tensor([0, 1, 0])) == 3


def test_an_epochs_terms_are_means_over_its_steps_and_start_afresh():
    totals = Totals({}, World(CPU))
    for value in (1.0, 2.0, 6.0):
        totals.add({"qk": torch.tensor(value), "vv": torch.tensor(-value)})
    assert totals.close(3) == {"qk": 3.0, "vv": -3.0}
    totals.add({"qk": torch.tensor(5.0)})
    assert totals.close(1) == {"qk": 5.0}


def test_sums_do_not_lose_small_terms_in_half_or_single_precision():
    totals = Totals({}, World(CPU))
    totals.add({"ce": torch.tensor(2.0**26)})
    for _ in range(4):
        totals.add({"ce": torch.tensor(1.0)})
    assert totals.agree() == {"ce": 2.0**26 + 4}


def test_a_resumed_epoch_goes_on_from_its_sums():
    straight, first = Totals({}, World(CPU)), Totals({}, World(CPU))
    for totals in (straight, first):
        totals.add({"ce": torch.tensor(0.1)})
    second = Totals(first.agree(), World(CPU))
    for totals in (straight, second):
        totals.add({"ce": torch.tensor(0.7)})
    assert second.close(2) == straight.close(2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_term_that_is_not_finite_stops_the_run_with_its_name_epoch_and_step(bad):
    totals = Totals({}, World(CPU))
    totals.add({"qk": torch.tensor(1.0), "vv": torch.tensor(bad)})
    totals.add({"qk": torch.tensor(1.0), "vv": torch.tensor(1.0)})
    with pytest.raises(CikdError, match=r"The loss \(vv\) stopped being finite in epoch 3, step 17") as caught:
        totals.check_finite(epoch=3, step=17, rescue="cikd ali --resume runs/ali-001")
    assert caught.value.exit_code == EXIT_FAILED
    assert "cikd ali --resume runs/ali-001" in str(caught.value.hint)


def test_finite_terms_pass():
    totals = Totals({"qk": 3.0}, World(CPU))
    totals.check_finite(epoch=1, step=1, rescue="")


def test_the_clock_adds_earlier_sessions_and_counts_images_and_waiting(monkeypatch):
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def slow_batches():
        nonlocal now
        for batch in batches(2, 2):
            now += 3.0
            yield batch

    clock = Clock(50.0, images=8)
    for _ in clock.waiting(slow_batches()):
        now += 1.0
    assert (clock.seconds, clock.rate, clock.waited) == (58.0, 2.0, 0.75)


def test_it_is_due_once_in_so_many_seconds(monkeypatch):
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    every = Every(10)
    answers = []
    for now in (1.0, 10.0, 11.0, 19.0, 20.0):  # noqa: B007 - read by the clock above
        answers.append(every.due())
    assert answers == [False, True, False, False, True]
