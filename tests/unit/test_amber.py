"""amber: both halves by hand."""
import pytest
from povid_nb.amber import discriminative, generative


def test_amber_by_hand():
    annotations = [{"id": 1, "type": "generative", "truth": ["sea", "boat"], "hallu": ["fish", "bird"]},
                   {"id": 2, "type": "generative", "truth": ["tree"], "hallu": ["leaf"]}, {"id": 3, "type": "discriminative-relation", "truth": "yes"}]
    relation = {"sea": ["ocean"], "boat": ["ship"], "fish": [], "bird": ["gull"], "tree": [], "leaf": [], "sky": []}
    s = generative({1: "A gull over the ocean, two gulls, the sky.", 2: "A tree."}, annotations, relation, safe=["sky"])
    assert [getattr(s, k) for k in ("chair", "cover", "hal", "cog")] == [2/5, 2/3, 1/2, 1/3] and s.n == 2
    with pytest.raises(ValueError, match="generative"): generative({3: "x"}, annotations, relation)


def test_amber_counts_no_as_positive():
    annotations = [dict(id=i, type="discriminative-hallucination", truth=t) for i, t in enumerate(["yes", "no", "no", "no"])]
    s = discriminative({0: "No", 1: "No", 2: "Yes", 3: "no"}, annotations)
    assert [getattr(s, k) for k in ("accuracy", "precision", "recall", "f1", "yes_ratio")] == [.25, .5, pytest.approx(1/3), pytest.approx(.4), .25]
    with pytest.raises(ValueError, match="discriminative-relation"): discriminative({0: "No"}, annotations, "discriminative-relation")
