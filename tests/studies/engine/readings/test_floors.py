"""What is too poor for a sentence."""

from arche_mdlm.studies.engine.readings.floors import median_words, note, why_poor


def test_short_texts_and_models_below_a_bigram_are_named():
    assert median_words(["a b c", "a", "a b c d e"]) == 3
    assert "under 20" in why_poor(19.5, 1.0, 3.68)
    assert why_poor(20, 3.68, 3.68) is None
    assert "worse than an interpolated bigram's 3.68" in why_poor(100, 3.93, 3.68)
    assert why_poor(None, 3.93, None) is None
    assert why_poor(100, None, 3.68) is None
    assert note({}) == ""
    assert "mdlm: because" in note({"mdlm": "because"})
