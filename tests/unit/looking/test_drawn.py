"""Random samples follow from names and seed alone."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.draws import hash64
from pipeline.looking.drawn import Drawn

NAMES = st.lists(st.text(max_size=4), unique=True, max_size=30)


def draw(number, batches, seed=1):
    drawn = Drawn(number, seed)
    for batch in batches:
        drawn.offer(batch, [name.upper() for name in batch])
    return drawn


@given(names=NAMES, number=st.integers(0, 10), cut=st.integers(0, 30), data=st.data())
def test_any_order_and_any_batches_draw_the_lowest_hashes(names, number, cut, data):
    expected = sorted(names, key=lambda name: (hash64(1, "look", name), name))[:number]
    shuffled = data.draw(st.permutations(names))
    drawn = draw(number, [shuffled[:cut], shuffled[cut:]])
    assert drawn.things() == [name.upper() for name in expected]
    assert drawn.offered == len(names)


def test_a_larger_number_begins_with_the_same_and_another_seed_draws_others():
    names = [str(number) for number in range(200)]
    few, many = draw(5, [names]).things(), draw(50, [names]).things()
    assert many[:5] == few
    assert draw(50, [names], seed=2).things() != many
