"""Memory of the networks that commands open."""

from pipeline.networks import keep_training_memory, open_network
from stage1_cnn.config import Stage1Config
from stage1_cnn.device import keep_memory
from stage1_cnn.predict import Predictor
from tests.pipeline.tiny import Tiny


def test_memory_is_kept_for_networks_on_a_processor_by_commands_alone(tiny: Tiny) -> None:
    keep_memory.cache_clear()
    Predictor.open(tiny.run.checkpoint, device="cpu")
    assert not keep_memory.cache_info().currsize
    assert open_network(tiny.run.checkpoint, device="cpu").compute.device.type == "cpu"
    assert keep_memory.cache_info().currsize
    keep_memory.cache_clear()
    keep_training_memory(Stage1Config(device="cpu"))
    assert keep_memory.cache_info().currsize
