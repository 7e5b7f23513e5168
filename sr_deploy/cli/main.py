"""The command group. Errors are printed to stderr as `error:` and `hint:`, with exit code 1."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any, NoReturn

import click

from sr_deploy.cli.bench import bench
from sr_deploy.cli.build_engine import adopt, build_engine, targets
from sr_deploy.cli.check import check
from sr_deploy.cli.doctor import doctor
from sr_deploy.cli.eval import evaluate
from sr_deploy.cli.export import export
from sr_deploy.cli.import_onnx import import_onnx
from sr_deploy.cli.models import complexity, import_checkpoint, models
from sr_deploy.cli.output import print_any_name
from sr_deploy.cli.report import report
from sr_deploy.cli.selftest import selftest
from sr_deploy.cli.table import compare, select, table
from sr_deploy.cli.train import recipes, train
from sr_deploy.cli.upscale import upscale
from sr_deploy.core.errors import InputError, MissingPackageError, SrDeployError
from sr_deploy.core.files import write_hint
from sr_deploy.core.version import __version__

# Packages of the `export` extra. A command that needs one of them reports how to install it.
_EXPORT_PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "cv2", "skimage")


def _fail(error: SrDeployError) -> NoReturn:
    click.echo(f"error: {error.message}", err=True)
    if error.hint:
        click.echo(f"\nhint: {error.hint}", err=True)
    sys.exit(1)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SrDeployError as e:
            _fail(e)
        except ImportError as e:
            if e.name is None or e.name.split(".")[0] not in _EXPORT_PACKAGES:
                raise
            _fail(MissingPackageError(e.name, needed_for=f"srdeploy {ctx.invoked_subcommand}"))
        except BrokenPipeError:  # the reader of stdout (head, less) has exited
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(1)
        except OSError as e:
            if e.filename is None:
                raise
            name, reason = os.fsdecode(e.filename), e.strerror or str(e)
            _fail(InputError(f"cannot use {name}: {reason}", hint=write_hint(e)))


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="srdeploy")
def main() -> None:
    """Deploy super-resolution networks: import, slice, export, build, measure and upscale.

    MODEL is the path of a checkpoint, the name of a shipped one (see srdeploy models), a PyTorch
    module such as mynet.py:Net or, where weights do not matter, an architecture and scale such as
    srn_x4. An ARTIFACT is an ONNX graph or an engine.
    """
    print_any_name()
    # Exit on termination as on an interrupt, so that temporary files are removed.
    for name in ("SIGTERM", "SIGHUP"):  # Windows has no SIGHUP
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, frame: sys.exit(128 + number))


for command in (
    models,
    complexity,
    import_checkpoint,
    import_onnx,
    train,
    recipes,
    export,
    check,
    targets,
    build_engine,
    adopt,
    doctor,
    selftest,
    bench,
    table,
    compare,
    select,
    evaluate,
    report,
    upscale,
):
    main.add_command(command)

if __name__ == "__main__":
    main()
