"""The process in which img2dataset runs, started by ``img2dataset_run``.

It is imported nowhere else: it takes seconds and hundreds of megabytes, and swaps the file
descriptors of standard output and error while it works.
"""

import json
import sys


def main() -> None:
    """Call ``img2dataset.download`` with the settings that the command line holds as JSON."""
    from img2dataset import download

    download(**json.loads(sys.argv[1]))


if __name__ == "__main__":
    main()
