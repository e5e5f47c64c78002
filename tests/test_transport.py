"""Batches on their way from workers: what is kept never changes, and memory goes back."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import random
import re
import signal
import sys
from contextlib import contextmanager
from multiprocessing.reduction import ForkingPickler
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import ThreadDataLoader, decollate_batch
from monai.data.meta_tensor import MetaTensor
from torch.utils.data import DataLoader, Dataset

import dicomdata as dd
from dicomdata.errors import ConfigError, DicomDataError
from dicomdata.loader.blocks import BlockPool, Mappings
from dicomdata.loader.parcels import SMALL, Parcel

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.skipif(sys.platform != "linux", reason="there is anonymous shared memory"),
]

BOTH = pytest.mark.parametrize(
    "make", [lambda: dd.collate, dd.SharedCollate], ids=["plain", "shared"]
)

LARGE = 2 * SMALL
"""Bytes of a tensor that travels in a block."""


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Compare small tensors on one thread: more of them wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Numbered(Dataset[Any]):
    """Samples full of their own number, of several types; shape and length vary by batch of two."""

    def __init__(self, length: int, *, varied: bool = False, patches: int = 0) -> None:
        self.length, self.varied, self.patches = length, varied, patches

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: int) -> Any:
        if self.patches:
            return [self.sample(number) for _ in range(self.patches)]
        return self.sample(number)

    def sample(self, number: int) -> dict[str, Any]:
        edge = 18 + number // 2 % 5 if self.varied else 18
        dtype = (torch.float32, torch.int16, torch.bfloat16)[number // 2 % 3 if self.varied else 0]
        # In memory (slices, rows, columns), as ours are.
        image = torch.full((edge, 32, 32), number, dtype=dtype).permute(2, 1, 0)[None]
        affine = torch.eye(4, dtype=torch.float64) * (number + 1)
        return {
            "image": MetaTensor(image, meta={"affine": affine, "name": f"image {number}"}),
            "label": torch.full((1, 34, 34, 34), number % 2, dtype=torch.bool),
            "start": torch.full((3,), number),
            "weights": np.full(5000, number, np.float64),
            "name": f"sample {number}",
        }


def lies_in_a_block(tensor: torch.Tensor) -> bool:
    """Whether a tensor lies in memory that is used again, as the kernel says."""
    address = tensor.data_ptr()
    with open("/proc/self/maps", encoding="utf-8") as maps:
        ranges = [re.match(r"(\w+)-(\w+) .*memfd:dicomdata-batch", line) for line in maps]
    return any(int(each[1], 16) <= address < int(each[2], 16) for each in ranges if each)


def blocks_mapped() -> int:
    """How many blocks this process has mapped, as the kernel says."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return sum("memfd:dicomdata-batch" in line for line in maps)


def blocks_open() -> int:
    """How many file descriptors of blocks this process has."""
    links = (f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd"))
    return sum("dicomdata-batch" in os.readlink(link) for link in links if os.path.islink(link))


def check(batch: dict[str, Any], numbers: list[int], *, varied: bool = False) -> None:
    """Check that a batch is, byte by byte, what was made of these samples."""
    expected = dd.collate([Numbered(0, varied=varied).sample(number) for number in numbers])
    assert batch.keys() == expected.keys()
    for key in ("image", "label", "start", "weights"):
        assert type(batch[key]) is type(expected[key])
        assert batch[key].dtype == expected[key].dtype
        assert batch[key].stride() == expected[key].stride()
        assert torch.equal(torch.as_tensor(batch[key]), torch.as_tensor(expected[key]))
    assert torch.equal(batch["image"].affine, expected["image"].affine)
    assert batch["image"].meta["name"] == expected["image"].meta["name"]
    assert batch["image"].applied_operations == expected["image"].applied_operations
    assert batch["image"].spatial_ndim == expected["image"].spatial_ndim
    assert batch["image"].is_batch
    assert batch["name"] == expected["name"]


# --- what arrives -------------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_for_any_collate(make: Any, workers: int) -> None:
    loader = DataLoader(
        Numbered(12, varied=True), batch_size=2, num_workers=workers, collate_fn=make()
    )

    for number, batch in enumerate(loader):
        assert type(batch) is dict
        check(batch, [2 * number, 2 * number + 1], varied=True)


def test_lists_of_patches_come_through_shared_memory() -> None:
    loader = DataLoader(
        Numbered(4, patches=2), batch_size=2, num_workers=1, collate_fn=dd.SharedCollate()
    )

    for number, batch in enumerate(loader):
        check(batch, [2 * number] * 2 + [2 * number + 1] * 2)
        assert lies_in_a_block(batch["image"])
        assert lies_in_a_block(batch["weights"])


def test_a_batch_comes_apart_into_its_samples() -> None:
    loader = DataLoader(Numbered(2), batch_size=2, num_workers=1, collate_fn=dd.SharedCollate())

    (batch,) = loader
    one, other = decollate_batch(batch)
    del batch

    assert torch.equal(one["image"].affine, torch.eye(4, dtype=torch.float64))
    assert other["image"].meta["name"] == "image 1"
    assert (one["image"] == 0).all()
    assert (other["image"] == 1).all()


@BOTH
def test_small_tensors_take_no_shared_memory(make: Any) -> None:
    collate = make()

    (batch,) = DataLoader(Numbered(2), batch_size=2, num_workers=1, collate_fn=collate)

    assert not batch["start"].is_shared()
    assert not batch["image"].affine.is_shared()
    assert (collate is dd.collate) == batch["image"].is_shared()
    assert (collate is dd.collate) != lies_in_a_block(batch["image"])


@BOTH
@pytest.mark.parametrize("workers", [0, 1])
def test_types_that_differ_become_the_wider_one(make: Any, workers: int) -> None:
    samples = [
        {"image": torch.full((LARGE,), 0.1, dtype=torch.float32)},
        {"image": torch.full((LARGE,), 0.1, dtype=torch.float64)},
    ]

    (batch,) = DataLoader(samples, batch_size=2, num_workers=workers, collate_fn=make())  # type: ignore[arg-type]

    assert batch["image"].dtype == torch.float64
    assert batch["image"][1, 0] == 0.1


def test_views_of_one_tensor_still_share_it() -> None:
    pool, mappings = BlockPool("views", 1), Mappings("views")
    large, small = torch.from_numpy(pool.lend(LARGE)), torch.zeros(8)

    message = bytes(
        ForkingPickler.dumps(
            Parcel(large=large, tail=large[-8:], small=small, even=small[::2], none=torch.empty(0))
        )
    )
    batch = pickle.loads(message)
    batch["large"][-1], batch["small"][2] = 5, 7

    assert mappings.mapped
    assert batch["tail"][-1] == 5
    assert batch["even"].tolist() == [0, 7, 0, 0]
    assert batch["none"].shape == (0,)


# --- what is kept -------------------------------------------------------------------------------


class Consumer:
    """Does at random what trainings do with batches, and knows what each must be."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - a consumer, not a cipher
        self.kept: list[tuple[Any, torch.Tensor]] = []

    def take(self, batch: dict[str, Any]) -> None:
        """Keep something of a batch, write to something, let something go; then look."""
        image, label = batch["image"], batch["label"]
        kept = self.random.choice(
            [
                [image, label],
                [image[0]],
                [label[:, :, 1:-1]],
                [image.as_tensor().permute(0, 4, 3, 2, 1)],
                [image.as_tensor().float().clone()],
                [torch.utils.dlpack.from_dlpack(image.as_tensor())],
                [sample["image"] for sample in decollate_batch(batch)],
                [label.numpy()[0]],
                [],
            ]
        )
        self.kept += [(each, torch.as_tensor(each).clone()) for each in kept]
        if self.kept and self.random.random() < 0.3:
            each, expected = self.random.choice(self.kept)
            torch.as_tensor(each)[...] = 1
            expected[...] = 1
            # Views of the same batch are written to with it.
            self.kept = [
                (other, torch.as_tensor(other).clone() if _overlap(each, other) else then)
                for other, then in self.kept
            ]
        while len(self.kept) > self.random.randint(0, 8):
            self.kept.pop(self.random.randrange(len(self.kept)))
        self.look()

    def look(self) -> None:
        for each, expected in self.kept:
            assert torch.equal(torch.as_tensor(each), expected)


def _overlap(one: Any, other: Any) -> bool:
    starts = [torch.as_tensor(each).untyped_storage().data_ptr() for each in (one, other)]
    return starts[0] == starts[1]


@pytest.mark.parametrize("blocks", [3, 32])
@pytest.mark.parametrize("seed", [1, 2])
def test_what_a_consumer_keeps_never_changes(blocks: int, seed: int) -> None:
    loader = DataLoader(
        Numbered(50, varied=True),
        batch_size=2,
        num_workers=2,
        collate_fn=dd.SharedCollate(blocks),
        persistent_workers=True,
    )
    consumer = Consumer(seed)

    for _ in range(2):
        for number, batch in enumerate(loader):
            check(batch, [2 * number, 2 * number + 1], varied=True)
            consumer.take(batch)
    del batch, loader

    consumer.look()


@settings(deadline=None, max_examples=60)
@given(
    limit=st.integers(1, 4),
    steps=st.lists(
        st.tuples(st.sampled_from(["send", "receive", "drop", "waste"]), st.integers(0, 7))
    ),
)
def test_a_block_is_lent_only_when_nobody_looks_at_it(
    limit: int, steps: list[tuple[str, int]]
) -> None:
    """A worker and its trainer in one process, in any order of what they do."""
    pool, mappings = BlockPool("any order", limit), Mappings("any order")
    on_the_way: list[tuple[int, bytes]] = []
    held: list[tuple[int, torch.Tensor]] = []

    for number, (step, which) in enumerate(steps):
        if step == "send" and (memory := pool.lend(LARGE + 4096 * which)) is not None:
            memory[:] = number % 251
            message = bytes(ForkingPickler.dumps(Parcel(image=torch.from_numpy(memory))))
            on_the_way.append((number % 251, message))
            del message
        elif step == "receive" and on_the_way:
            filled, message = on_the_way.pop(0)
            held.append((filled, pickle.loads(message)["image"][which:]))
            del message
        elif step == "drop" and held:
            held.pop(which % len(held))
        elif step == "waste":
            pool.lend(LARGE)
        memory = None
        assert all((tensor == filled).all() for filled, tensor in held)
        assert len(pool.blocks) <= limit
        assert len(on_the_way) + len(held) <= limit

    # Whatever happened, all of it can be lent again.
    for _, message in on_the_way:
        pickle.loads(message)
    held.clear()
    lent = [pool.lend(LARGE) for _ in range(limit)]
    assert all(memory is not None for memory in lent)
    assert pool.lend(LARGE) is None
    assert mappings.name == "any order"


# --- memory -------------------------------------------------------------------------------------


def test_one_worker_needs_as_many_blocks_as_are_looked_at() -> None:
    before = blocks_mapped()
    dataset: Any = [{"image": torch.zeros(LARGE)} for _ in range(60)]
    loader: Any = DataLoader(
        dataset,
        num_workers=1,
        prefetch_factor=2,
        collate_fn=dd.SharedCollate(),
    )

    for batch in loader:
        assert lies_in_a_block(batch["image"])
        # Two that are prepared, the one that comes, and the one before it, which `batch` holds.
        assert blocks_mapped() - before <= 4


def test_batches_cause_no_page_faults() -> None:
    pages = 256
    dataset: Any = [{"image": torch.zeros(pages * 1024)} for _ in range(60)]
    loader = DataLoader(
        dataset, num_workers=1, collate_fn=dd.SharedCollate(), persistent_workers=True
    )

    batches: Any = iter(loader)
    (worker,) = batches._workers
    counts = [faults(worker.pid) for _ in batches]

    # PyTorch's own way has one for each page of each batch.
    assert counts[-3] - counts[10] < pages * len(counts[10:-3]) / 4


def faults(process: int) -> int:
    """How often the kernel had to give a process a page (proc(5))."""
    with open(f"/proc/{process}/stat", encoding="utf-8") as file:
        return int(file.read().rsplit(")", 1)[1].split()[7])


def test_a_consumer_that_keeps_everything_gets_the_rest_as_ever() -> None:
    loader = DataLoader(
        Numbered(20), batch_size=2, num_workers=1, collate_fn=dd.SharedCollate(blocks=4)
    )

    kept = list(loader)

    # Image, label and weights of the first batch, and the image of the second.
    assert [lies_in_a_block(batch["image"]) for batch in kept] == [True, True] + [False] * 8
    for number, batch in enumerate(kept):
        check(batch, [2 * number, 2 * number + 1])


def test_memory_goes_back_when_nothing_is_left() -> None:
    gc.collect()
    before = blocks_mapped(), blocks_open()
    loader = DataLoader(Numbered(16), batch_size=2, num_workers=2, collate_fn=dd.SharedCollate())

    mapped = []
    for _ in range(4):
        for batch in loader:
            last = batch["label"][1, 0]
        mapped.append(blocks_mapped())
    del batch, loader
    gc.collect()

    # New workers each time, and those of the epoch before are forgotten.
    assert max(mapped) <= before[0] + 3 * 4 * 2 + 1
    assert blocks_mapped() == before[0] + 1
    assert last.all()
    del last
    assert (blocks_mapped(), blocks_open()) == before


def test_without_memory_to_share_batches_come_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> int:
        raise OSError("no file descriptor is left")

    monkeypatch.setattr(os, "memfd_create", refuse)
    loader = DataLoader(Numbered(4), batch_size=2, num_workers=1, collate_fn=dd.SharedCollate())

    for number, batch in enumerate(loader):
        check(batch, [2 * number, 2 * number + 1])
        assert batch["image"].is_shared()


# --- processes and threads ----------------------------------------------------------------------


def test_two_iterators_of_one_loader_do_not_meet() -> None:
    loader = DataLoader(
        Numbered(16), batch_size=2, num_workers=1, collate_fn=dd.SharedCollate(blocks=4)
    )

    both = list(zip(loader, loader, strict=True))

    for number, pair in enumerate(both):
        for batch in pair:
            check(batch, [2 * number, 2 * number + 1])


def test_an_epoch_that_is_broken_off_costs_no_blocks() -> None:
    loader = DataLoader(
        Numbered(20),
        batch_size=2,
        num_workers=1,
        collate_fn=dd.SharedCollate(blocks=16),
        persistent_workers=True,
    )

    for _ in range(6):
        check(next(iter(loader)), [0, 1])

    assert all(lies_in_a_block(batch["image"]) for batch in loader)


def test_what_a_forked_child_inherits_never_changes() -> None:
    loader = DataLoader(
        Numbered(40), batch_size=2, num_workers=1, collate_fn=dd.SharedCollate(blocks=4)
    )
    batches = iter(loader)
    batch = next(batches)
    assert lies_in_a_block(batch["image"])
    ends = os.pipe()

    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.read(ends[0], 1)  # until the parent is done with all others
            check(batch, [0, 1])
            code = 0
        finally:
            os._exit(code)
    del batch
    for number, other in enumerate(batches, start=1):
        check(other, [2 * number, 2 * number + 1])
    os.write(ends[1], b"x")

    assert os.waitpid(child, 0)[1] == 0
    for end in ends:
        os.close(end)


def test_a_forked_child_gives_nothing_back() -> None:
    loader = DataLoader(
        Numbered(40), batch_size=2, num_workers=1, collate_fn=dd.SharedCollate(blocks=4)
    )
    batches = iter(loader)
    batch = next(batches)

    child = os.fork()
    if child == 0:
        del batch
        gc.collect()
        os._exit(0)
    os.waitpid(child, 0)
    for _ in batches:
        check(batch, [0, 1])


@contextmanager
def no_alarm() -> Iterator[None]:
    """Put aside the handler that raises anywhere, a moment after a worker has died."""
    handler = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGCHLD, handler)


def test_a_worker_that_is_killed_leaves_what_was_received() -> None:
    loader = DataLoader(Numbered(400), batch_size=2, num_workers=1, collate_fn=dd.SharedCollate())
    batches: Any = iter(loader)
    kept = [next(batches), next(batches)]
    (worker,) = batches._workers

    with no_alarm():
        worker.kill()
        worker.join()
    del batches
    again = next(iter(loader))

    for number, batch in enumerate(kept):
        check(batch, [2 * number, 2 * number + 1])
    check(again, [0, 1])


def test_batches_may_be_received_and_dropped_in_another_thread() -> None:
    dataset: Any = Numbered(40)
    loader = ThreadDataLoader(
        dataset, batch_size=2, num_workers=1, collate_fn=dd.SharedCollate(blocks=6)
    )

    for number, batch in enumerate(loader):
        check(batch, [2 * number, 2 * number + 1])


def test_workers_that_are_threads_write_nothing_that_is_kept() -> None:
    dataset: Any = Numbered(20)
    loader = ThreadDataLoader(
        dataset,
        batch_size=2,
        num_workers=1,
        use_thread_workers=True,
        collate_fn=dd.SharedCollate(blocks=6),
    )

    kept = list(loader)

    for number, batch in enumerate(kept):
        check(batch, [2 * number, 2 * number + 1])


# --- what cannot be -----------------------------------------------------------------------------


def test_a_batch_is_unpickled_once() -> None:
    pool, mappings = BlockPool("once", 1), Mappings("once")
    for _ in range(2):
        parcel = Parcel(image=torch.from_numpy(pool.lend(LARGE)))
        message = bytes(ForkingPickler.dumps(parcel))
        if not mappings.mapped:
            pickle.loads(message)
            del parcel

    first = pickle.loads(message)

    with pytest.raises(DicomDataError, match="unpickled twice"):
        pickle.loads(message)
    assert (first["image"] == parcel["image"]).all()


def test_a_batch_that_was_sent_is_sent_again_as_a_copy() -> None:
    pool, mappings = BlockPool("again", 1), Mappings("again")
    parcel = Parcel(image=torch.from_numpy(pool.lend(LARGE)).fill_(3))

    one, other = (pickle.loads(bytes(ForkingPickler.dumps(parcel))) for _ in range(2))
    one["image"].fill_(4)

    assert mappings.mapped
    assert (other["image"] == 3).all()


def test_who_cannot_find_a_block_again_takes_it_out_of_use() -> None:
    pool = BlockPool("nobody's", 1)

    def send_one(value: int) -> Any:
        memory = torch.from_numpy(pool.lend(LARGE)).fill_(value)
        return pickle.loads(bytes(ForkingPickler.dumps(Parcel(image=memory))))["image"]

    kept = [send_one(value) for value in range(5)]

    assert [int(each[0]) for each in kept] == [0, 1, 2, 3, 4]


def test_what_outlives_its_loader_is_not_written_to_again() -> None:
    pool, mappings = BlockPool("outlived", 1), Mappings("outlived")
    parcel = Parcel(image=torch.from_numpy(pool.lend(LARGE)).fill_(3))
    batch = pickle.loads(bytes(ForkingPickler.dumps(parcel)))
    (block,) = pool.blocks

    del mappings, parcel
    other = pool.lend(LARGE)

    assert other is not None
    assert block not in pool.blocks
    assert (batch["image"] == 3).all()


def test_a_parcel_is_copied_as_a_dict() -> None:
    pool = BlockPool("copied", 1)
    parcel = Parcel(image=torch.from_numpy(pool.lend(LARGE)).fill_(3), name=["a"])

    deep, shallow = copy.deepcopy(parcel), copy.copy(parcel)
    parcel["image"].fill_(4)

    assert deep == {"image": deep["image"], "name": ["a"]}
    assert (deep["image"] == 3).all()
    assert (shallow["image"] == 4).all()


def test_a_collate_without_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="blocks=0"):
        dd.SharedCollate(0)

    assert repr(dd.SharedCollate(5)) == "SharedCollate(blocks=5)"
    assert pickle.loads(pickle.dumps(dd.SharedCollate(5))).blocks == 5
