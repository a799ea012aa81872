"""Options that several commands share."""

from typing import Annotated

import typer

ModelOption = Annotated[str, typer.Option(help="Model folder or repository, or `persistence` or `average`.")]
DatasetOption = Annotated[str, typer.Option(help="Dataset folder or repository.")]
ModelRevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a model repository.")]
DatasetRevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a dataset repository.")]
