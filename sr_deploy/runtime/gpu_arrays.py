"""Arrays in the memory of an NVIDIA GPU, by the driver's copies: neither torch nor kernels of ours.

A tile of C x h x w is one pitched copy. All work is queued on one stream.
"""

from __future__ import annotations

import weakref
from typing import Any, Dict, List, Sequence, Tuple

import numpy as np

from sr_deploy.runtime.adaptive.tiles import (
    Add,
    Corner,
    HostArrays,
    Places,
    Shape,
    overlaps,
    written,
)
from sr_deploy.runtime.cuda import Cuda, DeviceBox


class GpuArray:
    """A C-contiguous array on a GPU. Its memory is used again when the object is gone."""

    def __init__(self, address: int, shape: Sequence[int], dtype: Any) -> None:
        self.address, self.shape, self.dtype = address, tuple(shape), np.dtype(dtype)

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def items(self, first: int, count: int) -> GpuArray:
        """Return some items of an array of several, at most `count`, without copying them.

        They are valid as long as this array.
        """
        item = self.nbytes // max(self.shape[0], 1)
        shape = (min(count, self.shape[0] - first), *self.shape[1:])
        return GpuArray(self.address + first * item, shape, self.dtype)

    def box(self, number: int, top: int = 0, left: int = 0) -> DeviceBox:
        """Return where a box begins in item `number` of an (N, C, H, W) array."""
        _, planes, rows, columns = self.shape
        size = self.dtype.itemsize
        address = self.address + number * planes * rows * columns * size
        return DeviceBox(address, rows, columns * size, top, left * size)


class GpuArrays(HostArrays):
    """Arrays on one GPU. Not thread-safe."""

    def __init__(self, gpu: Cuda) -> None:
        super().__init__()
        self._gpu = gpu
        self._free: Dict[int, List[int]] = {}
        """Addresses of unused memory by its size. cudaMalloc waits for the whole GPU."""

    def to_device(self, array: np.ndarray) -> GpuArray:
        if isinstance(array, GpuArray):
            return array
        self._gpu.activate()
        host = self._pinned(array.shape, array.dtype)
        host[...] = array
        there = self.empty(array.shape, array)
        self._gpu.to_device(there.address, host)
        self._gpu.synchronize()  # the next copy takes the same page-locked memory
        return there

    def to_host(self, values: Any) -> np.ndarray:
        if not isinstance(values, GpuArray):
            return np.asarray(values)
        self._gpu.activate()
        host = self._pinned(values.shape, values.dtype)
        self._gpu.to_host(host, values.address)
        self._gpu.synchronize()
        return host.copy()

    def empty(self, shape: Shape, like: Any) -> GpuArray:
        array = GpuArray(0, shape, like.dtype)
        size = max(array.nbytes, 1)
        unused = self._free.setdefault(size, [])
        array.address = unused.pop() if unused else self._allocated(size)
        # What is queued on the memory comes before what the next user queues.
        weakref.finalize(array, unused.append, array.address).atexit = False
        return array

    def address(self, values: Any) -> int:
        return int(values.address)

    def copy(self, values: Any) -> GpuArray:
        self._gpu.activate()
        there, (n, channels, rows, _) = self.empty(values.shape, values), values.shape
        box = values.box(0)
        self._gpu.copy_box(there.box(0), box, (n * channels, rows, box.row_bytes))
        return there

    def wait(self) -> None:
        self._gpu.synchronize()

    def gather(
        self,
        source: Any,
        corners: Sequence[Corner],
        hw: Tuple[int, int],
        name: str,
        *,
        outside: float = 0.0,
    ) -> GpuArray:
        source = self.to_device(source)
        self._gpu.activate()
        channels, size = source.shape[1], source.dtype.itemsize
        batch = self._batch(name, (len(corners), channels, *hw), source)
        blank = None
        if outside:
            blank = self.to_device(np.full((1, channels, *hw), outside, source.dtype))
        for i, (inside, there) in enumerate(overlaps(corners, hw, source.shape)):
            planes, rows, columns = (_extent(part, n) for part, n in zip(inside, batch.shape[1:]))
            if (rows, columns) != tuple(hw):
                self._blank(batch, i, blank)
            if rows and columns:
                to = batch.box(i, inside[1].start, inside[2].start)
                of = source.box(0, there[1].start, there[2].start)
                self._gpu.copy_box(to, of, (planes, rows, columns * size))
        return batch

    def inside(self, source: Any, corners: Sequence[Corner], hw: Tuple[int, int], name: str) -> Any:
        masks = np.zeros((len(corners), 1, *hw), source.dtype)
        for i, (inside, _) in enumerate(overlaps(corners, hw, source.shape)):
            masks[i][inside] = 1
        return self.to_device(masks)

    def scatter(self, batch: Any, target: Any, places: Places) -> None:
        batch, size = self.to_device(batch), target.dtype.itemsize
        self._gpu.activate()
        for i, inside, there in written(batch, target, places):
            planes, rows, columns = (_extent(part, n) for part, n in zip(inside, batch.shape[1:]))
            if rows and columns:
                to = target.box(0, there[1].start, there[2].start)
                of = batch.box(i, inside[1].start, inside[2].start)
                self._gpu.copy_box(to, of, (planes, rows, columns * size))

    def add(self, batch: Any, target: Any, places: Places, factors: np.ndarray, part: Add) -> None:
        before = self.gather(target, places.corners, batch.shape[2:], "added")
        (after,) = part(y=before, masked=batch, factors=factors)
        self.scatter(after, target, places)

    def release(self) -> None:
        self._gpu.activate()
        self._gpu.synchronize()
        super().release()
        for addresses in self._free.values():
            while addresses:
                self._gpu.free(addresses.pop())

    def _batch(self, name: str, shape: Shape, like: Any) -> GpuArray:
        kept = self._kept.get(name)
        wanted = GpuArray(0, shape, like.dtype)
        if kept is None or kept.nbytes < wanted.nbytes:
            self._kept.pop(name, None)
            kept = self._kept[name] = self.empty((wanted.nbytes,), np.empty(0, np.uint8))
        wanted.address = kept.address
        return wanted

    def _pinned(self, shape: Shape, dtype: Any) -> np.ndarray:
        """Return page-locked memory, which is kept and grows on demand."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        kept = self._kept.get("")
        if kept is None or kept.nbytes < size:
            self._kept.pop("", None)
            kept = self._kept[""] = self._gpu.host_array((max(size, 1),), np.uint8)
        return kept[:size].view(dtype).reshape(shape)

    def _allocated(self, size_bytes: int) -> int:
        self._gpu.activate()
        return self._gpu.allocate(size_bytes)

    def _blank(self, batch: GpuArray, number: int, blank: Any) -> None:
        """Set a tile to what lies outside the map: zero, or the values of `blank`."""
        one = batch.box(number)
        planes = batch.shape[1]
        if blank is None:
            self._gpu.set_zero(one.address, planes * one.rows * one.row_bytes)
        else:
            self._gpu.copy_box(one, blank.box(0), (planes, one.rows, one.row_bytes))


def _extent(part: slice, whole: int) -> int:
    return whole if part.stop is None else part.stop - part.start
