"""`upload`: int16 on the way, float32 on the device, and the same bits as without it."""

from __future__ import annotations

from collections import namedtuple
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from monai.data import decollate_batch, set_track_meta
from monai.data.meta_tensor import MetaTensor
from monai.transforms import Compose, RandFlipd, ScaleIntensityRange
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

import dicomdata as dd
from dicomdata.errors import ConfigError
from dicomdata.rescale import Rescale, Window
from dicomdata.testing.phantoms import write_series

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Planned = Callable[..., dd.StackPlan]

ALL = np.arange(-(2**15), 2**15).astype(np.int16)
"""Every value that int16 has."""

WINDOW = (-160.0, 240.0)

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

Pair = namedtuple("Pair", ["left", "right"])  # noqa: PYI024 - what a user's own collate may give


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Use one thread for small tensors: more of them wait for each other on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> tuple[dd.Stack, ...]:
    """Two CT volumes of one shape, each with an intercept of its own."""
    root = tmp_path_factory.mktemp("archive")
    for number in range(2):
        write_series(
            root / str(number), seed=str(number), shape=(5, 8, 6), intercept=-1000 + number
        )
    return planned(root).stacks


def classes_of(stack: dd.Stack) -> Any:
    """Label every second slice."""
    return np.arange(np.prod(stack.shape)).reshape(stack.shape) % 3


def in_memory_order(shape: tuple[int, ...] = (1, 6, 5, 4)) -> torch.Tensor:
    """Count voxels (C, X, Y, Z) in the order in which ours lie: slices, rows, columns."""
    count = int(np.prod(shape))
    lying = torch.arange(count, dtype=torch.int16).reshape(shape[0], *shape[:0:-1])
    return lying.permute(0, 3, 2, 1)


def bits(tensor: torch.Tensor) -> bytes:
    """Give float32 as bytes, which tell 0 from -0."""
    return tensor.as_subclass(torch.Tensor).cpu().contiguous().numpy().tobytes()


def assert_same(one: Any, other: Any) -> None:
    """Compare two batches, metadata and types included."""
    assert type(one) is type(other)
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, list):
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    elif isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype
        assert one.stride() == other.stride()
        assert bits(one) == bits(other)
        if isinstance(one, MetaTensor):
            assert_same(one.meta, other.meta)
            assert one.is_batch == other.is_batch
            assert one.spatial_ndim == other.spatial_ndim
            assert one.applied_operations == other.applied_operations
    else:
        assert one == other


# --- the same bits --------------------------------------------------------------------------------


ENDS = st.one_of(
    st.integers(-40_000, 40_000).map(float),
    st.floats(-40_000, 40_000),
    st.floats(-(2.0**127), 2.0**127),
)


@given(low=ENDS, high=ENDS)
@example(-160.0, 240.0)
@example(-1000.0, 400.0)
@example(-32768.0, 32767.0)
@example(0.1, 0.3)
@example(1e-8, 1e38)  # the output 0 lies just below: a quotient that is -0 before it is clipped
@example(-0.0, 3.0)
@example(16777217.0, 16777219.0)  # ends that float32 rounds
def test_every_int16_becomes_what_the_processor_makes_of_it(low: float, high: float) -> None:
    with np.errstate(over="ignore"):
        assume(0 < np.float32(high - low) < np.inf)
    expected = np.empty(ALL.shape, np.float32)
    Rescale().into_window(ALL, expected, Window(low, high))
    applied = ALL.astype(np.float32)
    Window(low, high).apply(applied)

    shown = dd.upload(torch.from_numpy(ALL), "cpu", window=(low, high))

    # NumPy lets a quotient of -0 through, of a number just below the window: + 0 makes it 0.
    assert bits(shown) == (expected + np.float32(0)).tobytes()
    assert bits(shown) == (applied + np.float32(0)).tobytes()


def test_a_window_is_that_of_monai() -> None:
    scale = ScaleIntensityRange(*WINDOW, 0.0, 1.0, clip=True)

    shown = dd.upload(torch.from_numpy(ALL), "cpu", window=WINDOW)

    # MONAI's own quotient is clipped after the division, and its zeros may have a sign.
    assert torch.equal(shown, torch.as_tensor(scale(torch.from_numpy(ALL).float())))


@pytest.mark.parametrize("window", [(-160, 240), (-1000, 400), (-1000.5, 399.25), (0.1, 0.7)])
def test_a_batch_is_what_the_dataset_makes_with_that_window(
    window: tuple[float, float], stacks: tuple[dd.Stack, ...]
) -> None:
    expected = dd.collate([*dd.VolumeDataset(stacks, window=window, labels=classes_of)])

    batch = dd.collate([*dd.VolumeDataset(stacks, dtype=np.int16, labels=classes_of)])
    shown = dd.upload(batch, "cpu", window=window)

    assert batch["image"].dtype == torch.int16
    assert shown["unit"] == ["window", "window"]
    assert_same(shown, expected)


def test_without_a_window_a_batch_is_what_a_float32_dataset_makes(
    stacks: tuple[dd.Stack, ...],
) -> None:
    expected = dd.collate([*dd.VolumeDataset(stacks, labels=classes_of)])

    batch = dd.collate([*dd.VolumeDataset(stacks, dtype=np.int16, labels=classes_of)])

    assert_same(dd.upload(batch, "cpu"), expected)


@pytest.mark.parametrize("collate", [dd.collate, dd.SharedCollate()], ids=["plain", "shared"])
def test_batches_of_workers_are_uploaded_like_any_other(
    collate: Any, stacks: tuple[dd.Stack, ...]
) -> None:
    flips = Compose([RandFlipd("image", prob=0.5, spatial_axis=0)])
    parts = [
        dd.PatchDataset(stacks, (2, 4, 4), transform=flips, per_visit=2, **options)
        for options in ({"dtype": np.int16}, {"window": WINDOW})
    ]
    loaders = [
        DataLoader(part, sampler=dd.EpochSampler(part, seed=3), num_workers=1, collate_fn=collate)
        for part in parts
    ]

    pairs = [
        (dd.upload(batch, "cpu", window=WINDOW), expected)
        for batch, expected in zip(*loaders, strict=True)
    ]

    assert len(pairs) == 2
    for shown, expected in pairs:
        assert_same(shown, expected)


# --- what is touched, and what is not -------------------------------------------------------------


def test_an_uploaded_batch_is_taken_apart_by_monai(stacks: tuple[dd.Stack, ...]) -> None:
    batch = dd.collate([*dd.VolumeDataset(stacks, dtype=np.int16)])

    parts = decollate_batch(dd.upload(batch, "cpu", window=WINDOW))

    assert [part["image"].meta["filename_or_obj"] for part in parts] == [
        stack.token for stack in stacks
    ]
    assert [part["image"].meta["unit"] for part in parts] == ["window", "window"]


def test_the_batch_itself_stays_as_it_was(stacks: tuple[dd.Stack, ...]) -> None:
    batch, again = (dd.collate([*dd.VolumeDataset(stacks, dtype=np.int16)]) for _ in range(2))

    shown = dd.upload(batch, "cpu", window=WINDOW)
    shown["image"].meta["unit"] = "changed"
    shown["image"].zero_()

    assert_same(batch, again)


def test_only_images_become_float32() -> None:
    batch = {
        "image": in_memory_order(),
        "label": in_memory_order(),
        "channels": torch.ones(2, 3, dtype=torch.uint8),
        "start": torch.tensor([[1, 2, 3]]),
        "weight": torch.tensor([0.5], dtype=torch.float64),
        "names": ["a", "b"],
        "nested": [{"image": in_memory_order()}, Pair(torch.ones(1, dtype=torch.int16), None)],
    }

    sent = dd.upload(batch, "cpu", window=(0, 10))

    assert sent["image"].dtype == sent["nested"][0]["image"].dtype == torch.float32
    assert sent["label"].dtype == sent["nested"][1].left.dtype == torch.int16
    assert sent["channels"].dtype == torch.uint8
    assert sent["start"].dtype == torch.int64
    assert sent["weight"].dtype == torch.float64
    assert sent["names"] == ["a", "b"]
    assert sent["nested"][1].right is None


def test_images_may_have_other_names() -> None:
    batch = {"ct": in_memory_order(), "mr": in_memory_order(), "image": in_memory_order()}

    sent = dd.upload(batch, "cpu", window=(0, 10), image=("ct", "mr"))

    assert [sent[key].dtype for key in batch] == [torch.float32, torch.float32, torch.int16]


def test_a_float_image_is_sent_as_it_is() -> None:
    image = torch.full((1, 2, 2, 2), -7.25)

    assert torch.equal(dd.upload({"image": image}, "cpu")["image"], image)


def test_without_tracking_an_image_is_a_plain_tensor() -> None:
    batch = {"image": MetaTensor(in_memory_order())}
    set_track_meta(False)
    try:
        sent = dd.upload(batch, "cpu", window=(0, 10))
    finally:
        set_track_meta(True)

    assert type(sent["image"]) is torch.Tensor


@pytest.mark.parametrize(
    ("batch", "window", "message"),
    [
        (
            {"image": torch.zeros(1)},
            (0, 1),
            "'image' is float32, and a window is taken",
        ),
        ({"image": torch.zeros(1, dtype=torch.uint8)}, (0, 1), "'image' is uint8"),
        (torch.zeros(1), (0, 1), "the batch is float32"),
        ({"ct": torch.zeros(1)}, (0, 1), "no image named 'image'; it has 'ct'"),
        ([torch.zeros(1, dtype=torch.int16)], (0, 1), "no image named 'image'; it has a list"),
        ({"image": torch.zeros(1, dtype=torch.int16)}, (1, 1), "from low to high"),
        ({"image": torch.zeros(1, dtype=torch.int16)}, (0, float("nan")), "from low to high"),
    ],
)
def test_a_window_that_would_be_taken_of_nothing_is_refused(
    batch: Any, window: tuple[float, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        dd.upload(batch, "cpu", window=window)


# --- what goes over the bus -----------------------------------------------------------------------


class Copies(TorchFunctionMode):
    """Writes down what was copied to a device, and whether that may go on afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[torch.dtype, bool]] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.Tensor.to and isinstance(args[1], torch.device):
            self.seen.append((args[0].dtype, (kwargs or {})["non_blocking"]))
        return func(*args, **(kwargs or {}))


class Pinned(torch.Tensor):
    """Says that it lies in page-locked memory, as tensors can where there is a GPU."""

    def is_pinned(self, _device: Any = None) -> bool:
        return True


def test_an_image_goes_as_int16_and_ordinary_memory_is_not_left_in_flight() -> None:
    batch = {"image": in_memory_order(), "label": in_memory_order().as_subclass(Pinned)}

    with Copies() as copies:
        dd.upload(batch, "cpu", window=(0, 10))

    assert copies.seen == [(torch.int16, False), (torch.int16, True)]


@pytest.mark.parametrize(("device", "window"), [("cpu", None), ("cpu", (0, 10)), ("meta", None)])
def test_axes_lie_in_memory_as_they_did(device: str, window: tuple[int, int] | None) -> None:
    samples = [{"image": in_memory_order(), "label": in_memory_order()} for _ in range(2)]
    batch = dd.collate(samples)

    sent = dd.upload(batch, device, window=window)

    assert batch["image"].stride() == (120, 120, 1, 6, 30)
    assert sent["image"].stride() == sent["label"].stride() == batch["image"].stride()


# --- on a GPU -------------------------------------------------------------------------------------


@GPU
@given(low=ENDS, high=ENDS)
@example(-160.0, 240.0)
@example(0.1, 0.3)
@example(-1000.0, 401.0)  # division by 1401: its reciprocal is rounded
def test_a_gpu_gives_the_bits_of_the_processor(low: float, high: float) -> None:
    with np.errstate(over="ignore"):
        assume(0 < np.float32(high - low) < np.inf)
    voxels = torch.from_numpy(ALL)

    there = dd.upload(voxels, "cuda", window=(low, high))

    assert there.device.type == "cuda"
    assert bits(there) == bits(dd.upload(voxels, "cpu", window=(low, high)))


@GPU
@pytest.mark.parametrize("pinned", [False, True])
def test_batches_of_workers_arrive_whole_on_a_gpu(
    pinned: bool, tmp_path: Path, planned: Planned
) -> None:
    # Large enough for blocks of shared memory, which are used again while copies are in flight.
    for number in range(12):
        write_series(tmp_path / str(number), seed=str(number), shape=(16, 96, 96))
    found = planned(tmp_path).stacks
    dataset = dd.VolumeDataset(found, dtype=np.int16, labels=classes_of)
    loader = DataLoader(
        dataset, num_workers=2, pin_memory=pinned, collate_fn=dd.SharedCollate(blocks=2)
    )

    there = []
    for batch in loader:
        assert batch["image"].is_pinned() == pinned
        there.append(dd.upload(batch, "cuda", window=WINDOW))
        del batch

    for index, sent in enumerate(there):
        expected = dd.upload(dd.collate([dataset[index]]), "cpu", window=WINDOW)
        assert sent["image"].stride() == expected["image"].stride()
        assert bits(sent["image"]) == bits(expected["image"])
        assert torch.equal(sent["label"].cpu(), expected["label"])
