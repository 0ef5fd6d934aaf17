"""The files of other tools end in answers that a hand calculation confirms."""

import json

import numpy as np
import pytest
from batchscale.analysis.exchange.analyze import Known, write_folders
from batchscale.analysis.frames import frames
from batchscale.analysis.metrics.sweep import Sweep
from batchscale.analysis.outside import recognise
from batchscale.analysis.outside.curve_tables import top_level_numbers
from batchscale.analysis.outside.runs import Asked, Reading, metric_of, settings_from_name
from batchscale.analysis.summary.build import summarize
from batchscale.config.vocabulary import OUTSIDE_FORMS
from batchscale.errors import InputError
from hypothesis import given, settings
from hypothesis import strategies as st

SPEEDS = "batch_size,seconds_per_step\n16,0.01\n64,0.02\n256,0.05\n"


def answer(paths, out, known, speeds=None):
    (folder,) = write_folders(paths, speeds, out, known).values()
    measured = frames.load(folder)
    return summarize(Sweep.of(measured)), measured


def curves(sizes=(16, 64, 256), seeds=(0, 1, 2), clock=False):
    """Losses 4 - step / 100 up to step 300, by steps of 50; a step takes 0.01 s at 16, 0.02 s at 64, 0.05 s at 256."""
    header = "run,batch_size,learning_rate,seed,step,val_loss" + (",seconds" if clock else "")
    rows = [header]
    for size in sizes:
        for seed in seeds:
            for step in range(50, 301, 50):
                seconds = {16: 0.01, 64: 0.02, 256: 0.05}[size] * step
                rows.append(
                    f"b{size}-s{seed},{size},0.1,{seed},{step},{4 - step / 100}" + (f",{seconds:g}" if clock else "")
                )
    return "\n".join(rows) + "\n"


def test_curves_give_the_time_to_a_loss_and_the_best_loss_in_a_budget(tmp_path):
    (tmp_path / "runs.csv").write_text(curves())
    (tmp_path / "t.csv").write_text(SPEEDS)
    known = Known(target=2.5, scores=Asked(metric="loss"))
    found, measured = answer([tmp_path / "runs.csv"], tmp_path / "out", known, tmp_path / "t.csv")
    cells = {cell.batch_size: cell for cell in found.cells}
    assert set(measured.trials["examples_to_target"] / measured.trials["batch_size"]) == {150}
    for size, seconds in ((16, 0.01), (64, 0.02), (256, 0.05)):
        assert cells[size].time_to_target.median == pytest.approx(150 * seconds, rel=0.35), "between steps 100 and 150"
    assert found.time_optimal.batch_size == 16
    assert measured.budget == 300 * 16, "the longest that every batch size was trained"
    assert found.score_optimal.budget == "4,800 examples"
    assert found.score_optimal.batch_size == 16
    assert found.score_optimal.score == pytest.approx(1.0)
    assert found.goal.metric == "loss"


def test_a_clock_in_the_curves_needs_no_table_of_speeds(tmp_path):
    (tmp_path / "runs.csv").write_text(curves(clock=True))
    found, measured = answer([tmp_path / "runs.csv"], tmp_path / "out", Known(target=2.5, scores=Asked(metric="loss")))
    assert {cell.batch_size: cell.seconds_per_step for cell in found.cells} == pytest.approx(
        {16: 0.01, 64: 0.02, 256: 0.05}
    )
    assert any("own clocks" in note for note in measured.imported.notes)


def finals(sizes, rates, power=0.5, noise=0.0):
    """Losses that are least where rate = 0.01 (batch size / 64) ** power, and at batch size 64."""
    draw = np.random.default_rng(5)
    rows = ["lr,bs,loss,seed"]
    for size in sizes:
        for rate in rates:
            off = np.log2(rate / (0.01 * (size / 64) ** power))
            for seed in range(3):
                loss = 2 + 0.02 * off**2 + 0.05 * np.log2(size / 64) ** 2 + noise * draw.normal()
                rows.append(f"{rate},{size},{loss:.6f},{seed}")
    return "\n".join(rows) + "\n"


def test_final_scores_give_the_best_batch_size_and_the_power_of_the_rate(tmp_path):
    rates = [0.01 * 2**power for power in range(-4, 5)]
    (tmp_path / "finals.csv").write_text(finals((16, 64, 256), rates, noise=0.001))
    found, _ = answer([tmp_path / "finals.csv"], tmp_path / "out", Known())
    assert found.score_optimal.batch_size == 64
    assert found.score_optimal.tied == [64]
    assert found.score_optimal.score == pytest.approx(2.0, abs=0.005)
    assert found.time_optimal is None
    assert "not when a target was reached" in found.time_optimal_reason
    assert found.learning_rates.overall.value == pytest.approx(0.5, abs=0.01)
    assert {cell.status for cell in found.cells} == {"not_measured"}
    assert found.goal is None
    assert found.scored.metric == "loss"


TRAINER = {
    "epoch": 2.0,
    "global_step": 200,
    "train_batch_size": 8,
    "log_history": [
        {"epoch": 0.5, "grad_norm": 1.5, "learning_rate": 5e-5, "loss": 2.5, "step": 50},
        {"epoch": 1.0, "eval_loss": 1.9, "eval_runtime": 3.2, "eval_samples_per_second": 99.0, "step": 100},
        {"epoch": 1.5, "grad_norm": 1.1, "learning_rate": 2e-5, "loss": 1.7, "step": 150},
        {"epoch": 2.0, "eval_loss": 1.4, "eval_runtime": 3.2, "eval_samples_per_second": 99.0, "step": 200},
        {"epoch": 2.0, "step": 200, "train_runtime": 40.0, "train_loss": 2.0, "train_steps_per_second": 5.0},
    ],
}


def test_folders_of_the_trainer_are_runs_whose_names_hold_their_settings(tmp_path):
    for size in (16, 64):
        for step in (100, 200):
            folder = tmp_path / "runs" / f"gpt-bs{size}-lr5e-5" / f"checkpoint-{step}"
            folder.mkdir(parents=True)
            history = TRAINER["log_history"] if step == 200 else TRAINER["log_history"][:2]
            (folder / "trainer_state.json").write_text(json.dumps({**TRAINER, "log_history": history}))
    read = recognise.read([tmp_path / "runs"], Asked())
    assert [(run.batch_size, run.learning_rate, run.unit) for run in read.runs] == [
        (16, 5e-5, "steps"),
        (64, 5e-5, "steps"),
    ]
    assert [(one.at, one.score) for one in read.runs[0].evaluations] == [(100, 1.9), (200, 1.4)]
    assert read.runs[0].clock == (200, 40)
    found, _ = answer([tmp_path / "runs"], tmp_path / "out", Known(target=1.5, scores=Asked(metric="loss")))
    assert found.cells[0].seconds_per_step == pytest.approx(0.2)
    with pytest.raises(InputError, match=r"batch_size: not in the file, expected --batch-size N"):
        recognise.read_file(_written(tmp_path / "plain" / "trainer_state.json", json.dumps(TRAINER)), Asked())


def _written(path, text):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(text)
    return path


def test_metrics_of_lightning_are_read_with_the_settings_next_to_them(tmp_path):
    path = _written(
        tmp_path / "lightning_logs" / "version_0" / "metrics.csv",
        "epoch,step,train_loss,val_acc,val_loss\n0,49,2.1,,\n0,99,,0.5,1.9\n1,149,1.2,,\n1,199,,0.7,1.1\n",
    )
    _written(path.with_name("hparams.yaml"), "batch_size: 32\nlr: 1e-3\nmodel: !!python/object/apply:os.system\n- x\n")
    read = recognise.read([tmp_path / "lightning_logs"], Asked(metric="accuracy"))
    (run,) = read.runs
    assert (run.batch_size, run.learning_rate) == (32, 1e-3)
    assert [(one.at, one.score) for one in run.evaluations] == [(100, 0.5), (200, 0.7)]
    with pytest.raises(InputError, match=r"val_acc, val_loss are scores, expected --goal"):
        recognise.read_file(path, Asked())


def test_a_chart_of_wandb_has_a_column_for_each_run(tmp_path):
    header = ",".join(
        f'"{name}"'
        for name in (
            "Step",
            "bs64-lr0.1 - val/loss",
            "bs64-lr0.1 - val/loss__MIN",
            "bs64-lr0.1 - val/loss__MAX",
            "bs128-lr0.2 - val/loss",
        )
    )
    path = _written(tmp_path / "chart.csv", f'{header}\n"100","2.5","2.5","2.5",""\n"200","2.0","2","2","2.2"\n')
    first, second = recognise.read([path], Asked()).runs
    assert (first.batch_size, first.learning_rate, [one.score for one in first.evaluations]) == (64, 0.1, [2.5, 2.0])
    assert (second.batch_size, second.learning_rate, [one.at for one in second.evaluations]) == (128, 0.2, [200])


POINTS = {
    "net_ref_1": {
        "Benchmark": "net",
        "BS": 256,
        "Hyperparams": {"opt_base_learning_rate": 1.5, "opt_name": "sgd"},
        "Epochs to converge": [4, 4, 5, 4, 5],
    },
    "net_ref_2": {
        "Benchmark": "net",
        "BS": 1024,
        "Hyperparams": {"opt_base_learning_rate": 3},
        "Epochs to converge": [7, 7, 8, 7, 7],
    },
}


@pytest.mark.parametrize("key", ["Epochs to converge", "samples to converge"])
def test_reference_points_of_mlperf_are_needs(tmp_path, key):
    factor = 1 if key.startswith("Epochs") else 1000
    points = {
        name: {
            **{field: value for field, value in point.items() if not field.startswith("Epochs")},
            key: [factor * one for one in point["Epochs to converge"]],
        }
        for name, point in POINTS.items()
    }
    path = _written(tmp_path / "rcp.json", json.dumps(points))
    speeds = _written(tmp_path / "t.csv", "batch_size,seconds_per_step\n256,0.1\n1024,0.3\n")
    found, _ = answer([path], tmp_path / "out", Known(train_examples=1000), speeds)
    cells = {cell.batch_size: cell for cell in found.cells}
    assert cells[256].time_to_target.median == pytest.approx(4 * 1000 / 256 * 0.1)
    assert cells[1024].time_to_target.median == pytest.approx(7 * 1000 / 1024 * 0.3)
    assert cells[256].best_learning_rate == 1.5


def log(size, seed, first=0.2):
    events = [
        ("global_batch_size", size, {}, 0),
        ("opt_base_learning_rate", 0.5, {}, 0),
        ("seed", seed, {}, 0),
        ("eval_accuracy", first, {"samples_count": 5000, "file": "a.py", "lineno": 1}, 10_000),
        ("eval_accuracy", 0.76, {"samples_count": 10_000}, 20_000),
        ("run_stop", None, {"status": "success"}, 21_000),
    ]
    lines = (
        ":::MLLOG "
        + json.dumps(
            {
                "namespace": "",
                "time_ms": 1_700_000_000_000 + time,
                "event_type": "POINT_IN_TIME",
                "key": key,
                "value": value,
                "metadata": metadata,
            }
        )
        for key, value, metadata, time in events
    )
    return "starting\n" + "\n".join(lines) + "\nbye\n"


def test_result_logs_of_mlperf_are_curves_with_a_clock(tmp_path):
    for size in (100, 500):
        for seed in (1, 2):
            _written(tmp_path / "logs" / f"{size}-{seed}.log", log(size, seed))
    found, measured = answer([tmp_path / "logs"], tmp_path / "out", Known(target=0.75))
    cells = {cell.batch_size: cell for cell in found.cells}
    assert cells[100].seconds_per_step == pytest.approx(10 / 50)
    assert cells[500].seconds_per_step == pytest.approx(10 / 10)
    assert set(measured.trials["examples_to_target"]) == {10_000}
    assert set(measured.trials["previous_examples"]) == {5000}


def test_percentages_are_shares_if_the_goal_says_so(tmp_path):
    path = _written(tmp_path / "c.csv", "run,batch_size,step,acc\na,16,10,55\na,16,20,97.5\n")
    with pytest.raises(InputError, match=r"accuracy 55, expected 0 to 1"):
        recognise.read([path], Asked())
    read = recognise.read([path], Asked(metric="accuracy", column="acc", percent=True))
    assert [one.score for one in read.runs[0].evaluations] == [0.55, 0.975]


WRONG = {
    "": "batch_size: missing column",
    "run,batch_size,step,val_loss\n": "no score in any row",
    "run,batch_size,step,val_loss\na,16,10,-1\n": "row 2: val_loss: negative",
    "run,batch_size,step,val_loss\na,16,ten,1\n": "row 2: step: not a plain number",
    "run,batch_size,step,val_loss\na,16,-1,1\n": "row 2: step: negative, expected a number from 0",
    "run,batch_size,step,val_loss\na,0,10,1\n": "row 2: batch_size: not a whole number",
    "run,batch_size,step,val_loss\na,16,10,1\na,16,10,2\n": "run a: two scores at 10",
    "run,batch_size,step,val_loss,eval_loss\na,16,10,1,1\n": "val_loss, eval_loss are scores, expected --goal",
    "run,batch_size,step,colour\na,16,10,1\n": "no score among colour",
    "run,step,val_loss\na,10,1\n": "batch_size: not in the file",
    "run,batch_size,step,val_loss,step\na,16,10,1,1\n": "step: a column given twice",
    "run,batch_size,val_loss\na,16,2\na,16,1\n": "run a: 2 scores of one run, expected one, or",
    "run,batch_size,seconds,val_loss\na,16,10,2\na,16,,1\n": "run a: seconds: empty next to a score, expected",
    "run,batch_size,seed,step,val_loss\na,16,x,10,1\n": "row 2: seed: not a whole number from 0",
    "{": "not valid JSON",
    "{}": "JSON of an unknown form",
    "[" * 100_000: "not valid JSON",
    '{"log_history": []}': "no score, expected at least one",
    '{"log_history": [{"step": true, "eval_loss": 1}]}': "step: True, expected a number",
    '{"log_history": [{"eval_loss": 1}]}': "step: None, expected a number",
    '{"log_history": [{"step": 5, "eval_loss": "x"}]}': "eval_loss: 'x', expected a number",
    '{"a": {"BS": 0, "Epochs to converge": [1]}}': "a: BS: 0, expected a whole number",
    '{"a": {"BS": 8}}': "expected one of epochs to converge, samples to converge, found 0",
    '{"a": {"BS": 8, "Epochs to converge": [0]}}': r"\[0\]: 0, expected above 0",
    '{"a": {"BS": 8, "Epochs to converge": {}}}': "{}, expected a list",
    '{"log_history": [{"step": 1e400, "eval_loss": 1}]}': "step: inf, expected a finite number",
    '{"a": {"BS": 1%s, "Epochs to converge": [1]}}' % ("0" * 400): "BS: 1.79769.*, expected a whole number",
    '{"a": {"BS": 8, "Epochs to converge": [1%s]}}' % ("0" * 400): r"\[0\]: 1.79769e",
    ":::MLLOG {": "row 1: not valid JSON",
    ':::MLLOG {"key": 5}': "row 1: key: missing",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_file_is_one_line_naming_the_place(tmp_path, text):
    path = _written(tmp_path / "any.csv", text)
    with pytest.raises(InputError, match=WRONG[text]) as error:
        recognise.read([path], Asked())
    assert str(path) in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("form", OUTSIDE_FORMS)
def test_a_form_that_is_named_is_not_guessed(tmp_path, form):
    """The first line of this file is that of scores; of all others it is refused."""
    path = _written(tmp_path / "bs16.csv", "run,batch_size,step,val_loss\na,16,10,2\na,16,20,1\n")
    if form == "scores":
        assert recognise.read([path], Asked(form=form)) == recognise.read([path], Asked())
        return
    with pytest.raises(InputError, match=str(path)):
        recognise.read([path], Asked(form=form))


@pytest.mark.parametrize("field", ["step", "eval_loss"])
def test_a_whole_number_of_hundreds_of_digits_is_out_of_range(tmp_path, field):
    """Python has no float for it, and no whole number beyond 4300 digits."""
    for digits in (400, 5000):
        entry = {"step": "1", "eval_loss": "1", field: "1" + "0" * digits}
        text = ", ".join(f'"{name}": {value}' for name, value in entry.items())
        path = _written(tmp_path / "bs16.json", f'{{"log_history": [{{{text}}}]}}')
        with pytest.raises(InputError, match=r"1\.79769e\+308.*, expected 0 to 1e\+12"):
            recognise.read([path], Asked(batch_size=16))


def test_a_log_of_two_batch_sizes_is_refused_instead_of_taking_the_last(tmp_path):
    sizes = [{"key": "global_batch_size", "value": size, "metadata": {}} for size in (64, 32)]
    scores = [{"key": "eval_accuracy", "value": 0.5, "metadata": {"epoch_num": 1}}]
    text = "".join(f":::MLLOG {json.dumps(event)}\n" for event in (*sizes, *scores))
    with pytest.raises(InputError, match="32 and 64: batch sizes, expected one run"):
        recognise.read([_written(tmp_path / "result_0.txt", text)], Asked())


def test_options_that_the_files_need_are_asked_for(tmp_path):
    path = _written(tmp_path / "c.csv", "run,batch_size,tokens,val_loss\na,16,10,2\na,16,2000,1\n")
    with pytest.raises(InputError, match=r"expected --target, the loss to reach"):
        write_folders([path], None, tmp_path / "out")
    known = Known(target=1.5, scores=Asked(metric="loss"))
    with pytest.raises(InputError, match=r"tokens: expected --tokens-per-example N"):
        write_folders([path], None, tmp_path / "out", known)
    one = _written(tmp_path / "one.csv", "batch_size,loss\n16,2\n")
    with pytest.raises(InputError, match=r"one score of each run does not show"):
        write_folders([one], None, tmp_path / "out", known)
    twice = _written(tmp_path / "two.csv", "run,batch_size,seed,loss\na,16,1,2\nb,16,1,3\n")
    with pytest.raises(InputError, match=r"run b: seed: 1, as in .*run a at this batch size"):
        write_folders([twice], None, tmp_path / "out")
    copy = "batch_size,step,loss\n" + "".join(f"16,{at},{9 - at}\n" for at in range(1, 8))
    copies = [_written(tmp_path / f"{name}.csv", copy) for name in ("copy", "copy_of_it")]
    with pytest.raises(InputError, match=r"copy_of_it\.csv: .* the same scores as in .*copy\.csv: batch_size 16, exp"):
        write_folders(copies, None, tmp_path / "out", known)
    assert not (tmp_path / "out").exists()


@settings(max_examples=100, deadline=None)
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.text('batch_size,step,loss\n0123456789.-"{}[]:MLOG', max_size=200),
        st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(
                    st.sampled_from(["log_history", "BS", "step", "eval_loss", "Epochs to converge"]), inner, max_size=3
                )
            ),
            max_leaves=12,
        ).map(json.dumps),
    )
)
def test_no_bytes_make_anything_but_runs_or_an_input_error(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("any") / "bs8.csv"
    path.write_bytes(data if isinstance(data, bytes) else data.encode())
    refused = ""
    try:
        found = recognise.read([path], Asked())
        assert isinstance(found, list | Reading)
    except InputError as error:
        refused = str(error)
    assert refused.isprintable()


@given(size=st.integers(1, 10**6), rate=st.floats(1e-6, 10), seed=st.integers(0, 999))
def test_settings_are_found_again_in_a_name(size, rate, seed):
    assert settings_from_name(f"Net_BS{size}-lr{rate:.3g}-seed{seed}") == {
        "batch_size": size,
        "learning_rate": float(f"{rate:.3g}"),
        "seed": seed,
    }


def test_names_that_hold_no_setting_give_none():
    assert settings_from_name("ablation-web3-club4") == {}
    assert metric_of("val_loss") == metric_of("eval/cross_entropy") == "loss"
    assert metric_of("lossless") is None
    assert metric_of("val_bpb") == "bits_per_byte"


def test_only_plain_numbers_of_outermost_keys_are_read_from_yaml():
    text = "lr: 0.1\nnested:\n  batch_size: 5\nname: !!python/name:os.system\nbatch_size: 64 # per step\nbad: 1e\n"
    assert top_level_numbers(text) == {"lr": 0.1, "batch_size": 64}


@pytest.mark.parametrize("name", ["vit-b16-lr0.1", "vit_b_16", "efficientnet-b2", "gpt-bs256k", "bs16-then-bs32"])
def test_names_of_models_and_unclear_sizes_are_no_batch_sizes(name):
    assert "batch_size" not in settings_from_name(name)
    assert settings_from_name(f"vit-b16-bs64-{'lr0.1'}")["batch_size"] == 64


def test_a_file_given_twice_is_refused_instead_of_counting_as_more_seeds(tmp_path):
    path = _written(tmp_path / "runs" / "c.csv", "run,batch_size,step,val_loss\na,16,10,2\na,16,20,1\n")
    with pytest.raises(InputError, match=r"c\.csv: given twice, expected every file once"):
        recognise.read([path, path.parent], Asked())


def test_a_link_to_itself_cannot_be_read(tmp_path):
    link = tmp_path / "loop.csv"
    link.symlink_to(link)
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match=r"loop\.csv: cannot be read"):
        write_folders([link], None, tmp_path / "out")


SCHEDULED = "{},batch_size,lr,step,val_loss\na,16,0.10,50,3\na,16,0.09,100,2\na,16,0.08,150,1\n"


def test_a_rate_that_changes_within_a_run_is_refused_instead_of_making_three_runs(tmp_path):
    path = _written(tmp_path / "c.csv", SCHEDULED.format("run"))
    with pytest.raises(InputError, match=r"row 3: lr: a second rate in one run.* found '0\.09'"):
        recognise.read([path], Asked())
    lightning = "epoch,step,lr,val_loss\n0,99,0.1,1.9\n1,199,0.05,1.1\n"
    with pytest.raises(InputError, match=r"row 3: lr: a second rate in one run"):
        recognise.read([_written(tmp_path / "bs16" / "metrics.csv", lightning)], Asked())


def test_runs_of_one_name_at_several_rates_are_runs_of_their_own(tmp_path):
    rows = "".join(f"net,16,{rate},{step},{step * rate}\n" for rate in (1, 2) for step in (50, 100))
    path = _written(tmp_path / "c.csv", "name,batch_size,lr,step,val_loss\n" + rows)
    assert [len(run.evaluations) for run in recognise.read([path], Asked()).runs] == [2, 2]


@pytest.mark.parametrize("seconds", [(5, 9, 8), (9, 1, 20)])
def test_a_clock_that_runs_backwards_gives_no_speed(tmp_path, seconds):
    """Durations of single steps, or the clock of a run that was started again."""
    rows = "".join(f"a,16,{50 * (at + 1)},1,{one}\n" for at, one in enumerate(seconds))
    path = _written(tmp_path / "c.csv", "run,batch_size,step,val_loss,seconds\n" + rows)
    with pytest.raises(InputError, match=rf"run a: seconds: {min(seconds[1:])} at .*, expected a clock"):
        recognise.read([path], Asked())


@pytest.mark.parametrize(("score", "goal"), [("acc", 0.97), ("val_err", 0.5)])
def test_a_goal_in_percent_is_refused_for_shares(tmp_path, score, goal):
    """Each score would be divided by 100: an accuracy never reached, an error reached at once."""
    path = _written(tmp_path / "c.csv", f"run,batch_size,step,{score}\na,16,10,0.55\na,16,20,0.975\n")
    asked = Asked(metric="accuracy" if score == "acc" else "loss", column=score, percent=True)
    with pytest.raises(InputError, match=rf"{score}: at most 0\.975, expected percentages"):
        write_folders([path], None, tmp_path / "out", Known(target=goal, scores=asked))


def test_rates_that_only_some_runs_have_are_refused_instead_of_being_made_up(tmp_path):
    path = _written(tmp_path / "f.csv", "batch_size,lr,loss\n16,0.1,2\n64,,3\n")
    with pytest.raises(InputError, match=r"learning_rate: missing for 1 of 2 runs, expected one for each run"):
        write_folders([path], None, tmp_path / "out")
    points = {name: {**point, "Hyperparams": {}} if name == "net_ref_2" else point for name, point in POINTS.items()}
    speeds = _written(tmp_path / "t.csv", SPEEDS)
    with pytest.raises(InputError, match=r"learning_rate: missing for 5 of 10 runs"):
        write_folders(
            [_written(tmp_path / "r.json", json.dumps(points))], speeds, tmp_path / "out", Known(train_examples=9)
        )


def test_no_target_is_named_where_none_was_given(tmp_path):
    path = _written(tmp_path / "c.csv", "batch_size,seed,steps_to_target\n16,0,\n64,0,\n")
    found, _ = answer([path], tmp_path / "out", Known(), _written(tmp_path / "t.csv", SPEEDS))
    assert found.time_optimal_reason == "no batch size reached the target in the median"


def test_runs_without_any_score_are_counted_in_the_notes(tmp_path):
    """Pandas writes NaN as an empty field."""
    finals = _written(tmp_path / "f.csv", "batch_size,lr,loss\n16,0.1,2\n16,0.2,\n64,0.1,3\n")
    assert recognise.read([finals], Asked()).notes[-1].startswith("1 of its runs have no score")
    curves = _written(tmp_path / "c.csv", "run,batch_size,step,loss\na,16,1,\na,16,2,3\nb,16,1,\nb,16,2,\n")
    assert recognise.read([curves], Asked()).notes[-1].startswith("1 of its runs have no score")


def test_a_log_that_counts_in_two_units_is_refused(tmp_path):
    scores = [
        {"key": "eval_accuracy", "value": 0.5, "metadata": counted}
        for counted in ({"samples_count": 5000}, {"epoch_num": 2})
    ]
    size = {"key": "global_batch_size", "value": 64, "metadata": {}}
    path = _written(tmp_path / "a.log", "".join(f":::MLLOG {json.dumps(event)}\n" for event in (size, *scores)))
    with pytest.raises(InputError, match=r"eval_accuracy: epoch_num: None, expected a number"):
        recognise.read([path], Asked())


def test_semicolons_between_fields_are_named(tmp_path):
    path = _written(tmp_path / "c.csv", "run;batch_size;step;val_loss\na;16;10;2,5\n")
    with pytest.raises(InputError, match=r"row 1: fields are separated by ';', expected commas or tabs"):
        recognise.read([path], Asked())
