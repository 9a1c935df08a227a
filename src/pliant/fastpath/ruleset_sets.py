# SPDX-License-Identifier: Apache-2.0
"""Lookups in sets and maps of nftables, as rows and elements of tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pliant.fastpath import ruleset_tests as tests
from pliant.fastpath.ruleset_draft import NEXT, Draft, Label
from pliant.fastpath.ruleset_rows import WINDOW_WORDS, Kind, Left, Row
from pliant.fastpath.ruleset_symbols import Bytes, NotUnderstood
from pliant.kernel.nftables_expressions import Lookup, Other, Verdict
from pliant.kernel.nftables_rules import Chain, Element, Rules, Set

_MOST_SPELT_OUT = 64
"""Elements of a concatenation with ranges."""

Stub = Callable[[Verdict], Label]


class Sets:
    """The sets of a ruleset."""

    def __init__(self, draft: Draft, rules: Rules) -> None:
        self._draft, self._rules = draft, rules
        self._shared: dict[tuple[str, str, str], int] = {}
        self._packets_add = any(
            isinstance(expression, Other) and expression.name == "dynset"
            for chain in rules.chains
            for rule in chain.rules
            for expression in rule.expressions
        )

    def find(self, chain: Chain, name: str) -> Set:
        """A set of a chain's table. Raises :class:`NotUnderstood` where it changes unheard."""
        found = self._rules.set(chain.family, chain.table, name)
        if found is None or "object" in found.flags:
            raise NotUnderstood(f"asks for objects by {name}")
        if "dynamic" in found.flags or ("timeout" in found.flags and self._packets_add):
            raise NotUnderstood(f"looks in the set {name}, which packets change")
        return found

    def write_lookup(
        self, found: Set, held: Bytes, lookup: Lookup, following: Label, left: Left, stub: Stub
    ) -> bool:
        """Write a lookup; whether anything after it matters.

        A rule that does not apply goes on at ``following``; ``left`` says why packets are left to the kernel that an
        element has to see, since it counts or expires; ``stub`` gives the place where a verdict goes on.
        """
        actions = _Actions(self._draft, found, left, stub)
        others = [e for e in found.elements if e.key is None]
        if others and lookup.is_inverted:
            raise NotUnderstood(f"looks for what is not in the set {found.name}, which has a wildcard")
        missing = Label() if others or lookup.is_inverted else following
        key, has_keys = tests.known_number(held), len(found.elements) > len(others)
        if key is not None:
            self._known(found, key, actions, following, inverted=lookup.is_inverted)
        elif has_keys:
            self._unknown(found, held, actions, following, missing, inverted=lookup.is_inverted)
        elif not others and not lookup.is_inverted:
            return False  # nothing is in it
        if not others or key is not None:
            if missing is not following:
                self._draft.mark(missing)
            return True
        after = actions.place_of(others[0])
        if after is NEXT:
            self._draft.mark(missing)
            return True
        found_one = Label()
        if has_keys and not found.gives_verdicts:
            self._draft.go(found_one)
        self._draft.mark(missing)
        self._draft.go(after)
        self._draft.mark(found_one)
        return True

    def _known(self, found: Set, key: bytes, actions: _Actions, following: Label, *, inverted: bool) -> None:
        element = matching(found, key)
        if (element is not None) == inverted:
            self._draft.go(following)
        elif element is not None and (place := actions.place_of(element)) is not NEXT:
            self._draft.go(place)

    def _unknown(
        self, found: Set, held: Bytes, actions: _Actions, following: Label, missing: Label, *, inverted: bool
    ) -> None:
        fields = found.fields or (found.key_bytes,)
        is_single = len(fields) == 1
        elements = [e for e in found.elements if e.key is not None]
        if not is_single and any(e.last not in (None, e.key) for e in elements):
            self._spelt_out(elements, fields, held, actions, following, missing, inverted=inverted)
            return
        words = tests.key_words(held, fields)
        if words is None or (is_single and "interval" in found.flags and len(words) > WINDOW_WORDS):
            raise NotUnderstood(f"looks in the set {found.name} for what is not just words of the packet")
        by_prefix = is_single and "interval" in found.flags
        number = self._number(found, elements, actions, by_prefix=by_prefix)
        kind = Kind.PREFIX if by_prefix else Kind.MEMBER
        row = (
            Row(kind, words[0], inverted, words=(0, found.key_bytes), target=number)
            if by_prefix
            else Row(kind, len(words), inverted, words=words, target=number)
        )
        self._draft.write(row, otherwise=following if inverted else missing)

    def _number(self, found: Set, elements: list[Element], actions: _Actions, *, by_prefix: bool) -> int:
        """The number of a set, whose elements are added; one that is only looked for is added once."""
        name = (found.family, found.table, found.name)
        if actions.are_plain and name in self._shared:
            return self._shared[name]
        number = self._draft.new_set()
        if actions.are_plain:
            self._shared[name] = number
        places = [(element, actions.place_of(element)) for element in elements]
        if by_prefix:
            self._draft.add_prefixes(
                number,
                (
                    (key, bits, place)
                    for element, place in places
                    for key, bits in tests.prefixes(element.key or b"", element.last or element.key or b"")
                ),
            )
        else:
            self._draft.add_members(number, ((element.key or b"", place) for element, place in places))
        return number

    def _spelt_out(
        self,
        elements: list[Element],
        fields: tuple[int, ...],
        held: Bytes,
        actions: _Actions,
        following: Label,
        missing: Label,
        *,
        inverted: bool,
    ) -> None:
        """Row by row: concatenations with ranges, of which there are few."""
        if len(elements) > _MOST_SPELT_OUT:
            raise NotUnderstood("looks in a large set of concatenated ranges")
        found_one = Label()
        for element in elements:
            another = Label()
            for row in _rows_of(element, fields, held):
                self._draft.write(row, otherwise=another)
            place = actions.place_of(element)
            if place is NEXT:
                place = following if inverted else found_one
            self._draft.go(place)
            self._draft.mark(another)
        self._draft.go(missing)
        self._draft.mark(found_one)


class _Actions:
    """Where it goes on for each element of a set."""

    def __init__(self, draft: Draft, found: Set, left: Left, stub: Stub) -> None:
        self._draft, self._left, self._stub = draft, left, stub
        self._changes = bool(found.flags & {"timeout", "expression"})
        self._stubs: dict[Verdict, Label] = {}
        self._leaving: Label | None = None
        has_more = any(element.has_more for element in found.elements)
        self.are_plain = not (self._changes or has_more or found.gives_verdicts)

    def place_of(self, element: Element) -> Label:
        if self._changes or element.has_more:
            if self._leaving is None:
                self._leaving = self._draft.left_elsewhere(self._left)
            return self._leaving
        if not isinstance(element.data, Verdict):
            return NEXT
        if element.data not in self._stubs:
            self._stubs[element.data] = self._stub(element.data)
        return self._stubs[element.data]


def _rows_of(element: Element, fields: tuple[int, ...], held: Bytes) -> Iterator[Row]:
    at = 0
    for length in fields:
        part = slice(at, at + length)
        first = (element.key or b"")[part]
        last = (element.last or element.key or b"")[part]
        at += (length + 3) & ~3
        if first == bytes(length) and last == b"\xff" * length:
            continue
        row = tests.range_row(held[part], first, last)
        if row is None:
            raise NotUnderstood("looks in a set of ranges for what is not just words of the packet")
        yield row


def matching(found: Set, key: bytes) -> Element | None:
    """The element that a key is in; that for whatever no other matches comes last."""
    for element in found.elements:
        if element.key is None:
            continue
        last = element.last if element.last is not None else element.key
        at, is_in = 0, True
        for length in found.fields or (found.key_bytes,):
            part = slice(at, at + length)
            is_in = is_in and element.key[part] <= key[part] <= last[part]
            at += (length + 3) & ~3
        if is_in:
            return element
    return next((e for e in found.elements if e.key is None), None)
