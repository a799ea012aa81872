"""The `solared` command. Each subcommand has a module, which imports what it needs only when the subcommand runs."""

import sys
from collections.abc import Sequence

import typer

from solared_hf.cli.app import show_page
from solared_hf.cli.benchmark import benchmark
from solared_hf.cli.build import build
from solared_hf.cli.doctor import doctor
from solared_hf.cli.download import download
from solared_hf.cli.evaluate import evaluate
from solared_hf.cli.import_dataset import import_dataset
from solared_hf.cli.plot import plot
from solared_hf.cli.predict import predict
from solared_hf.cli.push import push
from solared_hf.cli.quickstart import quickstart
from solared_hf.cli.select import select
from solared_hf.cli.train import train
from solared_hf.errors import SolaredError
from solared_hf.hub.patience import limit_silence

# Packages of the extra `builder`, which some commands import.
_BUILDER = {"astropy", "dask", "distributed", "drms", "sunpy"}

app = typer.Typer(
    help="Make SOLARED data, train on them, forecast emerging solar active regions and score the forecasts.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command()(quickstart)
app.command()(build)
app.command()(select)
app.command()(download)
# The training module parses the several hundred options of the Trainer.
app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(train)
app.command()(predict)
app.command()(evaluate)
app.command()(benchmark)
app.add_typer(plot, name="plot")
app.command("app")(show_page)
app.command()(push)
app.command("import")(import_dataset)
app.command()(doctor)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command. An error that the user can correct becomes one line on standard error and exit code 2.

    Raises:
        ModuleNotFoundError: If a package is missing that does not belong to the extra `builder`.
    """
    limit_silence()
    try:
        app(args=None if arguments is None else list(arguments), prog_name="solared")
    except SolaredError as error:
        print(f"solared: {error}", file=sys.stderr)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if str(error.name).partition(".")[0] not in _BUILDER:
            raise
        print(f"solared: {error.name} is missing. Run `pip install 'solared-hf[builder]'`.", file=sys.stderr)
        sys.exit(2)
