"""A plan's page calls bounds bounds and estimates estimates, and shows every step of every device."""

import msgspec
from batchscale.analysis.pages import planned
from batchscale.records.plan_file import LeastTime, Plan
from planned_devices import plan, step, target

TIMES = [LeastTime(batch_size=16, steps=1000, least_seconds=0.016, likely_seconds=(0.032, 0.16))]


def test_the_page_and_the_numbers_are_written(tmp_path):
    whole = plan(target(), target("tpu-v6e"))
    page = planned.write_plan(whole, tmp_path).read_text()
    assert page.count("<svg") == 1
    assert "nothing here was measured" in page
    assert msgspec.json.decode((tmp_path / "plan.json").read_bytes(), type=Plan) == whole


def test_every_step_is_a_row_without_a_single_number_that_looks_measured():
    rows = planned.table(plan(target(), target("a100"))).rows
    assert [(row.entries[0].text, row.entries[1].value) for row in rows] == [
        (name, size) for name in ("H100", "A100") for size in (16, 64, 256)
    ]
    texts = [column.title for column in planned.table(plan()).columns]
    assert "Step at least" in texts
    assert "Likely (estimate)" in texts
    assert rows[0].entries[9].text == "32.0 µs to 160 µs"


def test_sentences_report_what_fits():
    assert "even all 55,000 training examples" in planned.sentences(plan(target(all_examples_fit=True)))[0]
    assert "the largest batch found to fit in the 60.0 GiB" in planned.sentences(plan())[0]
    too_large, unknown = step(16, fits=False), step(64, memory_bytes=None, fits=None, message="no kernels")
    nothing = target(steps=[too_large], largest_batch_size=None)
    assert "no batch size of the sweep fits" in planned.sentences(plan(nothing))[0]
    part = planned.sentences(plan(target(steps=[too_large, unknown], largest_batch_size=None)))
    assert "H100: no batch size that could be planned fits in the 60.0 GiB" in part[0]
    assert part[1] == "H100: batch size 64 could not be planned: no kernels."


def test_a_sentence_claims_nothing_of_sizes_that_were_not_tried():
    tried = target(steps=[step(16), step(656), step(720, fits=False), step(1024, fits=False)], largest_batch_size=656)
    closely = "default is 656; 720 does not fit, and sizes between them were not tried"
    assert planned.sentences(plan(tried))[0].endswith(f"{closely}.")
    early = msgspec.structs.replace(tried, larger_tried=False, compile_cpu_seconds=159.0)
    assert planned.sentences(plan(early))[0].endswith(f"{closely}, because compiling had taken 159 s.")
    left = step(1024, memory_bytes=None, fits=None, message="not compiled")
    none_larger = target(steps=[step(16), left], largest_batch_size=16, larger_tried=False)
    found = planned.sentences(plan(none_larger))[0]
    assert found.endswith("default is 16; larger ones were not tried, because compiling had taken 10 s.")


def test_recomputing_begins_between_two_sizes_that_were_tried():
    steps = [step(512), step(1024), step(2048, recomputes=True), step(4096, recomputes=True, fits=False)]
    assert planned.sentences(plan(target(steps=steps, recomputes_from=2048)))[1] == (
        "H100: at 2,048 examples and not yet at 1,024, XLA recomputes values to save memory."
    )
    assert (
        "H100: already at 2,048 examples, XLA recomputes"
        in (planned.sentences(plan(target(steps=steps[2:], recomputes_from=2048)))[1])
    )
    texts = [row.entries[3].text for row in planned.table(plan(target(steps=steps))).rows]
    assert texts == ["yes", "yes", "yes, recomputing", "no"]


def test_a_device_that_could_not_be_planned_is_named_with_the_reason(tmp_path):
    failed = target(steps=[], message="the process that compiles was ended by SIGSEGV")
    assert planned.sentences(plan(failed)) == [
        "H100: not planned, because the process that compiles was ended by SIGSEGV."
    ]
    assert planned.write_plan(plan(failed), tmp_path).exists()


def test_sizes_that_were_not_compiled_are_named():
    left = step(1024, memory_bytes=None, fits=None, likely_seconds=None, message="not compiled:\n150 s were spent.")
    found = planned.sentences(plan(target(steps=[step(16), left])))
    assert "H100: batch size 1024 could not be planned: not compiled: 150 s were spent." in found


def test_times_to_the_goal_come_with_the_range_of_batch_sizes(tmp_path):
    timed = target(least_times=TIMES, may_be_optimal=[16, 64], likely_optimal=[16])
    whole = plan(timed, goal="97% validation accuracy", steps_from="results/x")
    found = " ".join(planned.sentences(whole))
    assert "the fastest batch size to 97% validation accuracy can only be among batch sizes 16 and 64" in found
    assert "an estimate of that range: batch size 16." in found
    assert planned.table(whole).rows[0].entries[-2].text == "16.0 ms"
    assert planned.write_plan(whole, tmp_path).read_text().count("<svg") == 2


def test_text_from_a_file_stays_text():
    assert b"<script>alert" not in planned.render(plan(title="<script>alert(1)</script>"))
