"""Tiles of maps, cut out and put back where the parts of an adaptive network run.

A map is an array (1, C, H, W): an image, features or depths. On the CPU it is a numpy array. On a
GPU it stays there between the parts. A session uses `self.arrays` and the `shape` of maps only.
Each run of a part gives new maps, which go to the host by `to_host`.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, NamedTuple, Optional, Sequence, Tuple

import numpy as np

Corner = Tuple[int, int]
"""The top and left of a tile in its map's pixels; negative for a tile that begins outside."""
Box = Tuple[int, int, int, int]
"""Top, left, height and width in a map's pixels."""
Shape = Tuple[int, ...]
Add = Callable[..., Sequence[Any]]
"""The part of a plan that returns [y + masked * factors]."""
_ALL = slice(None)


class Places(NamedTuple):
    """Where tiles are written in a map, in its pixels."""

    corners: Sequence[Corner]
    boxes: Optional[Sequence[Box]] = None
    """Of each tile, all that is written of it; None: all that lies in the map."""


class HostArrays:
    """numpy arrays on the CPU. Batches of tiles are written to memory that is kept for them.

    Not thread-safe: a session has its own.
    """

    def __init__(self) -> None:
        self._kept: Dict[str, Any] = {}

    def to_device(self, array: np.ndarray) -> Any:
        """Return an array where the parts run."""
        return array

    def to_host(self, values: Any) -> np.ndarray:
        """Return what is where the parts run, as an array; wait for it."""
        return np.asarray(values)

    def empty(self, shape: Shape, like: Any) -> Any:
        """Return a new map of any values, of the type of `like`."""
        return np.empty(shape, like.dtype)

    def blank(self, shape: Shape, dtype: Any) -> Any:
        """Return a new array of any values, of a type of numpy's."""
        return self.empty(shape, np.empty(0, dtype))

    def address(self, values: Any) -> int:
        """Return where an array's values are in the memory of its device."""
        return int(values.ctypes.data)

    def copy(self, values: Any) -> Any:
        """Return a copy, which does not change with the next run of the part that gave `values`."""
        return values.copy()

    def wait(self) -> None:
        """Wait until all that is queued has been done."""

    def gather(
        self,
        source: Any,
        corners: Sequence[Corner],
        hw: Tuple[int, int],
        name: str,
        *,
        outside: float = 0.0,
    ) -> Any:
        """Cut tiles of `hw` out of a map, (1, C, H, W); return them as (N, C, h, w).

        What lies outside the map is `outside`. name: of the part's input that the tiles are for;
        they are valid until the next ones of that name.
        """
        shape = (len(corners), int(source.shape[1]), *hw)
        batch = self._batch(name, shape, source)
        for i, (inside, there) in enumerate(overlaps(corners, hw, source.shape)):
            if inside != (_ALL, slice(0, hw[0]), slice(0, hw[1])):
                batch[i] = outside
            batch[i][inside] = source[0][there]
        return batch

    def inside(self, source: Any, corners: Sequence[Corner], hw: Tuple[int, int], name: str) -> Any:
        """Return where tiles lie inside a map, (1, C, H, W): 1, else 0, (N, 1, h, w).

        name: as in `gather`.
        """
        batch = self._batch(name, (len(corners), 1, *hw), source)
        batch[:] = 0
        for i, (inside, _) in enumerate(overlaps(corners, hw, source.shape)):
            batch[i][inside] = 1
        return batch

    def scatter(self, batch: Any, target: Any, places: Places) -> None:
        """Write tiles, (N, C, h, w), into a map, (1, C, H, W), without what lies outside it.

        Tiles that overlap overwrite those before them.
        """
        for i, inside, there in written(batch, target, places):
            target[0][there] = batch[i][inside]

    def add(self, batch: Any, target: Any, places: Places, factors: np.ndarray, part: Add) -> None:
        """Add tiles, (N, C, h, w), times the factors of their channels to a map, (1, C, H, W).

        factors: (1, C, 1, 1) float32. part: computes it where arrays have no arithmetic.
        """
        for i, inside, there in written(batch, target, places):
            # A channel at a time: its product is still in the cache when it is added.
            for channel, factor in enumerate(factors.ravel().tolist()):
                target[0, channel][there[1:]] += batch[i, channel][inside[1:]] * factor

    def release(self) -> None:
        """Free the memory that is kept between runs."""
        self._kept.clear()

    def _batch(self, name: str, shape: Shape, like: Any) -> Any:
        """Return an array of any values in the memory kept for `name`, which grows on demand."""
        size = int(np.prod(shape))
        kept = self._kept.get(name)
        if kept is None or kept.dtype != like.dtype or len(kept) < size:
            self._kept.pop(name, None)  # frees it before more is allocated
            kept = self._kept[name] = self.empty((size,), like)
        return kept[:size].reshape(shape)


class TorchArrays(HostArrays):
    """torch tensors on the device of `device`, a `TorchDevice`."""

    def __init__(self, device: Any) -> None:
        super().__init__()
        self._device = device

    def to_device(self, array: np.ndarray) -> Any:
        return self._device.to_device(array)

    def to_host(self, values: Any) -> np.ndarray:
        return values if isinstance(values, np.ndarray) else self._device.to_host(values)

    def empty(self, shape: Shape, like: Any) -> Any:
        import torch

        with torch.inference_mode(), self._device.computing():
            return torch.empty(shape, dtype=like.dtype, device=like.device)

    def blank(self, shape: Shape, dtype: Any) -> Any:
        import torch

        with torch.inference_mode(), self._device.computing():
            kind = getattr(torch, np.dtype(dtype).name)
            return torch.empty(shape, dtype=kind, device=self._device.where)

    def address(self, values: Any) -> int:
        return int(values.data_ptr())

    def copy(self, values: Any) -> Any:
        import torch

        with torch.inference_mode(), self._device.computing():
            return values.clone()

    def wait(self) -> None:
        self._device.wait()

    def gather(
        self,
        source: Any,
        corners: Sequence[Corner],
        hw: Tuple[int, int],
        name: str,
        *,
        outside: float = 0.0,
    ) -> Any:
        import torch

        with torch.inference_mode(), self._device.computing():
            source = self._device.to_device(source)
            return super().gather(source, corners, hw, name, outside=outside)

    def inside(self, source: Any, corners: Sequence[Corner], hw: Tuple[int, int], name: str) -> Any:
        import torch

        with torch.inference_mode(), self._device.computing():
            return super().inside(self._device.to_device(source), corners, hw, name)

    def scatter(self, batch: Any, target: Any, places: Places) -> None:
        import torch

        with torch.inference_mode(), self._device.computing():
            super().scatter(batch, target, places)

    def add(self, batch: Any, target: Any, places: Places, factors: np.ndarray, part: Add) -> None:
        import torch

        weights = self._device.to_device(factors)[0].to(batch.dtype)  # (C, 1, 1)
        with torch.inference_mode(), self._device.computing():
            for i, inside, there in written(batch, target, places):
                target[0][there].addcmul_(batch[i][inside], weights)


Index = Tuple[slice, ...]
"""Of a (C, h, w) array."""


def written(batch: Any, target: Any, places: Places) -> Iterator[Tuple[int, Index, Index]]:
    """Yield the number of each tile, and what is written of it: in the tile, and in the map."""
    parts = overlaps(places.corners, batch.shape[2:], target.shape, places.boxes)
    for i, (inside, there) in enumerate(parts):
        yield i, inside, there


def overlaps(
    corners: Sequence[Corner],
    hw: Sequence[int],
    shape: Sequence[int],
    boxes: Optional[Sequence[Box]] = None,
) -> Iterator[Tuple[Index, Index]]:
    """Yield for each tile of `hw` what lies in a map, (1, C, H, W): in the tile, and in the map.

    boxes: of each tile, all that is wanted of it.
    """
    whole_map = (0, 0, shape[2], shape[3])
    for corner, box in zip(corners, boxes or [whole_map] * len(corners)):
        inside, there = [_ALL], [_ALL]
        for first, size, low, extent in zip(corner, hw, box[:2], box[2:]):
            start = min(max(first, low), low + extent)
            stop = max(min(first + size, low + extent), start)
            there.append(slice(start, stop))
            inside.append(slice(start - first, stop - first))
        yield tuple(inside), tuple(there)
