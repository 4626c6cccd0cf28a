from pipeline.chain import oracle
from pipeline.config import load_run
from pipeline.demo.captions import named
from pipeline.run_file import RunFile

DEMO = "jobs/configs/demo/run.yaml"
SINGLE = "a red circle on a grey background"
PAIR = "a red circle left of a blue star on a grey background"


def test_captions_of_one_shape_get_an_edit_of_colour_and_background():
    run = load_run(RunFile, DEMO)
    rows = oracle.edits([SINGLE, PAIR, "desktop wallpaper 12"], 0, run)
    assert [len(row) for row in rows] == [2, 0, 0]
    colour, background = rows[0]
    assert (colour.attribute, colour.old) == ("colour", "red")
    assert named(colour.text) == ({colour.new}, {"circle"}, {"grey"})
    assert (background.attribute, background.old) == ("background", "grey")
    assert named(background.text) == ({"red"}, {"circle"}, {background.new})
    assert colour.base_text == background.base_text == SINGLE
    assert rows == oracle.edits([SINGLE, PAIR, "desktop wallpaper 12"], 0, run)


def test_new_values_are_drawn_from_all_others():
    run = load_run(RunFile, DEMO)
    new = {row[0].new for row in oracle.edits([SINGLE] * 100, 0, run)}
    assert len(new) == 7
    assert "red" not in new


def test_nothing_can_be_told_of_other_pictures():
    run = load_run(RunFile, DEMO).model_copy(update={"candidates": None})
    assert oracle.edits([SINGLE], 0, run) == [()]
