"""Names of objects that are imported on first use: listing them needs no heavy package."""

from __future__ import annotations

import importlib
from typing import Any, Dict, Iterator, Type

from sr_deploy.core.errors import InputError, SrDeployError, did_you_mean


class Registry:
    """Map a name to `"module:attribute"`; `registry[name]` imports it."""

    def __init__(
        self, noun: str, entries: Dict[str, str], error: Type[SrDeployError] = InputError
    ) -> None:
        self.noun = noun
        self._error = error
        self._entries: Dict[str, str] = {}
        for name, where in entries.items():
            self.add(name, where)

    def add(self, name: str, where: str) -> None:
        """Register `name`. Raises InputError if the name is taken or `where` is malformed."""
        if name in self._entries:
            raise InputError(f"{self.noun} '{name}' is already registered as {self._entries[name]}")
        if where.count(":") != 1:
            raise InputError(f"{self.noun} '{name}': expected 'module:attribute', got '{where}'")
        self._entries[name] = where

    def __getitem__(self, name: str) -> Any:
        if name not in self._entries:
            raise self._error(
                f"unknown {self.noun} '{name}'; expected one of {', '.join(self._entries)}",
                hint=did_you_mean(name, self._entries),
            )
        module, attribute = self._entries[name].split(":")
        return getattr(importlib.import_module(module), attribute)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)
