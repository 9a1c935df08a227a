# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pliant.kernel import map_batch
from pliant.kernel.cpus import parse_cpu_list, possible_cpus
from pliant.kernel.errors import KernelError, NotSupported
from pliant.kernel.maps import Map, MapType, map_ids
from pliant.kernel.objects import LoadedObject
from pliant.kernel.uapi import MMAPABLE, NO_PREALLOC

pytestmark = pytest.mark.root

MANY = 2 * map_batch.CHUNK + 77


def u32(value: int) -> bytes:
    return value.to_bytes(4, "little")


def prefix(value: int) -> bytes:
    return u32(32) + value.to_bytes(4, "big")


@pytest.fixture(params=[MapType.HASH, MapType.LRU_HASH, MapType.LPM_TRIE])
def keyed(request: pytest.FixtureRequest) -> Iterator[Map]:
    kind: MapType = request.param
    flags = NO_PREALLOC if kind is MapType.LPM_TRIE else 0
    with Map.create(kind, 8, 4, 4 * MANY, name="keyed", flags=flags) as created:
        yield created


@pytest.fixture
def small() -> Iterator[Map]:
    with Map.create(MapType.HASH, 4, 4, 2, name="small") as created:
        yield created


def test_elements_are_written_read_and_deleted_one_by_one(keyed: Map) -> None:
    assert keyed.get(prefix(1)) is None
    keyed.put(prefix(1), u32(10))
    keyed.put(prefix(1), u32(11))
    assert keyed.get(prefix(1)) == u32(11)
    assert keyed.delete(prefix(1)) is True
    assert keyed.delete(prefix(1)) is False
    assert list(keyed.items()) == []


def test_many_elements_are_written_read_and_deleted_in_chunks(keyed: Map) -> None:
    elements = {prefix(i): u32(i) for i in range(MANY)}
    keyed.put_many(elements.items())
    found = list(keyed.items())
    assert len(found) == MANY
    assert dict(found) == elements
    assert keyed.delete_many(list(elements)[10:]) == MANY - 10
    assert dict(keyed.items()) == dict(list(elements.items())[:10])


def test_deleting_many_counts_only_those_that_were_there(keyed: Map) -> None:
    keyed.put_many((prefix(i), u32(i)) for i in range(0, 100, 2))
    assert keyed.delete_many(prefix(i) for i in range(100)) == 50
    assert list(keyed.items()) == []


def test_keys_are_listed_once_each(keyed: Map) -> None:
    keyed.put_many((prefix(i), u32(i)) for i in range(500))
    assert sorted(keyed.keys()) == sorted(prefix(i) for i in range(500))


def test_keys_end_while_elements_are_deleted(keyed: Map) -> None:
    keyed.put_many((prefix(i), u32(i)) for i in range(50))
    listed = keyed.keys()
    for key in listed:
        keyed.delete(key)
    assert list(keyed.items()) == []


def test_an_array_is_written_and_read_in_chunks() -> None:
    with Map.create(MapType.ARRAY, 4, 4, MANY, name="array") as array:
        array.put_many((u32(i), u32(i + 1)) for i in range(MANY))
        assert list(array.items()) == [(u32(i), u32(i + 1)) for i in range(MANY)]
        with pytest.raises(KernelError):
            array.delete(u32(0))


@pytest.mark.parametrize("kind", [MapType.PERCPU_HASH, MapType.PERCPU_ARRAY])
def test_per_cpu_elements_hold_a_value_for_each_cpu(kind: MapType) -> None:
    with Map.create(kind, 4, 4, 8, name="percpu") as percpu:
        distinct = b"".join(u32(100 + cpu) + bytes(4) for cpu in range(possible_cpus()))
        percpu.put(u32(1), distinct)
        percpu.put_many([(u32(2), u32(7))])
        elements = dict(percpu.items())
        assert percpu.percpu(elements[u32(1)]) == [u32(100 + cpu) for cpu in range(possible_cpus())]
        assert percpu.percpu(elements[u32(2)]) == [u32(7)] * possible_cpus()
        assert percpu.get(u32(1)) == elements[u32(1)]


def test_a_type_without_batches_is_read_and_written_one_by_one() -> None:
    with Map.create(MapType.DEVMAP_HASH, 4, 4, 8, name="devices") as devices:
        devices.put_many([(u32(3), u32(1)), (u32(9), u32(1))])
        assert sorted(devices.items()) == [(u32(3), u32(1)), (u32(9), u32(1))]
        assert devices.delete_many([u32(3), u32(4), u32(9)]) == 2


def test_a_full_map_says_so_and_keeps_what_fitted(small: Map) -> None:
    with pytest.raises(
        KernelError, match=r"cannot write the map small: .*; it is full \(2 entries\)"
    ) as caught:
        small.put_many((u32(i), u32(i)) for i in range(5))
    assert caught.value.errno == errno.E2BIG
    assert dict(small.items()) == {u32(0): u32(0), u32(1): u32(1)}


def test_keys_and_values_of_a_wrong_size_are_refused(small: Map) -> None:
    with pytest.raises(ValueError, match="key of small: 3 bytes given, 4 needed"):
        small.put_many([(b"abc", u32(0)), (b"defgh", u32(0))])
    with pytest.raises(ValueError, match="value of small: 5 bytes given, 4 needed"):
        small.put(u32(0), b"abcde")
    assert list(small.items()) == []


def test_put_can_refuse_to_replace(small: Map) -> None:
    small.put(u32(0), u32(1), flags=1)
    with pytest.raises(KernelError) as caught:
        small.put(u32(0), u32(2), flags=1)
    assert caught.value.errno == errno.EEXIST


def test_an_array_mapped_into_memory_is_the_map() -> None:
    with Map.create(MapType.ARRAY, 4, 8, 1000, name="shared", flags=MMAPABLE) as shared:
        area = shared.mmap()
        area[999 * 8 : 1000 * 8] = u32(5) + u32(6)
        assert shared.get(u32(999)) == u32(5) + u32(6)
        shared.put(u32(0), u32(8) + u32(9))
        assert area[:8] == u32(8) + u32(9)
        area.close()


def test_a_map_that_cannot_be_mapped_says_so(small: Map) -> None:
    with pytest.raises(NotSupported, match="small cannot be mapped into memory"):
        small.mmap()


def test_a_typed_map_has_codecs_and_an_untyped_one_none(sample: LoadedObject, small: Map) -> None:
    table = sample.maps["table"]
    assert table.key_codec is not None
    assert table.value_codec is not None
    value = table.value_codec.unpack(bytes(table.value_size)) | {"count": 3, "name": b"x".ljust(8, b"\0")}
    table.put(table.key_codec.pack(12), table.value_codec.pack(value))
    assert table.value_codec.unpack(table.get(u32(12)) or b"") == value
    assert small.key_codec is None
    assert small.value_codec is None


def test_a_per_cpu_map_has_the_codec_of_one_value(sample: LoadedObject) -> None:
    codec = sample.maps["counters"].value_codec
    assert codec is not None
    assert codec.size == 4


def test_the_constants_of_a_loaded_object_can_be_read_back_by_name(sample: LoadedObject) -> None:
    constants = sample.maps[".rodata"]
    assert constants.value_codec is not None
    assert constants.value_codec.unpack(constants.get(u32(0)) or b"") == {
        "verdict": 1,
        "small": -3,
        "large": 0,
        "prefix": bytes(16),
    }


def test_a_map_is_reopened_from_its_pin_with_its_codecs(sample: LoadedObject, bpffs: Path) -> None:
    sample.maps["prefixes"].pin(bpffs / "prefixes")
    with Map.pinned(bpffs / "prefixes") as again:
        assert again.id == sample.maps["prefixes"].id
        assert (again.type, again.max_entries, again.flags) == (MapType.LPM_TRIE, 65536, NO_PREALLOC)
        assert again.key_codec is not None
        assert again.key_codec.pack({"bits": 32, "address": bytes(4)}) == prefix(0)


def test_a_map_is_found_by_its_id(small: Map) -> None:
    assert small.id in set(map_ids())
    with Map.by_id(small.id) as again:
        assert again.name == "small"
    with pytest.raises(KernelError, match="cannot open map 4294967295") as caught:
        Map.by_id(2**32 - 1)
    assert caught.value.errno == errno.ENOENT


def test_a_closed_map_says_so(small: Map) -> None:
    small.close()
    with pytest.raises(KernelError, match="this map has been closed"):
        small.get(u32(0))


def test_threads_share_a_map() -> None:
    with Map.create(MapType.HASH, 4, 4, 4096, name="busy") as busy:

        def write(start: int) -> None:
            for key in range(start, start + 1000):
                busy.put(u32(key), u32(key))

        threads = [threading.Thread(target=write, args=(start,)) for start in (0, 1000, 2000, 3000)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert dict(busy.items()) == {u32(key): u32(key) for key in range(4000)}


def test_twenty_thousand_prefixes_are_written_and_read_in_batches() -> None:
    with Map.create(MapType.LPM_TRIE, 8, 8, 65536, name="prefixes", flags=NO_PREALLOC) as trie:
        elements = [(prefix(i * 7919 & 0xFFFFFFFF), i.to_bytes(8, "little")) for i in range(20_000)]
        trie.put_many(elements)
        assert dict(trie.items()) == dict(elements)


@pytest.mark.parametrize(("text", "count"), [("0\n", 1), ("0-1\n", 2), ("0-3,8-11\n", 12), ("0,2\n", 3)])
def test_a_list_of_cpus_is_counted_to_its_highest(text: str, count: int) -> None:
    assert parse_cpu_list(text) == count
