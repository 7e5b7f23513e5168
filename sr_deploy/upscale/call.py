"""`sr_deploy.upscale`: images of any kind in one call, with sessions that are kept."""

from __future__ import annotations

import functools
import os
import sys
import threading
import warnings
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Hashable, List, Optional, Union

from sr_deploy.core.errors import InputError
from sr_deploy.core.pictures.formats import format_of_name, is_picture

if TYPE_CHECKING:
    from sr_deploy.upscale.options import UpscaleOptions
    from sr_deploy.upscale.upscaler import Upscaler

_MOST_KEPT = 4
_kept: OrderedDict[Hashable, Upscaler] = OrderedDict()
"""The networks used last, open, and the last one at the end."""
_lock = threading.RLock()


def upscale(
    image: Any,
    model: Union[str, Path, None] = None,
    *,
    output: Union[str, Path, None] = None,
    force: bool = False,
    scale: Optional[float] = None,
    max_memory: Union[str, int, None] = None,
    **run: Any,
) -> Any:
    """Upscale an image and return what was given: an array for an array, PIL for PIL.

    >>> import numpy as np
    >>> image = np.zeros((24, 32, 3), np.uint8)
    >>> sr_deploy.upscale(image, "fsrcnn-w16_x4").shape
    (96, 128, 3)
    >>> print(sr_deploy.upscale("photo.png", "fsrcnn-w16_x4", output="large.png"))
    large.png

    image: an array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA of uint8, uint16 or float in
    0..1, a PIL image, the path of a picture, or a list of them, which gives a list. The result has
    the same kind, channels and dtype, and its values are clipped. A picture's path gives the array
    of its pixels, turned upright.
    model: a shipped name, with a variant (`asrn_x4.d3`) or without (the largest), the path of a
    checkpoint, ONNX graph, engine or folder, or a network's code (`mynet.py:Net`); None: the
    default for `scale`. It stays open, so the next call is fast.
    output: of a path, the file or folder to write, as `srdeploy upscale -o` does, also of a folder
    or a video; the paths of the results are returned. Existing files are replaced by `force` only.
    scale: by what the sides become larger, 1 to 64; None: the network's scale, 4 without a model.
    Another one is resampled from the network's result.
    max_memory: bytes or `2GiB`. run: `device`, `runtime`, `min_psnr_vs_fp32` and other fields of
    `RunOptions`. Raises an SrDeployError.
    """
    from sr_deploy.core.run_options import RunOptions
    from sr_deploy.upscale.any_image import upscale_any
    from sr_deploy.upscale.memory import parse_bytes
    from sr_deploy.upscale.options import UpscaleOptions
    from sr_deploy.upscale.output_size import OutputSize

    options = UpscaleOptions(
        model=None if model is None else str(model),
        size=OutputSize(factor=scale),
        max_memory=parse_bytes(max_memory) if isinstance(max_memory, str) else max_memory,
        force=force,
        run=RunOptions(**run),
    ).with_model(scale)
    with _lock:
        if output is not None:
            return _write(image, output, options)
        return upscale_any(image, _opened(options), options.size)


def _opened(options: UpscaleOptions) -> Upscaler:
    """Return the open network of these options, and close those that were not used for longest."""
    network = options.network(log=_tell)
    key = (network.kind, network.identity, network.backend, options.max_memory, options.run)
    upscaler = _kept.pop(key, None) or options.upscaler(network, log=_warn)
    _kept[key] = upscaler
    while len(_kept) > _MOST_KEPT:
        _kept.popitem(last=False)[1].close()
    return upscaler


def _write(image: Any, output: Union[str, Path], options: UpscaleOptions) -> Any:
    """Write the result of a path, or of each path of a list; return the paths of the results."""
    from sr_deploy.upscale.folder import upscale_picture
    from sr_deploy.upscale.folder_log import PictureTask
    from sr_deploy.upscale.reporter import Reporter
    from sr_deploy.upscale.run import upscale_paths

    if isinstance(image, (list, tuple)):
        return [_write(one, output, options) for one in image]
    if not isinstance(image, (str, os.PathLike)):
        raise InputError(
            f"output is given, but the image is no path but {type(image).__name__}",
            hint="write the result yourself, such as by PIL's save()",
        )
    source, target = Path(image), Path(output)
    written: List[Path] = []
    reporter = Reporter(written=written.append)
    if source.is_file() and is_picture(source) and format_of_name(target) is not None:
        upscaler = _opened(options)
        upscale_picture(PictureTask(source, target), upscaler, reporter, options.result)
    else:
        upscale_paths([str(source)], os.fspath(output), options, reporter)
    return written if source.is_dir() else written[0]


@functools.lru_cache(maxsize=None)
def _tell(line: str) -> None:
    """Say once what takes time, before it does, and what does not run."""
    if sys.stderr is not None:
        sys.stderr.write(f"{line}\n")


def _warn(line: str) -> None:
    warnings.warn(line, stacklevel=2)
