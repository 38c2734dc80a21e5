"""Several data sets as one."""

from dataclasses import replace

import numpy as np
import pytest

from dreamrun.data.atomic import write_json
from dreamrun.data.dataset import ClipDataset
from dreamrun.data.metadata import METADATA_FILE
from dreamrun.data.mixture import Mixture

CLIP, STRIDE, BATCH = 4, 2, 4


@pytest.fixture
def folders(tmp_path, write_set, make_record, tiny_metadata):
    """Three data sets of 26, 13 and 39 clips; the second has a caption."""
    paths = []
    for number, num_records in enumerate((2, 1, 3)):
        records = [make_record(28, seed=10 * number + n) for n in range(num_records)]
        paths.append(write_set(tmp_path / f"set{number}", records))
    write_json(paths[1] / METADATA_FILE, replace(tiny_metadata, caption="the second").to_dict())
    return paths


def mixture(folders, rank=0, world_size=1, seed=0, **options):
    sets = [ClipDataset(folder, "train", CLIP, STRIDE, seed + n, rank, world_size) for n, folder in enumerate(folders)]
    slices = [slice(5 * n, 5 * n + 5) for n in range(len(sets))]
    return Mixture(sets, slices, **options)


def clips(batches):
    return [
        (batch.number, *map(int, clip), batch.frames[row].numpy().tobytes(), batch.actions[row].numpy().tobytes())
        for batch in batches
        for row, clip in enumerate(zip(batch.record_ids, batch.starts, batch.seeds, strict=True))
    ]


def test_one_set_gives_what_it_gives_alone(folders):
    alone = ClipDataset(folders[0], "train", CLIP, STRIDE)
    one = Mixture([alone])
    assert one.order_fingerprint(BATCH) == alone.order_fingerprint(BATCH) and one.num_clips == alone.num_clips
    for skip in (0, 2):
        assert clips(one.batches(BATCH, 1, skip)) == clips(alone.batches(BATCH, 1, skip))


def test_an_epoch_has_every_clip_once_and_each_batch_one_set(folders):
    three = mixture(folders)
    assert three.num_clips == 26 + 13 + 39 and three.num_batches(BATCH) == 6 + 3 + 9
    batches = list(three.batches(BATCH))
    seen = [(batch.number, *clip) for batch in batches for clip in zip(batch.record_ids, batch.starts, strict=True)]
    assert len(batches) == 18 and len(set(seen)) == len(seen) == 72
    assert np.bincount([batch.number for batch in batches]).tolist() == [6, 3, 9]
    for batch in batches:  # the rest of the vector is zero
        outside = np.delete(batch.actions.numpy(), np.r_[5 * batch.number : 5 * batch.number + 5], axis=-1)
        assert batch.actions.shape[-1] == 15 and not outside.any() and batch.actions.any()
        assert set(batch.captions) == {"the second" if batch.number == 1 else ""}
    assert len({int(seed) for batch in batches for seed in batch.seeds}) == 72  # sets differ in their noise
    assert clips(batches) == clips(three.batches(BATCH)) and clips(batches) != clips(
        mixture(folders, seed=5).batches(BATCH)
    )
    assert three.schedule(BATCH, 0).tolist() != three.schedule(BATCH, 1).tolist()


@pytest.mark.parametrize("shares", [None, (1, 2, 1), (1, 5, 0.5)])
@pytest.mark.parametrize("skip", [1, 7, 17])
def test_an_epoch_can_be_continued_anywhere(folders, shares, skip):
    for epoch in (0, 2):
        whole = list(mixture(folders, shares=shares).batches(BATCH, epoch))
        assert clips(mixture(folders, shares=shares).batches(BATCH, epoch, skip)) == clips(whole[skip:])


def test_ranks_share_each_batch_and_see_each_clip_once(folders):
    whole = list(mixture(folders).batches(BATCH))
    parts = [list(mixture(folders, rank, 2).batches(BATCH)) for rank in range(2)]
    for batch, *of_ranks in zip(whole, *parts, strict=True):
        assert {batch.number} == {part.number for part in of_ranks}
        assert sorted(clips([batch])) == sorted(clips(of_ranks))


def test_shares_say_how_often_a_set_comes(folders):
    shared = mixture(folders, shares=(1, 2, 1))
    counts = np.bincount(shared.schedule(BATCH, 0))
    assert counts.tolist() == [4, 9, 4]  # rounded halves
    seen = [clip for epoch in (0, 1) for clip in clips(shared.batches(BATCH, epoch)) if clip[0] == 1]
    # The second set has 3 batches: it begins again and again, each time in another order and with other noise.
    assert len(seen) == 2 * 9 * BATCH and len(set(seen)) == len(seen)
    times = [seen[n : n + 3 * BATCH] for n in range(0, len(seen), 3 * BATCH)]
    assert all(len({clip[1:3] for clip in part}) == 3 * BATCH for part in times)
    assert shared.order_fingerprint(BATCH) != mixture(folders).order_fingerprint(BATCH)


def test_a_set_smaller_than_a_batch_is_named(folders):
    with pytest.raises(ValueError, match=r"batch_size 16 is more than the 13 clips of .*set1"):
        mixture(folders).num_batches(16)
