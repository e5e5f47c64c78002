"""The order of an epoch and the randomness of its samples: from seed, epoch and index alone."""

from __future__ import annotations

import itertools
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.transforms import Compose, RandGaussianNoised, RandSpatialCropd
from monai.utils import set_determinism
from torch.utils.data import DataLoader

import dicomdata as dd
from dicomdata.dataset import SampleIndex
from dicomdata.testing.phantoms import phantom_uid, write_series

if TYPE_CHECKING:
    from collections.abc import Callable

    Planned = Callable[..., dd.StackPlan]


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory, planned: Planned) -> tuple[dd.Stack, ...]:
    """Seven volumes."""
    root = tmp_path_factory.mktemp("archive")
    for number in range(7):
        write_series(root / str(number), extra={"SeriesInstanceUID": phantom_uid(str(number))})
    return planned(root).stacks


def random_dataset(stacks: tuple[dd.Stack, ...]) -> dd.VolumeDataset:
    transform = Compose(
        [RandSpatialCropd("image", (2, 2, 2), random_size=False), RandGaussianNoised("image", 1.0),
         Jitter()]
    )  # fmt: skip
    return dd.VolumeDataset(stacks, transform)


class Jitter:
    """Draws from the global states, as transforms of anybody's may."""

    def __call__(self, sample: dict[str, Any]) -> dict[str, Any]:
        noise = torch.rand(1).item() + np.random.rand()  # noqa: NPY002
        return {"image": sample["image"] + noise, "stack": sample["stack"]}


def epoch_of(loader: DataLoader[Any], sampler: dd.EpochSampler) -> dict[str, bytes]:
    """What each stack's sample is, to the bit."""
    return {
        name: image.numpy().tobytes()
        for batch in sampler.counted(loader)
        for name, image in zip(batch["stack"], batch["image"], strict=True)
    }


# --- order ----------------------------------------------------------------------------------------


@given(count=st.integers(0, 30), replicas=st.integers(1, 5), epoch=st.integers(0, 3))
def test_ranks_share_an_epoch(count: int, replicas: int, epoch: int) -> None:
    shares: dict[str, list[list[int]]] = {}
    for tail in ("repeat", "drop", "uneven"):
        samplers = [
            dd.EpochSampler(range(count), seed=3, replicas=replicas, rank=rank, tail=tail)
            for rank in range(replicas)
        ]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        shares[tail] = [[int(index) for index in sampler] for sampler in samplers]
        assert [len(share) for share in shares[tail]] == [len(sampler) for sampler in samplers]

    assert sorted(itertools.chain(*shares["uneven"])) == list(range(count))
    assert set(itertools.chain(*shares["repeat"])) == set(range(count))
    assert len({len(share) for share in shares["repeat"]}) == 1
    assert len(set(itertools.chain(*shares["drop"]))) == count - count % replicas
    assert len({len(share) for share in shares["drop"]}) == 1


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        sampler = dd.EpochSampler(range(50), seed=seed)
        sampler.set_epoch(epoch)
        return [int(index) for index in sampler]

    assert order(1, 0) == order(1, 0)
    assert len({tuple(order(seed, epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4


def test_a_rank_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(dd.ConfigError, match="rank 2 of 2"):
        dd.EpochSampler(range(4), replicas=2, rank=2)
    with pytest.raises(dd.ConfigError, match="tail='pad'"):
        dd.EpochSampler(range(4), tail="pad")  # type: ignore[arg-type]


def test_an_index_pickles_with_its_seed_and_epoch() -> None:
    index = SampleIndex(4, seed=7, epoch=2)

    copy = pickle.loads(pickle.dumps(index))

    assert (copy, copy.seed, copy.epoch, copy.entropy) == (4, 7, 2, index.entropy)


# --- samples --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"num_workers": 1},
        {"num_workers": 2, "multiprocessing_context": "fork"},
        {"num_workers": 1, "multiprocessing_context": "spawn", "persistent_workers": True},
        {"num_workers": 2, "multiprocessing_context": "forkserver", "persistent_workers": True},
    ],
    ids=["one-worker", "fork", "spawn-persistent", "forkserver-persistent"],
)
def test_samples_do_not_depend_on_workers(
    stacks: tuple[dd.Stack, ...], options: dict[str, Any]
) -> None:
    dataset = random_dataset(stacks)

    def two_epochs(**options: Any) -> list[dict[str, bytes]]:
        sampler = dd.EpochSampler(dataset, seed=5)
        loader = DataLoader(
            dataset, batch_size=2, sampler=sampler, collate_fn=dd.collate, **options
        )
        return [epoch_of(loader, sampler) for _ in range(2)]

    first, second = two_epochs()

    assert first.keys() == second.keys() == {stack.id for stack in stacks}
    assert all(first[name] != second[name] for name in first)
    assert two_epochs(**options) == [first, second]


def test_samples_do_not_depend_on_ranks(stacks: tuple[dd.Stack, ...]) -> None:
    dataset = random_dataset(stacks)

    def epoch(**ranks: Any) -> dict[str, bytes]:
        sampler = dd.EpochSampler(dataset, seed=5, tail="uneven", **ranks)
        return epoch_of(DataLoader(dataset, 2, sampler=sampler, collate_fn=dd.collate), sampler)

    one = epoch(replicas=2, rank=0)
    other = epoch(replicas=2, rank=1)

    assert one.keys().isdisjoint(other)
    assert {**one, **other} == epoch()


def test_the_trainer_keeps_its_own_randomness(stacks: tuple[dd.Stack, ...]) -> None:
    dataset = random_dataset(stacks)
    torch.manual_seed(1)
    expected = torch.rand(3)

    torch.manual_seed(1)
    dataset[SampleIndex(0, seed=9, epoch=0)]

    assert torch.equal(torch.rand(3), expected)


def test_a_transform_draws_on_from_the_state_it_was_given(stacks: tuple[dd.Stack, ...]) -> None:
    transform = Compose([RandGaussianNoised("image", 1.0)])
    dataset = dd.VolumeDataset(stacks[:1], transform)

    def two_samples() -> list[bytes]:
        transform.set_random_state(7)
        return [dataset[0]["image"].numpy().tobytes() for _ in range(2)]

    first, second = two_samples()

    assert first != second
    assert two_samples() == [first, second]


def test_samples_differ_also_where_monai_was_given_a_seed(stacks: tuple[dd.Stack, ...]) -> None:
    set_determinism(7)
    try:
        dataset = dd.VolumeDataset(stacks[:1], Compose([RandGaussianNoised("image", 1.0)]))

        first, second = (dataset[0]["image"] for _ in range(2))
    finally:
        set_determinism(None)

    assert not torch.equal(first, second)


# --- resuming -------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_a_run_goes_on_with_the_next_batch(
    stacks: tuple[dd.Stack, ...], taken: int, workers: int
) -> None:
    dataset = random_dataset(stacks)

    def run(sampler: dd.EpochSampler, epochs: int) -> Any:
        loader = DataLoader(dataset, 2, num_workers=workers, sampler=sampler, collate_fn=dd.collate)
        for epoch in range(sampler.epoch, epochs):
            sampler.set_epoch(epoch)
            yield from sampler.counted(loader)

    whole = [batch["image"].numpy().tobytes() for batch in run(dd.EpochSampler(dataset), 2)]
    killed = dd.EpochSampler(dataset)
    batches = run(killed, 2)
    for _ in range(taken):
        next(batches)
    state = killed.state_dict()
    batches.close()

    resumed = dd.EpochSampler(dataset)
    resumed.load_state_dict(state)
    rest = [batch["image"].numpy().tobytes() for batch in run(resumed, 2)]

    assert rest == whole[taken:]


def test_another_seed_is_not_resumed() -> None:
    state = dd.EpochSampler(range(4), seed=1).state_dict()

    with pytest.raises(dd.ConfigError, match="seed 1"):
        dd.EpochSampler(range(4), seed=2).load_state_dict(state)
