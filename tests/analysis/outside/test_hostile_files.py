"""A changed or cut file of any tool is read or refused in one line, soon: bytes of it never end in a traceback."""

import json
import re
import time

import pytest
from batchscale.analysis.exchange.analyze import Known, write_folders
from batchscale.analysis.frames import frames
from batchscale.analysis.outside.runs import Asked
from batchscale.errors import InputError
from hypothesis import given, settings
from hypothesis import strategies as st

CHANGES = 40
LONGEST_SECONDS = 5.0
SPEEDS = "batch_size,seconds_per_step\n16,0.01\n64,0.02\n256,0.05\n"
TRAINER = {
    "global_step": 200,
    "log_history": [
        {"epoch": 0.5, "grad_norm": 1.5, "learning_rate": 5e-5, "loss": 2.5, "step": 50},
        {"epoch": 1.0, "eval_loss": 1.9, "eval_runtime": 3.2, "step": 100},
        {"epoch": 2.0, "eval_loss": 1.4, "eval_runtime": 3.2, "step": 200},
        {"epoch": 2.0, "step": 200, "train_runtime": 40.0, "train_loss": 2.0},
    ],
}
POINT = {
    "Benchmark": "net",
    "BS": 256,
    "Hyperparams": {"opt_base_learning_rate": 1.5},
    "Epochs to converge": [4, 5, 4],
}
LOGGED = (
    ("global_batch_size", 100, {}),
    ("opt_base_learning_rate", 0.5, {}),
    ("seed", 1, {}),
    ("eval_accuracy", 0.2, {"samples_count": 5000}),
    ("eval_accuracy", 0.76, {"samples_count": 10_000}),
    ("run_stop", None, {"status": "success"}),
)
LOG = "".join(
    ":::MLLOG " + json.dumps({"time_ms": 1_700_000_000_000 + at, "key": key, "value": value, "metadata": more}) + "\n"
    for at, (key, value, more) in enumerate(LOGGED)
)
WHOLE = {
    "curves.csv": "run,batch_size,lr,seed,step,val_loss,seconds\na,16,0.1,0,50,3.5,0.5\na,16,0.1,0,100,3,1\n",
    "finals.csv": "lr,bs,loss,seed\n0.01,16,2.5,0\n0.02,16,2.25,0\n0.01,64,2.125,1\n",
    "trainer_state.json": json.dumps(TRAINER),
    "metrics.csv": "epoch,step,train_loss,val_loss\n0,49,2.1,\n0,99,,1.9\n1,149,1.2,\n1,199,,1.1\n",
    "chart.csv": '"Step","bs64-lr0.1 - val/loss","bs64-lr0.1 - val/loss__MIN"\n"100","2.5","2.5"\n"200","2.0","2"\n',
    "points.json": json.dumps({"net_ref_1": POINT, "net_ref_2": {**POINT, "BS": 1024}}),
    "result.log": f"starting\n{LOG}bye\n",
    "hparams.yaml": "batch_size: 32\nlr: 1e-3\nmodel: !!python/object/apply:os.system\n- x\n",
}
"""A small file of each tool by its name; the settings are read next to `metrics.csv`."""
ODD = (
    b"",
    b"\x00",
    b"\xff\xfe",
    b"-",
    b"1e999",
    b"9" * 40,
    b'"',
    b",",
    b"\n",
    b"{",
    b"]",
    b"NaN",
    b"null",
    b"\xe2\x80\xae",
)


def answered(folder, name, data):
    """Make a results folder from one file; return whether it was made. A refusal is one printable line."""
    (folder / "runs" / name).write_bytes(data)
    speeds = folder / "t.csv"
    speeds.write_text(SPEEDS)
    asked = Asked(batch_size=None if name == "hparams.yaml" else 16)
    known = Known(train_examples=1000, target=None if name == "finals.csv" else 0.5, scores=asked)
    began, made, refused = time.perf_counter(), {}, ""
    try:
        made = write_folders([folder / "runs"], speeds, folder / "out", known)
    except InputError as error:
        refused = str(error)
    assert refused.isprintable()
    assert made or str(folder) in refused
    assert time.perf_counter() - began < LONGEST_SECONDS
    for one in made.values():
        frames.load(one)
    return bool(made)


def folder_of(base, name):
    folder = base / f"hostile-{name}"
    (folder / "runs").mkdir(exist_ok=True, parents=True)
    if name == "hparams.yaml":
        (folder / "runs" / "metrics.csv").write_text(WHOLE["metrics.csv"])
    return folder


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("trainer_state.json", "", "trainer_state.json: empty, expected trainer_state.json or MLPerf reference points"),
        ("result_0.txt", "", "result_0.txt: empty, expected a table or a log of training runs"),
        ("trainer_state.json", '{"log_history": []}', "log_history: no score, expected at least one"),
        ("c.csv", "batch_size,seed,steps_to_target\n8,0,5\n2000000000,0,5\n", "row 3: batch_size: not a whole number"),
        ("f.csv", "bs,lr,loss\n8,.1,2\n5000000000,.1,3\n", "row 3: bs: not a whole number from 1 to 1000000000"),
        ("r.json", '{"a": {"BS": 3000000000, "samples to converge": [5]}}', "a: BS: 3000000000, expected a whole"),
    ],
)
def test_a_refusal_names_the_file_and_the_place_that_the_user_wrote(tmp_path, name, text, reason):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=re.escape(f"{tmp_path / name}: ")) as refused:
        write_folders([tmp_path / name], None, tmp_path / "out")
    assert reason in str(refused.value)


@pytest.mark.parametrize("name", WHOLE)
def test_every_file_is_read_whole_and_its_cuts_are_read_or_refused(tmp_path, name):
    whole = WHOLE[name].encode()
    folder = folder_of(tmp_path, name)
    assert answered(folder, name, whole)
    ends = [answered(folder, name, whole[:end]) for end in range(0, len(whole), max(1, len(whole) // 60))]
    assert not all(ends)


@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=CHANGES, deadline=None)
@given(data=st.data())
def test_no_change_of_bytes_ends_in_a_traceback(tmp_path_factory, name, data):
    changed = WHOLE[name].encode()
    for _ in range(data.draw(st.integers(1, 3))):
        at, gone = data.draw(st.integers(0, len(changed))), data.draw(st.integers(0, 6))
        put = data.draw(st.one_of(st.sampled_from(ODD), st.binary(max_size=6)))
        changed = changed[:at] + put + changed[at + gone :]
    answered(folder_of(tmp_path_factory.getbasetemp(), name), name, changed)
