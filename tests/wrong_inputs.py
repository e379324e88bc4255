"""Wrong inputs and the sentence each gets: test_errors.py tries them all, and `python tests/wrong_inputs.py` writes
docs/errors.md from what they say.

A case is tried in a folder with photos/, tiny.toml and the finished runs teacher, ali and lm (see `make_place`).
"""

import contextlib
import io
import json
import os
import re
import shutil
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from cikd_cli.cli.app import app
from cikd_cli.files import file_sha256

DOCUMENT = Path(__file__).parents[1] / "docs" / "errors.md"
TEACH = "finetune-teacher --recipe tiny.toml --data "
RUN = "run --data photos --recipe tiny.toml --gpus cpu "
ALI = "ali --teacher runs/teacher --recipe tiny.toml "
LM = "lm --from runs/ali --recipe tiny.toml "


@dataclass(frozen=True)
class Case:
    """what: the mistake in words. make: puts its files there. part: of the sentence. theirs: text of other packages."""

    group: str
    what: str
    words: str
    part: str
    make: Callable[[], object] = lambda: None
    code: int = 2
    theirs: str | None = None


def make_place(photos: Path, recipe: Path) -> None:
    """The folder's content, in the working directory."""
    shutil.copytree(photos, "photos")
    shutil.copyfile(recipe, "tiny.toml")
    for words in (
        f"{TEACH}photos --epochs 2 --name teacher",
        f"{ALI}--epochs 2 --name ali",
        f"{LM}--epochs 2 --name lm",
    ):
        outcome = CliRunner().invoke(app, [*words.split(), "--quiet"])
        assert outcome.exit_code == 0, outcome.output


def tell(case: Case) -> tuple[int, str, str]:
    """Exit code, standard error and standard output of the case's command, in the working directory."""
    outcome = CliRunner().invoke(app, case.words.split(), env={"COLUMNS": "200", "TERM": "dumb"})
    if outcome.exception is not None and not isinstance(outcome.exception, SystemExit):
        raise outcome.exception
    return outcome.exit_code, outcome.stderr, outcome.stdout


def listing() -> dict[str, float]:
    """Every file and folder here, with the time it was last written; not what Python compiles."""
    return {str(path): path.lstat().st_mtime_ns for path in Path().rglob("*")}


def remove_all_but(before: dict[str, float]) -> None:
    """Take away what a case's `make` has put there."""
    for name in sorted(set(listing()) - set(before), reverse=True):
        path = Path(name)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


def row(case: Case, stderr: str) -> str:
    """The case's line in docs/errors.md."""
    sentence, hint = [*(line for line in stderr.splitlines() if not line.startswith("warning: ")), ""][:2]
    told = sentence.removeprefix("error: ") + (f"<br>*{hint.removeprefix('hint: ')}*" if hint else "")
    told = told.replace(str(Path.cwd()), "…")
    if case.theirs:
        told = re.sub(case.theirs, "…", told)
    cells = (case.what, f"`cikd {case.words}`", told.replace("|", "\\|").replace("<c", "&lt;c"), str(case.code))
    return f"| {' | '.join(cells)} |"


# ---- what makes wrong files ----


def text(name: str, content: str) -> Callable[[], object]:
    return lambda: Path(name).write_text(content)


def folder(name: str, counts: dict[str, int], also: tuple[str, ...] = ()) -> Callable[[], object]:
    """Class folders with so many images each, and empty files."""

    def make() -> None:
        for place, (label, count) in enumerate(counts.items()):
            Path(name, label).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (16, 16), (number, place, 0)).save(Path(name, label, f"{number}.png"))
        for file in also:
            Path(name, file).touch()

    return make


def image(content: bytes, name: str = "bad.png") -> Callable[[], object]:
    """A good folder with one file that is no good."""

    def make() -> None:
        folder("set", {"a": 5, "b": 5})()
        Path("set", "a", name).write_bytes(content)

    return make


def pipe() -> None:
    folder("set", {"a": 5, "b": 5})()
    os.mkfifo("set/a/pipe.png")


def bitmap(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IIIIiiHHIIiiII", 58, 0, 54, 40, width, height, 1, 24, 0, 4, 0, 0, 0, 0) + bytes(4)


def tiff(mode: str, values: bytes) -> bytes:
    """Two pixels of more than 8 bits."""
    file = io.BytesIO()
    Image.frombytes(mode, (2, 1), values).save(file, "TIFF")
    return file.getvalue()


def run(name: str = "bad", of: str = "lm", *, file: str = "run.json", **changes: object) -> Callable[[], object]:
    """A copy of a run whose run.json, or the description in whose weights, says something else; ...: does not say."""

    def make() -> None:
        shutil.copytree(f"runs/{of}", f"runs/{name}")
        if file == "run.json":
            path = Path("runs", name, file)
            record = json.loads(path.read_text()) | changes
            path.write_text(json.dumps({key: value for key, value in record.items() if value is not ...}))
        else:
            describe(Path("runs", name, file), changes)

    return make


def describe(path: Path, changes: dict[str, object]) -> None:
    """Change the description in a weights file, and the hash that the run records of it."""
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    described = json.loads(header["__metadata__"]["cikd"]) | changes
    save_file(load_file(path), path, metadata={"cikd": json.dumps(described)})
    record = json.loads((path.parent / "run.json").read_text())
    record["weights"]["sha256"] = file_sha256(path)
    (path.parent / "run.json").write_text(json.dumps(record))


def spoilt(name: str, content: bytes | None) -> Callable[[], object]:
    """A copy of the lm run with one file replaced, or gone."""

    def make() -> None:
        run()()
        path = Path("runs/bad", name)
        path.unlink() if content is None else path.write_bytes(content)

    return make


def config(line: str) -> Callable[[], object]:
    """A copy of the lm run with a line more in its config.toml, hash and all."""

    def make() -> None:
        shutil.copytree("runs/lm", "runs/bad")
        path = Path("runs/bad/config.toml")
        key = line.split(" ")[0]
        path.write_text(re.sub(f"(?m)^{key} = .*\n", "", path.read_text()) + line + "\n")
        record = json.loads(Path("runs/bad/run.json").read_text()) | {"config_sha256": file_sha256(path)}
        Path("runs/bad/run.json").write_text(json.dumps(record))

    return make


class Trap:
    """Unpickling it makes the folder `sprung`."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("sprung",)


def pth(content: object) -> Callable[[], object]:
    return lambda: torch.save(content, "weights.pth")


def bomb() -> None:
    """A .pth that is small only because it is compressed."""
    import zipfile

    with zipfile.ZipFile("weights.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("weights/data.pkl", bytes(10_000_000))


def vit(name: str) -> Callable[[], object]:
    """A network of timm's under its own names."""
    import timm

    return lambda: torch.save(timm.create_model(name, num_classes=0, img_size=16).state_dict(), "weights.pth")


def archive(name: str) -> Callable[[], object]:
    """A zip archive with this file in it."""
    import zipfile

    def make() -> None:
        with zipfile.ZipFile("weights.pth", "w") as file:
            file.writestr(name, "x")

    return make


def taken() -> None:
    Path("file").write_text("")


PTH = f"{TEACH}photos --teacher weights.pth --teacher-arch vit_tiny_patch16_224"
PAIR = {name: torch.zeros(2) for name in ("patch_embed.proj.weight", "blocks.0.norm1.weight")}
EVAL_BAD = "eval runs/bad"
MY = "config ali --recipe my.toml"

CASES = (
    # ---- flags ----
    Case("Flags", "an unknown command", "evl runs/lm", "cikd has no command 'evl'"),
    Case("Flags", "an unknown flag", "ali --epoch 3", "cikd ali has no flag --epoch"),
    Case("Flags", "a command of other programs", "train", "cikd has no command 'train'"),
    Case("Flags", "a flag of other programs", "ali --lr0 0.01", "cikd ali has no flag --lr0"),
    Case("Flags", "a knob that is not there", "run --class-weights 1,2", "cikd run has no flag --class-weights"),
    Case("Flags", "a flag of one stage", "run --alpha 4", "cikd run has no flag --alpha"),
    Case("Flags", "a folder without its flag", "run photos", "'photos' belongs to no flag"),
    Case("Flags", "two runs for eval", "eval runs/lm runs/teacher", "'runs/teacher' belongs to no flag"),
    Case("Flags", "two sets of images", "finetune-teacher --data photos --data other", "--data is given twice"),
    Case("Flags", "a flag without its value", "ali --epochs", "requires an argument"),
    Case("Flags", "an unset variable of the shell", "ali --data=", "--data is empty"),
    Case("Flags", "a time in words", "slurm ali --name x --time tomorrow", "time must be a time such as 90 (minutes)"),
    Case("Flags", "a setting without dashes", "ali epochs=10", "epochs=10 is not a flag"),
    Case("Flags", "an option without dashes", "ali views=device", "views=device is not a flag"),
    Case("Flags", "a word that is no flag", "ali now", "'now' belongs to no flag"),
    Case("Flags", "no run named", "eval", "cikd eval needs a run"),
    Case("Flags", "text for a number", "ali --epochs ten", "epochs must be a whole number, not 'ten'"),
    Case("Flags", "a number out of bounds", f"{ALI}--lr -1", "lr must be greater than 0, not -1"),
    Case("Flags", "no epochs", f"{ALI}--epochs 0", "epochs must be greater than or equal to 1"),
    Case("Flags", "not a number at all", f"{ALI}--lr nan", "lr must be a finite number"),
    Case("Flags", "a share above 1", f"{TEACH}photos --fraction 1.5", "fraction must be less than or equal to 1"),
    Case("Flags", "an unknown choice", f"{ALI}--student vit_tinny", "student must be"),
    Case("Flags", "an unknown knob", f"{ALI}--set epoch=3", "no knob named 'epoch'"),
    Case("Flags", "a knob without value", f"{ALI}--set epochs", "--set epochs has no value"),
    Case("Flags", "a knob of another stage", f"{ALI}--set lm.alpha=3", "is for 'lm', not for ali"),
    Case("Flags", "one number where two belong", f"{ALI}--set betas=0.9", "betas must be 2 numbers"),
    Case("Flags", "a block the teacher lacks", f"{ALI}--lob 9", "outside 1..3"),
    Case("Flags", "pairs that are none", f"{ALI}--pairs 1-1", "pairs must be pairs of block numbers"),
    Case("Flags", "blocks with different heads", f"{ALI}--pairs 1:1,2:2", "relations are compared head by head"),
    Case("Flags", "nothing to imitate", f"{ALI}--no-qk --no-vv", "at least one kind of relation"),
    Case("Flags", "a batch larger than the data", f"{ALI}--batch-size 31", "larger than the 30 training images"),
    Case("Flags", "fp16 without a GPU in a later stage", f"{RUN}--set lm.precision=fp16", "fp16 trains on GPUs only"),
    Case("Flags", "a stage that contradicts another", f"{RUN}--set ali.decode_size=8", "share decode_size, but:"),
    Case("Flags", "another parent inside cikd run", f"{RUN}--set lm.from_run=runs/ali", "the ali run it has made, not"),
    Case("Flags", "an odd batch for two", f"{RUN}--processes 2 --set ali.batch_size=7", "cannot be divided among 2"),
    Case("Flags", "a list that ends in a comma", f"{ALI}--lob 2,", "nothing stands beside a comma"),
    Case("Flags", "quotes in a job's words", "slurm ali --name x --mem 64\"G", "mem must be a word without spaces or"),
    Case("Flags", "more grace than time", "slurm ali --name x --time 1", "is a job of 60 seconds"),
    Case("Flags", "workers with nothing to do", f"{ALI}--views device --workers 2", "--workers 2 would have no work"),
    Case("Flags", "a pause in epochs", f"{ALI}--stall-after 5e", "stall_after must be a time such as 30s"),
    Case("Flags", "heads that do not divide", f"{ALI}--set student_heads=3", "3 heads do not divide"),
    Case("Flags", "patches that do not tile", f"{TEACH}photos --image-size 18", "not a multiple of the patch size"),
    Case("Flags", "what the parent contradicts", f"{LM}--image-size 32", "image_size 32 contradicts"),
    Case("Flags", "a name with a path in it", f"{ALI}--name ../out", "cannot be the name of a run"),
    Case("Flags", "a name that is taken", f"{ALI}--name lm", "exists already"),
    Case("Flags", "a file as the folder of runs", f"{ALI}--runs-dir file", "Cannot write file", taken),
    Case("Flags", "a name too long for a file", f"{ALI}--name {'x' * 64}", "cannot be the name of a run"),
    Case("Flags", "a resume with another setting", "ali --resume runs/ali --lr 1", "so --lr cannot be given"),
    # ---- recipes ----
    Case("Recipes", "an unknown recipe", f"{ALI.replace('tiny.toml', 'flower')}", "no recipe named 'flower'"),
    Case("Recipes", "a recipe that is not there", "ali --recipe none.toml --data digits", "cannot be read"),
    Case("Recipes", "not TOML", MY, "is not TOML", text("my.toml", "[ali]\nlr = "),
         theirs=r"(?<=TOML: )[^<]*\."),
    Case("Recipes", "a key above all sections", MY, "not a section", text("my.toml", "lr=1")),
    Case("Recipes", "an unknown section", MY, "'aly' is not", text("my.toml", "[aly]\nlr=1")),
    Case("Recipes", "an unknown key", MY, "named 'alpha'", text("my.toml", "[ali]\nalpha=1")),
    Case("Recipes", "a date for a number", MY, "lr must be a number",
         text("my.toml", "[ali]\nlr = 2026-01-01"), theirs=r"a number.*not "),
    Case("Recipes", "nesting without end", MY, "is not TOML",
         text("my.toml", "x = " + "[" * 20000), theirs=r"(?<=TOML: )[^<]*\."),
    Case("Recipes", "a file of 100 kB", MY, "larger than 32,768", text("my.toml", "#" * 10**5)),
    Case("Recipes", "a folder for --config", "config ali --config photos", "cannot be read"),
    Case("Recipes", "a file saved as UTF-16", MY, "it is UTF-16 and not UTF-8",
         lambda: Path("my.toml").write_text("[ali]\nlr = 1\n", encoding="utf-16")),
    Case("Recipes", "letters of Windows-1252", MY, "line 1 has the byte 0xe9",
         lambda: Path("my.toml").write_text("# café\n", encoding="cp1252")),
    # ---- folders ----
    Case("Folders", "a misspelt data set", "ali --data cifra100", "no data set and no folder named 'cifra100'"),
    Case("Folders", "a file for a folder", "ali --data tiny.toml", "is a file, not a folder"),
    Case("Folders", "an empty folder", f"{TEACH}set", "has no class folders", lambda: Path("set").mkdir()),
    Case("Folders", "one class", f"{TEACH}set", "one class only, a", folder("set", {"a": 3})),
    Case("Folders", "a class without images", f"{TEACH}set", "No images for class b", folder("set", {"a": 3, "b": 0})),
    Case("Folders", "one image in a class", f"{TEACH}set", "one image in class b", folder("set", {"a": 3, "b": 1})),
    Case("Folders", "a class in test only", f"{TEACH}set", "Class c is in",
         folder("set", {"train/a": 3, "train/b": 3, "test/c": 1})),
    Case("Folders", "a class in train only", f"{TEACH}set", "Class b is in",
         folder("set", {"train/a": 3, "train/b": 3, "test/a": 1})),
    Case("Folders", "splits below the classes", f"{TEACH}set", "splits below a class are not read",
         folder("set", {"a/train": 3, "a/test": 1, "b/train": 3, "b/test": 1})),
    Case("Folders", "splits under other names", f"{TEACH}set", "has splits under other names",
         folder("set", {"training_set/a": 3, "training_set/b": 3, "test_set/a": 1, "test_set/b": 1})),
    Case("Folders", "a test folder under another name", f"{TEACH}set", "no name that is read as a split",
         folder("set", {"train/a": 3, "train/b": 3, "hold/a": 1, "hold/b": 1})),
    Case("Folders", "two folders for train", f"{TEACH}set", "two folders for the train split",
         folder("set", {"train/a": 3, "Training/b": 3})),
    Case("Folders", "images in train and test, but no classes", f"{TEACH}set", "but no class folders",
         folder("set", {"train": 3, "test": 3})),
    Case("Folders", "a folder too high", f"{TEACH}set", "one class only, inner",
         folder("set", {"inner/train/a": 3, "inner/train/b": 3})),
    Case("Folders", "a class of other files", f"{TEACH}set", "only 2 .svg",
         folder("set", {"a": 3, "b": 0}, also=("b/1.svg", "b/2.svg"))),
    Case("Folders", "scoring what was learned from", "eval runs/lm --data photos/train", "learned from every image"),
    Case("Folders", "other images under lm", "lm --from runs/ali --data set", "was made for",
         folder("set", {"bars": 3, "dots": 3, "rows": 3})),
    Case("Folders", "a name that is not UTF-8", f"{TEACH}set", "is not UTF-8", folder("set", {"caf\udce9": 3, "b": 3})),
    Case("Folders", "other classes than the run's", "eval runs/lm --data set", "knows 3 classes",
         folder("set", {"a": 3, "b": 3})),
    Case("Folders", "a named set that is not there", "finetune-teacher --data flowers", "flowers is not in"),
    Case("Folders", "validation images that are not there", "eval runs/lm --split val", "has no val images"),
    # ---- images ----
    Case("Images", "an empty file", f"{TEACH}set", "it is empty", image(b"")),
    Case("Images", "text", f"{TEACH}set", "it is not an image", image(b"no picture")),
    Case("Images", "a file cut short", f"{TEACH}set", "bad.png cannot be read",
         image(b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"), theirs=r"(?<=read: )[^<]*\."),
    Case("Images", "more pixels than memory", f"{TEACH}set", "more than 67,108,864 pixels",
         image(bitmap(20000, 20000), "bad.bmp")),
    Case("Images", "more than Pillow opens", f"{TEACH}set", "more than 67,108,864 pixels",
         image(bitmap(60000, 60000), "bad.bmp")),
    Case("Images", "PostScript, which is a program", f"{TEACH}set", "it is not an image",
         image(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "bad.jpg")),
    Case("Images", "a pointer of Git LFS", f"{TEACH}set", "git lfs pull",
         image(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")),
    Case("Images", "a page in place of an image", f"{TEACH}set", "it is an HTML page",
         image(b"<html>403 Forbidden</html>", "bad.jpg")),
    Case("Images", "12 bits in a file of 16", f"{TEACH}set", "end at 4,095 of 65,535",
         image(tiff("I;16", struct.pack("<HH", 0, 4095)), "bad.tif")),
    Case("Images", "floats of no known range", f"{TEACH}set", "floats from -1 to 1",
         image(tiff("F", struct.pack("<ff", -1, 1)), "bad.tif")),
    Case("Images", "whole numbers of more than 16 bits", f"{TEACH}set", "from 0 to 70,000",
         image(tiff("I", struct.pack("<ii", 0, 70_000)), "bad.tif")),
    Case("Images", "a pipe", f"{TEACH}set", "it is not a file", pipe),
    # ---- weights ----
    Case("Weights", "no such file", f"{TEACH}photos --teacher none.pth", "no weights file none.pth"),
    Case("Weights", "an unknown architecture", f"{TEACH}photos --teacher vit_bas_patch16_224", "timm has no model",
         theirs=r"(?<=teacher )vit_[a-z0-9_]*(?=\*)"),
    Case("Weights", "another kind of network", f"{TEACH}photos --teacher resnet18", "is a ResNet"),
    Case("Weights", "a file without architecture", f"{TEACH}photos --teacher weights.pth", "does not say which arch",
         pth({})),
    Case("Weights", "a pickle with code in it", PTH, "holds more than tensors", pth({"model": Trap()})),
    Case("Weights", "text", PTH, "cannot be read as plain weights", text("weights.pth", "no weights")),
    Case("Weights", "a list", PTH, "holds a list", pth([1])),
    Case("Weights", "compressed, to fill memory", PTH, "is compressed", bomb, theirs=r"its [0-9,]+ bytes"),
    Case("Weights", "not the tensors", PTH, "tensors are missing", pth({"model": {"x": torch.zeros(2)}}),
         theirs=r"\d+ tensors"),
    Case("Weights", "another width", PTH, "does not fit a vit_tiny_patch16_224: it has a width of 64, not 192",
         vit("test_vit")),
    Case("Weights", "a distilled DeiT for a plain one", PTH, "it has a distillation token",
         vit("deit_tiny_distilled_patch16_224")),
    Case("Weights", "a shape without a name", f"{TEACH}photos --teacher weights.pth", "head counts cannot be read",
         vit("deit_tiny_distilled_patch16_224")),
    Case("Weights", "a LoRA adapter", PTH, "holds a LoRA adapter",
         pth({"model.blocks.0.attn.qkv.lora_A.weight": torch.zeros(2)})),
    Case("Weights", "an archive of NumPy's", PTH, "an archive of NumPy arrays", archive("encoder.npy")),
    Case("Weights", "a pointer of Git LFS", PTH, "a pointer of Git LFS",
         text("weights.pth", "version https://git-lfs.github.com/spec/v1")),
    Case("Weights", "two networks", PTH, "holds 2 networks, a and b",
         pth({"a": PAIR, "b": {**PAIR, "norm.weight": torch.ones(2)}})),
    Case("Weights", "a folder without weights", f"{TEACH}photos --teacher photos", "is not a run and holds no weights"),
    Case("Weights", "a folder that is not there", f"{TEACH}photos --teacher local-dir:none", "There is no folder none"),
    Case("Weights", "an address", f"{TEACH}photos --teacher https://example.org/x.pth", "is an address, not a file"),
    Case("Weights", "patches that do not tile", f"{TEACH}photos --teacher vit_base_patch16_224.dino --image-size 40",
         "40 is not a multiple of the patch size 16"),
    Case("Weights", "text called .safetensors", f"{TEACH}photos --teacher w.safetensors", "not a readable safetensors",
         text("w.safetensors", "no weights"), theirs=r"(?<=file \().*\)"),
    Case("Weights", "an edited description", EVAL_BAD, "description of the network",
         run(file="model.safetensors", width="8"), theirs=r"(?<=damaged \().*\)"),
    Case("Weights", "a width of 60,000", EVAL_BAD, "does not fit", run(file="model.safetensors", width=60000),
         theirs=r"\d+ tensors are missing.*\)"),
    Case("Weights", "other heads", "lm --from runs/bad", "another network",
         run(file="model.safetensors", heads=[2, 2, 2])),
    Case("Weights", "a head count missing", EVAL_BAD, "lists heads", run(file="model.safetensors", heads=[2])),
    # ---- runs ----
    Case("Runs", "no such run", "eval runs/lmm", "There is no run runs/lmm"),
    Case("Runs", "no run of this name", "eval teachr", "There is no run teachr"),
    Case("Runs", "the folder of runs", "eval runs", "runs is not a run"),
    Case("Runs", "a folder that is no run", "eval photos", "is not a run"),
    Case("Runs", "a run of another stage", "lm --from runs/teacher", "is of the stage finetune-teacher"),
    Case("Runs", "no classifier", "eval runs/ali", "has no classifier"),
    Case("Runs", "three images for cka", "cka runs/ali --data set", "CKA needs at least 4 images",
         folder("set", {"a": 1, "b": 2})),
    Case("Runs", "a run that stopped", EVAL_BAD, "stopped after epoch 1 of 2",
         run(status="interrupted", progress={"epoch": 1, "epochs": 2})),
    Case("Runs", "a run that failed", EVAL_BAD, "failed after epoch 1 of 2: the loss is NaN",
         run(status="failed", message="the loss is NaN", progress={"epoch": 1, "epochs": 2})),
    Case("Runs", "run.json cut short", EVAL_BAD, "run.json is damaged", spoilt("run.json", b'{"stage": '),
         theirs=r"(?<=damaged: )[^<]*\."),
    Case("Runs", "run.json of another program", EVAL_BAD, "was not written by cikd", spoilt("run.json", b"[]")),
    Case("Runs", "a value of the wrong type", EVAL_BAD, "seconds should be", run(seconds="long"),
         theirs=r"(?<=seconds )[^<]*\."),
    Case("Runs", "a key that is gone", EVAL_BAD, "it has no 'data'", run(data=...)),
    Case("Runs", "the format of the future", EVAL_BAD, "has the run format 99", run(format=99)),
    Case("Runs", "an edited config.toml", EVAL_BAD, "was changed after", spoilt("config.toml", b"lr = 1\n")),
    Case("Runs", "a wrong knob in config.toml", "lm --resume runs/bad", "no knob named 'speed'", config("speed = 1")),
    Case("Runs", "a wrong value in config.toml", "lm --resume runs/bad", "epochs must be", config('epochs = "x"')),
    Case("Runs", "weights that are gone", EVAL_BAD, "model.safetensors is missing", spoilt("model.safetensors", None)),
    Case("Runs", "nothing left to do", "lm --resume runs/lm", "is finished (2 of 2 epochs)"),
    Case("Runs", "fewer epochs than before", "lm --resume runs/lm --epochs 1", "1 are fewer"),
    Case("Runs", "a parent that others need", "ali --resume runs/ali --epochs 3", "has to stay as it is"),
    Case("Runs", "a teacher of other classes", "lm --teacher runs/teacher --data digits", "not what runs/teacher was"),
    Case("Runs", "no teacher at all", "ali --data photos --runs-dir none", "no finished teacher for photos"),
    Case("Runs", "images that changed", "lm --resume runs/bad --epochs 3", "have changed since",
         run(data={"name": "x", "fingerprint": "0" * 64}), theirs=r"(?<=and )[0-9a-f]{8}"),
    # ---- hardware ----
    Case("Hardware", "more GPUs than there are", f"{ALI}--gpus 99", "asks for GPU 98, but this machine has",
         theirs=r"(?<=this machine has ).*"),
    Case("Hardware", "GPUs by name", f"{ALI}--gpus fast", "is neither a number, 'all'"),
    Case("Hardware", "one GPU twice", f"{ALI}--gpus 0,0", "names no GPU, or one twice"),
    Case("Hardware", "fp16 on a CPU", f"{ALI}--gpus cpu --precision fp16", "fp16 trains on GPUs only"),
    Case("Hardware", "a batch that does not divide", f"{ALI}--gpus cpu --processes 3 --batch-size 8",
         "cannot be divided among 3 processes"),
    Case("Hardware", "processes on GPUs", f"{ALI}--gpus 1 --processes 2", "is for the CPU"),
    Case("Hardware", "a negative number of workers", f"{ALI}--workers -1", "must be greater than or equal to 0"),
)  # fmt: skip


def document(rows: dict[str, str]) -> str:
    """The whole of docs/errors.md, from the row of each case."""
    lines = [
        "# Errors",
        "",
        f"{len(CASES)} wrong inputs and what `cikd` says about them, with the exit code: 2 for input, 1 for a fault",
        "while running. Each takes less than 10 seconds, prints no traceback and writes nothing. Hints are in italics.",
        "`…` stands for a place on the disk, or for the words of another package.",
        "",
        "Made by `python tests/wrong_inputs.py`; `tests/test_errors.py` tries every row.",
    ]
    for group in dict.fromkeys(case.group for case in CASES):
        lines += ["", f"## {group}", "", "| what | command | sentence | code |", "| --- | --- | --- | --- |"]
        lines += [rows[case.what + case.group] for case in CASES if case.group == group]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Try every case and write docs/errors.md."""
    import tempfile

    from tiny import RECIPE, draw_photos

    rows: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        draw_photos(Path("source"))
        Path("recipe.toml").write_text(RECIPE)
        make_place(Path("source"), Path("recipe.toml"))
        for case in CASES:
            before = listing()
            case.make()
            rows[case.what + case.group] = row(case, tell(case)[1])
            remove_all_but(before)
    DOCUMENT.write_text(document(rows))


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
