"""The configuration: what is wrong is named in one line with its file, its key, what was expected
and what was found."""

import importlib.util
from pathlib import Path

import pytest

from catalog.errors import ConfigError
from pipeline.config import RunConfig, load_config
from pipeline.run_folder import RunFolder
from stage1_cnn.networks.architectures import check_name
from stage2_xgb.published import PUBLISHED


def test_defaults_and_overrides(tmp_path: Path) -> None:
    assert load_config(None) == RunConfig()
    path = tmp_path / "c.yaml"
    path.write_text("stage1: {lr: 3e-4, epochs: 2}\ncatalog: {caps: {train: 300}}\n")
    config = load_config(
        path,
        [
            "stage1.epochs=5",
            "stage1.lr=1e-5",
            "catalog.caps.test=7",
            "stage1.image_size=[64, 48]",
            "jobs=null",
        ],
    )
    assert (config.stage1.lr, config.stage1.epochs) == (1e-5, 5)
    assert (config.catalog.caps.train, config.catalog.caps.test) == (300, 7)
    assert config.stage1.size == (64, 48) and config.jobs is None
    assert load_config(path).stage1.lr == 3e-4  # YAML 1.1 reads it as text


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("# nothing\n")
    assert load_config(tmp_path / "c.yaml") == RunConfig()


@pytest.mark.parametrize(
    ("text", "key", "expected", "found"),
    [
        ("stage1: {lrr: 1}", "stage1.lrr", "unknown key, did you mean stage1.lr?", ""),
        ("stage3: {}", "stage3", "unknown key, did you mean stage", ""),
        ("epochs: 3", "epochs", "unknown key, did you mean stage1.epochs?", ""),
        (
            "stage2: {booster: {max_dept: 9}}",
            "stage2.booster.max_dept",
            "did you mean stage2.booster.max_depth?",
            "",
        ),
        (
            "nonsense: {}",
            "nonsense",
            "unknown key, expected one of the keys in `shelfsort config`",
            "",
        ),
        ("catalog: {caps: {train: 0}}", "catalog.caps.train", "greater than 0", "found 0"),
        ("stage1: {epochs: many}", "stage1.epochs", "valid integer", "found 'many'"),
        ("stage1: {epochs: -1}", "stage1.epochs", "greater than or equal to 0", "found -1"),
        ("stage1: {image_size: big}", "stage1.image_size", "valid integer", "found 'big'"),
        ("stage1: {image_size: [64]}", "stage1.image_size", "", ""),
        ("catalog: {duplicates: maybe}", "catalog.duplicates", "'drop' or 'keep'", "found 'maybe'"),
        ("stage1: 5", "stage1", "valid dictionary", "found 5"),
        ("stage1: {weights: none, epochs: 0}", "stage1", "nothing to train", ""),
        (
            "stage2: {confusion: {top: 99}}",
            "stage2.confusion.top",
            "less than or equal to 32",
            "found 99",
        ),
        (
            "views: {small: {epochz: 1}}",
            "views.small.epochz",
            "did you mean views.small.epochs?",
            "",
        ),
        ("views: {small: {image_size: 0}}", "views.small.image_size", "greater than 0", "found 0"),
        ("views: {small: 3}", "views.small", "valid dictionary", "found 3"),
        ("views: {stage1: {}}", "views", "plain word other than stage1", "'stage1'"),
        ("views: {t: {text: words}}", "views.t.text", "'tfidf'", "found 'words'"),
        ("views: {t: {text: tfidf, epochs: 1}}", "views.t.epochs", "unknown key", ""),
        ("views: {t: {ocr: tesseract}}", "views.t.ocr", "'rapidocr'", "found 'tesseract'"),
        ("views: {t: {file: ''}}", "views.t.file", "at least 1 character", "found ''"),
        ("views: {../x: {}}", "views", "plain word", "'../x'"),
    ],
)
def test_a_fault_is_one_line_with_file_key_expected_and_found(
    tmp_path: Path, text: str, key: str, expected: str, found: str
) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {key}: ") and "\n" not in message
    assert expected in message and found in message


def test_several_faults_are_a_line_each(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("stage1: {lr: -1, epochs: x}\nscore: {top: 0}")
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "stage1.epochs",
        "stage1.lr",
        "score.top",
    ]


def test_an_override_is_blamed_on_itself(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("stage1: {epochs: -3}")
    with pytest.raises(ConfigError) as caught:
        load_config(path, ["stage1.lr=fast"])
    lines = sorted(str(caught.value).splitlines())
    assert lines[0].startswith("--set: stage1.lr: ") and lines[1].startswith(
        f"{path}: stage1.epochs: "
    )


@pytest.mark.parametrize("override", ["stage1.lr", "=3", "stage1.lr=[1", "stage1.lr.x=1"])
def test_a_bad_override_is_named(override: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(None, [override])
    assert str(caught.value).startswith("--set") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"a: [", "not YAML"), (b"- 1", "expected a mapping"), (b"\xff\xfe\x00", "not YAML")],
)
def test_a_file_that_is_no_mapping(tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=expected) as caught:
        load_config(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(ConfigError, match="list them with: shelfsort configs"):
        load_config(tmp_path / "absent.yaml")


def test_a_view_differs_only_where_it_says() -> None:
    config = load_config(
        None,
        [
            "stage1.lr=5e-4",
            "stage1.augment.crop=0.3",
            "views.small={image_size: 64, augment: {flip: false}}",
        ],
    )
    view = config.view("small")
    assert (view.lr, view.size, view.augment.flip, view.augment.crop) == (
        5e-4,
        (64, 64),
        False,
        0.3,
    )
    assert config.view("stage1") is config.stage1 and config.view_names == ["stage1", "small"]


def test_a_saved_configuration_loads_as_it_was(tmp_path: Path) -> None:
    config = load_config(
        None,
        [
            "stage1.lr=3e-4",
            "views.small={epochs: 1}",
            "stage1.image_size=[32, 64]",
            "catalog.caps.train=300",
        ],
    )
    RunFolder(tmp_path).save_config(config)
    assert load_config(tmp_path / "config.yaml") == config
    assert (tmp_path / "config.yaml").read_text().startswith("revision: ")


def test_every_config_of_the_project_loads() -> None:
    paths = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))
    assert len(paths) > 15
    for path in paths:
        backbone = load_config(path).stage1.backbone
        if not backbone.startswith("timm:") or importlib.util.find_spec("timm"):
            check_name(backbone)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["stage2.components=null", "views.small={epochs: 1}"],
            r"stage2\.components: null is for a single view",
        ),
    ],
)
def test_what_contradicts_itself_in_stage_2_is_an_error(settings: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(None, settings)
    load_config(None, settings[:1])


def test_the_capstone_has_the_published_second_stage() -> None:
    config = load_config(Path(__file__).parents[2] / "configs" / "capstone.yaml")
    assert config.stage2 == PUBLISHED
    assert (config.catalog.caps.train, config.stage1.batch_size, config.stage1.normalisation) == (
        300,
        20,
        "unit",
    )


def test_headers_take_their_secrets_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SHOP_TOKEN", "s3cret")
    config = load_config(None, ["sources.headers={Authorization: Bearer $SHOP_TOKEN, A: b}"])
    assert config.access.headers == {"Authorization": "Bearer s3cret", "A": "b"}
    RunFolder(tmp_path).save_config(config)
    assert "s3cret" not in (tmp_path / "config.yaml").read_text()
    monkeypatch.delenv("SHOP_TOKEN")
    expected = "sources.headers.Authorization: the environment has no variable SHOP_TOKEN; set it"
    with pytest.raises(ConfigError, match=expected):
        _ = load_config(tmp_path / "config.yaml").access
