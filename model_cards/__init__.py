"""The Jinja templates of the cards, and folders of small trained models, ready to push."""
