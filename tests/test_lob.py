"""Which learning objective block `auto` takes, and which are refused."""

import pytest

from cikd_cli.errors import CikdError
from cikd_cli.methods.ali import learning_objective_block


@pytest.mark.parametrize(("depth", "block"), [(24, 20), (6, 5), (1, 1)])
def test_auto_keeps_the_proportion_in_another_depth(depth, block):
    assert learning_objective_block("auto", images=50_000, depth=depth) == block


@pytest.mark.parametrize("lob", [1, 12, "7"])
def test_a_block_of_the_teacher_is_taken_as_it_is(lob):
    assert learning_objective_block(lob, images=10, depth=12) == int(lob)


@pytest.mark.parametrize(("lob", "hint"), [(0, "--lob 1"), (13, "--lob 12"), (-3, "--lob 1")])
def test_a_block_the_teacher_lacks_is_refused_with_the_nearest(lob, hint):
    with pytest.raises(CikdError, match=r"outside 1\.\.12") as caught:
        learning_objective_block(lob, images=10, depth=12)
    assert caught.value.hint == hint
