"""``python -m florence_jobs.recipes FOLDER [--check]``: write the samples, or say what is stale."""

import sys
from pathlib import Path

from florence_jobs.recipes.registry import write_samples

sys.exit(write_samples(Path(sys.argv[1]), check="--check" in sys.argv))
