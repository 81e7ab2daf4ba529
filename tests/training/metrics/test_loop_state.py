"""The state of the loop: validations, saving and restoring."""

import json
import math

from bytelm.training.metrics.record import LoopState


def test_the_best_validation_is_the_least_and_the_first_of_equals():
    loop = LoopState()
    for step, bits in enumerate([2.0, math.nan, 1.5, 1.5, 1.7], 1):
        loop.validated(step, bits)
    assert (loop.best_step, loop.best_validation) == (3, 1.5)
    assert (loop.validated_step, loop.last_validation) == (5, 1.7)


def test_it_is_restored_from_what_is_saved():
    loop = LoopState(bytes=3, flops=4.0, hooks_step=5, validation_identity="x")
    loop.validated(6, 1.25)
    loop.record.seconds = 7.0
    saved = json.loads(json.dumps(loop.saved()))
    assert LoopState.restored(saved).saved() == loop.saved()


def test_earlier_checkpoints_have_it_in_their_provenance():
    assert LoopState.from_provenance({"converted_from": "google/byt5-small"}) is None
    first = {"bytes_seen": 3, "flops": 4.0, "validated_step": 2, "last_validation_bits": 1.5}
    loop = LoopState.from_provenance({**first, "best_validation_bits": 1.25, "record": {}})
    assert (loop.bytes, loop.flops, loop.hooks_step, loop.seconds) == (3, 4.0, 2, 0.0)
    assert (loop.last_validation, loop.best_validation, loop.validation_identity) == (
        1.5,
        1.25,
        None,
    )
