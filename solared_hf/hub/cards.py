"""Cards from facts: the Jinja templates of `model_cards/`, filled strictly."""

from jinja2 import Environment, PackageLoader, StrictUndefined

CARD_NAME = "README.md"

# What the snippets of a card load where no repository is known yet: the reader puts the folder in.
LOCATION = "path/to/this/folder"

_ENVIRONMENT = Environment(
    loader=PackageLoader("solared_hf.model_cards", ""),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
    # Cards are Markdown in UTF-8, not HTML.
    autoescape=False,
)


def render(template: str, facts: dict) -> str:
    """Text of a card; the same facts give the same text.

    Args:
        template: file name in `model_cards/`, such as `dataset_card.md.j2`.
        facts: every name that the template uses; what is not there is an error, never an empty string.

    Raises:
        jinja2.UndefinedError: the template uses a name that `facts` does not hold.
        jinja2.TemplateNotFound: there is no such template.
    """
    return _ENVIRONMENT.get_template(template).render(facts)


def card_for(repo_id: str, card: bytes) -> bytes:
    """A card as it stands in a repository, whose snippets load the repository."""
    return card.replace(LOCATION.encode(), repo_id.encode())
