"""What a passport takes over from the card of the base model."""

import pytest

from transfer_learning.blocks import model_card, passport


@pytest.mark.parametrize(
    "written", ["apache-2.0", '"apache-2.0"', "'apache-2.0'", "apache-2.0  # see LICENSE", "[apache-2.0]", "!!str apache-2.0"]
)
def test_a_license_is_read_off_the_front_matter_however_yaml_writes_it(tmp_path, written):
    (tmp_path / "README.md").write_text(f"---\nlanguage: en\nlicense: {written}\n---\n\n# A model\n")

    assert passport.license_of(tmp_path) == "apache-2.0"


def test_a_license_stays_as_it_is_through_a_chain_of_models(tmp_path):
    """The card writes its values as JSON, quotes included."""
    (tmp_path / "README.md").write_text(model_card._yaml({"license": "other"}, {}, scratch=False) + "\n")

    assert passport.license_of(tmp_path) == "other"


@pytest.mark.parametrize(
    "card",
    [
        "",
        "# No front matter\nlicense: mit\n",
        "---\nlicense:\n---\n",
        '---\nlicense: ""\n---\n',
        "---\nlicense: mit: or not\n---\n",
        "---\n- a list\n---\n",
        "A model.\n\n---\nlicense: mit\n---\n",
        "---\nlicense: " + "[" * 5000 + "\n---\n",
        '---\nlicense: mit\nother: !!int ""\n--',
        "---\nlicense: {a: b}\n---\n",
        "---\nlicense: &a [x, x]\nother: [*a, *a\n---\n",
        "---\n" * 3,
        "---\n" + "\n" * 5000,
    ],
)
def test_no_license_is_none(tmp_path, card):
    (tmp_path / "README.md").write_text(card)

    assert passport.license_of(tmp_path) is None


def test_a_type_that_the_card_asks_for_is_not_made(tmp_path):
    (tmp_path / "README.md").write_text(
        '\ufeff---\nlicense: !!int "0x10"\nother: !!python/name:os.system\n---\n', encoding="utf-8"
    )

    assert passport.license_of(tmp_path) == "0x10"


def test_a_license_that_repeats_itself_is_cut(tmp_path):
    (tmp_path / "README.md").write_text("---\nlicense: [&a mit, " + "*a, " * 1000 + "mit]\n---\n")

    assert len(passport.license_of(tmp_path)) == passport.LONGEST_LICENSE
