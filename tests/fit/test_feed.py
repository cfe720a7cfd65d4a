"""Data that do not fit on the device: streamed there in chunks, they give the same fit."""

import weakref

import pytest
import torch

from pyrovae import PPCA, VAE, Bernoulli, Execution, fit
from pyrovae.data import Observations
from pyrovae.engine.processes import ProcessGroup
from pyrovae.fit.feed import InMemory, Streamed, open_feed

D, N, BATCH = 6, 53, 8
ROW = 4 * D  # bytes of a datum


@pytest.fixture
def grey():
    generator = torch.Generator().manual_seed(0)
    return Observations(torch.rand(N, D, generator=generator), labels=torch.arange(N) % 3, resample=True)


def vae(**options):
    torch.manual_seed(1)
    return VAE(2, D, Bernoulli(), hidden=(5,), **options)


def fitted(model, data, **how):
    options = {"num_epochs": 3, "batch_size": BATCH, "lr": 0.01, "seed": 2, "warm_start": True, "progress": False}
    result = fit.svi(model, data, **options, execution=Execution(**how))
    return torch.cat([each.flatten() for each in result.model.parameters()]), result


@pytest.mark.parametrize("how", [{}, {"compile": "graph"}, {"num_shards": 2}])
@pytest.mark.parametrize("num_classes", [None, 3])
@pytest.mark.parametrize("batches", [1, 2, 3])  # in a chunk: 7, 4 and 3 chunks, the last of 5 data
def test_a_streamed_fit_is_that_in_memory_to_the_bit(grey, how, num_classes, batches):
    model, before = vae(num_classes=num_classes), grey.x.clone()
    size = ROW + (8 if num_classes else 0)
    whole, _ = fitted(model, grey, **how)
    streamed, result = fitted(model, grey, memory_budget=2 * batches * BATCH * size, **how)
    assert (whole == streamed).all()
    assert len(result.trace) == 3
    assert (grey.x == before).all()


def test_every_datum_is_seen_once_an_epoch_and_beside_its_label():
    x = torch.arange(float(N))[:, None].expand(N, D).clone()
    labels = torch.arange(N) % 3
    torch.manual_seed(0)
    streamed = Streamed(VAE(2, D, num_classes=3), Observations(x, labels=labels), 16)
    seen = []
    for _ in range(2):
        epoch = []
        for index in streamed.batches(BATCH):
            rows = streamed.observations.draw(index)[:, 0].long()
            assert (streamed.given[0][index] == labels[rows]).all()
            epoch.append(rows)
        seen.append(torch.cat(epoch))
        assert [len(each) for each in epoch] == [8] * 6 + [5]
        assert (seen[-1].sort().values == torch.arange(N)).all()
    assert (seen[0] != seen[1]).any()


def test_memory_on_the_device_is_that_of_a_chunk(grey):
    source = open_feed(vae(), grey, BATCH, 6 * BATCH * ROW + 1)
    assert isinstance(source, Streamed)
    assert source.observations.x.shape == (3 * BATCH, D)
    assert source.observations.x.untyped_storage().nbytes() == 3 * BATCH * ROW
    assert isinstance(open_feed(vae(), grey, BATCH, N * ROW), InMemory)
    assert isinstance(open_feed(vae(), grey, BATCH), InMemory)


def test_a_mapped_file_of_another_type_is_streamed(tmp_path):
    """Of the model's type it is on the device alone."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, D, generator=generator)
    x.numpy().tofile(tmp_path / "x.bin")
    mapped = torch.from_file(str(tmp_path / "x.bin"), size=N * D).reshape(N, D)
    model = PPCA(2, D)  # in float64
    budget = 4 * BATCH * D * 8
    source = open_feed(model, Observations(mapped), BATCH, budget)
    assert source.observations.x.dtype == torch.float64
    assert source.start().shape == (2 * BATCH, D)
    result = fit.svi(
        model, mapped, num_epochs=2, batch_size=BATCH, execution=Execution(memory_budget=4 * BATCH * D * 8)
    )
    assert result.trace.isfinite().all()


def test_data_beyond_the_first_chunk_are_checked(grey):
    x = grey.x.clone().round()
    x[-1, 0] = 0.5
    with pytest.raises(ValueError, match="`data` must hold only 0 and 1"):
        fit.svi(vae(), x, batch_size=BATCH, execution=Execution(memory_budget=2 * BATCH * ROW))


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (
            2 * BATCH * ROW - 1,
            f"`memory_budget` must be at least the {2 * BATCH * ROW} bytes of two batches",
        ),
        (0, "`memory_budget` must be a whole number of at least 1, or None, got 0."),
        (1e9, "`memory_budget` must be a whole number of at least 1, or None, got 1000000000.0."),
    ],
)
def test_a_budget_that_cannot_be_kept_is_refused(grey, budget, message):
    with pytest.raises(ValueError, match=message):
        fit.svi(vae(), grey, batch_size=BATCH, execution=Execution(memory_budget=budget))


def test_what_cannot_be_gathered_ends_the_fit(grey, monkeypatch):
    """An error in the thread, of a disk say, is not lost."""

    def fails(self, chunk, slot):
        raise OSError("the disk is gone")

    monkeypatch.setattr(Streamed, "_gather", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        fitted(vae(), grey, memory_budget=2 * BATCH * ROW)


def test_no_more_than_the_budget_is_on_the_device_at_any_time(monkeypatch):
    """For a model in float64 and data in float32, so that what is on the "device" is known by its type."""
    live, most = [], [0]
    empty = torch.Tensor.to

    def counted(self, *args, **kwargs):
        moved = empty(self, *args, **kwargs)
        if moved.dtype == torch.float64 and moved is not self and moved.ndim == 2:
            live.append(weakref.ref(moved))
            most[0] = max(most[0], sum(each().nbytes for each in live if each() is not None))
        return moved

    x, budget = torch.randn(N, D), 2 * BATCH * D * 8
    monkeypatch.setattr(torch.Tensor, "to", counted)
    source = open_feed(PPCA(2, D), Observations(x), BATCH, budget)
    source.start()
    assert 0 < most[0] <= budget // 2  # beside the chunk that stays
    assert source.observations.x.nbytes == budget // 2


def test_processes_stream_together_or_not_at_all(grey):
    """Where the memory of one is short, as that of another's GPU may be."""

    class Short(ProcessGroup):
        def gathered(self, value):
            return [value, True]

    assert isinstance(open_feed(vae(), grey, BATCH, None, Short()), Streamed)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_chunks_come_through_pinned_memory(grey):
    model = vae().cuda()
    streamed = Streamed(model, grey.fixed(), 16)
    assert all(each.is_pinned() for slot in streamed._staged for each in slot)
    seen = torch.cat([streamed.observations.draw(index) for index in streamed.batches(BATCH)])
    assert (seen.sum(0).cpu() == grey.fixed().x.sum(0)).all()
    result = fit.svi(model, grey, num_epochs=2, batch_size=BATCH, execution=Execution(memory_budget=4 * BATCH * ROW))
    assert result.trace.isfinite().all()
