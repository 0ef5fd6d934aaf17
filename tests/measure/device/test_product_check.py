"""The bits that products keep show their kind, on products of known precision, and a wrong kind is refused."""

import jax
import jax.numpy as jnp
import pytest
from batchscale.errors import InputError
from batchscale.measure.device import machine, product_check
from batchscale.measure.device.product_check import kinds_of_products


def keeping(bits):
    """Products of operands that are rounded to some bits after the first, as tensor cores do."""

    def product(precision, left, right):
        held = min(bits[precision], 23)
        rounded = jax.lax.reduce_precision(left.astype(jnp.float32), exponent_bits=8, mantissa_bits=held)
        return jnp.matmul(rounded, right.astype(jnp.float32), precision="highest")

    return product


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="other devices have other products")
def test_a_cpu_keeps_all_bits_except_in_bfloat16():
    assert kinds_of_products() == {"float32": "float32", "default": "float32", "bfloat16": "bfloat16"}


@pytest.mark.parametrize(("bits", "kind"), [(23, "float32"), (21, "float32"), (10, "tensorfloat32"), (7, "bfloat16")])
def test_the_default_is_named_by_the_bits_it_keeps(bits, kind):
    found = kinds_of_products(keeping({"float32": 23, "default": bits, "bfloat16": 7}))
    assert found == {"float32": "float32", "default": kind, "bfloat16": "bfloat16"}


@pytest.mark.parametrize(
    ("bits", "says"),
    [
        ({"float32": 10, "default": 10, "bfloat16": 7}, r"float32: products keep 10 bits .*expected float32; unset NV"),
        ({"float32": 23, "default": 3, "bfloat16": 7}, r"default: products keep 3 bits on this device \(unknown\)"),
    ],
)
def test_products_that_are_not_what_rows_claim_are_refused_in_one_line(bits, says):
    with pytest.raises(InputError, match=says) as caught:
        kinds_of_products(keeping(bits))
    assert "\n" not in str(caught.value)


def test_what_the_default_was_is_part_of_an_accelerators_environment(monkeypatch):
    def kinds():
        return {"float32": "float32", "default": "tensorfloat32", "bfloat16": "bfloat16"}

    monkeypatch.setattr(product_check, "kinds_of_products", kinds)
    plain = machine.describe_environment(None)
    assert "default_products" not in plain.settings
    assert machine.with_products(plain, "gpu").settings["default_products"] == "tensorfloat32"
    assert machine.with_products(plain, "cpu") == plain
