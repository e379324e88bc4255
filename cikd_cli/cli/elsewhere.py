"""Words that people know from other programs, and what to type here: one table of commands, one of flags."""

from typing import NamedTuple

_WHOLE = "cikd run trains teacher and student; one stage: cikd finetune-teacher, cikd ali or cikd lm"
_SCORE = "cikd eval RUN scores the test images, with --split val or --split train others"
_NOT_YET = "not there yet"

COMMANDS: dict[tuple[str, ...], str] = {
    ("train", "fit", "start", "all", "curriculum"): _WHOLE,
    ("distill", "distil", "kd", "student"): "cikd run does the whole of it; the student alone: cikd ali, then cikd lm",
    ("finetune", "fine-tune", "teacher"): "cikd finetune-teacher",
    ("pretrain",): "cikd ali is the stage without labels; cikd run does the whole of it",
    ("test", "val", "valid", "validate", "evaluate", "score", "metrics"): _SCORE,
    ("predict", "infer", "inference", "classify", "detect"): f"{_NOT_YET}; {_SCORE}, with --data DIR another folder",
    ("export", "convert", "onnx", "deploy"): (
        f"{_NOT_YET}; model.safetensors in the run needs its head counts, which plain timm does not know: in Python, "
        "cikd_cli.models.weights.load_model(path)"
    ),
    ("serve", "demo", "app"): f"{_NOT_YET}; cikd eval RUN scores a run",
    (
        "tune",
        "sweep",
        "search",
    ): "cikd ali --lob 7,8,9 compares blocks; cikd bench --sweep times sizes of batch and image",
    ("resume", "continue"): "cikd run goes on by itself; one stage: cikd ali --resume RUN, cikd lm --resume RUN",
    ("list", "ls", "show", "status", "history", "experiments"): "cikd runs",
    ("version",): "cikd --version",
    ("help", "usage", "man"): "cikd --help, or cikd run --help for one command",
    ("profile", "speed", "benchmark", "time"): "cikd bench",
    ("attention", "distance"): "cikd mad RUN",
    ("similarity",): "cikd cka RUN",
    ("settings", "cfg", "copy-cfg", "options", "info"): "cikd config run, or cikd config ali for one stage",
    ("download", "data", "dataset"): "cikd run --data NAME --download; its own folder: cikd run --data DIR",
    ("sbatch", "srun", "job", "submit"): "cikd slurm run",
}


class Here(NamedTuple):
    """What a flag from elsewhere is here: a field of a stage or of its options, or a sentence where there is none.

    fields: the first that the command has, or every one that it has; `runs` are the words behind eval, mad and cka.
    value: of the field, where the flag itself says it (`--fp16` is `--precision fp16`), but for a typed one in `kept`.
    """

    fields: tuple[str, ...] = ()
    says: str = ""
    every: bool = False
    value: str | None = None
    kept: tuple[str, ...] = ()


_AMP = ("amp", "half", "mixed-precision", "dtype", "use-amp")
FLAGS: dict[tuple[str, ...], Here] = {
    ("d", "dataset", "datasets", "data-path", "data-dir", "data-folder", "dataset-dir", "dir", "folder", "path",
     "images-dir", "source", "input", "train-dir", "train-data", "train", "i"): Here(("data",)),
    ("val-dir", "val-data", "test-dir", "test-data"): Here(
        says="a folder with DIR/train, DIR/val, DIR/test: --data DIR"),
    ("imgsz", "img-size", "img", "image-sz", "input-size", "img-dim", "size", "res", "resolution", "crop-size"):
        Here(("image_size",)),
    ("val-split", "val-size", "val-ratio", "val-fraction", "validation-split", "valid-pct"): Here(("val",)),
    ("subset", "train-fraction", "data-fraction"): Here(("fraction",)),
    ("e", "epoch", "n-epochs", "num-epochs", "max-epochs", "num-train-epochs", "nepochs", "ep"): Here(("epochs",)),
    ("b", "bs", "batch", "batchsize", "train-batch-size", "eval-batch-size", "per-device-train-batch-size",
     "global-batch-size", "mini-batch-size"): Here(("batch_size",)),
    ("lr0", "l", "learning-rate", "learningrate", "base-lr", "blr", "max-lr", "eta"): Here(("lr",)),
    ("lrf", "lr-min", "final-lr", "min-learning-rate", "eta-min"): Here(("min_lr",)),
    ("wd", "decay", "l2"): Here(("weight_decay",)),
    ("warmup-epochs", "warm-up", "num-warmup-epochs", "warmup-steps", "lr-warmup-epochs"): Here(("warmup",)),
    ("label-smoothing", "label-smooth", "smooth"): Here(("smoothing",)),
    ("accum", "accum-iter", "grad-accum", "grad-accumulation", "gradient-accumulation-steps", "accumulate-grad-batches",
     "accum-steps"): Here(("accumulate",)),
    _AMP: Here(("precision",), value="bf16"),
    ("bf16", "bfloat16"): Here(("precision",), value="bf16"),
    ("fp16", "float16", "no-fp32"): Here(("precision",), value="fp16"),
    ("fp32", "float32", "no-amp"): Here(("precision",), value="fp32"),
    ("torch-compile", "torchcompile", "jit"): Here(("compile",), value="true"),
    ("model-ema", "ema-decay", "use-ema"): Here(("ema",)),
    ("random-seed", "manual-seed", "random-state", "rng"): Here(("seed",)),
    ("droppath", "drop-path-rate", "stochastic-depth"): Here(("drop_path",)),
    ("color-jitter", "colour-jitter", "hsv", "cj"): Here(("jitter",)),
    ("hflip", "fliplr", "horizontal-flip"): Here(("flip",)),
    ("aa", "auto-augment", "augmentation", "augmentations", "transforms"): Here(("augment",)),
    ("t", "temp", "tau", "kd-temperature"): Here(("temperature",)),
    ("kd-alpha", "nckd", "beta", "kd-weight", "distill-weight", "distillation-alpha"): Here(("alpha",)),
    ("layer", "layers", "block", "blocks"): Here(("lob",)),
    ("teacher-model", "teacher-path", "teacher-weights", "teacher-name"): Here(("teacher",)),
    ("student-model", "student-name", "student-arch"): Here(("student",)),
    ("m", "model", "model-name", "arch", "architecture", "net", "network", "backbone"): Here(
        ("runs", "student", "teacher"), every=True),
    ("w", "weights", "pretrained", "checkpoint", "ckpt", "ckpt-path", "checkpoint-path", "init", "load", "finetune"):
        Here(("runs", "from_run", "teacher"), every=True),
    ("resume-from", "resume-from-checkpoint", "auto-resume", "r"): Here(("resume",)),
    ("device", "devices", "gpu", "g", "gpu-id", "gpu-ids", "cuda", "accelerator", "cuda-device"): Here(
        ("gpus_per_node", "gpus"), value="1", kept=("cpu", "all")),
    ("ngpus", "ngpu", "n-gpus", "num-gpus", "gpus-per-node", "n-gpu"): Here(("gpus_per_node", "gpus")),
    ("cpu", "no-cuda", "use-cpu", "cpu-only", "no-gpu"): Here(("gpus",), value="cpu"),
    ("nproc", "nproc-per-node", "num-processes", "world-size", "nprocs"): Here(("processes",)),
    ("j", "num-workers", "n-workers", "nworkers", "nw", "dataloader-num-workers", "threads"): Here(("workers",)),
    ("o", "out", "output", "output-dir", "out-dir", "outdir", "project", "save-dir", "log-dir", "logdir", "work-dir",
     "default-root-dir", "results-dir", "exp-dir"): Here(("runs_dir",)),
    ("n", "exp", "exp-name", "experiment", "experiment-name", "run-name", "run-id"): Here(("name",)),
    ("c", "cfg", "conf", "config-file", "hyp", "yaml"): Here(("config",)),
    ("preset", "hparams"): Here(("recipe",)),
    ("opts", "cfg-options", "override", "param"): Here(("set",)),
    ("save-period", "save-freq", "save-interval", "save-steps", "checkpoint-every"): Here(("save_every",)),
    ("eval-interval", "eval-freq", "val-interval", "eval-steps"): Here(("eval_every",)),
    ("save-total-limit", "keep"): Here(("keep_every",)),
    ("cache", "cache-ram", "cache-images", "ram"): Here(("cache_mb",)),
    ("dry", "check", "plan", "no-train"): Here(("dry_run",)),
    ("q", "silent", "no-progress"): Here(("quiet",)),
    ("freeze", "freeze-backbone", "linear", "probe"): Here(("linear_probe",)),
    ("restart", "from-scratch", "no-resume"): Here(("fresh",)),
    ("class-weights", "class-weight", "weighted-loss", "weighted-sampler", "balance", "balanced", "cls-pw",
     "oversample", "focal-loss"): Here(
        says="there is no such knob: every image weighs the same; cikd eval RUN shows the balanced accuracy and the "
        "least accurate classes"),
    ("patience", "early-stopping", "early-stop", "stopping-patience", "monitor", "save-best"): Here(
        says="there is no such knob: a run trains all its epochs, and no epoch is chosen by its score; Ctrl-C saves"),
    ("opt", "optim", "optimizer", "optimiser", "momentum", "adam", "sgd", "nesterov"): Here(
        says="there is no such knob: it is always AdamW, with --set betas=0.9,0.95 and --set weight_decay=0.05"),
    ("sched", "scheduler", "lr-scheduler", "lr-schedule", "cos-lr", "step-size", "gamma", "lr-policy"): Here(
        says="there is no such knob: it is always a cosine after --warmup epochs, down to --set min_lr=0"),
    ("clip", "clip-grad", "max-grad-norm", "grad-clip", "gradient-clip-val", "mixup", "cutmix", "mixup-alpha",
     "dropout", "reprob", "erasing", "mosaic", "rect", "repeated-aug"): Here(
        says="there is no such knob; cikd config run shows those there are"),
    ("nc", "num-class", "num-classes", "nb-classes", "classes", "n-classes", "labels"): Here(
        says="the classes are the folders of --data DIR"),
    ("v", "verbose", "debug", "log-level", "print-freq", "log-interval"): Here(
        says="there is no such knob: everything is told, and kept in log.txt of the run"),
    ("exist-ok", "overwrite", "overwrite-output-dir", "force", "f"): Here(
        says="a run is never overwritten: a new one gets the next number"),
    ("wandb", "tensorboard", "tb", "mlflow", "report-to", "logger", "plots"): Here(
        says="there is no such knob: metrics.jsonl and log.txt lie in the run, and cikd runs shows all runs"),
    ("local-rank", "dist-url", "rank", "master-port", "ddp", "multiprocessing-distributed"): Here(
        says="there is no such knob: --gpus all starts a process on each GPU"),
    ("y", "yes", "a", "deterministic", "trust-remote-code"): Here(says="there is no such knob, and no need of one"),
}  # fmt: skip

# What a flag of some commands is for a command that has it not, where more can be said than which command has it.
WITHOUT: dict[tuple[str, str], str] = {
    ("run", "name"): "its runs get the next numbers; one stage with a name: cikd ali --name NAME",
    ("run", "resume"): "type the same cikd run again: it goes on with what is missing; one stage: cikd lm --resume RUN",
    ("run", "go_on"): "type the same cikd run again: it goes on with what is missing",
    ("run", "from_run"): "each stage gets its parent by itself; one stage: cikd lm --from RUN",
    ("eval", "image_size"): "a run is scored at its own image size",
    ("eval", "resume"): "type cikd eval RUN again",
    ("eval", "name"): "the results go into the run itself",
    (
        "finetune-teacher",
        "student",
    ): "the teacher has no student yet; the stage that has one: cikd ali --student vit_tiny",
}


def command(word: str) -> str | None:
    """What to type here for a command of elsewhere, if it is known."""
    return next((says for words, says in COMMANDS.items() if word.lower() in words), None)


def flag(word: str) -> Here | None:
    """What a flag of elsewhere, without its dashes, is here, if it is known."""
    word = word.lower().replace("_", "-")
    return next((here for words, here in FLAGS.items() if word in words), None)
