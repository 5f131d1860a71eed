import platform
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from catalog.errors import ConfigError
from catalog.parallel import cores
from stage1_cnn.device import choose_compute, decode_threads, inference_compute


def test_threads_never_exceed_the_cores() -> None:
    cpu, before = torch.device("cpu"), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        assert decode_threads("auto", cpu) == cores() - 1
        torch.set_num_threads(cores())
        assert decode_threads("auto", cpu) == 0
    finally:
        torch.set_num_threads(before)
    assert decode_threads("auto", torch.device("cuda")) == cores() - 1
    assert decode_threads("auto", torch.device("cuda"), processes=2) == max(0, cores() // 2 - 1)
    assert decode_threads(3, cpu) == 3


@pytest.mark.parametrize(
    "device, precision",
    [("tpu", "auto"), ("mps", "auto"), ("cuda:99", "auto"), ("cpu", "fp16"), ("cpu", "tf32")],
)
def test_what_the_machine_lacks_is_named(device: str, precision: str) -> None:
    with pytest.raises(ConfigError, match=r"stage1\.(device|precision): "):
        choose_compute(device, precision)
    with pytest.raises(ConfigError, match=r"stage1\.device: |features\.precision: "):
        inference_compute(device, precision)


@pytest.mark.parametrize("native", [True, False])
def test_on_a_processor_answers_are_in_fp32_whatever_it_trains_in(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: native)
    assert choose_compute("cpu").precision == ("bf16" if native else "fp32")
    assert (
        inference_compute("cpu").precision == "fp32"
        and inference_compute("cpu", "bf16").precision == "bf16"
    )


def test_seeding_stays_inside() -> None:
    compute = choose_compute("cpu", "fp32")
    torch.default_generator.manual_seed(5)
    expected = torch.rand(1).item()
    torch.default_generator.manual_seed(5)
    with compute.fork_generators():
        compute.seed(1)
        first = torch.rand(1).item()
        compute.seed(1)
        assert torch.rand(1).item() == first
    assert torch.rand(1).item() == expected


def test_arithmetic_that_cannot_be_repeated_is_named() -> None:
    compute = choose_compute("cpu", "fp32")
    with (
        pytest.raises(ConfigError, match=r"^stage1\.deterministic: expected false, since put_, "),
        compute.determinism(True),
    ):
        torch.zeros(2).put_(torch.tensor([0]), torch.ones(1))
    with pytest.raises(RuntimeError, match="size"), compute.determinism(True):
        torch.zeros(2) + torch.zeros(3)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="only glibc gives memory back this way"
)
def test_memory_is_kept_from_batch_to_batch() -> None:
    """Page faults of 100 batches of 40 MB: by default each has its 9,766 pages zeroed again. Kept,
    up to five have, as the heap grows until a batch fits between what lives longer."""
    text = """
        import resource, sys, threading, torch
        from stage1_cnn.device import keep_memory
        if sys.argv[1] == "kept":
            keep_memory()
        def batches(count):
            for _ in range(count):
                torch.ones(10_000_000)
        def faults(count):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            lane = threading.Thread(target=batches, args=(count,))
            lane.start()
            lane.join()
            return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        faults(20)
        print(faults(100))
    """
    command, root = [sys.executable, "-c", textwrap.dedent(text)], Path(__file__).parents[2]
    kept, default = (
        int(subprocess.check_output([*command, way], cwd=root)) for way in ("kept", "default")
    )
    assert default > 100 * 9_000
    assert kept < default / 10
