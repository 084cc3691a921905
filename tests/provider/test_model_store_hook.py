"""From Airflow connections to a store and an S3 client."""

import json

import pytest

from airflow_transfer_learning.hooks.model_store import ModelStoreHook, client_of
from transfer_learning.errors import BadInput

SECRET = "canary-7f3a-secret"
AWS = {
    "conn_type": "aws",
    "login": "canary-key",
    "password": SECRET,
    "extra": {"endpoint_url": "http://127.0.0.1:1", "region_name": "eu-south-2"},
}


@pytest.fixture
def connect(monkeypatch):
    """Defines an Airflow connection."""

    def define(conn_id, **fields):
        monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(fields))

    return define


def test_the_root_is_the_connections(connect, tmp_path):
    connect("elsewhere", conn_type="transfer_learning", extra={"root": f"file://{tmp_path}/models"})

    assert ModelStoreHook("elsewhere").get_conn().objects.uri == f"file://{tmp_path}/models"


def test_endpoint_and_region_are_the_aws_connections(connect):
    connect("minio", **AWS)
    connect("store", conn_type="transfer_learning", extra={"root": "s3://bucket/prefix", "aws_conn_id": "minio"})

    client = ModelStoreHook("store").source_client()

    assert client.meta.endpoint_url == "http://127.0.0.1:1"
    assert client.meta.region_name == "eu-south-2"
    assert client.meta.config.s3["addressing_style"] == "path"
    assert ModelStoreHook("store").get_conn().objects.uri == "s3://bucket/prefix"


def test_settings_of_the_aws_connection_go_before_the_defaults(connect):
    extra = AWS["extra"] | {"config_kwargs": {"read_timeout": 7, "s3": {"addressing_style": "virtual"}}}
    connect("minio", **AWS | {"extra": extra})

    config = client_of("minio", "a test").meta.config

    assert config.read_timeout == 7
    assert config.s3["addressing_style"] == "virtual"
    assert config.connect_timeout == 5


def test_a_missing_aws_connection_is_never_real_aws(connect, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-this-machine")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-this-machine")
    connect("store", conn_type="transfer_learning", extra={"root": "s3://bucket/prefix", "aws_conn_id": "typo"})

    with pytest.raises(
        BadInput, match=r"^NO_CONNECTION there is no AWS connection 'typo', needed by connection 'store' — create it"
    ):
        ModelStoreHook("store").get_conn()


def test_the_default_aws_connection_must_exist_too(connect):
    connect("store", conn_type="transfer_learning", extra={"root": "s3://bucket/prefix"})

    with pytest.raises(BadInput, match="there is no AWS connection 'aws_default'"):
        ModelStoreHook("store").get_conn()


def test_without_a_connection_the_store_is_a_folder_below_airflow_home():
    store = ModelStoreHook().get_conn()

    assert store.objects.uri.startswith("file:///")
    assert store.objects.uri.endswith("/transfer_learning/store")


def test_without_a_connection_a_remote_executor_is_one_clear_line(monkeypatch):
    monkeypatch.setenv("AIRFLOW__CORE__EXECUTOR", "LocalExecutor,CeleryExecutor")

    with pytest.raises(
        BadInput, match="^NO_CONNECTION there is no connection 'transfer_learning_default', and not every executor"
    ):
        ModelStoreHook().get_conn()


def test_a_connection_that_is_named_must_exist():
    with pytest.raises(BadInput, match="^NO_CONNECTION there is no connection 'store_prod' — create it"):
        ModelStoreHook("store_prod").get_conn()


def test_a_connection_of_another_type_is_named(connect):
    connect("store", **AWS)

    with pytest.raises(
        BadInput, match="^BAD_CONNECTION connection 'store' is of type 'aws' — choose the type 'transfer_learning'"
    ):
        ModelStoreHook("store").get_conn()


def test_a_connection_without_a_root_says_what_to_set(connect):
    connect("store", conn_type="transfer_learning", extra={})

    with pytest.raises(BadInput, match="^BAD_CONNECTION connection 'store' has no root — set the extra field root"):
        ModelStoreHook("store").get_conn()


def test_the_button_test_says_whether_the_store_works(connect, tmp_path):
    connect("good", conn_type="transfer_learning", extra={"root": f"file://{tmp_path}/store"})
    (tmp_path / "file").write_text("")
    connect("bad", conn_type="transfer_learning", extra={"root": f"file://{tmp_path}/file/store"})

    works, said = ModelStoreHook("good").test_connection()
    fails, why = ModelStoreHook("bad").test_connection()

    assert (works, fails) == (True, False)
    assert "honours conditional writes" in said
    assert str(tmp_path / "file") in why


@pytest.mark.integration
def test_wrong_credentials_are_named_without_the_secret(connect, seaweedfs, caplog, capfd):
    extra = {"endpoint_url": seaweedfs.endpoint, "region_name": "us-east-1"}
    connect("minio", **AWS | {"extra": extra})
    connect("store", conn_type="transfer_learning", extra={"root": "s3://tests/hook", "aws_conn_id": "minio"})

    works, why = ModelStoreHook("store").test_connection()

    printed = capfd.readouterr()
    assert not works
    assert "\n" not in why
    assert SECRET not in why + caplog.text + printed.out + printed.err
