import numpy as np
import pytest

from sr_deploy.runtime.adaptive.tiles import HostArrays, TorchArrays

CORNERS = [(-2, -3), (0, 0), (4, 5), (2, 9), (20, 0), (-9, 2)]
"""Across the top left, inside, across the right and the bottom, and two outside."""


@pytest.fixture(params=["numpy", "torch"])
def arrays(request):
    if request.param == "numpy":
        return HostArrays()
    pytest.importorskip("torch")
    from sr_deploy.runtime.torch_device import TorchDevice

    return TorchArrays(TorchDevice())


def a_map(channels=3, h=8, w=11, seed=0):
    return np.random.default_rng(seed).random((1, channels, h, w), dtype=np.float32)


@pytest.mark.parametrize("hw", [(4, 4), (5, 3), (20, 30)])
def test_tiles_are_cut_with_what_lies_outside_as_asked(arrays, hw):
    source = a_map()
    padded = np.pad(source, ((0, 0), (0, 0), (50, 50), (50, 50)), constant_values=-1)
    places = [(slice(50 + t, 50 + t + hw[0]), slice(50 + x, 50 + x + hw[1])) for t, x in CORNERS]
    there = arrays.to_device(source)
    found = arrays.gather(there, CORNERS, hw, "y", outside=-1)
    expected = np.stack([padded[0, :, rows, columns] for rows, columns in places])
    np.testing.assert_array_equal(arrays.to_host(found), expected)
    ones = np.pad(np.ones((1, 1, 8, 11), np.float32), ((0, 0), (0, 0), (50, 50), (50, 50)))
    inside = arrays.to_host(arrays.inside(there, CORNERS, hw, "inside"))
    expected = np.stack([ones[0, :, rows, columns] for rows, columns in places])
    np.testing.assert_array_equal(inside, expected)
    assert inside.dtype == np.float32


def test_tiles_come_back_to_their_places_without_what_lies_outside(arrays):
    source = arrays.to_device(a_map())
    corners = [(top, left) for top in (0, 3, 6) for left in (0, 4, 8)]
    tiles = arrays.gather(source, corners, (3, 4), "y")
    target = arrays.empty((1, 3, 8, 11), source)
    arrays.scatter(tiles, target, corners)
    np.testing.assert_array_equal(arrays.to_host(target), arrays.to_host(source))
    kept = arrays.copy(target)
    around = arrays.gather(source, [(-1, -2)], (10, 15), "y")
    target = arrays.to_device(a_map(seed=1))
    arrays.scatter(around, target, [(-1, -2)])
    arrays.scatter(arrays.gather(target, [(0, 0)], (2, 2), "y"), target, [(5, 5)])
    np.testing.assert_array_equal(arrays.to_host(kept), arrays.to_host(source))
    arrays.scatter(kept, target, [(0, 0)])
    np.testing.assert_array_equal(arrays.to_host(target), arrays.to_host(source))


def test_the_memory_of_a_batch_is_kept_for_the_next_of_its_name(arrays):
    source = arrays.to_device(a_map())
    pointer = getattr(source, "data_ptr", None)
    address = (lambda t: t.data_ptr()) if pointer else (lambda t: t.ctypes.data)
    first = address(arrays.gather(source, CORNERS, (4, 4), "y"))
    assert address(arrays.gather(source, CORNERS[:2], (4, 4), "y")) == first
    assert address(arrays.gather(source, CORNERS, (4, 4), "features")) != first
    other_type = source.astype(np.float16) if pointer is None else source.half()
    assert arrays.gather(other_type, CORNERS[:1], (4, 4), "y").dtype == other_type.dtype
    arrays.release()
    assert arrays.gather(source, CORNERS, (6, 6), "y").shape == (6, 3, 6, 6)
