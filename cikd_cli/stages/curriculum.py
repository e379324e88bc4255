"""`cikd run`: every stage in turn, each its own run; started again, it continues with what is missing."""

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from cikd_cli import chain
from cikd_cli.config import CurriculumConfig
from cikd_cli.console import Reporter, duration, reporter
from cikd_cli.errors import EXIT_INTERRUPTED, CikdError
from cikd_cli.inheritance import STUDENT_KNOBS
from cikd_cli.lineage import all_runs
from cikd_cli.options import Request, RunOptions
from cikd_cli.recipes import MAY_DIFFER, data_name
from cikd_cli.runs import RunDir
from cikd_cli.stages import STAGES, report
from cikd_cli.stages.ahead import look_ahead
from cikd_cli.stages.execution import curriculum_command

ANALYSES = ("eval", "mad", "cka")


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
        return _dry_run(request, config, out)
    runs: dict[str, RunDir] = {}
    for name in ("teacher", "ali", "lm", *(("baseline",) if config.baseline else ())):
        step, tag = _step(name, config, runs, request), _tag(name, config, runs)
        found = None if options.fresh else _find(Path(options.runs_dir), tag)
        if name == "teacher" and (found is None or found.status != "done"):
            look_ahead(config, options, out)
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
    rows = report.rows(runs, evaluations)
    out.table(report.COLUMNS, rows, title="on the test images")
    seconds = sum(float(run.record["result"]["seconds"]) for run in runs.values())
    out.fields([
        ("trained", duration(seconds)),
        ("weights", str(runs["lm"].weights)),
        ("report", str(report.write(runs, rows, request.argv, analyses))),
        ("next", f"another seed: --seed {config.lm.seed + 1} · all of it anew: --fresh · the lineage: cikd runs"),
    ])  # fmt: skip
    return {name: str(run.path) for name, run in runs.items()} | {"eval": analyses["eval"], "evaluations": evaluations}


def _step(name: str, config: CurriculumConfig, runs: dict[str, RunDir], request: Request) -> Request:
    """The command a user would type for this step, given the runs before it."""
    if name == "teacher":
        return chain.stage_request(request, "finetune-teacher", data=config.finetune_teacher.data)
    teacher = str(runs["teacher"].path)
    if name == "ali":
        return chain.stage_request(request, "ali", teacher=teacher)
    if name == "lm":
        return chain.stage_request(request, "lm", from_run=str(runs["ali"].path))
    student = config.ali.model_dump(include=set(STUDENT_KNOBS), exclude_none=True)
    epochs = config.ali.epochs + config.lm.epochs
    return chain.stage_request(request, "lm", teacher=teacher, distill=False, epochs=epochs, **student)


def _tag(name: str, config: CurriculumConfig, runs: dict[str, RunDir]) -> str:
    """What a step's run is known by: its settings and the very weights it starts from."""
    stage = {"teacher": config.finetune_teacher, "ali": config.ali, "lm": config.lm, "baseline": config.lm}[name]
    settings = stage.model_dump(mode="json", exclude=set(MAY_DIFFER)) | {"data": data_name(str(stage.data))}
    if name == "baseline":
        settings |= config.ali.model_dump(include={"epochs", *STUDENT_KNOBS})
    parents = {"ali": ("teacher",), "lm": ("ali",), "baseline": ("teacher",)}.get(name, ())
    settings["parents"] = [runs[parent].record["weights"]["sha256"] for parent in parents]
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


def _dry_run(request: Request, config: CurriculumConfig, out: Reporter) -> dict[str, Any]:
    """Check every stage, try the teacher's, and name the commands after it, which need its run."""
    look_ahead(config, request.options, out)
    step = _step("teacher", config, {}, request)
    summary: dict[str, Any] = import_module(STAGES[step.stage].module).run(step)
    out.fields([
        ("then", f"cikd ali: {config.ali.epochs} epochs, batch {config.ali.batch_size}, LOB {config.ali.lob}"),
        ("", f"cikd lm: {config.lm.epochs} epochs, batch {config.lm.batch_size}"),
        ("", "cikd eval, mad, cka"),
    ])  # fmt: skip
    return {"finetune-teacher": summary}
