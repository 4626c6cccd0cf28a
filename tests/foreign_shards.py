"""Tars in the layouts that other people write, made from pictures drawn here."""

import io
import json
import tarfile
from pathlib import Path

from PIL import Image

from pipeline.draws import hash64


def picture(name: str, size=(48, 40), kind="JPEG", **options) -> bytes:
    """A picture of four flat quarters, another one for every name."""
    image = Image.new("RGB", size)
    for quarter in range(4):
        colour = tuple(hash64(name, quarter, channel) % 256 for channel in range(3))
        left, top = quarter % 2 * size[0] // 2, quarter // 2 * size[1] // 2
        image.paste(colour, (left, top, left + size[0] // 2, top + size[1] // 2))
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def img2dataset_members(key: str, caption: str, **fields) -> list[tuple[str, bytes]]:
    """What img2dataset writes of one sample."""
    metadata = {
        "caption": caption,
        "url": f"https://host{int(key) % 3}.example/{key}.jpg",
        "key": key,
        "status": "success",
        "error_message": None,
        "width": 48,
        "height": 40,
        "exif": "{}",
        "original_width": 96,
        "original_height": 80,
        **fields,
    }
    return [
        (f"{key}.jpg", picture(key)),
        (f"{key}.json", json.dumps(metadata, indent=4).encode()),
        (f"{key}.txt", caption.encode()),
    ]


def write_tar(path: Path, members, **options) -> Path:
    """A tar as webdataset's writer makes it: owners, times and modes of somebody."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **options) as tar:
        for name, content, *changes in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.uname, info.mode = len(content), 1_700_000_000, "big", 0o444
            for field, value in dict(*changes).items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(content))
    return path


def write_img2dataset(folder: Path, num_shards: int = 2, per_shard: int = 6) -> Path:
    """A small data set as img2dataset leaves it, keys not in order, statistics beside each tar."""
    for shard in range(num_shards):
        keys = [f"{shard:05d}{number:04d}" for number in reversed(range(per_shard))]
        members = [
            member
            for key in keys
            for member in img2dataset_members(key, f"a picture named {key}", LICENSE="CC0")
        ]
        write_tar(folder / f"{shard:05d}.tar", members)
        stats = {"count": per_shard + 3, "successes": per_shard, "failed_to_download": 3}
        (folder / f"{shard:05d}_stats.json").write_text(json.dumps(stats))
    return folder
