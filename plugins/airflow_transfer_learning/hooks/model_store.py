"""From an Airflow connection to a store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook, Connection
from airflow.sdk.exceptions import AirflowNotFoundException

from airflow_transfer_learning.settings import airflow_home, executors_are_local
from transfer_learning.errors import BadInput, TransferLearningError
from transfer_learning.store import Store

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

DEFAULT_AWS_CONNECTION = "aws_default"


class ModelStoreHook(BaseHook):
    """Opens the store that a connection of type ``transfer_learning`` names.

    Its extra fields are ``root`` (``s3://bucket/prefix`` or ``file:///folder``) and ``aws_conn_id``, whose connection holds the
    credentials, region and endpoint. Without the default connection the store is a folder below AIRFLOW_HOME, where every
    configured executor is local.

    Args:
        store_conn_id: the connection.
    """

    conn_name_attr = "store_conn_id"
    default_conn_name = "transfer_learning_default"
    conn_type = "transfer_learning"
    hook_name = "Transfer learning store"

    def __init__(self, store_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.store_conn_id = store_conn_id

    def get_conn(self) -> Store:
        """Return the store, without any request to it.

        Raises:
            BadInput: a connection that is missing, of another type or without a root.
        """
        root, aws_conn_id = self._where()
        if not root.startswith("s3://"):
            return Store.open(root)
        client = partial(client_of, aws_conn_id, f"connection {self.store_conn_id!r}")
        return Store.open(root, s3_client=client(), renew=client)

    def source_client(self) -> S3Client:
        """Return the client for ``s3://`` sources and base models: the store's own AWS connection.

        Raises:
            BadInput: that connection does not exist; it is never replaced by the machine's own credentials.
        """
        return client_of(self._where()[1], f"an s3:// source read with connection {self.store_conn_id!r}")

    def test_connection(self) -> tuple[bool, str]:
        """Check the store for Airflow's button "Test"."""
        try:
            store = self.get_conn()
            store.check()
        except TransferLearningError as error:
            return False, str(error)
        return True, f"{store.objects.uri} can be read and written, and honours conditional writes"

    def _where(self) -> tuple[str, str]:
        """Return the root and the AWS connection's id."""
        connection = find_connection(self.store_conn_id)
        if connection is None:
            return self._local_root(), DEFAULT_AWS_CONNECTION
        if connection.conn_type != self.conn_type:
            raise BadInput(
                "BAD_CONNECTION",
                f"connection {self.store_conn_id!r} is of type {connection.conn_type!r}",
                f"choose the type {self.conn_type!r}",
            )
        extra = connection.extra_dejson
        root = extra.get("root")
        if not isinstance(root, str) or not root:
            raise BadInput(
                "BAD_CONNECTION",
                f"connection {self.store_conn_id!r} has no root",
                "set the extra field root to s3://bucket/prefix or file:///folder",
            )
        return root, extra.get("aws_conn_id") or DEFAULT_AWS_CONNECTION

    def _local_root(self) -> str:
        if self.store_conn_id != self.default_conn_name:
            raise BadInput(
                "NO_CONNECTION", f"there is no connection {self.store_conn_id!r}", "create it, or correct store_conn_id"
            )
        if not executors_are_local():
            raise BadInput(
                "NO_CONNECTION",
                f"there is no connection {self.store_conn_id!r}, and not every executor is local, so a folder cannot be shared",
                f"create the connection with type {self.conn_type!r} and the extra field root",
            )
        return (airflow_home() / "transfer_learning" / "store").absolute().as_uri()


def client_of(aws_conn_id: str, needed_by: str) -> S3Client:
    """Return the S3 client of an AWS connection.

    Raises:
        BadInput: there is no such connection. Airflow's own hook would go on to real AWS with this machine's credentials.
    """
    from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

    from transfer_learning.store.s3 import client_config

    if find_connection(aws_conn_id) is None:
        raise BadInput(
            "NO_CONNECTION",
            f"there is no AWS connection {aws_conn_id!r}, needed by {needed_by}",
            "create it with credentials, region and endpoint_url",
        )
    hook: Any = AwsBaseHook(aws_conn_id=aws_conn_id, client_type="s3")
    # Servers other than AWS rarely have a host name for each bucket; config_kwargs of the connection go before all of this.
    path_style = {"s3": {"addressing_style": "path"}} if hook.conn_config.get_service_endpoint_url("s3") else {}
    client: S3Client = hook.get_client_type(config=client_config(**path_style).merge(hook.config))
    return client


def find_connection(conn_id: str) -> Connection | None:
    """Return a connection, or None where there is none of this id."""
    try:
        found: Connection = BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        return None
    return found
