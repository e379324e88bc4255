"""How long processes may stand still, and what ends them."""

import time

from peers import share, words_for

from cikd_cli.errors import EXIT_FAILED
from cikd_cli.methods.lm import LogitMimicking
from cikd_cli.runs.directory import RunDir
from cikd_cli.training import prepare


def test_compiling_and_scoring_may_take_longer_than_processes_may_stand_still(cikd, teacher, recipe, tmp_path):
    def take_time(_):
        forward, batches = LogitMimicking.forward, prepare.eval_batches

        def slow_first_time(method, batch, epoch):
            LogitMimicking.forward = forward
            time.sleep(4)
            return forward(method, batch, epoch)

        def slow_batches(decoded, image_size, **_):
            for batch in batches(decoded, image_size, batch_size=1):  # 6 for each process
                time.sleep(0.5)
                yield batch

        prepare.compile_blocks = lambda *_: None  # no compiler is needed to wait
        LogitMimicking.forward, prepare.eval_batches = slow_first_time, slow_batches

    words = (*words_for("lm", teacher, recipe, "mine", epochs=1), "--stall-after", "2s")
    codes, said = share((*words, "--compile"), 2, tmp_path, before=take_time)
    assert codes == [0, 0], said
    assert RunDir.open("runs/mine").metrics()[-1]["test_top1"] >= 0


def test_a_step_that_takes_longer_than_processes_may_stand_still_ends_them(cikd, teacher, recipe, tmp_path):
    def hang(rank):
        forward = LogitMimicking.forward

        def slow(method, batch, epoch):
            if rank == 1 and hang.calls == 1:
                time.sleep(12)
            hang.calls += 1
            return forward(method, batch, epoch)

        hang.calls = 0
        LogitMimicking.forward = slow

    words = (*words_for("lm", teacher, recipe, "mine", epochs=1), "--stall-after", "2s")
    codes, said = share(words, 2, tmp_path, before=hang)
    assert codes == [EXIT_FAILED] * 2
    assert sum("Process 1 has not moved for 2.0 s, and the others wait." in text for text in said) == 1, said
