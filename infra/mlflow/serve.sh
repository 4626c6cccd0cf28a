#!/usr/bin/env bash
# An MLflow tracking server as one process, for runs that more than one machine shares.
#   infra/mlflow/serve.sh                                  SQLite and artifacts below ./mlflow-server
#   STORE=postgresql+psycopg2://… ARTIFACTS=s3://… ALLOWED_HOSTS=mlflow.internal:5000 HOST=0.0.0.0 \
#     MLFLOW_AUTH_ADMIN_PASSWORD=… MLFLOW_FLASK_SERVER_SECRET_KEY=… infra/mlflow/serve.sh
# Runs then name it, --set execution.tracking.uri=http://mlflow.internal:5000, and find the user and
# the password in MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD. With a password in its
# environment the server asks for one; without it listens on loopback alone. It speaks plain HTTP:
# beyond a private network a proxy with TLS belongs in front of it.
set -euo pipefail

HOST=${HOST:-127.0.0.1}
PORT=${PORT:-5000}
FOLDER=${FOLDER:-$PWD/mlflow-server}
STORE=${STORE:-sqlite:///$FOLDER/mlflow.db}
ARTIFACTS=${ARTIFACTS:-$FOLDER/artifacts}
ALLOWED_HOSTS=${ALLOWED_HOSTS:-localhost:$PORT,127.0.0.1:$PORT}
WORKERS=${WORKERS:-1}

mkdir -p "$FOLDER"
app=()
if [ -n "${MLFLOW_AUTH_ADMIN_PASSWORD:-}" ]; then
    app=(--app-name basic-auth)
    export MLFLOW_AUTH_ADMIN_USERNAME=${MLFLOW_AUTH_ADMIN_USERNAME:-admin}
    export MLFLOW_FLASK_SERVER_SECRET_KEY=${MLFLOW_FLASK_SERVER_SECRET_KEY:-$(head -c 32 /dev/urandom | od -An -tx1 | tr -d ' \n')}
    export MLFLOW_AUTH_CONFIG_PATH="$FOLDER/auth.ini"
    # Users lie in the same store; whoever is not told otherwise may do nothing.
    (umask 077 && cat > "$MLFLOW_AUTH_CONFIG_PATH") <<END
[mlflow]
default_permission = NO_PERMISSIONS
database_uri = ${STORE//%/%%}
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
END
elif [ "$HOST" != 127.0.0.1 ] && [ "$HOST" != localhost ] && [ "$HOST" != ::1 ]; then
    echo "HOST=$HOST without MLFLOW_AUTH_ADMIN_PASSWORD: anybody could read and change all runs; set a password or leave HOST at 127.0.0.1" >&2
    exit 2
fi
# Jobs off: they cost 2 GiB and open routes that tracking does not need.
export MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false
export MLFLOW_DISABLE_TELEMETRY=true DO_NOT_TRACK=1
# Many stores on premises refuse checksums that only newer ones know.
export AWS_REQUEST_CHECKSUM_CALCULATION=${AWS_REQUEST_CHECKSUM_CALCULATION:-when_required}
exec "$(dirname "$0")/../../.venv/bin/python" -m mlflow server \
    "${app[@]}" --host "$HOST" --port "$PORT" --workers "$WORKERS" \
    --backend-store-uri "$STORE" --artifacts-destination "$ARTIFACTS" \
    --allowed-hosts "$ALLOWED_HOSTS"
