"""python -m florence_operator [--config FILE]"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from florence.errors import FlorenceError
from florence_operator.replica import run_replica
from florence_operator.runtime.logs import configure_logs
from florence_operator.settings import OperatorConfiguration, load_settings

DEFAULT_CONFIG = Path("/etc/florence-operator/config.yaml")


def main(arguments: list[str]) -> int:
    """Run one replica; 0 after a signal, 1 after a lost lease, 2 for wrong settings."""
    parser = argparse.ArgumentParser(prog="florence_operator", description="Runs FlorenceJobs.")
    parser.add_argument("--config", type=Path, help=f"settings; default: {DEFAULT_CONFIG}")
    parser.add_argument("--log-level", default="INFO", choices=["DEBUG", "INFO", "WARNING"])
    options = parser.parse_args(arguments)
    configure_logs(options.log_level)
    try:
        if options.config is None and not DEFAULT_CONFIG.exists():
            settings = OperatorConfiguration()
        else:
            settings = load_settings(options.config or DEFAULT_CONFIG)
        return asyncio.run(run_replica(settings, os.environ))
    except FlorenceError as error:
        logging.getLogger("florence_operator").error("%s", error)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
