"""The one way in which the tests compare two labellings."""

import numpy as np


def assert_same_objects(one, other, iou: float = 1.0) -> None:
    """Objects correspond one-to-one, each pair with at least this IoU; ids may differ."""
    one, other = np.asarray(one).astype(np.int64), np.asarray(other).astype(np.int64)
    assert one.shape == other.shape
    sizes_one, sizes_other = np.bincount(one.ravel()), np.bincount(other.ravel())
    assert np.count_nonzero(sizes_one[1:]) == np.count_nonzero(sizes_other[1:])
    both = (one > 0) & (other > 0)
    pairs, common = np.unique(np.stack([one[both], other[both]]), axis=1, return_counts=True)
    agree = common / (sizes_one[pairs[0]] + sizes_other[pairs[1]] - common) >= iou
    assert len(np.unique(pairs[0][agree])) == np.count_nonzero(sizes_one[1:])
    assert len(np.unique(pairs[1][agree])) == np.count_nonzero(sizes_other[1:])
