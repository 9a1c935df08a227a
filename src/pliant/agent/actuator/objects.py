# SPDX-License-Identifier: Apache-2.0
"""Programs with their maps: loaded, replaced in place, unloaded."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from pliant.agent.actuator.attachments import check_link
from pliant.agent.actuator.ground import Ground, Steps, Taken
from pliant.kernel.attempts import kernel_memory
from pliant.kernel.errors import KernelError
from pliant.kernel.links import Link
from pliant.kernel.maps import Map
from pliant.kernel.objects import LoadedObject, load
from pliant.kernel.pins import PinDirectory
from pliant.kernel.programs import Program
from pliant.observe.pin_tree import PARTS, PROGRAM_PIN, Hook, PinTree
from pliant.observe.reader import FEATURES, hooked_program, program_ids
from pliant.observe.tables import Table
from pliant.plan.steps import ForgetProgram, LoadObject, ReplaceProgram, RestoreProgram, UnloadObject
from pliant.policy.desired import SCOPE

LONG_NS = 30 * 10**9
"""From what age on a connection is sampled while it is open; see effect.h."""
KEPT = frozenset(
    {"connecting", "flows", "groups", "measured", "previous", "outcomes", "scope_outcomes", "last_errno"}
)
"""Maps whose contents mean the same under another layout: socket storage, what connections have learned, and sums that
no entry of ours goes with."""
SHARED_MAPS = ("accepted", "features", "given", "verdicts")  # scope's, used by every feature


class Objects:
    """Loads objects and pins their programs and maps; the pin of the main program comes last and goes first."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def steps(self) -> Steps:
        """The steps it takes."""
        return {
            LoadObject: Taken(self._load, self._load_done),
            UnloadObject: Taken(self._unload, self._unload_done),
            ReplaceProgram: Taken(self._replace, self._switched),
            RestoreProgram: Taken(self._restore, self._switched),
            ForgetProgram: Taken(self._forget, self._forgotten),
        }

    def _load(self, step: LoadObject) -> None:
        pins, name = self._ground.pins, step.object
        if pins.program(name, step.build).exists():
            return  # it was to be unloaded, and was not
        PinDirectory(pins.object(name)).remove_tree()
        with contextlib.ExitStack() as stack:
            loaded = stack.enter_context(self._loaded(name, reuse=self._kept(name, stack)))
            pins.object(name).mkdir(parents=True, exist_ok=True)
            for map_name, held in loaded.maps.items():
                if not map_name.startswith(".") and (name == SCOPE or map_name not in SHARED_MAPS):
                    held.pin(pins.object(name) / map_name)
            self._pin(loaded, name, step.build)

    def _kept(self, name: str, stack: contextlib.ExitStack) -> dict[str, Map]:
        """What another build keeps with open sockets or sums up, where this one has it likewise: it is gone on with."""
        found: dict[str, Map] = {}
        declared = self._ground.layout.map_layouts(name)
        for layout in self._ground.pins.other_layouts():
            other = PinTree(self._ground.pins.root, layout)
            for map_name in KEPT & declared.keys():
                pin = other.map(Table(name, map_name))
                if map_name not in found and pin.exists():
                    held = stack.enter_context(Map.pinned(pin))
                    if held.value_layout == declared[map_name][1]:
                        found[map_name] = held
        return found

    def _pin(self, loaded: LoadedObject, name: str, build: str) -> None:
        """Pin the programs of a build, the one that says that the build is complete last."""
        pins = self._ground.pins
        for part, suffix in PARTS.items():
            if name + suffix in loaded.programs:
                pin = pins.part(name, part, build)
                pin.unlink(missing_ok=True)  # of a replacement that was interrupted
                loaded.programs[name + suffix].pin(pin)
        if name != SCOPE:
            self._call(name, loaded.programs[name])
        loaded.programs[name].pin(pins.program(name, build))

    def _load_done(self, step: LoadObject) -> None:
        with Program.pinned(self._ground.pins.program(step.object, step.build)) as program:
            if step.object != SCOPE:
                self._check_called(step.object, program)

    def _unload(self, step: UnloadObject) -> None:
        """The pin of the program goes first: what is left half is then seen to be incomplete."""
        pins, slots = self._ground.pins, self._ground.layout.slots
        ids = program_ids(pins, step.object)
        for build in pins.builds(step.object):
            pins.program(step.object, build).unlink()
        if step.object in slots and pins.map(FEATURES).exists():
            with Map.pinned(pins.map(FEATURES)) as features:
                features.delete(_slot(slots[step.object]))
                for slot, number in list(features.items()):  # others, that somebody else has put it into
                    if int.from_bytes(number, sys.byteorder) in ids:
                        features.delete(slot)
        PinDirectory(pins.object(step.object)).remove_tree()
        self._ground.remove_if_empty()

    def _unload_done(self, step: UnloadObject) -> None:
        if self._ground.pins.object(step.object).exists():
            raise KernelError(f"{self._ground.pins.object(step.object)} is still there")

    def _replace(self, step: ReplaceProgram) -> None:
        pins, name = self._ground.pins, step.object
        if not pins.program(name, step.build).exists():  # replacing it was not interrupted before
            tables = (path for path in pins.object(name).iterdir() if not PROGRAM_PIN.fullmatch(path.name))
            with contextlib.ExitStack() as stack:
                maps = {path.name: stack.enter_context(Map.pinned(path)) for path in tables}
                self._pin(stack.enter_context(self._loaded(name, reuse=maps)), name, step.build)
        self._switch(name, step.build)

    def _restore(self, step: RestoreProgram) -> None:
        self._switch(step.object, step.build)
        self._remove(step.object, step.replacement)

    def _switch(self, name: str, build: str) -> None:
        """Have every call and every link go to the programs of one build."""
        if name != SCOPE:
            with Program.pinned(self._ground.pins.program(name, build)) as program:
                self._call(name, program)
        hooks = self._hooks(name)
        if hooks:
            with Program.pinned(hooked_program(self._ground.pins, name, build)) as program:
                for hook in hooks:
                    with Link.pinned(self._ground.pins.link(hook)) as link:
                        link.update(program)

    def _switched(self, step: ReplaceProgram | RestoreProgram) -> None:
        name = step.object
        if name != SCOPE:
            with Program.pinned(self._ground.pins.program(name, step.build)) as program:
                self._check_called(name, program)
        hooks = self._hooks(name)
        if hooks:
            with Program.pinned(hooked_program(self._ground.pins, name, step.build)) as program:
                for hook in hooks:
                    with Link.pinned(self._ground.pins.link(hook)) as link:
                        check_link(link, hook, program.id)

    def _hooks(self, name: str) -> list[Hook]:
        return [hook for hook in self._ground.pins.attached() if hook.program == name]

    def _call(self, name: str, program: Program) -> None:
        """Have scope call a feature's program from now on."""
        with Map.pinned(self._ground.pins.map(FEATURES)) as features:
            features.put(_slot(self._ground.layout.slots[name]), program.fileno().to_bytes(4, sys.byteorder))

    def _check_called(self, name: str, program: Program) -> None:
        with Map.pinned(self._ground.pins.map(FEATURES)) as features:
            if features.get(_slot(self._ground.layout.slots[name])) != program.id.to_bytes(4, sys.byteorder):
                raise KernelError(f"scope does not call the program {name}")

    def _forget(self, step: ForgetProgram) -> None:
        self._remove(step.object, step.build)

    def _remove(self, name: str, build: str) -> None:
        pins = self._ground.pins
        pins.program(name, build).unlink(missing_ok=True)
        for part in PARTS:
            pins.part(name, part, build).unlink(missing_ok=True)

    def _forgotten(self, step: ForgetProgram) -> None:
        if self._ground.pins.program(step.object, step.build).exists():
            raise KernelError(f"the replaced program {step.object} is still pinned")

    @contextlib.contextmanager
    def _loaded(self, name: str, reuse: dict[str, Map]) -> Iterator[LoadedObject]:
        with contextlib.ExitStack() as stack:
            for shared in () if name == SCOPE else SHARED_MAPS:
                held = stack.enter_context(Map.pinned(self._ground.pins.map(Table(SCOPE, shared))))
                reuse = reuse | {shared: held}
            path = self._ground.layout.objects[name]
            yield stack.enter_context(load(path, feature=name, rodata=self._constants(name), reuse=reuse))

    def _constants(self, name: str) -> dict[str, int | bytes]:
        layout = self._ground.layout
        callbacks: dict[str, int | bytes] = {"callback_options": layout.callback_options}
        if name != SCOPE:
            return callbacks | {"option_slot": layout.slots[name]}
        return callbacks | {
            "holdout_key": self._ground.holdout_key,
            "kept_options": layout.kept_options,
            "takes_over": bool(self._ground.pins.other_layouts()),
            "long_ns": LONG_NS,
            "reads_memory": _reads_memory(),
            "loaded_at_ns": time.clock_gettime_ns(time.CLOCK_MONOTONIC),
        }


def _reads_memory() -> int:
    """Whether programs of ours may read the kernel's memory by address: a refusal here would be one of scope, too."""
    try:
        kernel_memory()
    except KernelError:
        return 0
    return 1


def _slot(number: int) -> bytes:
    return number.to_bytes(4, sys.byteorder)
