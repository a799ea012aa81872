"""`python -m solared_hf` is `solared`."""

from solared_hf.cli import main

main()
