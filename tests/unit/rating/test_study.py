import io
import json
from collections import Counter

import pytest
from PIL import Image
from pydantic import ValidationError

from pipeline.errors import ConfigError, DataError
from pipeline.evaluation.metrics import proportion
from pipeline.rating import results
from pipeline.rating.config import QUESTIONS, PageConfig, StudyConfig
from pipeline.rating.store import Store, opened
from pipeline.rating.study import items, places
from pipeline.rating.systems import paired, read_system
from tests import tiny_stack
from tests.rated_systems import CAPTIONS, make_folder
from tests.synthetic import publish


@pytest.fixture
def systems(tmp_path):
    ours = make_folder(tmp_path / "ours", "ours", num=16, side=24)
    theirs = make_folder(tmp_path / "theirs", "theirs", num=16, side=8)
    return {"first": ours, "second": theirs}


def begun(tmp_path, systems, **changes):
    store = Store(str(tmp_path / "ratings.sqlite"))
    store.begin(StudyConfig(**systems, **changes), items)
    return store


def test_every_question_gets_its_comparisons(systems):
    found = list(items(StudyConfig(**systems, num_comparisons=5)))
    assert Counter(item.question for item in found) == {
        "photorealism": 5,
        "caption": 5,
        "diversity": 2,
    }
    assert {item.caption for item in found} == set(CAPTIONS)


def test_a_grid_holds_sixteen_pictures_of_one_caption(systems):
    (item, _) = items(StudyConfig(**systems, questions=("diversity",)))
    grid = Image.open(io.BytesIO(item.first))
    own = {Image.open(p).getpixel((0, 0)) for p in sorted_pictures(systems["first"], item.caption)}
    shown = {grid.getpixel((x * 26 + 12, y * 26 + 12)) for x in range(4) for y in range(4)}
    assert shown == own
    assert grid.size == (4 * 24 + 3 * 2,) * 2


def sorted_pictures(folder, caption):
    from pathlib import Path

    return [p.with_suffix(".png") for p in Path(folder).glob("*.txt") if p.read_text() == caption]


def test_what_is_shown_tells_nothing_of_its_system(systems):
    for item in items(StudyConfig(**systems, num_comparisons=3)):
        ours, theirs = (Image.open(io.BytesIO(png)) for png in (item.first, item.second))
        assert ours.size == theirs.size  # the smaller ones were enlarged
        assert ours.info == theirs.info == {}
        assert b"secret" not in item.first + item.second


def test_order_and_sides_are_the_raters_own_and_stay(systems):
    config = StudyConfig(**systems)
    sizes = dict.fromkeys(QUESTIONS, 200)
    ann, bob = places(config, sizes, "Ann"), places(config, sizes, "Bob")
    assert ann == places(config, sizes, "Ann")
    assert ann != bob
    assert [place.question for place in ann] == [q for q in QUESTIONS for _ in range(200)]
    left = sum(place.left == "first" for place in ann)
    assert proportion(left, 600).low95 < 0.5 < proportion(left, 600).high95
    assert {(p.question, p.number) for p in ann} == {(q, n) for q in QUESTIONS for n in range(200)}
    other = StudyConfig(**systems, seed=1)
    assert places(other, sizes, "Ann") != ann


def test_answers_are_counted_for_systems_not_for_sides(tmp_path, systems):
    store = begun(tmp_path, systems, questions=("photorealism",), num_comparisons=20)
    for rater, choices in (("Ann", ["first"] * 15 + ["tie"] * 5), ("Bob", ["second"] * 20)):
        for place, choice in zip(store.places(rater), choices, strict=True):
            store.answer(rater, place, choice)
    found = results.summary(store)
    assert found["raters"] == {"Ann": 20, "Bob": 20}
    tally = found["questions"]["photorealism"]
    assert (tally["first"], tally["second"], tally["tie"]) == (15, 20, 5)
    assert tally["num_comparisons"] == 20
    # Wilson, by hand: p = 15/35, z = 1.96: centre 0.4357, half width 0.1565.
    assert tally["preference"] == {"percent": 42.9, "low95": 28.0, "high95": 59.1}
    on_left = sum(a.choice == a.on_left for a in store.answers() if a.choice != "tie")
    assert tally["chose_left"]["percent"] == round(100 * on_left / 35, 1)


def test_an_answer_is_replaced_and_nothing_is_preferred_before_the_first(tmp_path, systems):
    store = begun(tmp_path, systems)
    assert results.summary(store)["questions"]["caption"]["preference"] is None
    place = store.places("Ann")[0]
    store.answer("Ann", place, "first")
    store.answer("Ann", place, "tie")
    assert [answer.choice for answer in store.answers()] == ["tie"]


def test_a_database_keeps_its_study_without_the_pictures(tmp_path, systems):
    store = begun(tmp_path, systems)
    store.begin(StudyConfig(**systems), lambda config: pytest.fail("they are there already"))
    with pytest.raises(ConfigError, match="holds ratings with seed=0, asked for is 1; name anoth"):
        store.begin(StudyConfig(**systems, seed=1), items)
    store.close()
    with opened(store.path) as again:
        assert again.config() == StudyConfig(**systems)


def test_a_study_that_cannot_be_prepared_leaves_no_half_of_it(tmp_path, systems):
    (tmp_path / "ours" / "000.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"000\.png is no readable picture"):
        begun(tmp_path, systems)
    assert Store(str(tmp_path / "ratings.sqlite")).config() is None


def test_exports(tmp_path, systems):
    store = begun(tmp_path, systems)
    store.answer("Ann, the first", store.places("Ann, the first")[0], "second")
    results.write(store, str(tmp_path / "out.csv"))
    head, row = (tmp_path / "out.csv").read_text().splitlines()
    assert head == "rater,question,number,on_left,choice,at_s"
    assert row.startswith('"Ann, the first",photorealism,')
    results.write(store, str(tmp_path / "out.json"))
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["study"]["first"] == systems["first"]
    assert found["answers"][0]["choice"] == "second"
    with pytest.raises(ConfigError, match=r"ends in \.csv or \.json"):
        results.write(store, "ratings.txt")


def test_pictures_of_runs_belong_together_by_caption(tmp_path):
    runs = [generated_run(tmp_path / name, seed) for seed, name in enumerate(("a", "b"))]
    pairs = paired(*map(read_system, runs))
    assert [pair.caption for pair in pairs] == ["a red circle", "a blue square"] * 2
    assert all(pair.first == pair.second for pair in pairs)
    folder = make_folder(tmp_path / "c", "c", num=1, side=8, captions=("a blue square",))
    ((pair,), system) = paired(read_system(runs[0]), read_system(folder)), read_system(folder)
    assert (pair.first, pair.second) == ("final-00000001", "000.png")
    assert system.generated is None


def generated_run(folder, seed):
    """An untrained stack's pictures as a finished stage, in a run's folder."""
    from pipeline import storage
    from pipeline.generation.partition import PartitionMaker
    from pipeline.generation.plan import plan
    from pipeline.generation.prompts import Prompt
    from pipeline.generation.run_stages import RunStages

    stack = tiny_stack.make_stack(folder, seed)
    uri = str(folder / "generate" / "0")
    config = tiny_stack.generate_config()
    maker = PartitionMaker(RunStages.of(stack), config, (), uri)
    prompts = [Prompt(text) for text in ("a red circle", "a blue square")] * 2
    shards = [maker.make(partition)["shard"] for partition in plan(prompts, 0, 4, seed=3)]
    publish(uri, "generate", {"shards": shards})
    storage.write_json(str(folder / "run.json"), {"stages": {"generate": "generate/0"}})
    return str(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: (root / "theirs").rename(root / "away"), "no such folder"),
        (lambda root: emptied(root / "theirs", "*"), "neither a run with generated pictures"),
        (lambda root: emptied(root / "theirs", "*.png", "x"), "share no file name"),
        (lambda root: emptied(root / "ours", "0[0-2]*.txt"), "diversity needs 16 pictures of one"),
        (lambda root: (root / "ours/000.txt").write_text("else"), "need one caption"),
    ],
)
def test_systems_that_cannot_be_compared_are_refused(tmp_path, systems, change, reason):
    change(tmp_path)
    if reason.startswith("diversity"):
        emptied(tmp_path / "theirs", "0[0-2]*.txt")
    with pytest.raises(ConfigError, match=reason):
        list(items(StudyConfig(**systems)))


def emptied(folder, pattern, renamed=None):
    for path in folder.glob(pattern):
        if renamed is None:
            path.unlink()
        else:
            path.rename(path.with_name(f"{renamed}{path.name}"))


@pytest.mark.parametrize(
    ("model", "values", "reason"),
    [
        (StudyConfig, {"first": "a", "second": "a/"}, "both systems are a"),
        (StudyConfig, {"first": "a", "second": "b", "num_comparisons": 0}, "num_comparisons"),
        (PageConfig, {"host": "0.0.0.0"}, "could|can be reached by others"),
        (PageConfig, {"host": "rating.example"}, "can be reached by others"),
        (PageConfig, {"token": "short"}, "at least 16"),
    ],
)
def test_wrong_settings_are_refused(model, values, reason):
    with pytest.raises(ValidationError, match=reason):
        model(**values)


def test_a_public_page_with_a_secret_is_fine():
    assert PageConfig(host="::1").token is None
    assert PageConfig(host="0.0.0.0", token="x" * 16).host == "0.0.0.0"
