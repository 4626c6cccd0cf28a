import io
import math

import pytest

from pipeline import gauges
from pipeline.progress import Progress
from pipeline.training.following import MEASURES, followed
from pipeline.training.spool import STEP, Spool
from tests.synthetic import loop_settings, make_dataset


@pytest.fixture
def shown(monkeypatch):
    """What a bar gives to Ray's gauges."""
    found = []
    monkeypatch.setattr(gauges.BarGauges, "show", lambda _, done, notes: found.append(notes))
    return found


def test_dashboards_see_what_alerts_ask_for_and_lines_the_loss_alone(tmp_path, shown):
    settings = loop_settings(make_dataset(tmp_path / "data"), tmp_path / "run")
    spool, stream = Spool(settings.uri), io.TextIOWrapper(io.BytesIO(), write_through=True)
    measures = dict.fromkeys(MEASURES, 0.5)
    with followed(settings, "prior", Progress(stream), list, print):
        spool.add(8, {"loss": 1.0, "nonfinite_steps": 1.0, **measures})
        spool.add(16, {"nonfinite_steps": 2.0})  # no step was applied, so there is no loss
        spool.flush()
    assert shown[-1] == {"loss": 1.0, "nonfinite_steps": 3, **measures}
    assert stream.buffer.getvalue().decode().rstrip().endswith("loss=1")
    assert STEP not in shown[-1]
    assert not any(math.isnan(value) for value in shown[-1].values())
