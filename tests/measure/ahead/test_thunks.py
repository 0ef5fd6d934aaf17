"""What the host launches is read from the thunks of a program, which are counted here by hand."""

import jax
import jax.numpy as jnp
from batchscale.measure.ahead.thunks import Launches, compiled_with_launches, read

HOST_DRIVEN = """\
001: kCopy         [source       | next=003 (2)] kCopy
003: kWhile        [prev=002 (1) | sink        ]
condition:
    004: kCustomKernel [source | sink] wrapped_compare grid: [1, 1, 1]
  body:
    000: kCommandBuffer [source       | next=010 (1)]
        005: kCustomKernel [source       | sink        ] loop_compare_fusion
        006: kCustomKernel [source       | next=007 (1)] loop_broadcast_fusion
    010: kConvolution   [prev=000 (1) | next=011 (1)] kConvolution
    000: kCommandBuffer [prev=041 (1) | sink        ]
        042: kConditional [source       | next=043 (1)]
            043: kCustomKernel [prev=042 (1) | next=044 (1)] loop_add_select_fusion
"""
IN_A_GRAPH = "000: kCommandBuffer [source | sink]\n" + "\n".join(f"    {line}" for line in HOST_DRIVEN.splitlines()[:4])


def test_a_loop_of_the_host_starts_what_is_in_no_graph_and_each_graph_once():
    compare, first_graph, convolution, second_graph = 1, 1, 1, 1
    found = read(HOST_DRIVEN)
    assert found == Launches(graphs=2, host_loops=1, launches=compare + first_graph + convolution + second_graph)


def test_a_loop_inside_of_a_graph_needs_no_host():
    assert read(IN_A_GRAPH) == Launches(graphs=1, host_loops=0, launches=1)


def test_a_program_without_a_loop_starts_what_is_at_its_top():
    assert read("001: kCopy [source]\n002: kCustomKernel [source]\n") == Launches(0, 0, 2)


def test_a_compiler_that_writes_no_thunks_leaves_launches_unknown():
    """The CPU's compiler has none."""
    lowered = jax.jit(jnp.sin).lower(1.0)
    program, launches = compiled_with_launches(lambda options: lowered.compile(compiler_options=options))
    assert float(program(0.0)) == 0.0
    assert launches is None
