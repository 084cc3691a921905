"""The Airflow assets that stand for models."""

from __future__ import annotations

from airflow.sdk import Asset

from transfer_learning.specs import check_name


def model_asset(name: str) -> Asset:
    """Return the asset of a model: an event on it means that another version became its champion.

    Every DAG must get its assets here: two assets of one name with different URIs silence each other. The event's ``extra``
    holds ``version``, ``metrics``, ``decision``, ``sentences``, ``champion_before`` and the ``uri`` of the evidence.

    Raises:
        BadInput: a name that the store would not take.
    """
    return Asset(
        name=f"transfer_learning/{check_name(name, 'model name')}",
        uri=f"transfer-learning://models/{name}",
        group="transfer_learning",
    )
