"""Use what was deployed: pictures, folders and video through any session, exactly and within memory.

`sr_deploy.upscale(image, session)` is `tiles.upscale`: the package can be called, for it has the name of its function.
"""

from __future__ import annotations

import sys
import types
from typing import Any


class _Callable(types.ModuleType):
    def __call__(self, image: Any, session: Any, *, tile: Any = None, max_memory: Any = None) -> Any:
        from sr_deploy.upscale.tiles import upscale

        return upscale(image, session, tile=tile, max_memory=max_memory)


sys.modules[__name__].__class__ = _Callable
