"""Write the shipped graphs, from which the default models run without torch: models/graphs.

python3 benchmarks/shipped_graphs.py

To be run again when a default checkpoint, the export or the profile of the target `cpu` changes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sr_deploy.core.shipped import DEFAULT_MODELS, find_checkpoint, read_card, shipped_graphs  # noqa: E402
from sr_deploy.fast.made import ModelVariant, export_graph  # noqa: E402
from sr_deploy.fast.ways import ModelWay  # noqa: E402

CPU = ModelWay("onnxruntime", "cpu", "cpu")


def main() -> None:
    for name in DEFAULT_MODELS.values():
        weights = find_checkpoint(name)
        assert weights is not None
        card = read_card(weights)
        print(export_graph(ModelVariant(weights, card, card.variants[-1]), CPU, shipped_graphs()))


if __name__ == "__main__":
    main()
