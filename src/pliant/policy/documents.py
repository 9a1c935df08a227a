# SPDX-License-Identifier: Apache-2.0
"""Reading policies from YAML and JSON, with every problem at its file, line and field; and writing them.

A document goes through three steps. libyaml composes it to nodes, which know their lines. The nodes become
plain data under a budget, so that aliases cannot blow up. The model checks the data; if it objects, the
nodes are walked again to find the lines. Nothing keeps the nodes afterwards.

Scalars follow the core schema of YAML 1.2 (integers may also be 0x, 0o and 0b), except that the words
yes, no, on and off are booleans as in YAML 1.1: where text is wanted they are refused, never guessed.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from typing import Any, NoReturn

import yaml
from pydantic import ValidationError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from pliant.policy import problems as told
from pliant.policy.fastpath import KIND as FASTPATH
from pliant.policy.fastpath import FastpathPolicy
from pliant.policy.model import Policy, policy_model
from pliant.policy.options import Catalogue
from pliant.policy.problems import PolicyErrors, Problem
from pliant.policy.sysctls import KIND as SYSCTLS
from pliant.policy.sysctls import SysctlPolicy
from pliant.policy.units import quote

LARGEST_FILE_BYTES = 64 * 2**20
DEEPEST_NESTING = 50
SUFFIXES = (".yaml", ".yml", ".json")

# Aliases may expand a file to this many nodes more than it has characters.
_ALIAS_ALLOWANCE = 1_000_000

_TEXT = "tag:yaml.org,2002:str"
_MAP = "tag:yaml.org,2002:map"
_SEQ = "tag:yaml.org,2002:seq"
_MERGE = "tag:yaml.org,2002:merge"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_BOOL = "tag:yaml.org,2002:bool"
_NULL = "tag:yaml.org,2002:null"

_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,99}|0x[0-9a-fA-F]{1,80}|0o[0-7]{1,80}|0b[01]{1,100})")
_REAL = re.compile(
    r"[-+]?(?:\.[0-9]{1,99}|[0-9]{1,99}\.[0-9]{0,99})(?:[eE][-+]?[0-9]{1,9})?"
    r"|[-+]?[0-9]{1,99}[eE][-+]?[0-9]{1,9}|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)"
)
_WORDS: dict[str, str] = {"": _NULL, "<<": _MERGE} | {
    spelling: tag
    for tag, words in {_NULL: ["~", "null"], _BOOL: ["true", "false", "yes", "no", "on", "off"]}.items()
    for word in words
    for spelling in (word, word.title(), word.upper())
}
_NUMBER_START = frozenset("+-.0123456789")


def load_policies(text: str, file: str, catalogue: Catalogue) -> list[Policy]:
    """Return the policies of a text of YAML or JSON documents, in order.

    A document is a policy or a ``kind: List`` of policies; ``file`` is the name used in messages. Raises
    PolicyErrors with every problem found, and nothing else.
    """
    reading = _Reading(catalogue)
    reading.take(text, file)
    return reading.result()


def load_policies_from_paths(
    paths: Iterable[str | PathLike[str]], catalogue: Catalogue, *, stdin: str = "-"
) -> list[Policy]:
    """Return the policies of files, of the YAML and JSON files directly in directories, and of ``-``.

    ``-`` is standard input. Directories are read in order of file name, hidden files left out. Raises
    PolicyErrors with every problem of every file; a file that cannot be read is a problem too.
    """
    reading = _Reading(catalogue)
    for path in paths:
        reading.take_path(fspath(path), stdin)
    return reading.result()


def policy_from_document(document: Mapping[str, Any], source: str, catalogue: Catalogue) -> Policy:
    """Return the policy of one document that was read already, such as the body of a request.

    Raises PolicyErrors, whose problems have no lines; ``source`` stands for the file.
    """
    reading = _Reading(catalogue)
    reading.check(dict(document), source, None, ())
    return reading.result()[0]


def dump_policies(policies: Iterable[Policy]) -> str:
    """Return policies as YAML documents that `load_policies` reads back as equal policies."""
    documents = (policy.to_document() for policy in policies)
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


class _Reading:
    """One reading of any number of texts: the policies, the problems and whose name is whose."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.model = policy_model(catalogue)
        self.policies: list[Policy] = []
        self.problems: list[Problem] = []
        self.named: dict[str, str] = {}
        self.last_line = 0

    def result(self) -> list[Policy]:
        if self.problems:
            raise PolicyErrors(self.problems)
        return self.policies

    def report(self, file: str, line: int, path: told.Path, message: str, remedy: str) -> None:
        line = min(line, self.last_line)  # what is missing at the end of a text is marked behind it
        self.problems.append(Problem(file, line, told.dotted(path), message, remedy))

    def take_path(self, path: str, stdin: str) -> None:
        try:
            if path == stdin:
                self.take_bytes(sys.stdin.buffer.read(LARGEST_FILE_BYTES + 1), "stdin")
            elif Path(path).is_dir():
                self.take_directory(Path(path))
            else:
                with open(path, "rb") as file:
                    self.take_bytes(file.read(LARGEST_FILE_BYTES + 1), path)
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else None
            message = f"the file cannot be read: {(reason or 'the name is not valid').lower()}"
            self.report(path, 0, (), message, "check the name and the permissions")

    def take_directory(self, directory: Path) -> None:
        files = sorted(
            entry
            for entry in directory.iterdir()
            if entry.suffix in SUFFIXES and not entry.name.startswith(".") and entry.is_file()
        )
        for file in files:
            self.take_path(str(file), stdin="")
        if not files:
            message = f"the directory has no {', '.join(SUFFIXES)} files"
            self.report(str(directory), 0, (), message, "name a file, or a directory that has some")

    def take_bytes(self, content: bytes, file: str) -> None:
        try:
            self.take(content.decode("utf-8-sig"), file)
        except UnicodeDecodeError:
            self.report(file, 0, (), "the file is not UTF-8 text", "save it as UTF-8")

    def take(self, text: str, file: str) -> None:
        if len(text) > LARGEST_FILE_BYTES:
            limit = f"{LARGEST_FILE_BYTES // 2**20} MiB"
            self.report(file, 0, (), f"the file is larger than {limit}", "split it")
            return
        self.last_line = text.rstrip("\n").count("\n") + 1
        converter = _Converter(len(text) + _ALIAS_ALLOWANCE)
        count = 0
        try:
            with _collector_paused():
                for root in _compose(text):
                    count += 1
                    self.take_document(root, converter, file)
        except _SyntaxError as error:
            self.report(file, error.line, (), error.message, error.remedy)
            return
        if not count:
            self.report(file, 0, (), "there is no policy in it", "start with apiVersion: pliant/v1")

    def take_document(self, root: Node, converter: _Converter, file: str) -> None:
        start = len(self.problems)
        document = converter.convert(root)
        for fault in converter.faults:
            path = _path_to(root, fault.node)
            self.report(file, fault.node.start_mark.line + 1, path, fault.message, fault.remedy)
        if document is not _SPOILT:
            self.check_document(document, file, root)
        self.problems[start:] = sorted(self.problems[start:], key=lambda problem: problem.line)

    def check_document(self, document: Any, file: str, root: Node) -> None:
        line = root.start_mark.line + 1
        if document is None:
            self.report(file, line, (), "the document is empty", "write a policy, or remove the '---'")
        elif not isinstance(document, dict):
            message = f"the document is {told.kind_of(document)}, not a policy"
            self.report(file, line, (), message, "start with apiVersion: pliant/v1")
        elif document.get("kind") == "List":
            self.check_list(document, file, root)
        else:
            self.check(document, file, root, ())

    def check_list(self, document: dict[str, Any], file: str, root: Node) -> None:
        known = ["apiVersion", "kind", "metadata", "items"]
        for key in document:
            if key not in known:
                remedy = f"the fields of a List are {', '.join(known)}"
                self.report(file, _line(root, (key,)), (key,), f"there is no field {quote(key)} here", remedy)
        if document.get("apiVersion", "v1") not in ("v1", "pliant/v1"):
            message = "this version of List is not known here"
            self.report(file, _line(root, ("apiVersion",)), ("apiVersion",), message, "write pliant/v1")
        items = document.get("items")
        if isinstance(items, list):
            for index, item in enumerate(items):
                self.check(item, file, root, ("items", index))
        else:
            message = "a List needs a list of policies"
            self.report(file, _line(root, ("items",)), ("items",), message, "write items: and the policies")

    def check(self, document: Any, file: str, root: Node | None, prefix: told.Path) -> None:
        model = _OF_THE_HOST.get(_kind(document), self.model)
        try:
            policy = model.model_validate(document)
        except ValidationError as error:
            for path, message, remedy in told.explain(
                model, error, document, lambda path: _written(root, prefix + path)
            ):
                line = _line(root, prefix + path) if root else 0
                self.report(file, line, prefix + path, message, remedy)
            return
        name = (*prefix, "metadata", "name")
        line = _line(root, name) if root else 0
        if policy.name in self.named:
            message = f"the name {quote(policy.name)} is taken by the policy at {self.named[policy.name]}"
            self.report(file, line, name, message, "give one of the two another name")
        self.named.setdefault(policy.name, f"{file}:{line}")
        self.policies.append(policy)


_OF_THE_HOST: dict[str | None, type[Policy]] = {SYSCTLS: SysctlPolicy, FASTPATH: FastpathPolicy}


def _kind(document: Any) -> str | None:
    """The kind of policy that a document is, or is meant for."""
    kind = document.get("kind") if isinstance(document, dict) else None
    return told.did_you_mean(kind, ("TransportPolicy", SYSCTLS, FASTPATH)) if isinstance(kind, str) else None


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Keep the cycle collector from walking all policies again and again: a quarter of the loading time.

    Nodes refer to each other in no cycles, so that they are freed by their reference counts all the same.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _SyntaxError(Exception):
    def __init__(self, line: int, message: str, remedy: str) -> None:
        super().__init__(message)
        self.line, self.message, self.remedy = line, message, remedy


class _Loader(yaml.CSafeLoader):
    """Composes nodes with our reading of plain scalars, and refuses absurd nesting."""

    depth = 0

    def resolve(self, kind: Any, value: Any, implicit: Any) -> str:
        if kind is not ScalarNode:
            return _MAP if kind is MappingNode else _SEQ
        if not implicit[0]:
            return _TEXT
        if value in _WORDS:
            return _WORDS[value]
        if value[0] not in _NUMBER_START:
            return _TEXT
        if _INTEGER.fullmatch(value):
            return _INT
        return _FLOAT if _REAL.fullmatch(value) else _TEXT

    def descend_resolver(self, parent: Node | None, index: Any) -> None:
        self.depth += 1
        if self.depth > DEEPEST_NESTING:
            line = parent.start_mark.line + 1 if parent else 0
            remedy = f"nest at most {DEEPEST_NESTING} deep"
            raise _SyntaxError(line, "lists and mappings are nested too deep here", remedy)

    def ascend_resolver(self) -> None:
        self.depth -= 1


class _Dumper(yaml.CSafeDumper):
    """Quotes whatever `_Loader` would not read as text; what YAML 1.1 quotes is quoted already."""


_Dumper.add_implicit_resolver(_INT, re.compile(rf"^(?:{_INTEGER.pattern})$"), sorted(_NUMBER_START))
_Dumper.add_implicit_resolver(_FLOAT, re.compile(rf"^(?:{_REAL.pattern})$"), sorted(_NUMBER_START))


def _compose(text: str) -> Iterator[Node]:
    loader: _Loader | None = None
    try:
        loader = _Loader(text)
        while loader.check_node():
            node = loader.get_node()
            if node is not None:
                yield node
    except yaml.reader.ReaderError as error:
        line = text.encode("utf-8", "replace")[: error.position].count(b"\n") + 1
        raise _SyntaxError(line, "a character here is not allowed in YAML", "remove it") from None
    except UnicodeEncodeError as error:
        line = text.count("\n", 0, error.start) + 1
        raise _SyntaxError(line, "a character here is not valid Unicode", "remove it") from None
    except yaml.MarkedYAMLError as error:
        raise _syntax_error(error, text) from None
    finally:
        if loader is not None:
            loader.dispose()


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> _SyntaxError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 0
    said = error.problem or "this is not YAML"
    sign = text[mark.index : mark.index + 1] if mark else ""
    if "cannot start any token" in said and sign == "\t":
        return _SyntaxError(line, "a tab stands where YAML wants spaces", "indent with spaces")
    if "expected node content" in said and sign == ":":
        return _SyntaxError(line, "a ':' cannot start a value here", 'put the text in quotes, as in "::/0"')
    for part, message, remedy in _SYNTAX:
        if part in said:
            return _SyntaxError(line, message, remedy)
    return _SyntaxError(line, f"this is not YAML: {said}", "check the indentation, quotes and brackets here")


_SYNTAX = (
    ("cannot start any token", "a character here cannot start a value", "put the text in quotes"),
    ("mapping values are not", "a ':' stands where no key can be", "check the indentation, or use quotes"),
    ("found undefined alias", "this alias has no anchor above it", "put text that starts with '*' in quotes"),
    ("Unicode character escape", r"a \u escape here is not a character", "write the character itself"),
)

_SPOILT = object()


class _Fault(Exception):
    def __init__(self, node: Node, message: str, remedy: str) -> None:
        super().__init__(message)
        self.node, self.message, self.remedy = node, message, remedy


class _Converter:
    """Turns nodes into plain data, visiting no more nodes than its budget over all documents."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.faults: list[_Fault] = []

    def convert(self, root: Node) -> Any:
        """Return the data of a document, or ``_SPOILT`` if it cannot be told; fills ``faults``."""
        self.faults = []
        try:
            return self.value(root, 0)
        except _Fault as fault:
            self.faults.append(fault)
            return _SPOILT

    def value(self, node: Node, depth: int) -> Any:
        if isinstance(node, ScalarNode):
            return sys.intern(node.value) if node.tag == _TEXT else self.scalar(node)
        self.budget -= len(node.value)
        if self.budget < 0 or depth > DEEPEST_NESTING:
            raise _Fault(node, "aliases expand this without end", "write the values out instead")
        if isinstance(node, MappingNode) and node.tag == _MAP:
            return self.mapping(node, depth + 1)
        if isinstance(node, SequenceNode) and node.tag == _SEQ:
            return [self.value(item, depth + 1) for item in node.value]
        return self.refuse(node)

    def mapping(self, node: MappingNode, depth: int) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[tuple[Node, Node]] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged.append((key_node, value_node))
                continue
            key = self.key(key_node)
            if key is None:
                continue
            if key in data:
                message = f"{quote(key)} is in this mapping twice"
                self.faults.append(_Fault(key_node, message, "leave one of them out"))
                continue
            data[key] = self.value(value_node, depth)
        for key_node, value_node in merged:
            self.merge(key_node, value_node, data, depth)
        return data

    def key(self, node: Node) -> str | None:
        if isinstance(node, ScalarNode):
            if node.tag == _TEXT:
                return sys.intern(node.value)
            message = f"the key {quote(node.value)} is not read as text"
            self.faults.append(_Fault(node, message, f"put it in quotes: {quote(node.value)}"))
            return None
        raise _Fault(node, "a list or a mapping stands where a key is wanted", "write key: value")

    def merge(self, key: Node, node: Node, data: dict[str, Any], depth: int) -> None:
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            if not isinstance(source, MappingNode):
                fault = _Fault(key, "'<<' merges something that is no mapping", "refer to a mapping")
                self.faults.append(fault)
                continue
            for name, value in self.value(source, depth).items():
                data.setdefault(name, value)

    def scalar(self, node: ScalarNode) -> Any:
        read = _READ_SCALAR.get(node.tag)
        try:
            return read(node.value) if read else self.refuse(node)
        except (ValueError, KeyError):
            return self.refuse(node)

    def refuse(self, node: Node) -> NoReturn:
        tag = node.tag.replace("tag:yaml.org,2002:", "!!")
        raise _Fault(node, f"the tag {quote(tag)} does not fit here", "leave the tag out")


_BOOLEANS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_READ_SCALAR: dict[str, Callable[[str], Any]] = {
    _INT: lambda text: int(text, 0),
    _FLOAT: lambda text: float(text.lower().replace(".inf", "inf").replace(".nan", "nan")),
    _BOOL: lambda text: _BOOLEANS[text.lower()],
    _NULL: lambda text: None,
    _MERGE: lambda text: text,
}


def _entry(node: Node, part: str | int) -> tuple[Node, Node] | None:
    """Return the node that introduces a part of a collection (its key) and the part's own node."""
    if isinstance(node, SequenceNode):
        return (node, node.value[part]) if isinstance(part, int) and part < len(node.value) else None
    if not isinstance(node, MappingNode):
        return None
    merged: list[Node] = []
    for key, value in node.value:
        if key.value == part:
            return key, value
        if key.tag == _MERGE:
            merged += value.value if isinstance(value, SequenceNode) else [value]
    return next((found for source in merged if (found := _entry(source, part))), None)


def _follow(root: Node, path: told.Path) -> tuple[Node, Node, bool]:
    """Return the introducing node and the node at ``path``, and whether the path goes all the way."""
    key, node = root, root
    for part in path:
        entry = _entry(node, part)
        if entry is None:
            return key, node, False
        key, node = entry
    return key, node, True


def _line(root: Node, path: told.Path) -> int:
    key, node, _ = _follow(root, path)
    mark = key.start_mark
    own = node.start_mark
    in_list = isinstance(key, SequenceNode)
    # An alias stands after what it refers to: then the line of its key is the line to look at.
    if own.index > mark.index and (in_list or (isinstance(node, ScalarNode) and node.value)):
        mark = own
    return int(mark.line) + 1


def _path_to(root: Node, wanted: Node) -> told.Path:
    """Return the path of a node, found by looking at every node once."""
    seen: set[int] = set()
    pending: list[tuple[Node, told.Path]] = [(root, ())]
    while pending:
        node, path = pending.pop()
        if node is wanted:
            return path
        if id(node) in seen or isinstance(node, ScalarNode):
            continue
        seen.add(id(node))
        if isinstance(node, SequenceNode):
            pending += [(item, (*path, index)) for index, item in enumerate(node.value)]
            continue
        for key, value in node.value:
            inner = (*path, key.value) if isinstance(key, ScalarNode) else path
            if key is wanted:
                return inner
            pending.append((value, inner))
    return ()


def _written(root: Node | None, path: told.Path) -> str | None:
    if root is None:
        return None
    _, node, arrived = _follow(root, path)
    return node.value if arrived and isinstance(node, ScalarNode) and node.tag != _TEXT else None
