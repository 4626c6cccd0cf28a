"""A crawl worker in a process of its own: the same addresses round after round, a line for each.

``python -m tests.bomb_worker '{"crawl": …, "decode": …, "urls": […], "rounds": 3}'``
"""

import json
import sys
import tempfile
from collections import Counter

from pipeline.candidates import urls
from pipeline.images import block_list
from pipeline.images.config import CrawlConfig, DecodeConfig, FilterConfig
from pipeline.images.decoder import shared
from pipeline.images.fetch import Target
from pipeline.images.pool import PoolWriter, fill_pool


def main():
    asked = json.loads(sys.argv[1])
    crawl = CrawlConfig.model_validate(asked["crawl"])
    decoder = shared(DecodeConfig.model_validate(asked["decode"]))
    filters = FilterConfig(min_side_px=1)
    blocked = block_list.read(filters)
    targets = [Target(urls.url_id(url), url) for url in asked["urls"]]
    for _ in range(asked["rounds"]):
        with tempfile.TemporaryFile() as file:
            writer = PoolWriter(file, decoder, filters, blocked, lambda *_: None)
            rows = fill_pool(targets, crawl, writer)
        counts = Counter(row.drop_reason or "kept" for row in rows)
        sys.stdout.write(json.dumps(counts) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
