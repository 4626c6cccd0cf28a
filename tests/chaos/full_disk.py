"""A disk that is full in the middle of ``curate``, again and again, and grows.

``unshare -rm python -m tests.chaos.full_disk <folder>`` mounts a small disk of its own below the
folder, curates the folder's ``pictures`` onto it, and gives it a little more space each time that
it was full. What lies there then is held against a curation that had space from the beginning. It
prints one JSON object: what the failures said, and what differs.
"""

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from pipeline import steps
from pipeline.candidates.config import FolderConfig
from pipeline.curation.config import CurateConfig
from pipeline.curation.curate import curate
from pipeline.errors import StorageError
from pipeline.progress import Progress
from tests.chaos.moments import CIRCUMSTANCE
from tests.local_curation import VALUES, balanced_of, pair

FIRST_KIB, MORE_KIB = 16, 48
NUM_BUCKETS = 2


def main() -> None:
    """Fill the disk until it is large enough."""
    folder = Path(sys.argv[1])
    steps.map_partitions = lambda work, rows: map(work, rows)
    names = sorted(path.name for path in (folder / "pictures").iterdir())
    balanced = balanced_of(folder, [pair(name, f"picture {name}") for name in names], NUM_BUCKETS)

    def work(place: Path) -> Any:
        source = FolderConfig(type="folder", path=str(folder / "pictures"))
        config = CurateConfig.model_validate(VALUES)
        return curate(config, source, balanced, str(place), Progress(io.StringIO())).content

    expected = work(folder / "roomy")
    hashes = _hashes(folder / "roomy")
    disk, size = folder / "disk", FIRST_KIB
    disk.mkdir()
    _mount(disk, size, "rw")
    said, wrong = [], []
    while True:
        try:
            content = work(disk / "curate")
            break
        except StorageError as error:
            said.append(str(error))
        found = _hashes(disk / "curate")
        wrong += [name for name in found if found[name] != hashes.get(name)]
        size += MORE_KIB
        _mount(disk, size, "remount")
    wrong += ["content"] if content != expected else []
    wrong += sorted(name for name, _ in _hashes(disk / "curate").items() ^ hashes.items())
    print(json.dumps({"said": said, "wrong": wrong, "files": len(hashes)}))


def _mount(disk: Path, kib: int, how: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"{how},size={kib}k", "tmpfs", disk]
    subprocess.run(command, check=True)


def _hashes(place: Path) -> dict[str, str]:
    """Of every file with a final name; the crawl's log holds times, ``work/`` does not stay."""
    return {
        str(path.relative_to(place)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(place.rglob("*"))
        if path.is_file()
        and path.name not in CIRCUMSTANCE
        and path.relative_to(place).parts[0] not in ("work", "crawl_log")
    }


if __name__ == "__main__":
    main()
