"""Where nobody names the batch it follows the set: the rule, and that every stage and every resume keeps to it."""

import json

import pytest
from PIL import Image

from cikd_cli.runs.directory import RunDir
from cikd_cli.settings.batch_size import LEAST_STEPS, fitting_batch
from cikd_cli.settings.recipes import resolve
from cikd_cli.settings.request import RunOptions
from cikd_cli.settings.stages import sections

SIZES = range(1, 3000)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("most", [12, 64, 256, 512])
def test_a_fitting_batch_gives_eight_steps_and_is_never_larger_than_the_recipes(most, processes):
    for images in SIZES:
        batch = fitting_batch(most, images, processes)
        assert 1 <= batch <= most
        assert batch % processes == 0
        assert images // batch >= LEAST_STEPS or batch == processes


def test_a_fitting_batch_leaves_few_images_out_of_an_epoch():
    shares = {images: images % fitting_batch(64, images) / images for images in SIZES}
    assert max(shares.values()) <= 0.06
    assert max(share for images, share in shares.items() if images >= 300) <= 0.03


def test_a_set_that_a_recipes_batch_suits_keeps_it():
    assert [fitting_batch(64, images) for images in (1437, 2000, 50_000)] == [64, 64, 64]


def test_125_images_are_not_one_step_an_epoch():
    batch = fitting_batch(64, 125)
    assert 125 // batch >= 8
    assert 125 % batch <= 5


# ---- who names the batch ----


@pytest.mark.parametrize("section", sections())
def test_the_data_choose_the_batch_only_where_neither_a_person_nor_a_published_recipe_does(section, tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text("[common]\nepochs = 3\n")
    named = tmp_path / "named.toml"
    named.write_text("[common]\nbatch_size = 8\n")

    def follows(flags=None, **options):
        return resolve(sections()[section], section, flags or {}, options=RunOptions(**options)).by_data

    folder = {"data": str(tmp_path)}
    for free in (follows(folder), follows(), follows(folder, recipe=str(mine)), follows(folder, recipe="laptop")):
        assert free == {"batch_size"}
    for fixed in (
        follows(folder | {"batch_size": 64}),
        follows(folder, set=("batch_size=64",)),
        follows(folder, config=str(named)),
        follows(folder, recipe=str(named)),
        *(follows({"data": name}) for name in ("digits", "mnist", "flowers", "cifar100")),
        follows(recipe="cifar100-released"),
    ):
        assert fixed == set()


def test_a_recipe_that_says_so_can_also_be_a_file_of_ones_own_and_a_config(tmp_path, cikd):
    mine = tmp_path / "mine.toml"
    mine.write_text("batch_follows_data = true\n[common]\nbatch_size = 8\n")
    options = {"recipe": RunOptions(recipe=str(mine)), "config": RunOptions(config=str(mine))}
    resolved = {name: resolve(sections()["ali"], "ali", {}, options=option) for name, option in options.items()}
    assert {one.config.batch_size for one in resolved.values()} == {8}
    assert resolved["recipe"].by_data == {"batch_size"}
    assert resolved["config"].by_data == set()
    mine.write_text("batch_follows_data = 8\n[common]\nbatch_size = 8\n")
    assert "batch_follows_data must be true or false" in cikd("config", "ali", "--recipe", mine, code=2).output


# ---- what the stages make of it ----


@pytest.fixture
def loose(tmp_path, photos):
    """A recipe of small networks that names no batch, and pictures for it: 30 for training, which half a batch is."""
    recipe = tmp_path / "loose.toml"
    network = 'student = "custom"\nstudent_width = 8\nstudent_depth = 2\nstudent_heads = 1\n'
    recipe.write_text(
        "[common]\nimage_size = 16\nepochs = 2\nwarmup = 1\n"
        '[finetune-teacher]\nteacher = "scratch"\nteacher_width = 8\nteacher_depth = 2\nteacher_heads = 1\n'
        f"teacher_patch = 4\n[ali]\nlob = 2\n{network}[lm]\n{network}"
    )
    return ("--data", photos, "--recipe", recipe)


def test_every_stage_fits_its_batch_to_the_images_and_keeps_it_when_it_is_resumed(cikd, loose):
    said = cikd("run", *loose).output
    assert said.count("batch 3 by the data (30 images)") == 3
    for name in ("teacher-001", "ali-001", "lm-001"):
        run = RunDir.open(f"runs/{name}")
        assert run.config()["batch_size"] == 3
        assert run.metrics()[-1]["step"] == 20
    cikd("lm", "--resume", "runs/lm-001", "--epochs", "3")
    assert RunDir.open("runs/lm-001").config()["batch_size"] == 3
    assert RunDir.open("runs/lm-001").metrics()[-1]["step"] == 30


def test_the_baseline_counts_steps_with_the_batches_that_the_images_allow(cikd, loose):
    words = ("run", *loose, "--baseline", "--set", "ali.batch_size=10", "--json")
    told = json.loads(cikd(*words, "--dry-run").stdout)["stages"]
    assert [told[name]["steps"] for name in ("ali", "lm", "baseline")] == [6, 20, 30]
    config = RunDir.open(json.loads(cikd(*words).stdout)["baseline"]).config()
    assert (config["batch_size"], config["epochs"]) == (3, 3)


def test_with_two_processes_the_batch_of_the_data_can_be_shared(cikd, loose):
    cikd("finetune-teacher", *loose, "--gpus", "cpu", "--processes", "2", "--epochs", "1", "--quiet")
    run = RunDir.open("runs/teacher-001")
    assert run.config()["batch_size"] == 2
    assert run.metrics()[-1]["step"] == 15


def test_config_knows_the_batch_where_a_parent_has_counted_the_images(cikd, loose):
    cikd("finetune-teacher", *loose, "--quiet")
    shown = json.loads(cikd("config", "ali", "--teacher", "runs/teacher-001", "--json").stdout)["config"]
    assert shown["batch_size"] == {"value": 3, "source": "by the data (30 images)"}
    unknown = json.loads(cikd("config", "finetune-teacher", *loose, "--json").stdout)["config"]
    assert unknown["batch_size"] == {"value": 64, "source": "default, or fewer by the data"}


def test_an_epoch_that_leaves_many_images_out_is_warned_of_and_the_plan_has_the_number(cikd, photos, recipe):
    words = ("finetune-teacher", "--data", photos, "--recipe", recipe, "--dry-run")
    told = cikd(*words, "--batch-size", "16")
    assert "each epoch leaves 14 of the 30 training images out" in told.stderr
    assert "--batch-size 3" in told.stderr
    assert "14 of 30 images left out of each" in told.stdout
    told = cikd(*words, "--batch-size", "5")
    assert "left out" not in told.output


def test_a_folder_of_few_photographs_is_trained_on_without_naming_a_batch(cikd, tmp_path):
    for label, colour in (("red", (200, 0, 0)), ("blue", (0, 0, 200))):
        (tmp_path / "few" / label).mkdir(parents=True)
        for number in range(6):
            Image.new("RGB", (16, 16), colour).save(tmp_path / "few" / label / f"{number}.png")
    words = ("--image-size", "16", "--teacher", "scratch", "--set", "teacher_width=12", "--set", "teacher_depth=1")
    cikd("finetune-teacher", "--data", tmp_path / "few", *words, "--epochs", "1")
    assert RunDir.open("runs/teacher-001").metrics()[-1]["step"] >= 8
