"""``python -m florence_jobs.pipelines [--check]``: compile the pipelines, or say what is stale."""

import sys

from florence_jobs.pipelines.compiling import COMPILED, write_compiled

sys.exit(write_compiled(COMPILED, check="--check" in sys.argv))
