"""Upscaling of pictures, folders and videos by any session, exactly and within memory.

`sr_deploy.upscale` is this room, and it is called like the function `upscale` of its module
`call`: `sr_deploy.upscale("photo.jpg")`.
"""

from __future__ import annotations

import inspect
import sys
import types
from typing import Any

from sr_deploy.upscale.call import upscale


class _CallableRoom(types.ModuleType):
    __signature__ = inspect.signature(upscale)  # for editors and help()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return upscale(*args, **kwargs)

    __call__.__doc__ = upscale.__doc__


sys.modules[__name__].__class__ = _CallableRoom
