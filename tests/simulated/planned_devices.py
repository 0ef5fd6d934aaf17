"""Plans that no compiler made, with round numbers."""

from batchscale.records.plan_file import Plan, PlannedStep, TargetPlan

GIBIBYTE = 1 << 30


def step(size, **changes):
    """A step that takes at least `size` microseconds, and likely twice to ten times as long."""
    return PlannedStep(
        **{
            "batch_size": size,
            "memory_bytes": size << 20,
            "temp_bytes": size << 19,
            "fits": True,
            "flops": 1e9 * size,
            "compulsory_bytes": size << 10,
            "traffic_bytes": size << 15,
            "kernels": 40,
            "bound_seconds": size * 1e-6,
            "bound_by": "FLOPs",
            "likely_seconds": (2e-6 * size, 1e-5 * size),
            "likely_limited_by": "bytes",
            **changes,
        }
    )


def target(name="h100", sizes=(16, 64, 256), **changes):
    return TargetPlan(
        **{
            "name": name,
            "title": name.upper(),
            "memory_bytes": 80 * GIBIBYTE,
            "pool_bytes": 60 * GIBIBYTE,
            "flops_per_second": 6.7e13,
            "bytes_per_second": 3.3e12,
            "steps": [step(size) for size in sizes],
            "largest_batch_size": max(sizes, default=None),
            "compile_cpu_seconds": 10.0,
            **changes,
        }
    )


def plan(*targets, **changes):
    return Plan(
        **{
            "experiment": "planned",
            "title": "A planned experiment",
            "model": "mlp",
            "dataset": "mnist",
            "optimizer": "momentum",
            "precision": "float32",
            "train_examples": 55_000,
            "jax": "0.10.2",
            "targets": list(targets or (target(),)),
            **changes,
        }
    )
