"""Run `solared` as `python -m solared_hf`."""

from solared_hf.cli import main

main()
