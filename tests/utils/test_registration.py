import keras
import pytest

from keras_textdiff import objectives, samplers
from keras_textdiff.samplers import SundaeSampler
from keras_textdiff.utils import registration


def test_names_objects_and_configs_resolve():
    sampler = SundaeSampler(num_denoising_steps=3, update_proportion=0.5)
    assert samplers.get(sampler) is sampler
    assert isinstance(samplers.get("sundae"), SundaeSampler)
    twin = samplers.get(registration.serialize(sampler))
    assert twin.get_config() == sampler.get_config()


@pytest.mark.parametrize("identifier", ["nothing", 3, None, {"class_name": "x", "config": {}}])
def test_anything_else_is_an_error_that_lists_the_names(identifier):
    with pytest.raises(ValueError, match=r"Unknown objective.*next_token.*sundae"):
        objectives.get(identifier)


@pytest.mark.parametrize(
    ("identifier", "config"),
    [
        ("sundae", {"num_unroll_steps": 3, "unroll_temperature": 0.5, "corruption": "uniform"}),
        ("next_token", {}),
    ],
)
def test_objectives_survive_their_config(identifier, config):
    objective = type(objectives.get(identifier))(**config)
    twin = objectives.get(registration.serialize(objective))
    assert twin.get_config() == objective.get_config()


def test_snake_case():
    assert registration.snake_case("ArgmaxUnrolledSampler") == "argmax_unrolled_sampler"


class Mine(SundaeSampler):
    pass


def test_classes_of_the_user_come_back_where_keras_knows_them():
    config = registration.serialize(Mine(3))
    with keras.saving.custom_object_scope({"Mine": Mine}):
        assert type(samplers.get(config)) is Mine
    with pytest.raises(ValueError, match=r"sampler 'Mine' is not known.*custom_objects"):
        samplers.get(config)
    with (
        keras.saving.custom_object_scope({"Mine": keras.layers.Dense}),
        pytest.raises(ValueError, match="not known"),
    ):
        samplers.get(config)
