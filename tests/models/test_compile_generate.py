import pytest

from keras_textdiff.samplers import SundaeSampler
from tests import tiny


def count_python(lm, monkeypatch):
    """Return a list that grows when the model's Python runs: to be compiled or recorded."""
    calls = []
    hidden_states = lm.hidden_states
    monkeypatch.setattr(
        lm, "hidden_states", lambda *a, **k: calls.append(1) or hidden_states(*a, **k)
    )
    return calls


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_generate_finds_it_compiled(kind, monkeypatch):
    lm = tiny.diffusion_lm() if kind == "decoder" else tiny.encoder_decoder_lm("diffusion")
    lm.compile(sampler=SundaeSampler(3, 0.7, num_canvases=2))
    expected = lm.generate(["the cat", "in"], max_length=12, seed=1)
    lm.compile(sampler=SundaeSampler(3, 0.7, num_canvases=2))
    calls = count_python(lm, monkeypatch)
    lm.compile_generate(max_length=12, batch_size=2)
    count = len(calls)
    assert count
    assert lm.generate(["the cat", "in"], max_length=12, seed=1) == expected
    assert len(calls) == count
    lm.generate("in", max_length=12, seed=1)  # another batch size
    assert len(calls) > count


def test_without_a_preprocessor(monkeypatch):
    whole = tiny.diffusion_lm()
    lm = type(whole)(whole.backbone)
    lm.compile(sampler=SundaeSampler(2, num_canvases=1))
    calls = count_python(lm, monkeypatch)
    lm.compile_generate(max_length=12)
    assert calls


def test_bad_input():
    lm = tiny.diffusion_lm()
    lm.compile()
    with pytest.raises(ValueError, match="batch_size"):
        lm.compile_generate(max_length=12, batch_size=0)
    with pytest.raises(ValueError, match="max_length"):
        lm.compile_generate(max_length=0)
    with pytest.raises(ValueError, match="max_length"):
        type(lm)(lm.backbone).compile_generate()
