"""Delete the artifacts of a job that asked for it: what the operator runs before the job is gone.

python -m florence_jobs.remove_artifacts removal.json     # {"uri": "s3://…", "storage": {…}}
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from pydantic import ValidationError

from florence.config.base import first_problem
from florence.errors import ConfigurationError, FlorenceError
from florence.storage import open_storage
from florence_operator.api.stage import Removal

log = logging.getLogger("florence")


def remove(removal: Removal) -> int:
    """Delete everything below the URI, commits first: readers trust them. Returns how many."""
    storage = open_storage(removal.uri, removal.storage)
    keys = [entry.key for entry in storage.list()]
    for key in sorted(keys, key=lambda key: "/commits/" not in key):
        storage.delete(key)
    return len(keys)


def main(arguments: list[str]) -> int:
    """Read what to delete, delete it, and return an exit code of :mod:`florence.errors`."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    path = Path(arguments[0])
    try:
        removal = Removal.model_validate_json(path.read_bytes())
        log.info("Deleted %d objects below %s", remove(removal), removal.uri)
    except ValidationError as error:
        log.error("%s: %s", path, first_problem(error))
        return ConfigurationError.exit_code
    except FlorenceError as error:
        log.error("%s", error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
