"""What a passport takes over from the card of the base model."""

import pytest

from transfer_learning.blocks import model_card, passport


@pytest.mark.parametrize("written", ["apache-2.0", '"apache-2.0"', "'apache-2.0'", "apache-2.0  # see LICENSE", "[apache-2.0]"])
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
        "---\nlicense: 2026-13-45\n---\n",
        "---\nlicense: " + "[" * 5000 + "\n---\n",
    ],
)
def test_no_license_is_none(tmp_path, card):
    (tmp_path / "README.md").write_text(card)

    assert passport.license_of(tmp_path) is None
