"""A run's configuration: read, changed on the command line, written beside the run."""

from pathlib import Path

import pytest
from train_material import tiny_config

from vrestore.errors import UsageError
from vrestore.train.config import read_config, to_toml

RECIPES = sorted((Path(__file__).parents[2] / "configs/train").glob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_what_is_saved_beside_a_run_gives_the_same_run(path, tmp_path):
    config = read_config(path)
    (tmp_path / "config.toml").write_text(to_toml(config), "utf-8")
    assert read_config(tmp_path / "config.toml") == config
    assert to_toml(read_config(tmp_path / "config.toml")) == to_toml(config)


def test_odd_values_survive_saving(tmp_path):
    config = read_config(
        RECIPES[0],
        ['data.folder=a "b" \\ ü', "optimiser.clip=inf", "optimiser.rate=1e-30", "precision=bf16"],
    )
    (tmp_path / "config.toml").write_text(to_toml(config), "utf-8")
    assert read_config(tmp_path / "config.toml") == config
    assert config.data.folder == Path('a "b" \\ ü')
    assert config.optimiser.clip == float("inf")


def test_changes_reach_every_place(tmp_path):
    config = read_config(
        RECIPES[0],
        ["stage.1.steps=3", "network.num_feat=8", "gan.form=hinge", "real.first.blur_share=0.5"],
    )
    assert config.stage[1].steps == 3
    assert config.network["num_feat"] == 8
    assert config.gan.form == "hinge"
    assert config.real.first.blur_share == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage.9.steps=3", "there is no 'stage.9.steps'"),
        ("stage.0.step=3", "did you mean 'steps'"),
        ("optimiser.rate=fast", "rate: must be float"),
        ("seed", "write key=value"),
        ("stage.0.gans=1", "'gan'"),
        ("stage.0.perceptual=1.0", "name its weights in .perceptual."),
        ("optimiser.schedule=restarts", "periods end at step 0"),
        ("data.degradation=jpeg", "'bi' or 'bd' or 'real'"),
    ],
)
def test_a_wrong_change_is_told(change, message):
    with pytest.raises(UsageError, match=message):
        read_config(RECIPES[0], [change])


def test_every_period_has_its_share():
    with pytest.raises(UsageError, match="restart_shares"):
        read_config(RECIPES[0], ["optimiser.schedule=restarts", "optimiser.periods=[1, 2]"])


def test_a_config_made_in_python_is_saved_as_well(tmp_path):
    (tmp_path / "config.toml").write_text(to_toml(tiny_config()), "utf-8")
    read = read_config(tmp_path / "config.toml")
    assert read.stage == tiny_config().stage
    assert read.network["spynet_widths"] == [4, 4, 4, 4]


@pytest.mark.parametrize(
    "change",
    [
        "log_every=0", "save_every=0", "validate_every=-1", "stage.0.batch=0", "stage.0.steps=-1",
        "stage.0.frames=0", "stage.0.patch=-2", "optimiser.rate=-1.0", "optimiser.rate=0.0",
        "seed=-1", "data.workers=-1", "data.photo_share=1.5", "dropout=1.0",
        "real.first.sigma_px=[0.0, 0.0]",
    ],
)  # fmt: skip
def test_a_number_that_no_run_can_have_is_named(change):
    key = change.split("=")[0].removeprefix("real.first.")
    with pytest.raises(UsageError, match=key):
        read_config(RECIPES[0], [change])
