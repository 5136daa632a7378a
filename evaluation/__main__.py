"""`accelerate launch -m arche_mdlm.evaluation ...`: as `arche-mdlm eval`, in several processes."""

import sys

from arche_mdlm.evaluation.command import main
from arche_mdlm.training.command_line import exit_status

if __name__ == "__main__":
    sys.exit(exit_status(lambda: main(sys.argv[1:])))
