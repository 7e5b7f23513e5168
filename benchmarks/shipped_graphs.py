"""Write the shipped graphs, from which the default models run without torch: models/graphs.

python3 benchmarks/shipped_graphs.py

To be run again when a default checkpoint, the export or the profile of the target `cpu` changes.
The plans of the adaptive defaults are without times, which are of a machine.
"""

import sys
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from sr_deploy.core.elastic_plan import read_elastic_plan  # noqa: E402
from sr_deploy.core.files import write_text  # noqa: E402
from sr_deploy.core.jsonio import to_json  # noqa: E402
from sr_deploy.core.shipped import DEFAULT_MODELS, find_checkpoint, read_card, shipped_graphs  # noqa: E402
from sr_deploy.export.plans import plans_from_model  # noqa: E402
from sr_deploy.fast.made import ModelVariant, export_graph  # noqa: E402
from sr_deploy.fast.ways import ModelWay  # noqa: E402
from sr_deploy.runtime.opener.adaptive import DEFAULTS  # noqa: E402

CPU = ModelWay("onnxruntime", "cpu", "cpu")
ADAPTIVE = (DEFAULTS["elastic"], DEFAULTS["cdnsr"])


def main() -> None:
    for name in DEFAULT_MODELS.values():
        weights = find_checkpoint(name)
        assert weights is not None
        card = read_card(weights)
        print(export_graph(ModelVariant(weights, card, card.variants[-1]), CPU, shipped_graphs()))
    for name in ADAPTIVE:
        (path,) = plans_from_model(name, shipped_graphs(), progress=print)
        write_text(path, to_json(replace(read_elastic_plan(path), rates={})))


if __name__ == "__main__":
    main()
