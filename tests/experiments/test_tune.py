"""`python -m experiments tune`."""

from experiments.__main__ import main


def test_a_preset_that_the_experiment_does_not_have(tmp_path, capsys):
    out = tmp_path / "tune"
    arguments = ["digits", "--rates", "1e-3", "--preset", "cpu", "--out", str(out)]
    assert main(["tune", *arguments]) == 2
    assert "preset must be one of laptop, full, got 'cpu'" in capsys.readouterr().err
    assert not out.exists()
