"""Render cards from facts with the Jinja templates of `model_cards/`."""

from jinja2 import Environment, PackageLoader, StrictUndefined

CARD_NAME = "README.md"

# What the snippets of a card load if the repository is not known: the reader replaces it.
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
    """Return the text of a card; the same facts give the same text.

    Args:
        template: File name in `model_cards/`, such as `dataset_card.md.j2`.
        facts: Values of all names that the template uses.

    Raises:
        jinja2.UndefinedError: If the template uses a name that is missing in `facts`.
        jinja2.TemplateNotFound: If the template does not exist.
    """
    return _ENVIRONMENT.get_template(template).render(facts)


def card_for(repo_id: str, card: bytes) -> bytes:
    """Return a card whose snippets load the repository."""
    return card.replace(LOCATION.encode(), repo_id.encode())
