"""What an experiment needs on other devices, without running it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from attent_jax import distributed
from experiments.__main__ import parse
from experiments.plan.compiled_facts import Collectives, Memory, collectives_of
from experiments.plan.described_devices import GIB, Devices, TopologyError
from experiments.plan.report import fit, markdown, report, run_plan, sentences
from experiments.plan.rows import Row, plan_workload
from experiments.study.methods import STANDARD_METHODS
from experiments.study.study import Experiment, Preset
from tests.experiments.tiny_study import WORKLOAD, loss_fn

ROOT = Path(__file__).parents[2]
IN_BATCH = next(m for m in STANDARD_METHODS if m.name == "in-batch")
BATCH_SIZE, NUM_DEVICES = 4096, 8
OF_EIGHT = WORKLOAD._replace(batch_size=8)


def no_data(seed):
    raise AssertionError("data were loaded")


@pytest.fixture(scope="module")
def rows():
    workload = WORKLOAD._replace(
        load=no_data,
        num_examples=BATCH_SIZE,
        loss_fn=lambda params, rng, batch: loss_fn(params, None, batch),
        batch_size=BATCH_SIZE,
        score_batch_size=BATCH_SIZE,
    )
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        mesh = distributed.make_mesh(devices=jax.devices()[:NUM_DEVICES])
        found = list(plan_workload(workload, [IN_BATCH], 3, mesh))
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
    return {row.program: row for row in found}


def test_every_program_has_a_row(rows):
    assert list(rows) == [
        "train step",
        "step of in-batch",
        "scoring pass",
        "update of recommended",
        "update with top_k",
    ]


@pytest.mark.parametrize("name", ["train step", "step of in-batch", "scoring pass"])
def test_the_work_is_divided(rows, name):
    assert rows[name].work(NUM_DEVICES) == pytest.approx(1, abs=0.05)
    assert rows[name].flops < 1.3 * rows[name].one_device / NUM_DEVICES


def test_a_selective_step_knows_the_cost_model(rows):
    assert rows["step of in-batch"].predicted == pytest.approx(1 / 3 + 0.5)
    assert rows["train step"].predicted is None


def test_arguments_are_what_a_device_holds(rows):
    num_params = 4 * 16 + 16 * 3
    state = 4 * (3 * num_params + 5)  # Adam's moments; steps and hyperparameters
    table = 4 * BATCH_SIZE
    batch = BATCH_SIZE // NUM_DEVICES * (4 * 4 + 4 + 4)  # with weights
    found = rows["train step"].memory.arguments
    assert found == pytest.approx(state + table + batch + 4 * BATCH_SIZE, rel=0.05)
    # state and table are donated; what is left are losses' flags
    assert rows["train step"].memory.outputs < 4 * BATCH_SIZE


def test_gradients_are_the_train_steps_communication(rows):
    summed = rows["train step"].collectives["all-reduce"]
    assert summed.number >= 1
    assert summed.bytes >= 4 * (4 * 16 + 16 * 3)
    assert rows["scoring pass"].collectives == {}


def row(gib: float, **changes) -> Row:
    memory = Memory(0, 0, int(gib * GIB), 0)
    done = Row("train step", memory, 0, 0, 1e9, 1e9, 0.0, None, {}, 1.0)
    return done._replace(**changes)


CHIP = Devices("v5e:2x2", [None], 16 * GIB)


@pytest.mark.parametrize(
    ("one", "devices", "verdict"),
    [
        (row(15), CHIP, "It fits: the train step needs the most, 15.0 GiB of 16.0 GiB"),
        (row(17), CHIP, "It does not fit: the train step needs the most, 17.0 GiB"),
        (row(15, beside=2 * GIB), CHIP, "It does not fit: the train step needs"),
        (row(15, memory=None, refused=20 * GIB), CHIP, "It does not fit: .* 20.0 GiB"),
        (row(1), CHIP._replace(memory=None), "Whether it fits is unknown"),
    ],
)
def test_a_sentence_says_whether_it_fits(one, devices, verdict):
    assert re.match(verdict, fit([one], devices))
    assert report([one], devices).count("train step") >= 2


def test_work_that_is_not_divided_is_said():
    twice = row(1, flops=2e9)
    assert "The train step is not divided" in " ".join(sentences([twice], CHIP))
    updates = row(1, flops=2e9, repeated=1e9)
    said = " ".join(sentences([updates], CHIP))
    assert "not divided" not in said
    assert "repeats the update of replicated parameters" in said
    loops = row(1, flops=5e8)
    assert "body XLA counts once" in " ".join(sentences([loops], CHIP))


def test_collectives_are_counted_once():
    text = """
      %a = f32[8]{0} all-gather(%x), channel_id=1
      %s = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), channel_id=2
      %d = f32[8]{0:T(128)} all-gather-done(%s)
      %r = (f32[]{:T(128)}, /*index=1*/bf16[2,3]{1,0}) all-reduce(%x, %y)
      %f = f32[4]{0} fusion(%all-reduce.40), calls=%fused
    """
    assert collectives_of(text) == {
        "all-gather": Collectives(2, 64),
        "all-reduce": Collectives(1, 16),
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--topology", "v9:2x2"], "topology must be a chip and a shape"),
        (["demo", "--topology", "v5e"], "topology must be a chip and a shape"),
        (["demo", "--topology", "v5e:4x4", "--devices", "8"], "exclude each other"),
        (["demo", "--devices", "0"], "devices must be at least 1"),
        (["demo", "--preset", "huge"], "preset must be one of laptop"),
        (["report"], "experiment must be one that trains"),
    ],
)
def test_bad_options_are_refused_at_once(arguments, message, capsys):
    with pytest.raises(SystemExit) as refusal:
        parse(["plan", *arguments])
    assert refusal.value.code == 2
    text = capsys.readouterr().err
    assert message in " ".join(text.replace("│", " ").split())


def test_devices_have_to_divide_the_batch():
    tiny = Experiment(
        "tiny", "", "", {"tiny": Preset("", 3, "1", lambda: OF_EIGHT)}, [IN_BATCH]
    )
    three = Devices("3 × cpu", jax.devices()[:3], None)
    with pytest.raises(TopologyError, match="batch of 8 does not divide over the 3"):
        run_plan(tiny, "tiny", three)


def in_own_process(program: str, *arguments) -> subprocess.CompletedProcess:
    flags = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "XLA_FLAGS": ""}
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | flags,
    )


@pytest.mark.slow
def test_the_demo_is_planned_without_its_data(tmp_path):
    program = (
        "import sys; from experiments.demo import unicode_names;"
        "unicode_names.load = None;"
        "from experiments.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = in_own_process(
        program, "plan", "demo", "--devices", 8, "--out", tmp_path / "rows"
    )
    assert done.returncode == 0, done.stderr
    assert "Whether it fits is unknown" in done.stdout
    rows = [json.loads(line) for line in (tmp_path / "rows").read_text().splitlines()]
    assert [row["num_devices"] for row in rows] == [8] * 5
    step, selective, scoring, *_ = rows
    # With 8 rows a device, what every device repeats beside the update shows.
    for row, tolerance in ((step, 0.1), (selective, 0.1), (scoring, 0.01)):
        assert row["work"] == pytest.approx(1, abs=tolerance)
    assert step["collectives"]["all-reduce"]["bytes"] > 4 * 150_000
    assert {"jax", "commit", "libtpu"} <= step["environment"].keys()


def test_a_compiler_that_is_missing_is_one_sentence():
    program = (
        "import sys, importlib.util as u; find = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name == 'libtpu' else find(name, *a);"
        "from experiments.__main__ import main; sys.exit(main(sys.argv[1:]))"
    )
    done = in_own_process(program, "plan", "demo", "--topology", "v5e:4x4")
    assert done.returncode == 2
    assert done.stderr.startswith("error: topology=v5e:4x4 needs the TPU's compiler")
    assert len(done.stderr.splitlines()) == 1


def test_the_documentation_shows_the_stored_rows():
    table = markdown(ROOT / "experiments" / "results" / "pod_check.jsonl")
    assert table in (ROOT / "docs" / "devices.md").read_text()
