"""The verdict by rule, on summaries of known figures: every headline, and what is never said."""

import itertools

import pytest

from chiasm.compare.verdict import verdict


def row(name, kind="fusion", score=0.75, **more):
    found = {"name": name, "kind": kind, "inputs": ["image", "text"], "score": score, "interval": [score - 0.02, score + 0.02], "sd": 0.004}
    found |= {
        "in_top": True,
        "p_best": 0.5,
        "unstable": False,
        "above_majority": True if kind != "majority" else None,
        "against_reference": None,
    }
    found |= {"controls": {}, "interaction": None, "shares": None, "cost": {"parameters": None, "macs": None, "p50": None}}
    return found | more


def against(difference, outcome, p=0.41, detectable=0.012):
    found = {"difference": difference, "interval": [difference - 0.01, difference + 0.01], "p": p / 2, "p_holm": p, "outcome": outcome}
    return {"against_reference": found | {"detectable": detectable, "item_detectable": 0.02}}


def interaction(value, real=0.8, additive=0.5):
    return {"interaction": {"value": value, "interval": [value - 0.008, value + 0.008], "p": 0.5, "real": real, "additive": additive}}


def told(*rows, **more):
    scored = [r for r in rows if r["score"] is not None]
    sign = 1 if more.get("higher_is_better", True) else -1
    found = {"rows": list(rows), "metric": "accuracy", "unit": "points", "higher_is_better": True, "seeds": [0, 1, 2, 3, 4], "items": 752}
    found |= {"screening": False, "independent": 752, "detectable": 0.012, "item_detectable": 0.02, "item_half_width": 0.031}
    found |= {"top": [r["name"] for r in scored if r["in_top"]], "best": max(scored, key=lambda r: sign * r["score"])["name"]}
    kinds = {r["kind"]: r["name"] for r in reversed(scored)}
    found |= {"reference": kinds.get("ensemble") or kinds.get("unimodal") or kinds.get("majority"), "majority": kinds.get("majority")}
    return found | {"recommended": found["top"][0], "notes": []} | more


MAJORITY = row("majority", "majority", 0.25, in_top=False)
ENSEMBLE = row("ensemble of unimodal", "ensemble", 0.7686)
POWER = "5 seeds: they can show differences from 1.2 points on, the test items from 2.0 points on."


def test_nobody_beats_the_ensemble():
    cheap = row("late", score=0.76, **against(-0.01, "tie", 0.6), **interaction(0.002))
    cheap["cost"]["parameters"] = 1_234_000
    found = verdict(told(MAJORITY, ENSEMBLE, row("early", **against(0.004, "tie"), **interaction(0.001)), cheap, recommended="late"))
    assert found.line == (
        "No operator is distinguishable from `ensemble of unimodal` (p=.41). Interaction value 0.2 [-0.6, 1.0] points (`late`). "
        f"Cheapest in the top group: `late` (1.23 M parameters). {POWER}"
    )
    assert found.winner is None
    assert "Not distinguishable from the highest score (`ensemble of unimodal`): `early` and `late`." in found.sentences
    assert "`early` is not distinguishable from `ensemble of unimodal`: +0.4 [-0.6, +1.4] points, p=.41 after Holm." in found.sentences
    assert "752 test items leave ±3.1 points around one trained model's score; paired differences are narrower." in found.sentences


def test_a_winner():
    best = row("early", score=0.87, **against(0.102, "better", 0.0002))
    others = [{**ENSEMBLE, "in_top": False}, row("late", score=0.77, in_top=False, **against(0.002, "tie"))]
    found = verdict(told(MAJORITY, best, *others))
    assert found.line == (
        f"`early` is better than `ensemble of unimodal`: +10.2 [+9.2, +11.2] points, p<.001. `early` stands alone at the top. {POWER}"
    )
    assert found.winner == "early"


def test_the_winner_may_be_one_of_several_that_are_better():
    rows = [
        row("early", score=0.8, in_top=False, **against(0.04, "better", 0.01)),
        row("late", score=0.9, **against(0.14, "better", 0.001)),
    ]
    found = verdict(told(MAJORITY, {**ENSEMBLE, "in_top": False}, *rows, top=["late"]))
    assert found.winner == "late"
    assert found.line.startswith("`late` is better than `ensemble of unimodal`: +14.0 [+13.0, +15.0] points, p=.001. `late` stands alone")


def test_a_tie_has_no_winner():
    better = [row(name, score=0.87 + d, **against(0.10 + d, "better", 0.001)) for name, d in (("early", 0.002), ("co_attention", 0.0))]
    worse = row("late", score=0.7, in_top=False, **against(-0.06, "worse", 0.001))
    found = verdict(told(MAJORITY, {**ENSEMBLE, "in_top": False}, *better, worse))
    assert found.line.startswith(
        "2 of 3 operators are better than `ensemble of unimodal` (by up to +10.2 [+9.2, +11.2] points, p=.001), "
        "but no winner can be named: `early` and `co_attention` tie at the top. Cheapest in the top group: `early`."
    )
    assert found.winner is None


def test_a_lottery_ties_with_everything_and_is_told_apart():
    better = [row(name, score=0.96, **against(0.86, "better", 0.001)) for name in ("early", "late")]
    lottery = row("co_attention", score=0.6, unstable=True, sd=0.4, **against(0.5, "tie"))
    ensemble = {**ENSEMBLE, "score": 0.1, "in_top": False}
    found = verdict(told(ensemble, *better, lottery))
    assert "`early` and `late` tie at the top (`co_attention` may be anywhere: too wide a spread over seeds)." in found.line
    found = verdict(told(ensemble, better[0], lottery))
    assert "no winner can be named beside `early`: the seeds of `co_attention` spread too far to tell." in found.line
    chance = row("late", score=0.1, in_top=False, above_majority=False, **against(0.0, "tie"))
    alone = [
        row(name, kind, 0.1, in_top=False, above_majority=False) for name, kind in (("image alone", "unimodal"), ("ensemble", "ensemble"))
    ]
    told_of = told({**MAJORITY, "score": 0.1}, *alone, chance, better[0], {**lottery, "above_majority": False})
    assert "`late` are at chance (not above majority), `early` is not" in verdict(told_of).line, "a lottery is not called at chance"


def test_better_than_the_reference_but_below_another_row():
    trees = row("trees", "trees", 0.9)
    found = verdict(told(ENSEMBLE | {"in_top": False}, trees, row("early", in_top=False, **against(0.05, "better", 0.01))))
    assert "1 of 1 operators is better than `ensemble of unimodal` (by +5.0" in found.line
    assert "`trees` stands alone at the top." in found.line
    assert found.winner is None
    assert "`trees`, without any training of a network, is in the top group." in found.sentences


def test_real_but_too_small_is_not_better():
    small = row("early", score=0.78, **against(0.009, "small", 0.01))
    found = verdict(told(MAJORITY, ENSEMBLE, small))
    assert found.line.startswith(
        "No operator is shown to beat `ensemble of unimodal`: the largest difference is that of `early`, +0.9 [-0.1, +1.9] points, p=.010, "
        "below the 1.2 points that its seeds can reliably show."
    )
    assert "better" not in found.line
    assert any(s.endswith("p=.010 after Holm - less than its seeds can reliably show.") for s in found.sentences)


def test_all_or_some_are_worse():
    worse = [row(name, score=0.7, in_top=False, **against(-0.07, "worse", 0.0001)) for name in ("early", "late")]
    assert verdict(told(MAJORITY, ENSEMBLE, *worse)).line.startswith("Every operator is worse than `ensemble of unimodal`.")
    some = verdict(told(MAJORITY, ENSEMBLE, worse[0], row("late", **against(-0.001, "tie", 1.0))))
    assert some.line.startswith("No operator beats `ensemble of unimodal` (p=1); `early` is worse.")
    slightly = row("late", score=0.76, in_top=False, **against(-0.008, "small", 0.01))
    assert verdict(told(MAJORITY, ENSEMBLE, slightly)).line.startswith("No operator beats `ensemble of unimodal`.")


def test_one_input_suffices():
    alone = row("text alone", "unimodal", 0.7615)
    assert (
        "One input suffices: `text alone` is in the top group."
        in verdict(told(MAJORITY, alone, ENSEMBLE, row("early", **against(0.004, "tie")))).line
    )
    beaten = verdict(told(MAJORITY, {**alone, "in_top": False}, ENSEMBLE, row("early", **against(0.004, "tie")))).line
    assert "suffices" not in beaten


def test_nothing_was_learned():
    found = verdict(
        told({**MAJORITY, "in_top": True}, row("text alone", "unimodal", 0.26), row("early", score=0.26, **against(0.01, "tie")))
    )
    assert found.line == f"No row is distinguishable from `majority`: nothing was learned from any input. {POWER}"


def test_interaction_is_necessary():
    chance = {"score": 0.1, "in_top": False, "above_majority": False}
    rows = [row("image alone", "unimodal", **chance), row("ensemble", "ensemble", **chance), row("late", **chance, **against(0.0, "tie"))]
    best = row("early", score=0.96, **against(0.86, "better", 0.0001), **interaction(0.84, 0.96, 0.12))
    found = verdict(told({**MAJORITY, "score": 0.1}, *rows, best))
    assert (
        "Interaction is necessary: `image alone`, `ensemble` and `late` are at chance (not above majority), `early` is not." in found.line
    )
    assert "Interaction value 84.0 [83.2, 84.8] points (`early`)." in found.line
    rows[1]["above_majority"] = True
    assert "necessary" not in verdict(told({**MAJORITY, "score": 0.1}, *rows, best)).line


def test_without_an_ensemble_the_reference_is_named():
    alone = row("text alone", "unimodal", 0.76)
    found = verdict(told(MAJORITY, alone, row("early", **against(0.004, "tie"))))
    assert found.line.startswith("No operator is distinguishable from `text alone` (the best single input: there is no ensemble) (p=.41).")
    found = verdict(told(MAJORITY, row("early", **against(0.5, "better", 0.0001))))
    assert "`majority` (there is neither an ensemble nor a single input)" in found.line


def test_without_anything_to_compare():
    assert verdict(told(row("early"), row("late"))).line.startswith(
        "There is no row to test the operators against; no winner can be named: `early` and `late` tie at the top."
    )
    assert verdict(told(MAJORITY, ENSEMBLE)).line.startswith("No fusion was measured.")
    unscored = row("early", **against(0.004, "tie")) | {"score": None, "in_top": False, "against_reference": None}
    assert verdict(told(MAJORITY, ENSEMBLE, unscored)).line.startswith("No fusion was measured.")


def test_few_seeds_are_a_screening():
    more = {"seeds": [0, 1, 2], "screening": True}
    found = verdict(told(MAJORITY, ENSEMBLE, row("early", **against(0.004, "tie")), **more))
    assert found.line.endswith("Screening with 3 seeds: they can show differences from 1.2 points on, the test items from 2.0 points on.")
    assert "Fewer than 5 seeds are a screening: a reason to look closer, not a result." in found.sentences


def test_what_the_seeds_can_show_is_told_alone_where_it_is_the_limit():
    found = verdict(told(MAJORITY, ENSEMBLE, row("early", **against(0.004, "tie")), item_detectable=0.005))
    assert found.line.endswith("5 seeds: they can show differences from 1.2 points on.")
    unknown = row("early", **against(0.05, "small", 0.01, detectable=None))
    found = verdict(told(MAJORITY, ENSEMBLE, unknown, seeds=[0, 1], screening=True, detectable=None))
    assert "p=.010, which so few seeds cannot show." in found.line
    assert found.line.endswith("Screening with 2 seeds: too few to know what chance does, so no row is called better.")


def test_lower_is_better_and_has_its_own_unit():
    best = row("early", score=0.31234, **against(-0.21, "better", 0.001, detectable=0.01))
    found = verdict(
        told(
            {**ENSEMBLE, "score": 0.52, "in_top": False}, best, unit="", higher_is_better=False, metric="mean_absolute_error", best="early"
        )
    )
    assert found.line.startswith("`early` is better than `ensemble of unimodal`: -0.21 [-0.22, -0.2], p=.001. `early` stands alone")
    assert found.winner == "early"


def test_use_of_inputs_is_told_of_the_recommended_row():
    control = {"input": "image", "how": "shuffled", "level": None, "items": 752, "real": 0.75, "score": 0.74, "difference": -0.01}
    used, unused = control | {"interval": [-0.02, -0.004]}, control | {"interval": [-0.02, 0.004], "input": "text"}
    half = control | {"how": "missing", "level": 0.5, "interval": [-0.3, -0.2]}
    shares = {"inputs": {"image": {"share": -0.12}, "text": {"share": 0.88}}}
    early = row("early", **against(0.004, "tie"), controls={"a": used, "b": unused, "c": half}, shares=shares)
    found = verdict(told(MAJORITY, ENSEMBLE, early, recommended="early")).sentences
    assert "`early` uses `image`: accuracy falls from 75.00 to 74.00 when shuffled [-2.00, -0.40]." in found
    assert "`early`: no measurable use of `text`: accuracy goes from 75.00 to 74.00 when shuffled [-2.00, +0.40]." in found
    assert any("`image` -12 %, `text` +88 %" in sentence for sentence in found)
    assert not any("missing" in sentence for sentence in found)


@pytest.mark.parametrize("outcomes", list(itertools.product(["better", "tie", "small", "worse"], repeat=2)))
@pytest.mark.parametrize("top", [["early"], ["early", "late"], ["ensemble of unimodal", "early"], ["ensemble of unimodal"]])
def test_better_is_only_said_of_what_is_better_and_a_winner_only_alone(outcomes, top):
    differences = {"better": 0.1, "tie": 0.01, "small": 0.01, "worse": -0.1}
    fusion = [
        row(name, in_top=name in top, **against(differences[o], o, 0.6 if o == "tie" else 0.001))
        for name, o in zip(("early", "late"), outcomes, strict=True)
    ]
    found = verdict(told(MAJORITY, {**ENSEMBLE, "in_top": "ensemble of unimodal" in top}, *fusion))
    assert (" better than" in found.line) == ("better" in outcomes)
    assert (found.winner == "early") == (outcomes[0] == "better" and top == ["early"])
    assert ("stands alone" in found.line) == (len(top) == 1)
    assert found.winner is None or len(top) == 1
    for r, outcome in zip(fusion, outcomes, strict=True):
        said = next(s for s in found.sentences if s.startswith(f"`{r['name']}`"))
        assert ("better" in said, "worse" in said) == (outcome == "better", outcome == "worse")
