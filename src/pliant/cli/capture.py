# SPDX-License-Identifier: Apache-2.0
"""``pliant capture``."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from pliant.cli.context import open_places, output_option
from pliant.cli.fastpath_switch import complete_interface
from pliant.errors import PliantError

if TYPE_CHECKING:
    from pliant.fastpath.capture import Capture, Captured

    Put = Callable[[Captured], None]

_STDOUT = "-"


@click.command()
@click.argument("filter_words", metavar="[FILTER]", nargs=-1)
@click.option(
    "-w",
    "--write",
    "target",
    metavar="FILE",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Write the packets to a file (pcapng), which tcpdump and Wireshark read; - is standard output.",
)
@click.option(
    "--dev",
    "devices",
    multiple=True,
    metavar="NAME",
    shell_complete=complete_interface,
    help="Only what comes in there. Can be given more than once.  [default: all that have a fast path]",
)
@click.option("-c", "--count", type=click.IntRange(min=1), metavar="N", help="End after so many packets.")
@click.option(
    "-s",
    "--snapshot",
    type=click.IntRange(min=14, max=4096),
    default=4096,
    show_default=True,
    metavar="BYTES",
    help="Keep no more of a packet.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0), metavar="S", help="End after so long.  [default: at Ctrl-C]"
)
@output_option("table", "json")
@click.pass_context
def capture(
    ctx: click.Context,
    filter_words: tuple[str, ...],
    target: str | None,
    devices: tuple[str, ...],
    count: int | None,
    snapshot: int,
    seconds: float | None,
    output: str,
) -> None:
    """Show the packets that come in by interfaces with a fast path, accelerated and dropped ones included.

    FILTER is what tcpdump takes (man 7 pcap-filter): 'tcp port 443 and host 10.1.0.2'. Accelerated packets, which
    tcpdump does not see, are shown as they leave, with the interface they leave by; those that are dropped, which it
    does not see either, and those that are left to the kernel as they came, with the reason. Fast paths are not
    changed, and cost nothing more when nobody captures. With -o json each packet is an object in a line of its own.
    """
    from pliant.fastpath.capture import Capture
    from pliant.fastpath.objects import tables_layout
    from pliant.kernel.libpcap import compile_filter
    from pliant.observe.fastpath import FastpathPins

    if target is not None and output == "json":
        raise PliantError("-w writes a capture, and nothing else", remedy="leave out -w, or -o json")
    program = compile_filter(" ".join(filter_words)) if filter_words else b""
    pins = FastpathPins(open_places(ctx).pins, tables_layout())
    with Capture(pins, devices, filter=program, snapshot=snapshot) as held, _opened(target) as file:
        _announce(held)
        put = _written(file) if file else _printed if output == "table" else _printed_as_data
        taken = _take(held, put, file, count, seconds)
        _conclude(held, taken)


def _take(held: Capture, put: Put, file: BinaryIO | None, count: int | None, seconds: float | None) -> int:
    """Take packets until there are enough of them, the time is over, or somebody interrupts; how many there were."""
    taken = 0
    with contextlib.suppress(KeyboardInterrupt):
        for batch in held.packets(seconds):
            chosen = batch[: count - taken] if count else batch
            for packet in chosen:
                put(packet)
            if file and (chosen or not taken):
                file.flush()
            taken += len(chosen)
            if count and taken >= count:
                break
    return taken


def _printed(packet: Captured) -> None:
    click.echo(packet.line())


def _printed_as_data(packet: Captured) -> None:
    click.echo(json.dumps(packet.data(), ensure_ascii=False))


def _written(file: BinaryIO) -> Put:
    from pliant.fastpath.capture_file import Writer

    writer = Writer(file)
    return lambda packet: writer.write(packet.packet, comment=packet.sentence, verdict=packet.action)


@contextlib.contextmanager
def _opened(target: str | None) -> Iterator[BinaryIO | None]:
    if target is None:
        yield None
    elif target == _STDOUT:
        yield sys.stdout.buffer
    else:
        with contextlib.ExitStack() as held:
            try:
                file = held.enter_context(Path(target).open("wb"))
            except OSError as error:
                raise PliantError(
                    f"cannot write {target}: {error.strerror}", remedy="name another file"
                ) from error
            yield file


def _announce(held: Capture) -> None:
    click.echo(f"capturing what comes in by {', '.join(held.interfaces)}; Ctrl-C ends it", err=True)
    for limit in held.limits:
        click.echo(limit, err=True)


def _conclude(held: Capture, taken: int) -> None:
    tally = held.tally()
    lost = f"; {tally.lost} lost, since they were not read in time" if tally.lost else ""
    click.echo(f"{taken} packets captured{lost}", err=True)
    if tally.dropped:
        unseen = f", of which {tally.unseen} could not be seen" if tally.unseen else ""
        click.echo(f"{tally.dropped} packets were dropped in place, as nftables says{unseen}", err=True)
