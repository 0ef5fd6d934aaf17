"""Kernels and traffic are read from the text of a program, whose numbers are counted here by hand."""

import jax
import jax.numpy as jnp
import pytest
from batchscale.measure.device import hlo_text, kernels
from batchscale.measure.device.compiled_programs import compiled
from batchscale.measure.device.hlo_text import shape_bytes

TEXT = """HloModule jit_steps, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_gather (p0: f32[1000,4], p1: s32[8]) -> f32[8,4] {
  %p0 = f32[1000,4]{1,0} parameter(0)
  %p1 = s32[8]{0} parameter(1)
  ROOT %picked = f32[8,4]{1,0} gather(%p0, %p1), offset_dims={1}
}

%stepped (q: f32[8,4]) -> f32[8,4] {
  %q = f32[8,4]{1,0} parameter(0)
  %first = f32[8,4]{1,0} fusion(%q), kind=kLoop, calls=%add
  ROOT %second = f32[8,4]{1,0} fusion(%first), kind=kLoop, calls=%add
}

%kept (r: f32[8,4]) -> f32[8,4] {
  ROOT %r = f32[8,4]{1,0} parameter(0)
}

%inner_body (t: (f32[8,4])) -> (f32[8,4]) {
  %t = (f32[8,4]{1,0}) parameter(0)
  %g = f32[8,4]{1,0} get-tuple-element(%t), index=0
  %h.remat = f32[8,4]{1,0} copy(%g)
  ROOT %u = (f32[8,4]{1,0}) tuple(%h.remat)
}

%body (v: (s32[], f32[1000,4], s32[8], /*index=3*/f32[8,4])) -> (s32[], f32[1000,4], s32[8], f32[8,4]) {
  %v = (s32[], f32[1000,4]{1,0}, s32[8]{0}, /*index=3*/f32[8,4]{1,0}) parameter(0)
  %split = f32[1000,4]{1,0} get-tuple-element(%v), index=1
  %chosen = s32[8]{0} get-tuple-element(%v), index=2
  %batch = f32[8,4]{1,0} fusion(%split, %chosen), kind=kLoop, calls=%fused_gather
  %packed = (f32[8,4]{1,0}) tuple(%batch)
  %looped = (f32[8,4]{1,0}) while(%packed), condition=%k, body=%inner_body, "known_trip_count":{"n":"3"}
  %out = f32[8,4]{1,0} get-tuple-element(%looped), index=0
  %which = pred[] constant(true)
  %updated = f32[8,4]{1,0} conditional(%which, %out, %out), true_computation=%stepped, false_computation=%kept
  %reduced = f32[8,4]{1,0} all-reduce-start(%updated), to_apply=%add
  %done = f32[8,4]{1,0} all-reduce-done(%reduced)
  ROOT %next = (s32[], f32[1000,4]{1,0}, s32[8]{0}, /*index=3*/f32[8,4]{1,0}) tuple(%which, %split, %chosen, %done)
}

ENTRY %main (x: f32[1000,4]) -> f32[8,4] {
  %x = f32[1000,4]{1,0:T(8,128)S(1)} parameter(0)
  %start = (s32[], f32[1000,4]{1,0}, s32[8]{0}, /*index=3*/f32[8,4]{1,0}) tuple(%x)
  %loop = (s32[], f32[1000,4]{1,0}, s32[8]{0}, /*index=3*/f32[8,4]{1,0}) while(%start), condition=%c, body=%body
  %last = f32[8,4]{1,0} get-tuple-element(%loop), index=3
  ROOT %stored = f32[8,4]{1,0} copy(%last)
}
"""
BATCH_BYTES = 8 * 4 * 4
MODULE = hlo_text.parse(TEXT)


def test_the_main_loop_is_the_outer_one():
    assert MODULE.entry == "main"
    assert kernels.main_loop(MODULE) == "body"


def test_kernels_of_a_tick_are_those_of_known_loops_and_of_the_longest_branch():
    gather, inner_loop, branch, reduction = 1, 3 * 1, 2, 1
    assert kernels.kernels(MODULE, "body") == gather + inner_loop + branch + reduction
    assert kernels.kernels(MODULE, "main") == kernels.kernels(MODULE, "body") + 1


def test_traffic_counts_of_the_split_only_what_is_gathered():
    copies, updates, reduction = 3 * 2, 2 * 2, 2
    gathered = 2 * BATCH_BYTES + 8 * 4
    expected = gathered + (copies + updates + reduction) * BATCH_BYTES
    assert kernels.traffic_bytes(MODULE, "body", {4000}) == expected
    whole = kernels.traffic_bytes(MODULE, "body", set())
    assert whole == expected + 16_000 - BATCH_BYTES


@pytest.mark.parametrize("examples", [1_000, 50_000])
def test_bytes_moved_do_not_grow_with_the_split_that_a_batch_is_taken_from(examples):
    split, chosen = jnp.ones((examples, 16)), jnp.arange(8)
    program = compiled(jax.jit(lambda split, chosen: split[chosen] * 2).lower(split, chosen))
    found = kernels.moved_bytes(program, {split.size}, looped=False)
    assert found is not None
    batch = 8 * 16 * 4
    assert 2 * batch <= found <= 5 * batch


def test_a_loop_inside_of_a_step_is_not_the_whole_step():
    def step(values):
        turned = jax.lax.fori_loop(0, 3, lambda _, few: jnp.sin(few) + 1, values[:4])
        return jnp.sin(values) * turned.sum()

    values = jnp.ones(100_000)
    program = compiled(jax.jit(step).lower(values))
    assert kernels.moved_bytes(program, set(), looped=False) >= 2 * values.nbytes
    assert kernels.moved_bytes(program, set(), looped=True) < values.nbytes


def test_fusions_are_one_kernel_whose_inside_is_not_reached():
    names = [one.name for one in MODULE.reached(MODULE.entry)]
    assert "picked" not in names
    assert {"batch", "h.remat", "first", "reduced"} <= set(names)


def test_bytes_of_shapes():
    assert shape_bytes("f32[8,4]{1,0:T(8,128)}") == 128
    assert shape_bytes("(bf16[3]{0}, pred[5]{0}, s32[])") == 6 + 5 + 4
    assert shape_bytes("s4[3]") == 2
    assert shape_bytes("token[]") == 0
    assert shape_bytes("f8e4m3fn[7]") == 7


LIBRARY_CALL = """HloModule jit_product, is_scheduled=true

ENTRY %main (x: f32[8,4], y: f32[4,2]) -> (f32[8,2], f32[8,2], s8[100]) {
  %x = f32[8,4]{1,0:T(8,128)} parameter(0)
  %y = f32[4,2]{1,0} parameter(1)
  %call = (f32[8,2]{1,0:T(8,128)}, s8[4194304]{0}) custom-call(%x, %y), custom_call_target="__cublas$lt$matmul"
  %product = f32[8,2]{1,0} get-tuple-element(%call), index=0
  ROOT %other = (f32[8,2]{1,0}, s8[100]{0}) custom-call(%product, %y), custom_call_target="__cublas$lt$matmul"
}
"""


def test_the_workspace_of_a_library_is_no_traffic_but_a_result_of_the_program_is():
    x, y, product, spare = 4 * 8 * 4, 4 * 4 * 2, 4 * 8 * 2, 100
    first, second = x + y + product, product + y + product + spare
    assert kernels.traffic_bytes(hlo_text.parse(LIBRARY_CALL), "main", set()) == first + second


def test_a_result_that_is_handed_on_as_a_whole_is_counted():
    handed_on = LIBRARY_CALL.replace("ROOT %other =", "%used = f32[] fusion(%call)\n  ROOT %other =")
    workspace, again = 4_194_304, 4_194_304 + 64 + 4
    before = kernels.traffic_bytes(hlo_text.parse(LIBRARY_CALL), "main", set())
    assert kernels.traffic_bytes(hlo_text.parse(handed_on), "main", set()) == before + workspace + again
