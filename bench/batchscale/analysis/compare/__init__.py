"""Compare two results folders: check that their workloads agree, and compute ratios with intervals."""
