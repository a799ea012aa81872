"""`solared train` as a script, for `accelerate launch`, `torchrun` and Slurm."""

import sys

from solared_hf.cli import main

main(["train", *sys.argv[1:]])
