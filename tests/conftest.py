"""Under ``REQUIRE_SERVICES`` a skipped test fails, unless it needs what cannot be installed."""

import os

import hypothesis
import pytest

# Time is the benchmarks' business; a busy machine must fail no property.
hypothesis.settings.register_profile("timeless", deadline=None)
hypothesis.settings.load_profile("timeless")

MAY_SKIP = ("gpu", "kubernetes", "network")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    required = bool(os.environ.get("REQUIRE_SERVICES")) and not hasattr(report, "wasxfail")
    named = any(item.get_closest_marker(name) for name in MAY_SKIP)
    if report.skipped and required and not named:
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure here: {report.longrepr}"
    return report
