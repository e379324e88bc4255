"""`cikd run`: every stage in turn, each its own run; started again, it continues with what is missing."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib import import_module
from pathlib import Path
from typing import Any

from cikd_cli.console import Reporter, reporter
from cikd_cli.data.division import TRAIN
from cikd_cli.data.scored import scored_folder
from cikd_cli.errors import EXIT_INTERRUPTED, CikdError
from cikd_cli.processes.world import choose_hardware
from cikd_cli.reports import page
from cikd_cli.runs import chain
from cikd_cli.runs.directory import RunDir
from cikd_cli.runs.lineage import all_runs
from cikd_cli.settings.knob import Role, knobs_with, parent_knobs
from cikd_cli.settings.methods import CurriculumConfig
from cikd_cli.settings.names import data_name
from cikd_cli.settings.request import Request, Resolved, RunOptions
from cikd_cli.settings.stages import STAGES, STUDENT, TEACHER, Kind, Stage, curriculum
from cikd_cli.system import memory
from cikd_cli.text import duration
from cikd_cli.training.ahead import BASELINE, build_all, foretell_all, offer_laptop
from cikd_cli.training.execute import curriculum_command
from cikd_cli.training.held_out import remember
from cikd_cli.training.job import Job
from cikd_cli.training.rehearsal import Cost, cost_of


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
    for name, stage in _steps(config).items():
        step, tag = _step(name, stage, config, runs, request), _tag(name, stage, config, runs)
        found = None if options.fresh else _find(Path(options.runs_dir), tag)
        if not runs and (found is None or found.status != "done"):
            _look_ahead(resolved, options, out)
        elif not runs and found is not None:
            _tell_changes(found, out)
        runs[name] = _carry_out(step, found, tag, out)
    taught = {name: run for name, run in runs.items() if name != BASELINE}
    student, teacher = list(taught.values())[-1], next(iter(taught.values()))
    baseline = runs.get(BASELINE)
    beside = [run.path for run in (student, teacher, baseline) if run is not None]
    analyses = {
        command: _analyse(command, *(beside if stage.beside else [student.path]), options=options, out=out)
        for command, stage in curriculum(Kind.ANALYSIS).items()
    }
    scores = next(iter(analyses))
    evaluations = {list(taught)[-1]: analyses[scores]}
    if baseline is not None:
        evaluations[BASELINE] = _analyse(scores, baseline.path, options=options, out=out)
    rows = page.rows(runs, evaluations)
    out.table(page.COLUMNS, rows, title="on the test images")
    seconds = sum(float(run.result.seconds) for run in runs.values())
    out.fields([
        ("trained", duration(seconds)),
        ("weights", str(student.weights)),
        ("report", str(page.write(runs, rows, request.argv, analyses))),
        ("next", f"another seed: --seed {config.lm.seed + 1} · all of it anew: --fresh · the lineage: cikd runs"),
    ])  # fmt: skip
    return {name: str(run.path) for name, run in runs.items()} | {scores: analyses[scores], "evaluations": evaluations}


def _steps(config: CurriculumConfig) -> dict[str, Stage]:
    """The stages in turn, by what their runs are called, and the last once more by labels alone."""
    steps = {stage.prefix: stage for stage in curriculum(Kind.TRAINING).values()}
    return steps | ({BASELINE: list(steps.values())[-1]} if config.baseline else {})


def _parent(name: str, stage: Stage, runs: dict[str, RunDir]) -> tuple[str, RunDir] | None:
    """The run that a step stands on, and the knob that names it: the last one that it takes, for the baseline's too."""
    wanted = [(key, takes) for key, takes in parent_knobs(stage.config) if name != BASELINE or takes == TEACHER]
    for run in reversed(runs.values()):
        for key, takes in wanted:
            if run.gives(takes):
                return key, run
    return None


def _step(name: str, stage: Stage, config: CurriculumConfig, runs: dict[str, RunDir], request: Request) -> Request:
    """The command a user would type for this step, given the runs before it."""
    parent = _parent(name, stage, runs)
    if parent is None:
        return chain.stage_request(request, stage.command, data=_config(stage, config).data)
    settings = _labels_only(config, runs) if name == BASELINE else {}
    return chain.stage_request(request, stage.command, **{parent[0]: str(parent[1].path)}, **settings)


def _config(stage: Stage, config: CurriculumConfig) -> Any:
    return getattr(config, stage.command.replace("-", "_"))


def _labels_only(config: CurriculumConfig, runs: dict[str, RunDir]) -> dict[str, Any]:
    made = [run for run in runs.values() if run.gives(STUDENT)]
    taught = [(run.config()["epochs"], run.config()["batch_size"]) for run in made]
    return chain.baseline_settings(config, made[-1].record.data.train, taught)


def _tag(name: str, stage: Stage, config: CurriculumConfig, runs: dict[str, RunDir]) -> str:
    """What a step's run is known by: its settings and the very weights it starts from."""
    its, parent = _config(stage, config), _parent(name, stage, runs)
    settings = its.model_dump(mode="json", exclude=set(knobs_with(type(its), Role.PLACE)))
    settings |= {"data": data_name(str(its.data))} | (_labels_only(config, runs) if name == BASELINE else {})
    settings["parents"] = [parent[1].sha256] if parent else []
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
        again = options.going_on(resume=str(found.path))
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
    return next((run for run in reversed(all_runs(runs_dir)) if run.record.curriculum == tag), None)


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
    out.fields(_about_student(jobs))
    foretell_all(jobs, resolved, hardware, options, out)


def _about_student(jobs: Mapping[str, Job]) -> list[tuple[str, str]]:
    """The row of the header that says what the student is."""
    return next((rows for job in jobs.values() if (rows := [fact for fact in job.facts if fact[0] == "student"])), [])


def _finished(config: CurriculumConfig, options: RunOptions) -> dict[str, RunDir]:
    """The runs that `cikd run` would take as they are, by step."""
    runs: dict[str, RunDir] = {}
    for name, stage in () if options.fresh else _steps(config).items():  # each needs those before it
        found = _find(Path(options.runs_dir), _tag(name, stage, config, runs))
        if found is None or found.status != "done":
            break
        runs[name] = found
    return runs


def _dry_run(resolved: Resolved, options: RunOptions, out: Reporter) -> dict[str, Any]:
    """Check every stage, take some steps of each on networks of its shapes, and print what all of it costs."""
    hardware, resident = choose_hardware(options.gpus, options.processes or 1), memory()
    jobs = build_all(resolved, hardware, options, fetch=False)
    teacher = next(iter(jobs.values()))
    out.fields([*teacher.facts, *_about_student(jobs)])
    assert isinstance(resolved.config, CurriculumConfig)
    done = _finished(resolved.config, options)
    finished = {name: done.get(STAGES[name].prefix if name in STAGES else name) for name in jobs}
    rows, stages = [], {}
    for name, job in jobs.items():
        if (run := finished[name]) is not None:
            out.line(f"{run.path} is finished; taken as it is")
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
        ("then", f"cikd {', '.join(curriculum(Kind.ANALYSIS))}"),
        ("dry run", "a few steps of every stage went well; nothing was written"),
    ])  # fmt: skip
    offer_laptop(seconds, teacher.config, resolved.recipe, hardware, options, out)
    return {
        "run": None,
        "status": "dry-run",
        "stages": {name: asdict(cost) for name, cost in stages.items()},
        "seconds": seconds,
    }
