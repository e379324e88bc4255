"""`cikd run`: every stage in turn, each its own run; started again, it continues with what is missing."""

import hashlib
import json
from importlib import import_module
from pathlib import Path
from typing import Any

from cikd_cli import chain
from cikd_cli.config import CurriculumConfig
from cikd_cli.console import Reporter, duration, reporter
from cikd_cli.options import Request, RunOptions
from cikd_cli.runs import RunDir, all_runs
from cikd_cli.stages import STAGES, report

ANALYSES = ("eval", "mad", "cka")


def run(request: Request) -> dict[str, Any]:
    """Train what is missing, analyse the student, and end with a table; the summary for --json."""
    options = request.options
    out = reporter(quiet=options.quiet, as_json=options.as_json)
    resolved = chain.resolve_curriculum(request)  # a wrong key of the last stage is told before the first one starts
    config = resolved.config
    assert isinstance(config, CurriculumConfig)
    if options.dry_run:
        return _dry_run(request, config, out)
    key = hashlib.sha256(json.dumps(config.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()[:16]
    runs: dict[str, RunDir] = {}
    for name in ("teacher", "ali", "lm", *(("baseline",) if config.baseline else ())):
        runs[name] = _carry_out(_step(name, config, runs, request), f"{key}/{name}", out)
    student = runs["lm"].path
    analyses = {command: _analyse(command, student, options, out) for command in ANALYSES}
    evaluations = {"lm": analyses["eval"]}
    if "baseline" in runs:
        evaluations["baseline"] = _analyse("eval", runs["baseline"].path, options, out)
    rows = report.rows(runs, evaluations)
    out.table(report.COLUMNS, rows, title="on the test images")
    seconds = sum(float(run.record["result"]["seconds"]) for run in runs.values())
    out.fields([
        ("trained", duration(seconds)),
        ("weights", str(runs["lm"].weights)),
        ("report", str(report.write(runs, rows))),
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
    student = {
        key: value
        for key, value in config.ali.model_dump(exclude_none=True).items()
        if key.startswith("student") or key == "drop_path"
    }
    epochs = config.ali.epochs + config.lm.epochs
    return chain.stage_request(request, "lm", teacher=teacher, distill=False, epochs=epochs, **student)


def _carry_out(step: Request, tag: str, out: Reporter) -> RunDir:
    """The step's finished run: found, continued, or made now."""
    options = step.options
    found = None if options.fresh else _find(Path(options.runs_dir), tag)
    if found is not None and found.status == "done":
        out.line(f"{found.path} is finished; taken as it is")
        return RunDir.open(found.path)
    module = import_module(STAGES[step.stage].module)
    if found is not None:
        out.line(f"── cikd {step.stage} --resume {found.path}")
        kept = {key: getattr(options, key) for key in ("gpus", "processes", "workers", "runs_dir", "save_every")}
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


def _analyse(command: str, run: Path, options: RunOptions, out: Reporter) -> dict[str, Any]:
    out.line(f"── cikd {command} {run}")
    plain = RunOptions(gpus=options.gpus, workers=options.workers, quiet=options.quiet, as_json=options.as_json)
    summary: dict[str, Any] = import_module(STAGES[command].module).run(
        Request(command, options=plain, runs=(str(run),))
    )
    out.line()
    return summary


def _dry_run(request: Request, config: CurriculumConfig, out: Reporter) -> dict[str, Any]:
    """Try the teacher's stage, and name the commands after it, which need its run."""
    step = _step("teacher", config, {}, request)
    summary: dict[str, Any] = import_module(STAGES[step.stage].module).run(step)
    out.fields([
        ("then", f"cikd ali: {config.ali.epochs} epochs, batch {config.ali.batch_size}, LOB {config.ali.lob}"),
        ("", f"cikd lm: {config.lm.epochs} epochs, batch {config.lm.batch_size}"),
        ("", "cikd eval, mad, cka"),
    ])  # fmt: skip
    return {"finetune-teacher": summary}
