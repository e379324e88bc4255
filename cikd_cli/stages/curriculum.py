"""`cikd run`: every stage in turn, each its own run; started again, it continues with what is missing."""

import hashlib
import json
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from cikd_cli.console import Reporter, duration, reporter
from cikd_cli.data.division import TRAIN
from cikd_cli.data.scored import scored_folder
from cikd_cli.errors import EXIT_INTERRUPTED, CikdError
from cikd_cli.processes.world import choose_hardware
from cikd_cli.reports import page
from cikd_cli.runs import chain
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.lineage import all_runs
from cikd_cli.settings.configs import CurriculumConfig
from cikd_cli.settings.names import data_name
from cikd_cli.settings.recipes import MAY_DIFFER
from cikd_cli.settings.request import Request, Resolved, RunOptions
from cikd_cli.settings.stages import STAGES
from cikd_cli.system import memory
from cikd_cli.training.ahead import build_all, foretell_all, offer_laptop
from cikd_cli.training.execute import curriculum_command
from cikd_cli.training.held_out import remember
from cikd_cli.training.rehearsal import Cost, cost_of

ANALYSES = ("eval", "mad", "cka")
_PARENTS = {"ali": ("teacher",), "lm": ("ali",), "baseline": ("teacher",)}


def run(request: Request) -> dict[str, Any]:
    """Train what is missing, analyse the student, and end with a table; the summary for --json."""
    try:
        return _carry_out_all(request)
    except KeyboardInterrupt as stop:  # between two trainings, which tell it themselves
        go_on = f"go on with  {curriculum_command(request.argv)}"
        raise CikdError("Stopped; what is finished is kept", hint=go_on, exit_code=EXIT_INTERRUPTED) from stop


def _carry_out_all(request: Request) -> dict[str, Any]:
    options = request.options
    out = reporter(quiet=options.quiet, as_json=options.as_json)
    resolved = chain.resolve_curriculum(request)  # a wrong key of the last stage is told before the first one starts
    config = resolved.config
    assert isinstance(config, CurriculumConfig)
    if options.dry_run:
        return _dry_run(resolved, options, out)
    runs: dict[str, RunDir] = {}
    for name in _names(config):
        step, tag = _step(name, config, runs, request), _tag(name, config, runs)
        found = None if options.fresh else _find(Path(options.runs_dir), tag)
        if name == "teacher" and (found is None or found.status != "done"):
            _look_ahead(resolved, options, out)
        elif name == "teacher" and found is not None:
            _tell_changes(found, out)
        runs[name] = _carry_out(step, found, tag, out)
    student = runs["lm"].path
    beside = [runs[name].path for name in ("lm", "teacher", "baseline") if name in runs]
    analyses = {
        command: _analyse(command, *(beside if command == "mad" else [student]), options=options, out=out)
        for command in ANALYSES
    }
    evaluations = {"lm": analyses["eval"]}
    if "baseline" in runs:
        evaluations["baseline"] = _analyse("eval", runs["baseline"].path, options=options, out=out)
    rows = page.rows(runs, evaluations)
    out.table(page.COLUMNS, rows, title="on the test images")
    seconds = sum(float(run.record["result"]["seconds"]) for run in runs.values())
    out.fields([
        ("trained", duration(seconds)),
        ("weights", str(runs["lm"].weights)),
        ("report", str(page.write(runs, rows, request.argv, analyses))),
        ("next", f"another seed: --seed {config.lm.seed + 1} · all of it anew: --fresh · the lineage: cikd runs"),
    ])  # fmt: skip
    return {name: str(run.path) for name, run in runs.items()} | {"eval": analyses["eval"], "evaluations": evaluations}


def _names(config: CurriculumConfig) -> tuple[str, ...]:
    return ("teacher", "ali", "lm", *(("baseline",) if config.baseline else ()))


def _step(name: str, config: CurriculumConfig, runs: dict[str, RunDir], request: Request) -> Request:
    """The command a user would type for this step, given the runs before it."""
    if name == "teacher":
        return chain.stage_request(request, "finetune-teacher", data=config.finetune_teacher.data)
    teacher = str(runs["teacher"].path)
    if name == "ali":
        return chain.stage_request(request, "ali", teacher=teacher)
    if name == "lm":
        return chain.stage_request(request, "lm", from_run=str(runs["ali"].path))
    return chain.stage_request(request, "lm", teacher=teacher, **_labels_only(config, runs))


def _labels_only(config: CurriculumConfig, runs: dict[str, RunDir]) -> dict[str, Any]:
    made = [runs[name].config() for name in ("ali", "lm")]
    images = runs["lm"].record["data"]["train"]
    return chain.baseline_settings(config, images, [(run["epochs"], run["batch_size"]) for run in made])


def _tag(name: str, config: CurriculumConfig, runs: dict[str, RunDir]) -> str:
    """What a step's run is known by: its settings and the very weights it starts from."""
    stage = {"teacher": config.finetune_teacher, "ali": config.ali, "lm": config.lm, "baseline": config.lm}[name]
    settings = stage.model_dump(mode="json", exclude=set(MAY_DIFFER)) | {"data": data_name(str(stage.data))}
    if name == "baseline":
        settings |= _labels_only(config, runs)
    settings["parents"] = [runs[parent].record["weights"]["sha256"] for parent in _PARENTS.get(name, ())]
    return f"{name}/{hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]}"


def _carry_out(step: Request, found: RunDir | None, tag: str, out: Reporter) -> RunDir:
    """The step's finished run: found, continued, or made now."""
    options = step.options
    if found is not None and found.status == "done":
        out.line(f"{found.path} is finished; taken as it is")
        return RunDir.open(found.path)
    module = import_module(STAGES[step.stage].module)
    if found is not None:
        out.line(f"── cikd {step.stage} --resume {found.path}")
        kept = {
            key: getattr(options, key)
            for key in ("gpus", "processes", "workers", "views", "runs_dir", "save_every", "stall_after")
        }
        again = RunOptions(**kept, quiet=options.quiet, as_json=options.as_json, resume=str(found.path))
        summary = module.run(Request(step.stage, options=again, argv=step.argv, curriculum=tag))
    else:
        out.line(f"── cikd {step.stage}")
        summary = module.run(Request(step.stage, step.flags, options, step.argv, curriculum=tag))
    out.line()
    return RunDir.open(summary["run"])


def _tell_changes(found: RunDir, out: Reporter) -> None:
    """Warn of images that came or went since a run that is taken as it is."""
    memory, config = remember([found]), found.config()
    if memory is None or not Path(config["data"]).is_dir():
        return
    source, _ = scored_folder(
        config["data"],
        memory,
        own=True,
        split=TRAIN,
        classes=(),
        labelled=False,
        skip_unreadable=config.get("skip_unreadable", False),
    )
    changed = dict(source.facts).get("changed")
    if changed:
        out.warn(
            f"{changed}. Finished runs are taken as they are, and scored on what they held out; --fresh trains anew"
        )


def _find(runs_dir: Path, tag: str) -> RunDir | None:
    """The newest run made for this step of this very curriculum."""
    return next((run for run in reversed(all_runs(runs_dir)) if run.record.get("curriculum") == tag), None)


def _analyse(command: str, *runs: Path, options: RunOptions, out: Reporter) -> dict[str, Any]:
    names = tuple(map(str, runs))
    out.line(f"── cikd {command} {' '.join(names)}")
    plain = RunOptions(gpus=options.gpus, workers=options.workers, quiet=options.quiet, as_json=options.as_json)
    summary: dict[str, Any] = import_module(STAGES[command].module).run(Request(command, options=plain, runs=names))
    out.line()
    return summary


def _look_ahead(resolved: Resolved, options: RunOptions, out: Reporter) -> None:
    """Refuse what cannot work in any stage, and foretell long ones, before the first one trains for hours."""
    hardware = choose_hardware(options.gpus, options.processes or 1)
    jobs = build_all(resolved, hardware, options)
    out.fields([fact for fact in jobs["ali"].facts if fact[0] == "student"])
    foretell_all(jobs, resolved, hardware, options, out)


def _finished(config: Any, options: RunOptions) -> dict[str, RunDir]:
    """The runs that `cikd run` would take as they are, by stage."""
    runs: dict[str, RunDir] = {}
    for name in () if options.fresh else _names(config):  # each needs those before it
        found = _find(Path(options.runs_dir), _tag(name, config, runs))
        if found is None or found.status != "done":
            break
        runs[name] = found
    return {"finetune-teacher" if name == "teacher" else name: run for name, run in runs.items()}


def _dry_run(resolved: Resolved, options: RunOptions, out: Reporter) -> dict[str, Any]:
    """Check every stage, take some steps of each on networks of its shapes, and print what all of it costs."""
    hardware, resident = choose_hardware(options.gpus, options.processes or 1), memory()
    jobs = build_all(resolved, hardware, options, fetch=False)
    teacher = jobs["finetune-teacher"].config
    out.fields([*jobs["finetune-teacher"].facts, *(fact for fact in jobs["ali"].facts if fact[0] == "student")])
    finished = _finished(resolved.config, options)
    rows, stages = [], {}
    for name, job in jobs.items():
        if name in finished:
            out.line(f"{finished[name].path} is finished; taken as it is")
            stages[name] = Cost(0, 0.0, 0, 0.0)
            continue
        cost = stages[name] = cost_of(job, hardware, options, resident=resident)
        numbers = (job.config.epochs, job.config.batch_size, f"{cost.steps:,}", duration(cost.seconds))
        rows.append([name, *map(str, numbers), f"{cost.memory_mib:,}", f"{cost.disk_mib:,}"])
    seconds = round(sum(cost.seconds for cost in stages.values()), 1)
    rows.append(["all", "", "", f"{sum(cost.steps for cost in stages.values()):,}", duration(seconds), "", ""])
    out.line()
    out.table(("", "epochs", "batch", "steps", "time", "MiB memory", "MiB disk"), rows, title=f"about, on {hardware}")
    out.fields([
        ("then", f"cikd {', '.join(ANALYSES)}"),
        ("dry run", "a few steps of every stage went well; nothing was written"),
    ])  # fmt: skip
    offer_laptop(seconds, teacher, resolved.recipe, hardware, options, out)
    return {
        "run": None,
        "status": "dry-run",
        "stages": {name: asdict(cost) for name, cost in stages.items()},
        "seconds": seconds,
    }
