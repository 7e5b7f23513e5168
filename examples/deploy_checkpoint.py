"""Slice a checkpoint into variants, export and build each, and measure them.

    python examples/deploy_checkpoint.py asrn_x4 --variants d1,d3,d5 -o deployed
    python examples/deploy_checkpoint.py mine.safetensors --target rtx --size 540x960 -o deployed

Each step is also a command: srdeploy export, build-engine and bench.
"""

import argparse

import sr_deploy


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model", help="a shipped name, a checkpoint's path or code")
    parser.add_argument("--variants", default="all", help="such as d1,d3")
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--size", default="180x320", help="of the LR images, height x width")
    parser.add_argument("--data", default="", help="HR images [default: scikit-image's]")
    parser.add_argument("--runs", type=int, help="timed runs of each [default: for 3 s]")
    parser.add_argument("-o", "--output", required=True, help="folder to write to")
    args = parser.parse_args()

    options = sr_deploy.ExportOptions(args.variants, sizes=[args.size], target=args.target)
    graphs = sr_deploy.onnx_from_checkpoint(
        args.model, f"{args.output}/graphs", options, progress=print
    )
    engines = sr_deploy.engine_from_onnx(
        graphs, f"{args.output}/engines", target=args.target, progress=print
    )
    measure = sr_deploy.MeasureOptions(data=args.data, runs=args.runs)
    rows = list(sr_deploy.rows_from_artifacts(engines, measure, progress=print))
    print(sr_deploy.ntire_table(rows))


if __name__ == "__main__":
    main()
