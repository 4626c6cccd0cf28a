import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
from PIL import Image

from pipeline.images import decode_child
from pipeline.images.config import DecodeConfig
from pipeline.images.decode import decode, open_received
from pipeline.images.decoder import Decoded, DecodedPixels, Decoder, shared
from pipeline.images.dedup import signature
from tests.picture_corpus import flat_png, photograph, saved, slow_jpeg

CONFIG = DecodeConfig(max_pixels=40_000_000, pool_side_px=128, cpu_deadline_s=1.0)


GOOD = saved(photograph(0, 200, 150), "JPEG", quality=90)


@pytest.fixture
def decoder():
    with Decoder(CONFIG) as found:
        yield found


def test_a_child_gives_what_this_process_would_give(decoder):
    bodies = [
        GOOD,
        saved(photograph(0, 100, 75), "PNG"),
        saved(photograph(0, 90, 70), "WEBP"),
        b"",
        GOOD[:900],
    ]
    for body in bodies:
        found, expected = decoder.decode(body), decode(body, CONFIG)
        if isinstance(expected, str):
            assert found == expected
            continue
        assert isinstance(found, Decoded)
        assert found.encoded == expected.encoded
        assert found.signature == signature(expected.image)
        assert (found.width, found.height) == expected.image.size
        sizes = (found.original_width, found.original_height)
        assert sizes == (expected.original_width, expected.original_height)


def test_one_child_serves_many_pictures(decoder):
    decoder.decode(GOOD)
    pid = decoder.pid
    assert all(decoder.decode(GOOD) == decoder.decode(GOOD) for _ in range(5))
    assert decoder.pid == pid
    assert 0 < decoder.cpu_s < 5


def test_what_decoding_costs_is_told_in_full(decoder):
    body = saved(photograph(0, 700, 500), "JPEG", quality=90)
    decoder.decode(body)
    clock = (~decoder.pid << 3) | 2  # the CPU time of another process (clock_getcpuclockid)
    told_s, spent_s = decoder.cpu_s, time.clock_gettime(clock)
    for _ in range(40):
        decoder.decode(body)
    told_s, spent_s = decoder.cpu_s - told_s, time.clock_gettime(clock) - spent_s
    assert 0.9 * spent_s < told_s <= spent_s


def test_a_picture_that_takes_too_long_is_stopped_and_the_next_one_is_decoded(decoder):
    before = decoder.decode(GOOD)
    pid, body = decoder.pid, slow_jpeg()
    assert len(body) < 2_000_000
    clock = time.monotonic()
    assert decoder.decode(body) == "decode_timeout"
    assert time.monotonic() - clock < 60  # unbounded, it would take minutes
    assert not psutil.pid_exists(pid)
    assert decoder.decode(GOOD) == before
    assert decoder.pid != pid


def test_the_deadline_counts_the_cpu_time_of_one_picture_and_not_of_all():
    with Decoder(CONFIG.model_copy(update={"cpu_deadline_s": 0.3})) as decoder:
        body = saved(photograph(0, 800, 600), "PNG")
        found = [decoder.decode(body)]
        while decoder.cpu_s <= 0.3 and len(found) < 1000:
            found.append(decoder.decode(body))
        assert decoder.cpu_s > 0.3
    assert not any(isinstance(each, str) for each in found)


def test_a_child_that_somebody_else_killed_is_replaced(decoder):
    before = decoder.decode(GOOD)
    os.kill(decoder.pid, signal.SIGKILL)
    assert decoder.decode(GOOD) == before


def test_a_picture_that_kills_its_child_twice_has_crashed_it(decoder, monkeypatch):
    start = decoder._start

    def start_and_stop():
        child = start()
        child.send_signal(signal.SIGSEGV)
        return child

    monkeypatch.setattr(decoder, "_start", start_and_stop)
    assert decoder.decode(GOOD) == "decode_crash"
    monkeypatch.undo()
    assert isinstance(decoder.decode(GOOD), Decoded)


def test_a_child_that_cannot_work_is_an_error_and_not_a_drop_reason(decoder, monkeypatch):
    monkeypatch.setattr(decode_child, "__name__", "pipeline.images.no_such_module")
    with pytest.raises(RuntimeError, match="exit code 1, which no picture can cause"):
        decoder.decode(GOOD)


def test_an_idle_child_ends_and_is_replaced(decoder, monkeypatch):
    before = decoder.decode(GOOD)
    child = child_with("c.IDLE_S = 0.05", CONFIG)
    decoder.close()
    decoder._child = child
    assert child.wait(30) == 0
    assert decoder.decode(GOOD) == before
    assert decoder.pid != child.pid


def test_a_child_ends_with_its_parent():
    code = (
        "import sys; from pipeline.images.config import DecodeConfig\n"
        "from pipeline.images.decoder import Decoder\n"
        "decoder = Decoder(DecodeConfig()); decoder.decode(b'')\n"
        "print(decoder.pid, flush=True); sys.stdin.read()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child = psutil.Process(int(parent.stdout.readline()))
    parent.kill()
    parent.communicate()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


def test_a_child_has_none_of_our_environment(decoder, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "canary")
    decoder.decode(GOOD)
    assert "canary" not in psutil.Process(decoder.pid).environ().values()


def child_with(settings, config):
    """A child in which some constants are others."""
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import pipeline.images.decode_child as c; {settings}; c.main()",
            config.model_dump_json(),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_the_largest_allowed_picture_fits_into_the_memory_that_a_child_may_use():
    side = 2000
    config = CONFIG.model_copy(update={"max_pixels": side * side, "cpu_deadline_s": 60.0})
    image = Image.new("RGBA", (side, side), (9, 9, 9, 9))
    animated = saved(image, "WEBP", save_all=True, append_images=[Image.new("RGBA", image.size)])
    bodies = [
        flat_png(side),
        flat_png(side, channels=1),
        animated,
        saved(image.convert("CMYK"), "JPEG"),
    ]
    bodies.append(saved(image.convert("RGB"), "JPEG", progressive=True))
    bodies.append(saved(image.convert("P"), "GIF", transparency=0))
    with Decoder(config) as decoder:
        decoder._child = child = child_with("c.SPARE_BYTES = 16 << 20", config)
        found = [take(body) for take in (decoder.decode, decoder.pixels) for body in bodies]
        assert decoder.pid == child.pid
    assert not any(isinstance(each, str) for each in found), found


def test_memory_beyond_the_limit_is_a_drop_reason():
    side = 3000
    config = CONFIG.model_copy(update={"max_pixels": side * side, "cpu_deadline_s": 60.0})
    with Decoder(config) as decoder:
        decoder._child = child = child_with("c.BYTES_PER_PIXEL, c.SPARE_BYTES = 1, 0", config)
        assert decoder.decode(flat_png(side)) == "decode_memory"
        assert isinstance(decoder.decode(GOOD), Decoded)
        assert decoder.pid == child.pid


def test_partitions_with_the_same_settings_share_a_decoder():
    one = shared(CONFIG)
    one.decode(GOOD)
    assert shared(CONFIG.model_copy()) is one
    assert one.pid is not None
    assert shared(CONFIG.model_copy(update={"max_pixels": 7})) is not one
    assert one.pid is None


def test_pixels_come_as_this_process_would_decode_them(decoder):
    turned = Image.Exif()
    turned[0x0112] = 6
    bodies = [GOOD, saved(photograph(0, 90, 70), "PNG"), GOOD[:900], b""]
    bodies += [saved(photograph(0, 100, 70), "JPEG", quality=90, exif=turned.tobytes())]
    for body in bodies:
        found, expected = decoder.pixels(body), open_received(body, CONFIG)
        if isinstance(expected, str):
            assert found == expected
            continue
        assert isinstance(found, DecodedPixels)
        assert np.array_equal(np.asarray(found.image), np.asarray(expected.image))
        assert found.signature == signature(expected.image)
    assert decoder.pixels(slow_jpeg()) == "decode_timeout"
    assert isinstance(decoder.decode(GOOD), Decoded)


def test_a_picture_too_long_for_its_form_leaves_the_child_alive():
    config = CONFIG.model_copy(update={"resize_mode": "no", "cpu_deadline_s": 20.0})
    long = saved(Image.new("RGB", (66_000, 40)), "PNG")
    with Decoder(config) as decoder:
        decoder.decode(GOOD)
        pid = decoder.pid
        assert decoder.decode(long) == "side_too_long"
        assert decoder.pixels(long).image.size == (66_000, 40)
        assert decoder.pid == pid


@pytest.mark.parametrize(
    ("error", "reason"), [(MemoryError, "decode_memory"), (OSError, "decode_error")]
)
def test_whatever_fails_after_decoding_is_a_reason_too(error, reason):
    broken = f"c.signature = lambda image: (_ for _ in ()).throw({error.__name__})"
    with Decoder(CONFIG) as decoder:
        decoder._child = child = child_with(broken, CONFIG)
        assert [decoder.decode(GOOD), decoder.pixels(GOOD)] == [reason, reason]
        assert decoder.pid == child.pid
