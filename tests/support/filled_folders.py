"""Results folders with a few rows in them."""

import msgspec
from batchscale.records import results_folder, row_files
from sample_rows import stage, trial
from tiny_workload import host

ENVIRONMENTS = {"0123456789abcdef": host().environment}


def own(row, one):
    return msgspec.structs.replace(row, fingerprint=one.fingerprint)


def filled(folder, one, name=results_folder.CONVERGENCE):
    results_folder.prepare(folder, one, host().machine, ENVIRONMENTS)
    with row_files.Writer(folder / name) as writer:
        writer.append(own(trial(), one), own(stage(), one))
    return folder
