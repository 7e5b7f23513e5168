import numpy as np
import pytest
from doubles.library import StandInCuda

from sr_deploy.runtime.adaptive.tiles import HostArrays, Places, TorchArrays
from sr_deploy.runtime.gpu_arrays import GpuArray, GpuArrays

CORNERS = [(-2, -3), (0, 0), (4, 5), (2, 9), (20, 0), (-9, 2)]
"""Across the top left, inside, across the right and the bottom, and two outside."""


@pytest.fixture(params=["numpy", "torch", "gpu"])
def arrays(request):
    if request.param == "numpy":
        return HostArrays()
    if request.param == "gpu":  # a stand-in for the driver
        return GpuArrays(StandInCuda())
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
    arrays.scatter(tiles, target, Places(corners))
    np.testing.assert_array_equal(arrays.to_host(target), arrays.to_host(source))
    kept = arrays.copy(target)
    around = arrays.gather(source, [(-1, -2)], (10, 15), "y")
    target = arrays.to_device(a_map(seed=1))
    arrays.scatter(around, target, Places([(-1, -2)]))
    arrays.scatter(arrays.gather(target, [(0, 0)], (2, 2), "y"), target, Places([(5, 5)]))
    np.testing.assert_array_equal(arrays.to_host(kept), arrays.to_host(source))
    arrays.scatter(kept, target, Places([(0, 0)]))
    np.testing.assert_array_equal(arrays.to_host(target), arrays.to_host(source))


def test_of_windows_only_their_boxes_are_written_or_added(arrays):
    corners, boxes = [(0, 0), (2, 3)], [(0, 1, 3, 2), (3, 4, 3, 5)]
    tiles, before = np.concatenate([a_map(h=5, w=6, seed=n) for n in (1, 2)]), a_map()
    factors = np.array([2, -1, 0.5], np.float32).reshape(1, 3, 1, 1)
    written, added = before.copy(), before.copy()
    for tile, (top, left), (y, x, h, w) in zip(tiles, corners, boxes):
        cut = tile[:, y - top : y - top + h, x - left : x - left + w]
        written[0, :, y : y + h, x : x + w] = cut
        added[0, :, y : y + h, x : x + w] += cut * factors[0]
    target, batch = arrays.to_device(before.copy()), arrays.to_device(tiles)
    arrays.scatter(batch, target, Places(corners, boxes))
    np.testing.assert_array_equal(arrays.to_host(target), written)

    def part(y, masked, factors):  # of arrays without arithmetic
        return [arrays.to_device(arrays.to_host(y) + arrays.to_host(masked) * factors)]

    target = arrays.to_device(before.copy())
    arrays.add(batch, target, Places(corners, boxes), factors, part)
    np.testing.assert_allclose(arrays.to_host(target), added, rtol=0, atol=1e-6)


def test_the_memory_of_a_batch_is_kept_for_the_next_of_its_name(arrays):
    source = arrays.to_device(a_map())

    def address(t):
        if isinstance(t, GpuArray):
            return t.address
        return t.ctypes.data if isinstance(t, np.ndarray) else t.data_ptr()

    first = address(arrays.gather(source, CORNERS, (4, 4), "y"))
    assert address(arrays.gather(source, CORNERS[:2], (4, 4), "y")) == first
    assert address(arrays.gather(source, CORNERS, (4, 4), "features")) != first
    half = a_map().astype(np.float16)
    other_type = arrays.to_device(half)
    assert arrays.gather(other_type, CORNERS[:1], (4, 4), "y").dtype == other_type.dtype
    arrays.release()
    assert arrays.gather(source, CORNERS, (6, 6), "y").shape == (6, 3, 6, 6)


def test_a_tile_is_one_copy_within_the_gpu_and_memory_is_used_again():
    gpu = StandInCuda()
    arrays = GpuArrays(gpu)
    source = arrays.to_device(a_map())
    transfers = gpu.clock
    tiles = arrays.gather(source, CORNERS[:4], (4, 4), "y")
    target = arrays.empty((1, 3, 8, 11), source)
    arrays.scatter(tiles, target, Places(CORNERS[:4]))
    assert gpu.copies == 8 and gpu.clock == transfers  # nothing travels to the host or back
    address = target.address
    del target
    assert arrays.empty((1, 3, 8, 11), source).address == address
    assert not gpu.freed
    arrays.release()
    assert address in gpu.freed and source.address not in gpu.freed


def test_what_is_on_the_host_goes_to_the_gpu_where_it_is_needed():
    arrays = GpuArrays(StandInCuda())
    tiles = arrays.gather(a_map(), [(0, 0)], (8, 11), "y")
    np.testing.assert_array_equal(arrays.to_host(tiles), a_map())
    assert arrays.to_host(a_map(seed=1)) is not None and arrays.to_device(tiles) is tiles
    arrays.wait()
