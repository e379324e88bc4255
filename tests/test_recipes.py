"""Recipes and precedence: which value wins, where it came from, and what is said about a wrong one."""

import pytest

from cikd_cli.errors import CikdError
from cikd_cli.render import template_root
from cikd_cli.settings.analyses import EvalConfig
from cikd_cli.settings.methods import AliConfig, FinetuneTeacherConfig, LmConfig
from cikd_cli.settings.names import data_names, recipe_names
from cikd_cli.settings.recipes import load_recipe, resolve
from cikd_cli.settings.request import RunOptions
from cikd_cli.settings.stages import sections


def ali(flags=None, *, inherited=None, **options):
    return resolve(
        AliConfig, "ali", flags or {}, options=RunOptions(**options), inherited=inherited, inherited_from="runs/parent"
    )


NAMES = ["aircraft", "cars", "chaoyang", "cifar10", "cifar100", "cinic10", "digits", "flowers", "mnist", "pets"]


def test_every_named_data_set_has_a_recipe_of_its_name():
    assert data_names() == NAMES
    assert set(recipe_names()) == {*NAMES, "cifar100-released", "folder", "laptop"}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_resolves_for_every_training_stage_and_names_its_data(name):
    for section, config_class in sections().items():
        resolved = resolve(config_class, section, {}, options=RunOptions(recipe=name))
        assert resolved.recipe == name
        assert resolved.config.data == {"folder": None, "laptop": None, "cifar100-released": "cifar100"}.get(name, name)


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_header_says_source_expectation_hours_and_pitfalls(name):
    header = (template_root() / "recipes" / f"{name}.toml").read_text().split("[common]")[0]
    for word in ("source", "split", "expected", "hours", "pitfalls"):
        assert f"\n# {word}" in header


FIRST, SECOND = ((300, 256, 1e-3), (300, 512, 1e-3)), ((1000, 64, 8e-3), (500, 512, 2e-3))
PUBLISHED = dict.fromkeys(["cifar10", "cifar100", "cinic10", "aircraft"], FIRST) | dict.fromkeys(
    ["flowers", "pets", "cars", "chaoyang"], SECOND
)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_schedule(name):
    for (section, config_class), expected in zip([("ali", AliConfig), ("lm", LmConfig)], PUBLISHED[name], strict=True):
        config = resolve(config_class, section, {"data": name}, options=RunOptions()).config
        assert (config.epochs, config.batch_size, config.lr) == expected
        assert (config.warmup, config.image_size, config.mean) == (5, 224, None)
    assert ali({"data": name}).config.lob == 10


def test_the_released_recipe_is_what_the_authors_code_does():
    config = ali(recipe="cifar100-released").config
    assert (config.lob, config.warmup, config.mean, config.std) == (8, 15, (0.5,) * 3, (0.5,) * 3)
    teacher = resolve(
        FinetuneTeacherConfig, "finetune-teacher", {}, options=RunOptions(recipe="cifar100-released")
    ).config
    assert (teacher.weight_decay, teacher.layer_decay) == (0.01, 1.0)


# ---- precedence ----


def test_each_layer_wins_over_the_one_before_and_is_named_as_the_source(tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text("lr = 1.0\nwarmup = 1\nema = 0.1\n[ali]\nseed = 7\n[common]\nepochs = 11\n")
    resolved = ali(
        {"data": "flowers", "lr": 3.0}, config=str(file), set=("lr=2.0", "warmup=2"), inherited={"image_size": 96}
    )
    values = {key: (getattr(resolved.config, key), resolved.sources[key]) for key in resolved.sources}
    assert values["lr"] == (3.0, "flag")
    assert values["warmup"] == (2.0, "--set")
    assert values["ema"] == (0.1, f"config {file}")
    assert values["seed"] == (7, f"config {file}")
    assert values["epochs"] == (11, f"config {file}")
    assert values["image_size"] == (96, "from runs/parent")
    assert values["batch_size"] == (64, "recipe flowers")
    assert values["flip"] == (0.5, "default")


def test_a_user_folder_gets_the_folder_recipe(tmp_path):
    assert ali({"data": str(tmp_path)}).recipe == "folder"


def test_without_data_there_is_no_recipe():
    assert ali().recipe is None


def test_an_analysis_stage_has_no_recipe(tmp_path):
    assert resolve(EvalConfig, "eval", {"data": str(tmp_path)}, options=RunOptions()).recipe is None


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("mean=0.5,0.4,0.3", "mean", (0.5, 0.4, 0.3)),
        ("betas=[0.9, 0.9]", "betas", (0.9, 0.9)),
        ("lob=auto", "lob", "auto"),
        ("lob=7", "lob", 7),
        ("pairs=1:1,10:12", "pairs", ((1, 1), (10, 12))),
        ("qk=false", "qk", False),
        ("batch-size=8", "batch_size", 8),
        ("ali.epochs=2", "epochs", 2),
        ("augment=none", "augment", "none"),
    ],
)
def test_set_reads_text_into_the_type_of_the_knob(text, key, value):
    assert getattr(ali(set=(text,)).config, key) == value


def test_set_to_none_undoes_what_the_recipe_says():
    assert ali(recipe="cifar100-released", set=("mean=none", "std=none")).config.mean is None


# ---- contradictions ----


def test_a_flag_that_contradicts_the_parent_names_both_values():
    with pytest.raises(CikdError) as caught:
        ali({"image_size": 112}, inherited={"image_size": 224})
    assert caught.value.message == "image_size 112 contradicts runs/parent, which has image_size 224."


def test_a_set_value_that_contradicts_the_parent_is_refused_too():
    with pytest.raises(CikdError, match="contradicts"):
        ali(set=("fraction=0.5",), inherited={"fraction": 1.0})


def test_the_same_value_or_another_spelling_of_the_same_folder_is_no_contradiction(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    resolved = ali(
        {"data": "./photos", "image_size": 96}, inherited={"data": str(tmp_path / "photos"), "image_size": 96}
    )
    assert resolved.config.image_size == 96


def test_a_recipe_yields_to_the_parent_without_complaint():
    assert ali(recipe="digits", inherited={"image_size": 64}).config.image_size == 64


# ---- wrong input ----


@pytest.mark.parametrize(
    ("flags", "options", "message", "hint"),
    [
        ({"data": "cifra100"}, {}, "no data set and no folder named 'cifra100'", "did you mean cifar100?"),
        ({}, {"recipe": "flower"}, "no recipe named 'flower'", "did you mean flowers?"),
        ({}, {"set": ("epoch=3",)}, "no knob named 'epoch'", "did you mean epochs?"),
        ({}, {"set": ("epochs",)}, "--set epochs has no value", "--set epochs=VALUE"),
        ({}, {"set": ("lm.alpha=3",)}, "is for 'lm', not for ali", "--set alpha=3"),
        ({"lr": -1.0}, {}, "lr must be greater than 0, not -1", "cikd config ali shows every knob"),
        ({}, {"set": ("lr=-1",)}, "lr must be greater than 0, not -1", "cikd config ali shows every knob"),
        ({"student": "vit_tinny"}, {}, "student must be 'vit_tiny'", "did you mean vit_tiny?"),
        ({"lob": "ten"}, {}, "lob must be a whole number or 'auto', not 'ten'", "cikd config"),
        ({}, {"set": ("betas=0.9",)}, "betas must be 2 numbers with commas between, not 0.9", "cikd config"),
        ({}, {"set": ("pairs=1-1",)}, "pairs must be pairs of block numbers", "cikd config"),
        ({}, {"config": "missing.toml"}, "config missing.toml cannot be read", "check the path"),
    ],
)
def test_wrong_input_is_one_sentence_with_a_hint_and_exit_code_2(flags, options, message, hint):
    with pytest.raises(CikdError) as caught:
        ali(flags, **options)
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_everything_wrong_is_said_at_once():
    with pytest.raises(CikdError, match=r"epochs must be .*, not 0; lr must be"):
        ali({"epochs": 0, "lr": 0.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lr = 1", "'lr' is not a section"),
        ("ali = 1", "'ali' must be a section"),
        ("[aly]\nlr = 1", "'aly' is not a section"),
        ("[ali]\nalpha = 1", "no knob named 'alpha'"),
        ("[common]\nlobb = 1", "no stage has a knob named 'lobb'"),
        ("[ali]\nlr = ", "is not TOML"),
    ],
)
def test_a_wrong_recipe_file_is_refused(tmp_path, text, message):
    (tmp_path / "mine.toml").write_text(text)
    with pytest.raises(CikdError, match=message):
        load_recipe(str(tmp_path / "mine.toml"))


# ---- encodings ----


EPOCHS = "# café\r\n[common]\r\nbatch_size = 8\r\n[ali]\r\nepochs = 2\r\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("option", ["recipe", "config"])
def test_a_file_with_the_mark_and_the_line_ends_of_windows_is_read(tmp_path, encoding, option):
    (tmp_path / "mine.toml").write_bytes(EPOCHS.encode(encoding))
    config = ali(**{option: str(tmp_path / "mine.toml")}).config
    assert (config.batch_size, config.epochs) == (8, 2)


def test_a_config_of_plain_keys_may_begin_with_a_mark(tmp_path):
    (tmp_path / "mine.toml").write_bytes("epochs = 2\r\n".encode("utf-8-sig"))
    assert ali(config=str(tmp_path / "mine.toml")).config.epochs == 2


@pytest.mark.parametrize(
    ("encoding", "named"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16LE"), ("utf-16-be", "UTF-16BE"), ("utf-32", "UTF-32")],
)
@pytest.mark.parametrize("option", ["recipe", "config"])
def test_a_file_in_another_encoding_is_answered_with_its_name_and_how_to_save_it(tmp_path, encoding, named, option):
    file = tmp_path / "mine.toml"
    file.write_bytes(EPOCHS.encode(encoding))
    with pytest.raises(CikdError) as caught:
        ali(**{option: str(file)})
    assert caught.value.message == f"{option} {file} cannot be read: it is {named} and not UTF-8."
    assert f"iconv -f {named} -t UTF-8 {file} > new" in caught.value.hint
    assert file.read_bytes().decode(named) == EPOCHS  # as iconv, by this name, would read it


def test_a_byte_that_is_no_utf_8_is_named_with_its_line(tmp_path):
    (tmp_path / "mine.toml").write_bytes(EPOCHS.replace("[ali]", "# é\r\n[ali]").encode("cp1252"))
    with pytest.raises(CikdError, match="it is not UTF-8: line 1 has the byte 0xe9") as caught:
        load_recipe(str(tmp_path / "mine.toml"))
    assert "choose UTF-8 where your editor saves it" in caught.value.hint
