"""Drop path: where it is, what it drops, and that its draws are the run's."""

import pytest
import torch
from torch import nn

from cikd_cli.models import create_student
from cikd_cli.models.drop_path import StochasticDepth, draw, use_draws


def test_drop_path_is_constant_on_blocks_2_to_11_and_absent_on_the_first_and_the_last():
    student = create_student("vit_tiny", num_classes=3)
    rates = [
        [path.p if isinstance(path, StochasticDepth) else None for path in (block.drop_path1, block.drop_path2)]
        for block in student.blocks
    ]
    assert rates == [[None, None], *[[0.1, 0.1]] * 10, [None, None]]
    for block in (student.blocks[0], student.blocks[11]):
        assert isinstance(block.drop_path1, nn.Identity)
        assert isinstance(block.drop_path2, nn.Identity)


def test_drop_path_drops_whole_samples_and_scales_the_rest():
    torch.manual_seed(0)
    rows = StochasticDepth(0.25)(torch.ones(4000, 2, 3)).flatten(1)
    assert torch.equal(rows, rows[:, :1].expand_as(rows))
    assert sorted(set(rows[:, 0].tolist())) == pytest.approx([0, 1 / 0.75])
    assert (rows[:, 0] == 0).float().mean().item() == pytest.approx(0.25, abs=0.03)


def test_drop_path_is_off_in_eval_mode():
    x = torch.randn(50, 2, 3)
    assert torch.equal(StochasticDepth(0.9).eval()(x), x)


def test_processes_and_micro_batches_drop_the_samples_that_one_process_would():
    network, x = nn.Sequential(StochasticDepth(0.5), StochasticDepth(0.5)), torch.randn(8, 2, 3)
    use_draws(network, draw(network, seed=3, step=7, rows=8, rank=0, size=1))
    whole = network(x)
    shares = []
    for rank in range(2):
        draws = draw(network, seed=3, step=7, rows=4, rank=rank, size=2)
        for micro, part in zip(x[4 * rank : 4 * rank + 4].chunk(2), draws.chunk(2, dim=1), strict=True):
            use_draws(network, part)
            shares.append(network(micro))
    assert torch.equal(torch.cat(shares), whole)


def test_masks_differ_from_step_to_step_from_seed_to_seed_and_from_block_to_block():
    network, masks = nn.Sequential(StochasticDepth(0.5), StochasticDepth(0.5)), []
    for seed, step in ((0, 0), (0, 1), (1, 0)):
        masks += draw(network, seed=seed, step=step, rows=64, rank=0, size=1).lt(0.5).tolist()
    assert len(set(map(tuple, masks))) == 6


def test_without_given_draws_a_network_draws_for_itself_again():
    network, x = nn.Sequential(StochasticDepth(0.5)), torch.randn(64, 2, 3)
    use_draws(network, draw(network, seed=0, step=0, rows=64, rank=0, size=1))
    assert torch.equal(network(x), network(x))
    use_draws(network, None)
    assert not torch.equal(network(x), network(x))
