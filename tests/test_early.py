"""Simple mistakes are answered before torch is loaded, and runs are found by their names."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
from claimed import RESULT, whole

from cikd_cli.runs.ancestry import as_parent
from cikd_cli.runs.directory import RunDir

HEAVY = ("torch", "torchvision", "timm", "numpy", "scipy", "sklearn", "matplotlib")
# line -> part of the sentence, part of the hint
REFUSED = {
    "eval lm-01": ("There is no run lm-01", "did you mean runs/lm-001?"),
    "eval run/lm-001": ("There is no run run/lm-001", "did you mean runs/lm-001?"),
    "eval ./lm-0001": ("There is no run lm-0001", "did you mean runs/lm-001?"),
    "eval lm-01 --runs-dir empty": ("There is no run lm-01", "no runs lie in empty"),
    "eval runs": ("runs is not a run", "it is a folder of runs; the newest is runs/"),
    "eval photos": ("photos is not a run", "cikd runs lists the runs"),
    "eval ali-001": ("has no classifier", "cikd lm --from runs/ali-001"),
    "eval open": ("runs/open stopped in its first epoch", "cikd lm --resume runs/open"),
    "eval gone": ("The images of runs/gone are gone: there is no folder", "--data DIR"),
    "eval lm-001 --data one": ("one has one class only, a", "lay it out"),
    "eval lm-001 --data foto": ("no data set and no folder named 'foto'", "did you mean photos?"),
    "mad lm-009": ("There is no run lm-009", "did you mean runs/lm-001?"),
    "mad runs/lm-01": ("There is no run runs/lm-01", "did you mean runs/lm-001?"),
    "mad lm-001 --data nearly": ("splits under other names: Test_Set, Train_Set", "Train_Set to train"),
    "cka lm-001 --teacher teacher-1": ("There is no run teacher-1", "did you mean runs/teacher-001?"),
    "lm --from al-001": ("There is no run al-001", "did you mean runs/ali-001?"),
    "lm --from teacher-001": ("is of the stage finetune-teacher", "cikd runs"),
    "lm --resume lm-1": ("There is no run lm-1", "did you mean runs/lm-001?"),
    "lm --resume gone": ("The images of runs/gone are gone", "put them back"),
    "lm --no-distill": ("No images are named", "--data digits"),
    "lm --from ali-001 --image-size 48": ("image_size 48 contradicts runs/ali-001", "leave image_size out"),
    "ali": ("No images are named", "--data cifar100"),
    "ali --data photos": ("no finished teacher for photos in runs", "cikd finetune-teacher --data photos"),
    "ali --teacher odd": ("image size 32 is not a multiple of the patch size 14", "cikd finetune-teacher --data"),
    "ali --teacher teacher-001 --name lm-001": ("runs/lm-001 exists already", "another --name"),
    "ali --data digits --gpus fast": ("--gpus fast is neither a number", "--gpus cpu"),
    "finetune-teacher": ("No images are named", "--data digits"),
    "finetune-teacher --data photo": ("no data set and no folder named 'photo'", "did you mean photos?"),
    "finetune-teacher --data ./xyz/qq": ("no data set and no folder named './xyz/qq'", "an existing folder"),
    "finetune-teacher --data flower": ("no data set and no folder named 'flower'", "did you mean flowers?"),
    "finetune-teacher --data none-inside": ("none-inside has no class folders", "lay it out"),
    "finetune-teacher --data one": ("one has one class only, a", "lay it out"),
    "finetune-teacher --data nearly": ("splits under other names", "Train_Set to train"),
    "finetune-teacher --data photos --recipe nope": ("no recipe named 'nope'", "choose from"),
    "finetune-teacher --data photos --image-size 100": ("not a multiple of the patch size 16", "--image-size 96"),
    "finetune-teacher --data photos --image-size 32 --teacher vit_small_patch14_dinov2": (
        "not a multiple of the patch size 14", "--image-size 28"),
    "finetune-teacher --data photos --image-size 32 --teacher w.pth --teacher-arch vit_small_patch14_dinov2": (
        "not a multiple of the patch size 14", "--image-size 28"),
    "finetune-teacher --data photos --image-size 18 --teacher scratch --set teacher_patch=4": (
        "not a multiple of the patch size 4", "--image-size 16"),
    "finetune-teacher --data photos --image-size 40 --teacher teacher-001": ("of the patch size 16", "--image-size 32"),
    "finetune-teacher --data photos --teacher none.pth": ("There is no weights file none.pth", "--teacher"),
    "finetune-teacher --data photos --teacher runs/teacher-1": ("no run runs/teacher-1", "runs/teacher-001?"),
    "run --data one": ("one has one class only, a", "lay it out"),
    "run --data photos --image-size 100": ("not a multiple of the patch size 16", "--image-size 96"),
    "run --recipe nope": ("no recipe named 'nope'", "choose from"),
    "bench --recipe nope": ("no recipe named 'nope'", "choose from"),
}  # fmt: skip
# line -> what reaches the stage
TAKEN = {
    "eval lm-001": {"runs": ["runs/lm-001"]},
    "eval lm-001/": {"runs": ["runs/lm-001"]},
    "eval runs/lm-001/": {"runs": ["runs/lm-001"]},
    "eval runs/lm-001/run.json": {"runs": ["runs/lm-001"]},
    "eval runs/lm-001/model.safetensors": {"runs": ["runs/lm-001"]},
    "eval here": {"runs": ["here"]},
    "eval other-001 --runs-dir elsewhere": {"runs": ["elsewhere/other-001"]},
    "mad lm-001 teacher-001 deit_tiny_patch16_224 resnet18": {
        "runs": ["runs/lm-001", "runs/teacher-001", "deit_tiny_patch16_224", "resnet18"]},
    "cka lm-001 --teacher teacher-001": {"runs": ["runs/lm-001"], "teacher": "runs/teacher-001"},
    "lm --from ali-001": {"from_run": "runs/ali-001"},
    "ali --teacher teacher-001 --from lm-001": {"teacher": "runs/teacher-001", "from_run": "runs/lm-001"},
    "ali --teacher teacher-001 --data loose": {"data": "loose"},
    "finetune-teacher --data photos --teacher teacher-001": {"teacher": "runs/teacher-001"},
    "finetune-teacher --data photos --teacher scratch": {"teacher": "scratch"},
    "lm --resume open": {"resume": "runs/open"},
    "lm --resume runs/open/run.json": {"resume": "runs/open"},
}  # fmt: skip

SCRIPT = """
import json, sys, types
from typer.testing import CliRunner
from cikd_cli.cli.app import app
from cikd_cli.settings.stages import STAGES

seen = {}
def take(request):
    options = {key: getattr(request.options, key) for key in ("resume",)}
    seen.update(request.flags, runs=request.runs, **options)

for stage in STAGES.values():
    sys.modules[stage.module] = module = types.ModuleType(stage.module)
    module.run = take
answers = {}
for line in json.load(sys.stdin):
    seen.clear()
    outcome = CliRunner().invoke(app, line.split(), env={"COLUMNS": "200", "TERM": "dumb"})
    answers[line] = [outcome.exit_code, outcome.stderr, dict(seen)]
print(json.dumps({"answers": answers, "heavy": [name for name in HEAVY if name in sys.modules]}))
"""


def make_run(runs_dir, stage, name, parents=(), *, patch=16, data="digits", done=True):
    record = {
        "model": {"arguments": {"patch_size": patch}},
        "parents": list(parents),
        "data": {"name": data, "classes": 10},
    }
    run = RunDir.create(
        runs_dir, stage, prefix="", name=name, record=whole(**record), config={"data": data, "image_size": 32}
    )
    if done:
        run.finish(RESULT)
    return as_parent(run, runs_dir, "teacher" if stage == "finetune-teacher" else "from_run")


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What every line is answered, all in one process, and which heavy packages it has loaded."""
    place = tmp_path_factory.mktemp("place")
    for name in ("photos/a", "photos/b", "one/a", "none-inside", "nearly/Train_Set/a", "nearly/Test_Set/a", "loose"):
        (place / name).mkdir(parents=True)
    (place / "w.pth").write_bytes(b"")
    runs = place / "runs"
    odd = make_run(runs, "finetune-teacher", "odd", patch=14)
    teacher = make_run(runs, "finetune-teacher", "teacher-001")
    make_run(runs, "ali", "ali-001", [teacher])
    make_run(runs, "lm", "lm-001", [teacher])
    make_run(runs, "lm", "open", [teacher], done=False)
    make_run(runs, "lm", "gone", [odd], data=str(place / "vanished"))
    make_run(place, "lm", "here", [teacher])
    make_run(place / "elsewhere", "lm", "other-001")
    (runs / "lm-001" / "model.safetensors").write_bytes(b"")
    script = SCRIPT.replace("HEAVY", repr(HEAVY))
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=json.dumps([*REFUSED, *TAKEN]), capture_output=True, text=True, cwd=place,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_answer_has_loaded_a_heavy_package(told):
    assert told["heavy"] == []


@pytest.mark.parametrize("line", REFUSED)
def test_what_can_be_known_to_be_wrong_is_refused_with_what_mends_it(told, line):
    code, stderr, seen = told["answers"][line]
    assert code == 2, stderr
    assert seen == {}
    error, hint = stderr.splitlines()
    assert REFUSED[line][0] in error
    assert REFUSED[line][1] in hint


@pytest.mark.parametrize("line", TAKEN)
def test_a_run_is_found_by_its_name_and_by_a_file_of_it(told, line):
    code, stderr, seen = told["answers"][line]
    assert code == 0, stderr
    assert {key: seen[key] for key in TAKEN[line]} == TAKEN[line]


def test_on_a_terminal_and_only_there_something_is_said_at_once(tmp_path):
    script = textwrap.dedent("""
        import os, pty, sys
        pid, terminal = pty.fork()
        if not pid:
            os.execv(sys.executable, [sys.executable, "-m", "cikd_cli", *sys.argv[1:]])
        shown = b""
        while True:
            try:
                more = os.read(terminal, 4096)
            except OSError:
                break
            if not more:
                break
            shown += more
        os.waitpid(pid, 0)
        sys.stdout.buffer.write(shown)
    """)
    env = os.environ | {"COLUMNS": "80", "TERM": "xterm"}

    def shown(*words):
        done = subprocess.run([sys.executable, "-c", script, *words], capture_output=True, env=env, cwd=tmp_path)
        return done.stdout.decode()

    erased = "starting …\r\x1b[K"
    assert shown("eval", "lm-01").startswith(f"{erased}error: There is no run lm-01")
    assert "starting" not in shown("eval", "lm-01", "--json")
    assert "starting" not in shown("eval", "--help")
    plain = subprocess.run(
        [sys.executable, "-m", "cikd_cli", "eval", "lm-01"], capture_output=True, text=True, cwd=tmp_path, env=env
    )
    assert plain.stdout == ""


def test_scoring_loads_sklearn_when_it_scores_and_not_before():
    script = "import sys, cikd_cli.analysis.scores; print('sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "False\n"
