"""From text to knobs: parsing, checking, and saying what is wrong with a value in one sentence."""

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cikd_cli.errors import CikdError
from cikd_cli.settings.configs import StageConfig

Model = TypeVar("Model", bound=BaseModel)


def nearest(word: str, names: Iterable[str]) -> str | None:
    """The name most like `word`, if one is close."""
    found = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=0.55)
    return found[0] if found else None


def suggestion(word: str, names: Iterable[str]) -> str:
    """A hint: the nearest name, or all of them."""
    names = list(names)
    found = nearest(word, names)
    return f"did you mean {found}?" if found else "choose from: " + ", ".join(names)


def check_keys(config_class: type[BaseModel], keys: Iterable[str], where: str, *, command: str) -> None:
    """Raise CikdError for the first key in `where` that `cikd command` has no knob for."""
    for key in keys:
        if key not in config_class.model_fields:
            found = nearest(key, config_class.model_fields)
            hint = f"did you mean {found}?" if found else f"cikd config {command} shows every knob"
            raise CikdError(f"{where}: cikd {command} has no knob named {key!r}", hint=hint)


def from_text(config_class: type[BaseModel], key: str, text: Any) -> Any:
    """A value as typed or read, brought into the form pydantic parses: `none`, comma lists, words."""
    if not isinstance(text, str):
        return text
    members = _members(config_class.model_fields[key].annotation)
    if type(None) in members and text.strip().lower() == "none":
        return None
    for member in members:
        if typing.get_origin(member) is tuple and typing.get_origin(typing.get_args(member)[0]) is not tuple:
            return [part.strip() for part in text.strip("[]() ").split(",")]
    return text


def parse(config_class: type[Model], values: Mapping[str, Any], *, command: str) -> dict[str, Any]:
    """Only the given values, parsed to their types and checked; the other knobs stay at their defaults."""
    config = validate(config_class, values, command=command)
    return {key: getattr(config, key) for key in values}


def parse_list(config_class: type[Model], key: str, text: str, *, command: str) -> tuple[Any, ...]:
    """The numbers of a comma list, each checked as a value of the knob `key`.

    Raises:
        CikdError: a word among the numbers, a number twice, or a value that the knob refuses.
    """
    if not all(word.strip() for word in text.split(",")):
        raise CikdError(f"--{key} {text}: nothing stands beside a comma", hint=f"--{key} 7,8,9")
    values = tuple(parse(config_class, {key: word.strip()}, command=command)[key] for word in text.split(","))
    words = [value for value in values if isinstance(value, str)]
    if words:
        raise CikdError(f"{key} {text}: {words[0]} stands alone, a list has numbers only", hint=f"--{key} {words[0]}")
    if len(set(values)) < len(values):
        once = ",".join(map(str, dict.fromkeys(values)))
        raise CikdError(f"{key} {text} names a value twice", hint=f"--{key} {once}")
    return values


def validate(config_class: type[Model], values: Mapping[str, Any], *, command: str) -> Model:
    """A checked config; everything that is wrong is said at once.

    Raises:
        CikdError: "lr must be greater than 0, not -1; ...".
    """
    prepared = {key: from_text(config_class, key, value) for key, value in values.items()}
    try:
        return config_class.model_validate(prepared)
    except ValidationError as error:
        sentences = _sentences(error, config_class, values)
        raise CikdError("; ".join(sentences), hint=_hint(error, config_class, values, command)) from None


def _sentences(error: ValidationError, config_class: type[BaseModel], values: Mapping[str, Any]) -> list[str]:
    wishes: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        key = str(detail["loc"][0]) if detail["loc"] else "config"
        wish = _tuple_wish(config_class, key) or _wish(detail["type"], detail["msg"])
        if wish not in wishes.setdefault(key, []):
            wishes[key].append(wish)
    return [f"{key} must be {' or '.join(wish)}, not {_shown(values.get(key))}" for key, wish in wishes.items()]


def _wish(kind: str, message: str) -> str:
    known = {
        "int_parsing": "a whole number",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_parsing": "a number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_parsing": "true or false",
        "bool_type": "true or false",
        "string_type": "text",
        "string_pattern_mismatch": "a word without spaces or quotes",
    }
    return known.get(kind) or message.removeprefix("Input should be ").removeprefix("Value error, ")


def _tuple_wish(config_class: type[BaseModel], key: str) -> str | None:
    for kind in kinds(config_class, key) if key in config_class.model_fields else ():
        if typing.get_origin(kind) is tuple:
            members = typing.get_args(kind)
            if typing.get_origin(members[0]) is tuple:
                return "pairs of block numbers such as 1:1,10:12"
            if Ellipsis in members:
                return "whole numbers from 1, with commas between"
            return f"{len(members)} numbers with commas between"
    return None


def _shown(value: Any) -> str:
    """A value as in a sentence: words quoted, numbers not, also when they came as text."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    if not isinstance(value, str):
        return str(value)
    try:
        float(value)
    except ValueError:
        return repr(value)
    return value


def _hint(error: ValidationError, config_class: type[BaseModel], values: Mapping[str, Any], command: str) -> str:
    for detail in error.errors(include_url=False):
        key = str(detail["loc"][0]) if detail["loc"] else ""
        if detail["type"] == "literal_error" and isinstance(values.get(key), str):
            found = nearest(values[key], choices(config_class, key))
            if found:
                return f"did you mean {found}?"
    return (
        f"cikd config {command} shows every knob" if issubclass(config_class, StageConfig) else f"cikd {command} --help"
    )


def choices(config_class: type[BaseModel], key: str) -> list[str]:
    """The words a knob accepts, empty if it is not a choice."""
    literals = [
        m for m in _members(config_class.model_fields[key].annotation) if typing.get_origin(m) is typing.Literal
    ]
    return [str(word) for literal in literals for word in typing.get_args(literal)]


def kinds(config_class: type[BaseModel], key: str) -> tuple[Any, ...]:
    """The types a knob's annotation joins, without None."""
    return tuple(m for m in _members(config_class.model_fields[key].annotation) if m is not type(None))


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)
