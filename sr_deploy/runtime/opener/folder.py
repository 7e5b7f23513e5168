"""Folders of plans, graphs and engines."""

from __future__ import annotations

from pathlib import Path
from typing import List, Sequence

from sr_deploy.core.errors import InputError
from sr_deploy.core.files import files_with_suffix
from sr_deploy.runtime.opener.artifact import SUFFIXES, ArtifactKind, artifact_path
from sr_deploy.runtime.opener.description import Kind, NetworkDescription, Variants
from sr_deploy.runtime.opener.plan import PlanKind, load_plan


class FolderKind(Kind):
    """Plans, then artifacts, in natural order. The parts of a plan are not listed separately."""

    has_variants = False

    def matches(self, text: str) -> bool:
        return Path(text).is_dir()

    def describe(self, text: str, variants: Variants, trust: bool) -> List[NetworkDescription]:
        folder = Path(text)
        plans = list(map(str, plans_in(folder)))
        files = without_companions([*plans, *map(str, files_with_suffix(folder, *SUFFIXES))])
        if not files:
            raise InputError(
                f"the folder {folder} contains no .onnx or .engine file",
                hint="give a model's name, or a folder of its artifacts",
            )
        networks = []
        for file in files:
            kind = PlanKind() if file in plans else ArtifactKind()
            networks += kind.describe(file, None, trust)
        return networks


def plans_in(folder: Path) -> List[Path]:
    """Return the plans of a folder, in natural order."""
    return [path for path in files_with_suffix(folder, ".json") if PlanKind().matches(str(path))]


def without_companions(texts: Sequence[str]) -> List[str]:
    """Remove manifests and cards of listed files, and the parts of listed plans."""
    listed = set(map(Path, texts))
    parts = {
        path.parent / part.file
        for path in listed
        if PlanKind().matches(str(path)) and path.is_file()
        for part in load_plan(path).parts.values()
    }

    def is_companion(path: Path) -> bool:
        artifact = artifact_path(str(path))
        weights = path.with_suffix(".safetensors") if path.suffix == ".json" else path
        return artifact in parts or any(p != path and p in listed for p in (artifact, weights))

    return [text for text in texts if not is_companion(Path(text))]
