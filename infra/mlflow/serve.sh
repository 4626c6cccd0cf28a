#!/usr/bin/env bash
# An MLflow tracking server as one plain process, for runs that more than one machine shares.
#   infra/mlflow/serve.sh                                  SQLite and artifacts below ./mlflow-server
#   STORE=postgresql+psycopg2://… ARTIFACTS=s3://… ALLOWED_HOSTS=mlflow.internal:5000 HOST=0.0.0.0 infra/mlflow/serve.sh
# (PostgreSQL needs a driver that the lock does not hold: uv pip install psycopg2-binary.)
# Runs then name it: --set execution.tracking.uri=http://mlflow.internal:5000
# It listens on loopback unless HOST says otherwise; it has no password of its own, so put a proxy
# that asks for one in front of it before HOST is anything but loopback.
set -euo pipefail

HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
FOLDER=${FOLDER:-$PWD/mlflow-server}
STORE=${STORE:-sqlite:///$FOLDER/mlflow.db}
ARTIFACTS=${ARTIFACTS:-$FOLDER/artifacts}
ALLOWED_HOSTS=${ALLOWED_HOSTS:-localhost:$PORT,127.0.0.1:$PORT}
WORKERS=${WORKERS:-1}

mkdir -p "$FOLDER"
# Jobs off: they cost 2 GiB and open routes that tracking does not need.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1
exec "$(dirname "$0")/../../.venv/bin/python" -m mlflow server \
    --host "$HOST" --port "$PORT" --workers "$WORKERS" \
    --backend-store-uri "$STORE" --artifacts-destination "$ARTIFACTS" \
    --allowed-hosts "$ALLOWED_HOSTS"
