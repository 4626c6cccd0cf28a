"""A bill of materials of the lock (CycloneDX): ``python infra/docker/materials.py > sbom.json``.

Every package with its version and the hashes of its files; nothing is looked up.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

LOCK = Path(__file__).with_name("requirements.lock")
PIN = re.compile(r"(?P<name>[\w.-]+)==(?P<version>[^\s;]+)")
HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


def components(lock: str) -> list[dict[str, Any]]:
    """One component for each entry of a lock, in its order."""
    found = []
    for entry in re.split(r"\n(?=\S)", lock.strip()):
        pin = PIN.match(entry)
        if pin is None:
            raise SystemExit(f"{LOCK}: no pinned package: {entry.splitlines()[0]}")
        purl = f"pkg:pypi/{pin['name'].lower().replace('_', '-')}@{pin['version']}"
        hashes = [{"alg": "SHA-256", "content": content} for content in HASH.findall(entry)]
        known = {"name": pin["name"], "version": pin["version"], "purl": purl, "hashes": hashes}
        found.append({"type": "library", "bom-ref": purl, **known})
    return found


if __name__ == "__main__":
    bill = {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "name": "unclip-pipeline"}},
        "components": components(LOCK.read_text()),
    }
    json.dump(bill, sys.stdout, indent=1)
