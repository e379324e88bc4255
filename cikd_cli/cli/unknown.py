"""What is said about a command, a flag or a word that does not exist: what it would be here, with the value typed."""

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from cikd_cli.cli import elsewhere
from cikd_cli.cli.flags import as_typed, metavar, settable
from cikd_cli.errors import CikdError
from cikd_cli.runs.reading import locate, read_record
from cikd_cli.settings.knob import facts_of, flag_name, parent_knobs
from cikd_cli.settings.names import data_names, recipe_names
from cikd_cli.settings.parse import choices, kinds, nearest
from cikd_cli.settings.patches import patch_of
from cikd_cli.settings.request import Request
from cikd_cli.settings.stages import STAGES, TEACHER, Kind, Stage, sections

Fields = Mapping[str, tuple[type[BaseModel], FieldInfo]]


def unknown_flag(stage: Stage, flag: str, words: Sequence[str], path: str, also: type[BaseModel] | None) -> CikdError:
    """The error for a flag that `path`, a command as typed, has not; words: all that were typed behind it."""
    typed, value = _typed(flag, words)
    word = typed.lstrip("-").replace("_", "-")
    fields = settable(stage, also)
    here = _known(word, fields)
    hint = here.says
    if here.fields:
        given = value if here.value is None or value in here.kept else here.value
        ways = [way for name in here.fields if (way := _way(stage, name, given, fields))]
        ways = ways if here.every and stage.arguments == "none" else ways[:1]
        hint = " or ".join(ways) or _others(stage, here.fields)
    if not hint:
        names = {flag_name(name, info).lstrip("-"): name for name, (_, info) in fields.items()}
        near = nearest(word.removeprefix("no-"), names)
        given = "false" if word.startswith("no-") else value
        way = _way(stage, names[near], given, fields) if near else ""
        hint = f"did you mean {way}?" if way else f"{path} --help-all shows the flags"
    return CikdError(f"{path} has no flag {typed}", hint=hint)


def refuse_stray_words(stage: Stage, request: Request, stray: Sequence[str], also: type[BaseModel] | None) -> None:
    """Raise CikdError for words that belong to no flag, such as `epochs=10`; also: what `cikd slurm` asks beside."""
    words = [word for word in request.runs if "=" in word and not Path(word).exists()] + list(stray)
    if not words:
        return
    path = f"cikd {'slurm ' if also else ''}{stage.command}"
    every = f"{path} --help shows the flags"
    fields = settable(stage, also)
    word, equals, value = words[0].partition("=")
    if not equals:
        raise CikdError(f"{word!r} belongs to no flag", hint=_stray(stage, request, stray, fields, path) or every)
    name, sure = _field(word, fields)
    way = _way(stage, name, value, fields) if name else ""
    raise CikdError(f"{words[0]} is not a flag", hint=way if way and sure else f"did you mean {way}?" if way else every)


def _typed(flag: str, words: Sequence[str]) -> tuple[str, str | None]:
    """The flag as it was typed (a word such as `-lr` is read as `-l` and `-r`), and the value behind it."""
    for place, word in enumerate(words):
        before, equals, value = word.partition("=")
        if before == flag or (word.startswith(flag) and len(flag) == 2 and not word.startswith("--")):
            if equals:
                return before, value
            behind = words[place + 1] if place + 1 < len(words) else "-"
            return before, behind if not behind.startswith("-") or behind[1:2].isdigit() else None
    return flag, None


def _known(word: str, fields: Fields) -> elsewhere.Here:
    """What a flag without its dashes means: a field of some command, or a word from elsewhere."""
    everywhere = {**{key: at for other in STAGES.values() for key, at in settable(other).items()}, **fields}
    names = {flag_name(key, info).lstrip("-"): key for key, (_, info) in everywhere.items()}
    names |= {key.replace("_", "-"): key for key in everywhere}
    if word in names:
        return elsewhere.Here((names[word],))
    if word.removeprefix("no-") in names:
        return elsewhere.Here((names[word.removeprefix("no-")],), value="false")
    return elsewhere.flag(word) or elsewhere.Here()


def _way(stage: Stage, name: str, value: str | None, fields: Fields) -> str:
    """How a field is given to a command; empty if the command does not take it."""
    if name in fields:
        owner, info = fields[name]
        return as_typed(name, owner, info, _value(name, owner, value))
    if name == "runs" and stage.arguments != "none":
        return f"cikd {stage.command} {value or 'RUN'}"
    if stage.kind is not Kind.CURRICULUM or (stage.command, name) in elsewhere.WITHOUT:
        return ""
    having = {command: config for command, config in sections().items() if name in config.model_fields}
    if not having:
        return ""
    last, config = list(having.items())[-1]
    shown = _value(name, config, value)
    one = f"--set {last}.{name}={shown}"
    return one if len(having) == 1 else f"{one} for one stage, --set {name}={shown} for every stage"


def _value(name: str, owner: type[BaseModel], value: str | None) -> str:
    """The value typed, quoted where a shell needs it, or what stands for one."""
    is_switch = kinds(owner, name) == (bool,)
    if value is None or (is_switch and value.lower() not in ("true", "false", "yes", "no", "on", "off", "0", "1")):
        return metavar(name, owner)
    return shlex.quote(value)


def _others(stage: Stage, names: Iterable[str]) -> str:
    """Which commands have one of the fields, if this one has none of them."""
    for name in names:
        if (stage.command, name) in elsewhere.WITHOUT:
            return elsewhere.WITHOUT[stage.command, name]
    for name in names:
        having = [other for other in STAGES.values() if name in settable(other)]
        if having:
            owner, info = settable(having[0])[name]
            given = flag_name(name, info) if facts_of(info).panel else f"--set {name}={metavar(name, owner)}"
            return f"{given} is for " + ", ".join(f"cikd {other.command}" for other in having)
    return ""


def _field(word: str, fields: Fields) -> tuple[str | None, bool]:
    """The field that a word without dashes names, of this command or another, and whether it is one of its flags."""
    names = {flag_name(name, info).lstrip("-"): name for name, (_, info) in fields.items()}
    word = word.lstrip("-").replace("_", "-")
    if word in names:
        return names[word], True
    known = _known(word, fields).fields if len(word) > 1 else ()
    return known[0] if known else names.get(nearest(word, names) or ""), False


def _stray(stage: Stage, request: Request, stray: Sequence[str], fields: Fields, path: str) -> str:
    """What the first stray word would be, with its flag; empty if nobody can tell."""
    word = stray[0]
    spaced = _with_space(request, word)
    if spaced:
        return f"a name with a space needs quotes: {shlex.quote(spaced)}"
    if stage.arguments == "run":
        return _second(stage, request, word)
    names = {flag_name(name, info).lstrip("-"): name for name, (_, info) in fields.items()}
    if word.replace("_", "-") in names and len(stray) > 1:
        return f"did you mean {_way(stage, names[word.replace('_', '-')], stray[1], fields)}?"
    run = locate(word, Path(request.options.runs_dir))
    if run is not None:
        return _as_run(stage, run, path)
    if "data" in fields and (word in data_names() or Path(word).is_dir()):
        return f"{path} --data {shlex.quote(word)}"
    if "recipe" in fields and word in recipe_names():
        return f"{path} --recipe {word}"
    if patch_of(word) and (stage.kind is Kind.CURRICULUM or TEACHER in stage.gives):
        return f"{path} --teacher {word}"
    if word in STAGES:
        return f"one command at a time: cikd {word}"
    taking = [name for name, (owner, _) in fields.items() if word in choices(owner, name)]
    return f"{path} {_way(stage, taking[0], word, fields)}" if len(taking) == 1 else ""


def _with_space(request: Request, word: str) -> str:
    """The folder or file of which a stray word is a part, if its name has spaces that were not quoted."""
    words = request.argv
    for length in range(2, 6):
        for start in range(len(words) - length + 1):
            joined = " ".join(words[start : start + length])
            if word in words[start : start + length] and Path(joined).exists():
                return joined
    return ""


def _second(stage: Stage, request: Request, word: str) -> str:
    """What a second word beside the run could be."""
    first = request.runs[0]
    if locate(word, Path(request.options.runs_dir)) is None and (word in data_names() or Path(word).is_dir()):
        return f"cikd {stage.command} {first} --data {shlex.quote(word)}"
    beside = f"side by side: cikd mad {first} {word}"
    return f"one run a command: cikd {stage.command} {first}; cikd {stage.command} {word} ({beside})"


def _as_run(stage: Stage, run: Path, path: str) -> str:
    """The flag by which a command takes a run."""
    record = read_record(run)
    if stage.command == record.stage and record.status != "done":
        return f"{path} --resume {run}"
    if stage.kind is Kind.CURRICULUM:
        return "cikd run goes on with its runs by itself; the scores of one: cikd eval " + str(run)
    given = STAGES[record.stage].gives
    taking = [key for key, takes in parent_knobs(stage.config) if takes in given]
    if not taking:
        return f"{path} --teacher {run}" if stage.trains else f"cikd eval {run}"
    return f"{path} {flag_name(taking[0], stage.config.model_fields[taking[0]])} {run}"


def unknown_command(word: str, known: Sequence[str], path: str, words: Sequence[str]) -> CikdError:
    """The error for a command that `path` has not; words: all that were typed, from that command on."""
    message = f"{path} has no command {word!r}"
    near = nearest(word, known)
    if word not in known and path == "cikd":
        if Path(word).is_dir():
            kind = "eval" if (Path(word) / "run.json").is_file() else "run --data"
            return CikdError(message, hint=f"did you mean cikd {kind} {shlex.quote(word)}?")
        says = elsewhere.command(word)
        if says:
            return CikdError(message, hint=says)
    if near and word not in STAGES:
        return CikdError(message, hint=f"did you mean {path} {shlex.join([near, *words[1:]])}?")
    return CikdError(message, hint=f"{path} --help shows its commands: {', '.join(known)}")


def flag_before_command(flag: str, words: Sequence[str], known: Sequence[str], path: str) -> CikdError:
    """The error for a flag that stands where a command belongs."""
    command = next((word for word in words if word in known), "run" if "run" in known else known[0])
    rest = [word for word in words if word != command]
    return CikdError(
        f"{path} has no flag {flag}", hint=f"flags stand behind a command: {path} {shlex.join([command, *rest])}"
    )


def stray_beside_runs(word: str, runs_dir: Path) -> CikdError:
    """The error for a word behind `cikd runs`, which lists all runs of a folder."""
    run = locate(word, runs_dir)
    hint = f"cikd runs alone lists all of them; the scores of one: cikd eval {run}" if run else "cikd runs --help"
    if run is None and Path(word).is_dir():
        hint = f"cikd runs --runs-dir {shlex.quote(word)}"
    return CikdError(f"{word!r} belongs to no flag", hint=hint)
