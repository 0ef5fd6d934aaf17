"""A TPU's compiler refuses what does not fit and names the memory; no other failure is taken for that."""

import pytest
from batchscale.measure.ahead import targets
from batchscale.measure.ahead.too_large import TooLarge, too_large

TPU, GPU = targets.target_named("tpu-v5e"), targets.target_named("h100")
WITH_TOTAL = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (24.00G) exceeds"
    " available HBM (15.75G)."
)


@pytest.mark.parametrize(
    ("message", "found"),
    [
        (WITH_TOTAL, TooLarge(24 << 30)),
        ("RESOURCE_EXHAUSTED: Ran out of memory on HBM (16.50G of 15.75G).", TooLarge(33 << 29)),
        ("XLA:TPU compile error. Ran out of memory in memory space hbm. Used 1.5T of 15.75G hbm.", TooLarge(3 << 39)),
        ("Ran out of memory on HBM.", TooLarge(None)),
        ("Ran out of memory on HBM (3.00G of 15.75G).", TooLarge(None)),
        ("Ran out of memory in memory space vmem. Used 130M of 128M vmem.", None),
        ("INTERNAL: 16.50G of 15.75G", None),
        ("std::bad_alloc", None),
    ],
)
def test_only_the_memory_of_the_device_makes_a_program_too_large(message, found):
    assert too_large(TPU, message) == found
    assert too_large(GPU, message) is None
