"""Runs img2dataset's ``Resizer`` in a process of its own: it imports torch and swaps 1 and 2.

Standard input: JSON lines ``{"settings": {...}, "body": hex}``; standard output: a JSON line each,
``{"png": hex}``, the resized picture in full, or ``{"error": text}``.
"""

import io
import json
import os
import sys
import warnings


def main():
    warnings.simplefilter("ignore")
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    from img2dataset.resizer import Resizer

    for line in sys.stdin.read().splitlines():
        request = json.loads(line)
        resizer = Resizer(encode_format="png", encode_quality=1, **request["settings"])
        body = io.BytesIO(bytes.fromhex(request["body"]))
        encoded, *_, error = resizer(body)
        answer = {"error": error} if error else {"png": encoded.hex()}
        sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
