"""Files of weights with a card beside them: which there are, and what a text names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, Generic, Iterator, List, Optional, Type, TypeVar

from sr_deploy.core.errors import CheckpointError, InputError, did_you_mean
from sr_deploy.core.files import data_folder
from sr_deploy.core.jsonio import read_dataclass

S = TypeVar("S")
WEIGHTS_SUFFIX = ".safetensors"


@dataclass(frozen=True)
class WeightsKind(Generic[S]):
    """What chooses between networks, by the suffix of its weights: `.router.safetensors`."""

    title: str
    """`router`."""
    suffix: str
    spec: Type[S]
    """The dataclass of its card."""
    problems: Callable[[S], Iterator[str]]
    """Yields what is wrong with a card, as text."""

    def shipped(self) -> List[Path]:
        """Return the shipped weight files, sorted by name."""
        return sorted(data_folder("models").glob("*" + self.suffix))

    def name_of(self, weights: Path) -> str:
        """Return the name of a file: without the suffix."""
        return weights.name[: -len(self.suffix)]

    def includes(self, text: str) -> bool:
        """Return whether `text` names a shipped file, or is a path of weights or of a card."""
        card = self.suffix.replace(WEIGHTS_SUFFIX, ".json")
        return text in self._by_name() or Path(text).name.endswith((self.suffix, card))

    def find(self, text: str) -> Optional[Path]:
        """Return the weights file that `text` names. None for anything else, and without a card."""
        path = self._named(text)
        whole = path.name.endswith(self.suffix) and path.is_file()
        return path if whole and path.with_suffix(".json").is_file() else None

    def path_of(self, text: str) -> Path:
        """Return the weights file that `text` names. Raises InputError if there is none."""
        path, shipped = self._named(text), self._by_name()
        if not path.name.endswith(self.suffix):
            known = ", ".join(shipped) or "(none are shipped)"
            raise InputError(
                f"'{text}' is not a {self.title}; expected a {self.suffix} file, or one of {known}",
                hint=did_you_mean(text, shipped),
            )
        if not path.is_file():
            raise InputError(f"there is no {self.title} {path}")
        return path

    def read_card(self, weights: Path) -> S:
        """Read the card beside weights. Raises CheckpointError if it is missing or malformed."""
        card = weights.with_suffix(".json")
        if not card.is_file():
            raise CheckpointError(f"{weights} has no card: expected {card.name} beside it")
        spec = read_dataclass(self.spec, card, CheckpointError)
        for problem in self.problems(spec):
            raise CheckpointError(f"the card {card} is not usable: {problem}")
        return spec

    def _by_name(self) -> Dict[str, Path]:
        return {self.name_of(path): path for path in self.shipped()}

    def _named(self, text: str) -> Path:
        """Return the path of weights that a name, a path or the path of a card stands for."""
        path = self._by_name().get(text, Path(text))
        return path.with_suffix(WEIGHTS_SUFFIX) if path.suffix == ".json" else path
