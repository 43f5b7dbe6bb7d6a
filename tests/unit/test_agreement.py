"""agreement: the original's rule, applied to the answers that we save for it, gives our numbers."""
import pytest
from povid_nb.benches import BENCHES
from tools import agreement


def test_every_bench_has_its_rule(): assert tuple(agreement.BENCHES) == BENCHES


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", BENCHES)
def test_the_originals_rule_and_ours_do_not_differ(name, seed):
    rows = agreement.table(name, seed)
    for measure, rule, here in rows: assert here == pytest.approx(rule, abs=1e-9), measure
    # the answers are neither all right nor all wrong
    assert all(0 < rule and rule != 1 for _, rule, _ in rows)
