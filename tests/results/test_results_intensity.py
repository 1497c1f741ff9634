"""Mean, spread and percentiles of many objects at once: numpy's numbers, in whatever order and company."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from cytoseed.results.measure.intensity import STATISTICS, measure_values

TYPES = [bool, np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]
TYPES += [np.float16, np.float32, np.float64, np.longdouble]
EXTREMES = st.sampled_from(TYPES[:-1]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        st.integers(1, 30),
        elements=None if np.dtype(dtype).kind != "f" else {"allow_nan": False, "allow_infinity": False},
    )
)


def by_numpy(values: NDArray[Any], area: NDArray[np.int64]) -> NDArray[np.float64]:
    """One object after the other."""
    found = np.empty((len(STATISTICS), len(area)))
    for index, own in enumerate(np.split(values.astype(np.float64), np.cumsum(area)[:-1])):
        found[:, index] = own.mean(), own.std(), *np.percentile(own, [5, 25, 50, 75, 95])
    return found


@pytest.mark.parametrize("dtype", TYPES)
def test_many_objects_of_every_size(dtype: Any) -> None:
    rng = np.random.default_rng(7)
    area = np.append(rng.geometric(1 / 30, 3000), [1, 2, 70_000, 1, 3])  # one larger than what is done in one go
    values = rng.normal(size=area.sum()) * 40
    values = values > 0 if dtype is bool else np.abs(values).astype(dtype) if np.dtype(dtype).kind == "u" else values
    values = values.astype(dtype)
    found = measure_values(values, area)
    assert (found.shape, found.dtype) == ((7, len(area)), np.float64)
    known = by_numpy(values, area)
    np.testing.assert_allclose(found[:2], known[:2], rtol=1e-11, atol=1e-12)
    np.testing.assert_array_equal(found[2:], known[2:])


@given(EXTREMES)
def test_the_extremes_of_each_type_keep_their_order(values: NDArray[Any]) -> None:
    area = np.array([len(values)])
    with np.errstate(over="ignore", invalid="ignore"):
        known = by_numpy(values, area)
        found = measure_values(values, area)
    finite = np.isfinite(known[:2])
    scale = float(np.abs(values.astype(np.float64)).max())
    np.testing.assert_allclose(found[:2][finite], known[:2][finite], rtol=1e-9, atol=1e-12 * scale)
    if np.isfinite(known[0, 0]):
        np.testing.assert_array_equal(found[2:], known[2:])


@given(st.integers(0, 2**32 - 1), st.sampled_from(TYPES[1:-1]))
def test_neither_order_nor_company_changes_a_bit(seed: int, dtype: Any) -> None:
    rng = np.random.default_rng(seed)
    area = rng.integers(1, 3000, 12)
    area[rng.integers(0, 12)] += 9000  # sums are made of pieces of some length, which must not move within an object
    values = rng.normal(size=area.sum()) * 10.0 ** rng.integers(-3, 3, area.sum())  # the order of a sum would show
    values = (np.abs(values) if np.dtype(dtype).kind == "u" else values).clip(-100, 100).astype(dtype)
    found = measure_values(values, area)
    for index, own in enumerate(np.split(values, np.cumsum(area)[:-1])):
        alone = measure_values(rng.permutation(own), area[index : index + 1])
        np.testing.assert_array_equal(alone[:, 0], found[:, index])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_nan_stays_with_its_object(dtype: Any, sign: int) -> None:
    values = np.array([1, 2, 3, 4, 5, np.nan, 7, 8, 9], dtype)
    values[5] = np.copysign(values[5], sign)
    found = measure_values(values, np.array([3, 3, 3]))
    assert np.isnan(found[:, 1]).all()
    np.testing.assert_array_equal(found[:, [0, 2]], by_numpy(values[[0, 1, 2, 6, 7, 8]], np.array([3, 3])))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_infinite_values_warn_of_nothing(dtype: Any) -> None:
    values = np.array([1, np.inf, -np.inf, np.inf, 2, 3, 4, 5], dtype)
    found = measure_values(values, np.array([2, 2, 4]))
    assert found[0].tolist()[::2] == [np.inf, 3.5]
    assert np.isnan(found[:, 1]).all()
    assert np.isfinite(found[:, 2]).all()


def test_values_of_64_bits_are_sorted_by_all_of_them() -> None:
    values = 1 + np.arange(60)[::-1] * 2.0**-50  # alike in 32 bits
    found = measure_values(values, np.array([30, 30]))
    np.testing.assert_array_equal(found[2:], by_numpy(values, np.array([30, 30]))[2:])
    assert (np.diff(found[2:], axis=0) > 0).all()
