# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a policy, in sentences: where it is, what it is and what to write instead.

Validation errors reach people only through this module. pydantic's own sentences are never shown: each
error type has a translation here, and one that has none gets a plain sentence with an example.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails, PydanticCustomError

from pliant.errors import PliantError
from pliant.policy.units import quote, shorten

Path = tuple[str | int, ...]
"""Where in a document something is: keys of mappings and indices of lists, outermost first."""

_SHOWN_PROBLEMS = 100


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one field of one document.

    ``line`` counts from 1 and is 0 when no line is at fault (a file that cannot be read); ``field`` is a
    dotted path such as ``spec.match.peers[1]`` and is empty for the document as a whole.
    """

    file: str
    line: int
    field: str
    message: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        place = f"{where}: {self.field}" if self.field else where
        return f"{place}: {self.message}; {self.remedy}" if self.remedy else f"{place}: {self.message}"


class PolicyErrors(PliantError):
    """Everything wrong with the documents that were read; its text is one line a problem."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        lines = [str(problem) for problem in self.problems[:_SHOWN_PROBLEMS]]
        if len(self.problems) > _SHOWN_PROBLEMS:
            lines.append(f"and {len(self.problems) - _SHOWN_PROBLEMS} more problems")
        super().__init__("\n".join(lines))

    def __reduce__(self) -> tuple[type[PolicyErrors], tuple[tuple[Problem, ...]]]:
        return PolicyErrors, (self.problems,)


def rejection(message: str, remedy: str, *, at: Path = ()) -> PydanticCustomError:
    """Return the error a validator raises to have exactly this sentence and remedy shown.

    ``at`` points further inside the value, for a validator that judges a list as a whole.
    """
    return PydanticCustomError("rejection", "{message}", {"message": message, "remedy": remedy, "at": at})


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the field at fault takes: for remedies that say what to write."""

    example: str = ""
    bounds: tuple[Any, Any] = (None, None)
    optional: bool = False

    def remedy(self) -> str:
        """Return what to write, from the bounds if both are known, else by example."""
        low, high = self.bounds
        if low is not None and high is not None:
            return f"write a number from {low} to {high}"
        return f"write for example {self.example}" if self.example else ""


def dotted(path: Path) -> str:
    """Return ``("spec", "match", "peers", 1)`` as ``spec.match.peers[1]``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if _PLAIN_KEY.fullmatch(part) else f"[{quote(part)}]"
            text += f".{name}" if text and name == part else name
    return text


def did_you_mean(word: str, known: Sequence[str]) -> str | None:
    """Return the one of ``known`` that ``word`` was probably meant to be."""
    folded = {name.lower().replace("_", ""): name for name in known}
    close = difflib.get_close_matches(word[:80].lower().replace("_", ""), folded, n=1, cutoff=0.7)
    return folded[close[0]] if close else None


def kind_of(value: object) -> str:
    """Return what a value read from YAML is, as a noun with its article."""
    if value is None:
        return "nothing"
    for types, noun in _KINDS:
        if isinstance(value, types):
            return noun
    return "something else"


def translate(error: ErrorDetails, written: str | None, wanted: Wanted) -> tuple[str, str]:
    """Return the sentence and the remedy for one validation error.

    ``written`` is the value as it stands in the file, when it is a plain scalar there.
    """
    context = error.get("ctx", {})
    if error["type"] == "rejection":
        return str(context["message"]), str(context["remedy"])
    fault = _Fault(error["type"], error["input"], written, wanted, context)
    if error["type"] in _WANTED_KINDS:
        return _wrong_kind(fault)
    say = _SENTENCES.get(error["type"], _not_taken)
    return say(fault)


def explain(
    model: type[BaseModel],
    error: ValidationError,
    document: Any,
    written: Callable[[Path], str | None],
) -> Iterator[tuple[Path, str, str]]:
    """Yield path, sentence and remedy of each thing wrong with one policy document.

    ``written`` gives the value at a path as it stands in the file, where that is a scalar other than text.
    """
    details = error.errors(include_url=False)
    headings = [detail for detail in details if detail["loc"] == ("kind",) and detail["type"] != "missing"]
    found: dict[Path, list[ErrorDetails]] = defaultdict(list)
    for detail in headings or details:  # a document of another kind is not worth more sentences
        found[_real_path(document, detail)].append(detail)
    for path, alike in found.items():
        if alike[0]["type"] == "extra_forbidden":
            yield path, *_unknown(model, path)
            continue
        wanted = _wanted(model, path)
        detail = alike[0]
        if len(alike) > 1:  # the branches of a union: only together they say what is wrong
            detail = {**detail, "type": "not_taken"}
        yield path, *translate(detail, written(path), wanted)


@dataclass(frozen=True, slots=True)
class _Fault:
    type: str
    value: Any
    written: str | None
    wanted: Wanted
    context: Mapping[str, Any]

    @property
    def shown(self) -> str:
        if isinstance(self.value, str):
            return quote(self.value)
        if isinstance(self.value, (bool, int, float)):
            return shorten(str(self.written if self.written is not None else self.value))
        return kind_of(self.value)


def _wrong_kind(fault: _Fault) -> tuple[str, str]:
    kind = _WANTED_KINDS[fault.type]
    value = fault.value
    if value is None:
        leave = ", or leave the field out" if fault.wanted.optional else ""
        return "there is no value", (fault.wanted.remedy() or f"write {kind}") + leave
    if kind == "text" and isinstance(value, (bool, int, float)):
        spelled = str(value).lower() if isinstance(value, bool) else str(value)
        read = f"the number {shorten(spelled)}" if not isinstance(value, bool) else spelled
        return f"{fault.shown} is read as {read}, not as text", f"put it in quotes: '{fault.shown}'"
    if isinstance(value, str):
        if kind == "a whole number" and _DIGITS.fullmatch(value):
            how = " without quotes" if value == str(int(value)) else ""
            return f"{quote(value)} is text, not a number", f"write {int(value)}{how}"
        if kind == "a list" and value.strip() and value.isprintable():
            return f"{quote(value)} is not a list", f"write [{shorten(value)}]"
        return f"{quote(value)} is not {kind}", fault.wanted.remedy()
    if isinstance(value, (list, dict)):
        return f"{kind_of(value)} stands where {kind} is wanted", fault.wanted.remedy()
    if kind == "a list":
        return f"{fault.shown} is not a list", f"write [{fault.shown}]"
    if isinstance(value, bool):
        return f"{fault.shown} is read as {str(value).lower()}, not {kind}", fault.wanted.remedy()
    return f"{fault.shown} is not {kind}", fault.wanted.remedy()


def _missing(fault: _Fault) -> tuple[str, str]:
    return "this field is required", fault.wanted.remedy() or "add it"


def _bare(limit: Any) -> str:
    return f"{limit:g}" if isinstance(limit, float) else str(limit)


def _too_little(fault: _Fault) -> tuple[str, str]:
    limit = fault.context.get("ge", fault.context.get("gt"))
    relation = "less than" if "ge" in fault.context else "not more than"
    return f"{fault.shown} is {relation} {_bare(limit)}", fault.wanted.remedy()


def _too_much(fault: _Fault) -> tuple[str, str]:
    limit = fault.context.get("le", fault.context.get("lt"))
    relation = "more than" if "le" in fault.context else "not less than"
    return f"{fault.shown} is {relation} {_bare(limit)}", fault.wanted.remedy()


def _not_a_choice(fault: _Fault) -> tuple[str, str]:
    choices = re.findall(r"'([^']*)'", str(fault.context.get("expected", "")))
    if not choices:
        return _not_taken(fault)
    if fault.value is None:
        return "there is no value", f"write one of {', '.join(choices)}"
    near = did_you_mean(fault.value, choices) if isinstance(fault.value, str) else None
    if len(choices) == 1:
        return f"{fault.shown} is not known here", f"write {choices[0]}"
    listed = f"{', '.join(choices[:-1])} or {choices[-1]}"
    remedy = f"did you mean '{near}'?" if near else f"write {listed}"
    return f"{fault.shown} is not one of {listed}", remedy


def _too_long(fault: _Fault) -> tuple[str, str]:
    limit = fault.context.get("max_length")
    things = "characters" if fault.type.startswith("string") else "entries"
    return f"there are more than {limit} {things}", f"write {limit} {things} or fewer"


def _too_short(fault: _Fault) -> tuple[str, str]:
    least = fault.context.get("min_length")
    if fault.value in ("", [], (), {}):
        leave = " or leave the field out" if fault.wanted.optional else ""
        return "this is empty", (fault.wanted.remedy() or "write a value") + leave
    things = "characters" if fault.type.startswith("string") else "entries"
    return f"there are fewer than {least} {things}", fault.wanted.remedy()


def _multiple(fault: _Fault) -> tuple[str, str]:
    step = fault.context.get("multiple_of")
    return f"{fault.shown} is not a multiple of {step}", f"write a multiple of {step}"


def _validator_said(fault: _Fault) -> tuple[str, str]:
    sentence, _, remedy = str(fault.context.get("error", "")).partition("; ")
    return (sentence or f"{fault.shown} is not taken here"), remedy or fault.wanted.remedy()


def _not_taken(fault: _Fault) -> tuple[str, str]:
    return f"{fault.shown} is not a value this field takes", fault.wanted.remedy()


def _real_path(document: Any, detail: ErrorDetails) -> Path:
    """Return where in the document an error is, without the labels validators add to locations."""
    location = detail["loc"]
    if detail["type"] == "missing":
        return location
    path: Path = ()
    for part in location:
        inside = isinstance(document, dict) and part in document
        if not inside and not (isinstance(document, list) and part in range(len(document))):
            break
        document = document[part]
        path += (part,)
    return path + tuple(detail.get("ctx", {}).get("at", ()))


def _unknown(model: type[BaseModel], path: Path) -> tuple[str, str]:
    *section, key = path
    known = _fields(model, tuple(section)) or {}
    if tuple(section) == ("spec", "tune"):
        near = did_you_mean(str(key), list(known))
        hint = f"did you mean '{near}'? " if near else ""
        return f"there is no option {quote(str(key))}", f"{hint}the options are {', '.join(known)}"
    near = did_you_mean(str(key), list(known))
    if near:
        return f"there is no field {quote(str(key))} here", f"did you mean '{near}'?"
    for home in ((), ("metadata",), ("spec",), ("spec", "match"), ("spec", "tune"), ("spec", "guard")):
        if key in (_fields(model, home) or {}):
            remedy = f"move it to {dotted(home)}" if home else "move it to the top of the document"
            return f"there is no field {quote(str(key))} here", remedy
    return f"there is no field {quote(str(key))} here", f"the fields here are {', '.join(known)}"


def _fields(model: type[BaseModel], path: Path) -> Mapping[str, FieldInfo] | None:
    for part in path:
        info = model.model_fields.get(str(part))
        kinds = (info.annotation, *get_args(info.annotation)) if info else ()
        section = next(
            (kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None
        )
        if section is None:
            return None
        model = section
    return model.model_fields


def _wanted(model: type[BaseModel], path: Path) -> Wanted:
    """Return what the model says about the field at ``path``."""
    for end in range(len(path), 0, -1):
        info = (_fields(model, path[: end - 1]) or {}).get(str(path[end - 1]))
        if info is None:
            continue
        if end < len(path):
            return Wanted()
        low = next((mark.ge for mark in info.metadata if hasattr(mark, "ge")), None)
        high = next((mark.le for mark in info.metadata if hasattr(mark, "le")), None)
        example = _spell(info.examples[0]) if info.examples else ""
        return Wanted(example, (low, high), not info.is_required())
    return Wanted()


def _spell(example: Any) -> str:
    if isinstance(example, bool):
        return str(example).lower()
    if isinstance(example, dict):
        return f"{{{', '.join(f'{key}: {_spell(value)}' for key, value in example.items())}}}"
    if isinstance(example, (list, tuple)):
        return f"[{', '.join(map(_spell, example))}]"
    return str(example)


_PLAIN_KEY = re.compile(r"[A-Za-z0-9_/<-]{1,80}")
_DIGITS = re.compile(r"[0-9]{1,18}", re.ASCII)
_KINDS: tuple[tuple[type | tuple[type, ...], str], ...] = (
    (bool, "true or false"),
    ((int, float), "a number"),
    (str, "text"),
    ((list, tuple), "a list"),
    (dict, "a mapping"),
)
_WANTED_KINDS = {
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
}
_SENTENCES: dict[str, Callable[[_Fault], tuple[str, str]]] = {
    "missing": _missing,
    "greater_than_equal": _too_little,
    "greater_than": _too_little,
    "less_than_equal": _too_much,
    "less_than": _too_much,
    "literal_error": _not_a_choice,
    "enum": _not_a_choice,
    "string_too_long": _too_long,
    "too_long": _too_long,
    "string_too_short": _too_short,
    "too_short": _too_short,
    "multiple_of": _multiple,
    "value_error": _validator_said,
    "assertion_error": _validator_said,
}
